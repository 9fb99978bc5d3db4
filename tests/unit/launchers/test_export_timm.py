"""Encoders in timm's layout: the same outputs in timm, the same weights back here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from safetensors.torch import load_file

from arcticseg import config
from arcticseg.engine.weights import write_weights
from arcticseg.errors import ConfigError
from arcticseg.models.torchvision_compat import ensure_torchvision
from arcticseg.run import build
from arcticseg.run import config as run_config
from launchers.cli import main

ensure_torchvision()
import timm

VIT: dict[str, Any] = {"name": "vit_tiny_patch16_224", "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
TILE = 64


def made(tmp_path: Path, encoder: dict[str, Any], task: str = "segment", **facts: Any) -> tuple[Any, Path]:
    """A network and its weights in the folder of a run, with a validation in its metrics."""
    data = {"shards": "shards", "channels": ["hh", "hv"]}
    keys: dict[str, Any] = {"epochs": 1, "out": "run", "task": task, "data": data, "model": {"encoder": encoder}}
    keys |= {"pretrain": {"targets": ["hh"], "decoder_dim": 16, "decoder_heads": 2}} if task == "pretrain" else {}
    cfg = run_config.build([keys])
    network = build.build_model(cfg, TILE).eval()
    beside = {
        "config": config.to_dict(cfg),
        "statistics": {},
        "tile": TILE,
        "factors": [2, 5],
        "simulated": True,
    } | facts
    path = tmp_path / "my_run" / "weights" / "last.safetensors"
    write_weights(path, network.state_dict(), {key: json.dumps(value) for key, value in beside.items()})
    rows = [{"step": 5, "kind": "validation", "combined": 41.5}, {"step": 6, "kind": "train", "loss": 3.0}]
    (tmp_path / "my_run" / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return network, path


@pytest.mark.parametrize("task", ["segment", "pretrain"])
def test_timm_gives_the_same_outputs(task: str, tmp_path: Path) -> None:
    network, path = made(tmp_path, VIT, task)
    out = tmp_path / "e.safetensors"
    assert main(["export", str(path), "--layout", "timm", "--out", str(out)]) == 0
    sizes = {key: value for key, value in VIT.items() if key != "name"}
    theirs = timm.create_model(
        VIT["name"], in_chans=3, img_size=TILE, dynamic_img_size=True, num_classes=0, global_pool="", **sizes
    ).eval()
    theirs.load_state_dict(load_file(out), strict=True)
    # As trained, and on another size, whose positions are interpolated.
    for size in (TILE, 96):
        x = torch.randn(2, 3, size, size)
        tokens = theirs.forward_features(x)[:, 1:].transpose(1, 2).unflatten(2, (size // 8, size // 8))
        torch.testing.assert_close(network.encoder(x)[-1], tokens)


def test_a_network_of_features_gives_the_same_maps(tmp_path: Path) -> None:
    network, path = made(tmp_path, {"name": "resnet18d"})
    out = tmp_path / "e.safetensors"
    assert main(["export", str(path), "--layout", "timm", "--out", str(out)]) == 0
    theirs = timm.create_model("resnet18d", features_only=True, in_chans=3).eval()
    theirs.load_state_dict(load_file(out), strict=True)
    x = torch.randn(1, 3, TILE, TILE)
    for ours, map_ in zip(reversed(network.encoder(x)), reversed(theirs(x)), strict=False):
        torch.testing.assert_close(ours, map_)


def test_the_card_has_the_facts(tmp_path: Path) -> None:
    _, path = made(tmp_path, VIT, statistics={"nersc_sar_primary": [1.25, 2.5]})
    assert main(["export", str(path), "--layout", "timm", "--out", str(tmp_path / "e.safetensors")]) == 0
    text = (tmp_path / "e.md").read_text()
    assert text.startswith("# my_run: encoder vit_tiny_patch16_224\n\n**SIMULATED SCENES: not observations.**")
    assert "| 0 | nersc_sar_primary | dB | 1.25 | 2.5 |\n| 1 | nersc_sar_secondary | dB | -24.7012 | 4.74676 |" in text
    assert "| 2 | valid | - | - | - |" in text
    assert "pixels of 80, 200 m" in text
    assert "At step 5, on SIMULATED validation scenes" in text
    assert "| combined | 41.5 |" in text
    call = next(line for line in text.splitlines() if line.startswith("network = "))
    network = eval(call.removeprefix("network = "))
    network.load_state_dict(load_file(tmp_path / "e.safetensors"), strict=True)
    assert "epochs: 1" in text


def test_a_run_starts_from_it_and_knows_its_planes(tmp_path: Path) -> None:
    network, path = made(tmp_path, VIT)
    out = tmp_path / "e.safetensors"
    main(["export", str(path), "--layout", "timm", "--out", str(out)])
    from types import SimpleNamespace

    sets: Any = [SimpleNamespace(manifest=SimpleNamespace(tile=TILE, factors=(2, 3)))]
    model = {"encoder": VIT, "init_from": str(out)}
    data = {"shards": "shards", "channels": ["hh", "hv"]}
    cfg = run_config.build([{"epochs": 1, "out": "o", "data": data, "model": model}])
    ours = build.build_model(cfg, TILE)
    told: list[str] = []
    build.initialise(cfg, ours, sets, told.append)
    for name, value in network.encoder.state_dict().items():
        assert torch.equal(ours.encoder.state_dict()[name], value)
    assert told == [
        f"samples have downsampling factors [3]; {out} has learnt from [2, 5], so pixels have another size; set "
        "'data.factors' unless that is meant"
    ]
    other = run_config.build([{"epochs": 1, "out": "o", "data": data | {"channels": ["hv", "hh"]}, "model": model}])
    with pytest.raises(
        ConfigError, match=r"'model\.init_adapt' is None; .*has learnt from the planes nersc_sar_primary"
    ):
        build.initialise(other, build.build_model(other, TILE), sets, told.append)


def test_what_timm_has_not_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, path = made(tmp_path, {"name": "unet", "filters": [8, 8]})
    assert main(["export", str(path), "--layout", "timm", "--out", str(tmp_path / "e.safetensors")]) == 2
    assert "--layout timm: timm has no network that takes the tensors of encoder unet" in capsys.readouterr().err
    assert not (tmp_path / "e.safetensors").exists()
    assert main(["export", str(path), "--layout", "timm"]) == 2
    assert "needs --out" in capsys.readouterr().err
