"""Trainings in stages, with frozen weights and adapters, on real ranks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from arcticseg.engine.checkpoint import Checkpoint, folder_of
from arcticseg.run.folder import finished, last_weights, weights_path
from tests.forked import run
from tests.training import MAE, SLOW, VIT, empty_config, kill, lines, overrides, start, train, wait_for_step

STEPS = 8
STAGES = {
    "stages": "[{steps: 3, frozen: encoder}, {share: 0.25, frozen: 2, lr: 1.0e-3}, {frozen: none}]",
    "steps": STEPS,
    "optim.layer_decay": 0.8,
    "optim.encoder_rate": 0.5,
}
EMA, AVERAGE = "{name: ema, decay: 0.6, validate: true}", "{name: average, last: 3}"
LORA = {"model.lora": "{rank: 2, alpha: 8, targets: [attn.qkv, mlp.fc1]}"}


@pytest.fixture(scope="module")
def pretrained(tiny_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a pretraining of a step."""
    folder = tmp_path_factory.mktemp("pretrained")
    train(empty_config(folder), overrides(tiny_shards, folder / "mae", MAE, {"steps": 1}))
    return last_weights(folder / "mae")


def module_of(out: Path, step: int) -> dict[str, Tensor]:
    """Tensors of a checkpoint's network, under the names of the network without adapters."""
    module = Checkpoint.open(folder_of(out, step)).tensors.below("module/")
    return {name.replace(".base_layer.", "."): module[name] for name in module}


def is_early(name: str) -> bool:
    """Whether a weight is frozen with the first two blocks."""
    return name.startswith(tuple(f"encoder.{part}" for part in ("cls_", "pos_", "patch_", "blocks.0.", "blocks.1.")))


@pytest.mark.parametrize(
    ("zero", "precision", "more", "every", "at"),
    [(1, "bf16", {}, 0, 4), (3, "bf16", LORA, 1, 6)],
    ids=["killed_after_a_boundary", "adapters_killed_within_a_stage"],
)
def test_a_training_in_stages_goes_on_bit_for_bit(
    zero: int,
    precision: str,
    more: dict[str, Any],
    every: int,
    at: int,
    pretrained: Path,
    tiny_shards: Path,
    tmp_path: Path,
) -> None:
    """The first goes on from the checkpoint of a boundary, since there is none later."""
    config, whole, killed = empty_config(tmp_path), tmp_path / "whole", tmp_path / "killed"
    settings = VIT | STAGES | more | {"engine.zero_stage": zero, "engine.precision": precision}
    settings |= {"model.init_from": pretrained, "checkpoint_every": every, "imports": f"[{SLOW}]"}
    settings |= {"validate_every": 2, "data.validation_share": 0.1}
    train(config, overrides(tiny_shards, whole, settings, {"hooks": f"[{EMA}, {AVERAGE}]"}), 2)
    # To score the average changes nothing else.
    hooks = {"hooks": f"[{{name: slow, seconds: 0.5}}, {EMA.replace('true', 'false')}, {AVERAGE}]"}
    process = start(config, overrides(tiny_shards, killed, settings, hooks), 2)
    wait_for_step(process, killed, at)
    kill(process)
    process.wait()
    assert not finished(killed)
    train(config, overrides(tiny_shards, killed, settings, hooks), 2, resume=True)

    begun = [(line["step"], line["stage"], line["frozen"]) for line in lines(whole, "event") if "stage" in line]
    assert begun == [(0, 1, "encoder"), (3, 2, 2), (5, 3, "none")]
    for key in ("step", "loss", "lr"):
        assert [line[key] for line in lines(killed, "train")] == [line[key] for line in lines(whole, "train")]
    for name in ("last", "ema", "average"):
        weights, again = (load_file(weights_path(out, name)) for out in (whole, killed))
        assert weights.keys() == again.keys()
        assert all(torch.equal(again[key], value) for key, value in weights.items())
    assert all("ema/combined" in line for line in lines(whole, "validation"))
    assert weights_path(whole, "ema-best").is_file()
    weights, average = (load_file(weights_path(whole, name)) for name in ("last", "average"))
    assert weights.keys() == average.keys()

    exported = run("export", whole, "--out", tmp_path / "exported.safetensors")
    assert exported.returncode == 0, exported.stderr
    again = load_file(tmp_path / "exported.safetensors")
    assert all(torch.equal(again[name], value) for name, value in weights.items())

    theirs = {name: value for name, value in load_file(pretrained).items() if name.startswith("encoder.")}
    assert theirs.keys() == {name for name in weights if name.startswith("encoder.")}
    steps = Checkpoint.open(folder_of(whole, STEPS)).steps_taken()
    if more:
        # Weights beside which adapters have learnt stay as they were, and have no moments.
        ended = module_of(whole, STEPS)
        assert all(torch.equal(ended[name], value) for name, value in theirs.items())
        assert {name for name in steps if name.startswith("encoder.")} == {name for name in ended if "lora_" in name}
    else:
        # What has begun to learn later has taken fewer steps; till then it was as it was loaded.
        expected = {name: 3.0 if is_early(name) else 5.0 if name in theirs else 8.0 for name in weights}
        assert steps == expected
        second = module_of(whole, 5)
        for name, value in theirs.items():
            assert torch.equal(second[name], value) == is_early(name)
            assert not torch.equal(weights[name], value)
