"""The encoder of another run's weights, whatever else that run had."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from safetensors.torch import save_file

from arcticseg import config
from arcticseg.errors import ConfigError
from arcticseg.run import build
from arcticseg.run import config as run_config
from arcticseg.run.config import RunConfig

SETS: Any = [SimpleNamespace(manifest=SimpleNamespace(tile=32, factors=(2,)))]

ENCODER = {"name": "vit_tiny_patch16_224", "embed_dim": 32, "depth": 1, "num_heads": 2}


def config_of(**more: Any) -> RunConfig:
    keys = {"epochs": 1, "out": "run", "model": {"encoder": ENCODER}}
    return run_config.build([keys | {"data": {"shards": "shards", "channels": ["hh"]}} | more])


def start(path: Path, now: RunConfig, **before: Any) -> tuple[Any, Any, list[str]]:
    """A network that starts from weights of a run with these keys in its config: the run's, itself, what is told."""
    theirs, ours = (build.build_model(config_of(seed=seed), 32) for seed in (1, 2))
    facts = {"config": config.to_dict(config_of()) | before, "statistics": {}, "tile": 64, "factors": [2]}
    metadata = {name: json.dumps(value) for name, value in (facts | {"simulated": True}).items()}
    save_file({name: value.contiguous() for name, value in theirs.state_dict().items()}, path, metadata=metadata)
    told: list[str] = []
    model = {"encoder": ENCODER, "init_from": str(path)}
    build.initialise(config_of(model=model, data=config.to_dict(now.data)), ours, SETS, told.append)
    return theirs, ours, told


def test_the_encoder_comes_though_hooks_of_that_run_are_unknown_here(tmp_path: Path) -> None:
    theirs, ours, told = start(tmp_path / "w.safetensors", config_of(), hooks=[{"name": "of_their_own"}])
    for name, value in theirs.encoder.state_dict().items():
        assert torch.equal(value, ours.encoder.state_dict()[name])
    assert told == [f"tiles have 32 pixels; {tmp_path / 'w.safetensors'} has learnt from tiles of 64"]


def test_other_channels_are_refused(tmp_path: Path) -> None:
    now = config_of(data={"shards": "shards", "channels": ["hv"]})
    with pytest.raises(ConfigError, match=r"key 'data\.channels' is \['hv'\]; .*w\.safetensors has \['hh'\]"):
        start(tmp_path / "w.safetensors", now)
