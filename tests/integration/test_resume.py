"""A training that is killed goes on as if nothing had happened."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from arcticseg.run.folder import CHECKPOINTS, finished, last_weights
from launchers.status import ERROR_PREFIX, STOPPED, USER_ERROR
from tests.training import (
    NETWORKS,
    UNET,
    VIT,
    empty_config,
    kill,
    launch,
    lines,
    overrides,
    start,
    train,
    wait_for_step,
)

STEPS = 10


@pytest.mark.parametrize(("network", "ranks"), [("vit", 1), ("unet", 2), ("mae", 1)])
def test_killed_and_resumed_gives_the_same_weights_bit_for_bit(
    network: str, ranks: int, tiny_shards: Path, tmp_path: Path
) -> None:
    config = empty_config(tmp_path)
    settings = NETWORKS[network] | {"steps": STEPS, "checkpoint_every": 3}
    settings |= {"engine.zero_stage": 2} if network == "unet" else {"model.encoder.drop_path": 0.2}
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    train(config, overrides(tiny_shards, whole, settings), ranks)
    process = start(config, overrides(tiny_shards, killed, settings), ranks)
    wait_for_step(process, killed, 5)
    kill(process)
    process.wait()
    assert not finished(killed)
    train(config, overrides(tiny_shards, killed, settings), ranks, resume=True)

    assert [line["step"] for line in lines(killed, "train")] == list(range(1, STEPS + 1))
    losses = [[line["loss"] for line in lines(out, "train")] for out in (whole, killed)]
    assert losses[0] == losses[1]
    expected, weights = (load_file(last_weights(out)) for out in (whole, killed))
    assert expected.keys() == weights.keys()
    assert all(torch.equal(expected[name], weights[name]) for name in expected)


@pytest.mark.parametrize(("zero_stage", "before", "after"), [(1, 2, 1), (2, 1, 2)])
def test_goes_on_with_another_number_of_ranks(
    zero_stage: int, before: int, after: int, tiny_shards: Path, tmp_path: Path
) -> None:
    config, whole, moved = empty_config(tmp_path), tmp_path / "whole", tmp_path / "moved"
    settings = VIT | {"steps": STEPS, "checkpoint_every": 4, "engine.zero_stage": zero_stage}
    train(config, overrides(tiny_shards, whole, settings), after)
    process = start(config, overrides(tiny_shards, moved, settings), before)
    wait_for_step(process, moved, 5)
    kill(process)
    process.wait()
    train(config, overrides(tiny_shards, moved, settings), after, resume=True)
    losses = [[line["loss"] for line in lines(out, "train")] for out in (whole, moved)]
    assert len(losses[0]) == STEPS
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)


def test_zero_3_refuses_another_number_of_ranks(tiny_shards: Path, tmp_path: Path) -> None:
    config, out = empty_config(tmp_path), tmp_path / "run"
    settings = VIT | {"steps": 4, "checkpoint_every": 1, "engine.zero_stage": 3}
    process = start(config, overrides(tiny_shards, out, settings), 1)
    wait_for_step(process, out, 3)
    kill(process)
    process.wait()
    process = launch(config, overrides(tiny_shards, out, settings), 2, resume=True)
    printed, _ = process.communicate(timeout=120)
    assert process.returncode == USER_ERROR
    (error,) = (line for line in printed.splitlines() if line.startswith(ERROR_PREFIX))
    assert f"{out / CHECKPOINTS}/step-" in error
    assert "engine.zero_stage 3" in error


def test_killed_before_the_first_checkpoint_starts_again(tiny_shards: Path, tmp_path: Path) -> None:
    config, out = empty_config(tmp_path), tmp_path / "run"
    arguments = overrides(tiny_shards, out, UNET, {"steps": 4})
    process = start(config, arguments)
    wait_for_step(process, out, 1)
    kill(process)
    process.wait()
    train(config, arguments, resume=True)
    assert [line["step"] for line in lines(out, "train")] == [1, 2, 3, 4]


def test_a_signal_ends_in_a_checkpoint_and_status_3(tiny_shards: Path, tmp_path: Path) -> None:
    config, out = empty_config(tmp_path), tmp_path / "run"
    arguments = overrides(tiny_shards, out, UNET, {"steps": 100000})
    process = launch(config, arguments)
    wait_for_step(process, out, 2)
    kill(process, signal.SIGUSR1)
    process.wait(timeout=120)
    assert process.returncode == STOPPED
    state = next((out / CHECKPOINTS).glob("step-*/state.json"))
    assert json.loads(state.read_text())["step"] == lines(out, "train")[-1]["step"]


def test_a_used_folder_and_another_run_are_refused(tiny_shards: Path, tmp_path: Path) -> None:
    config, out = empty_config(tmp_path), tmp_path / "run"
    train(config, overrides(tiny_shards, out, UNET, {"steps": 1}))
    for resume, more, said in (
        (False, {"steps": 1}, f"key 'out' is '{out}'"),
        (True, {"steps": 1, "optim.lr": 0.5}, "key 'optim.lr' is 0.5"),
        (True, {"steps": 1, "data.label_fraction": 0.4}, "key 'data.label_fraction' is 0.4"),
    ):
        process = start(config, overrides(tiny_shards, out, UNET, more), resume=resume)
        printed, _ = process.communicate(timeout=120)
        assert process.returncode == USER_ERROR
        assert said in printed
        assert "Traceback" not in printed


def test_finetuning_starts_from_the_pretrained_encoder(tiny_shards: Path, tmp_path: Path) -> None:
    config, mae, vit = empty_config(tmp_path), tmp_path / "mae", tmp_path / "vit"
    train(config, overrides(tiny_shards, mae, NETWORKS["mae"], {"steps": 2}))
    # A learning rate this small leaves the encoder where the pretraining ended.
    train(config, overrides(tiny_shards, vit, VIT, {"steps": 1, "optim.lr": 1e-12, "model.init_from": mae}))
    before, after = (load_file(last_weights(out)) for out in (mae, vit))
    name = "encoder.blocks.0.attn.qkv.weight"
    torch.testing.assert_close(after[name], before[name], atol=1e-6, rtol=0)
