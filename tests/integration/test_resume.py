"""A training that is killed goes on as if nothing had happened."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from arcticseg.models.weights import load_weights
from arcticseg.run.folder import CHECKPOINTS, finished, last_weights
from launchers.status import STOPPED, USER_ERROR
from tests.forked import run
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


@pytest.mark.parametrize(("network", "ranks"), [("vit", 1), ("unet", 2), ("mae", 1), ("batch", 2)])
def test_killed_and_resumed_gives_the_same_weights_bit_for_bit(
    network: str, ranks: int, tiny_shards: Path, tmp_path: Path
) -> None:
    config = empty_config(tmp_path)
    settings = NETWORKS[network] | {"steps": STEPS, "checkpoint_every": 3}
    settings |= {"model.encoder.drop_path": 0.2} if network in ("vit", "mae") else {"engine.zero_stage": 2}
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    train(config, overrides(tiny_shards, whole, settings), ranks)
    process = start(config, overrides(tiny_shards, killed, settings), ranks)
    wait_for_step(process, killed, 5)
    kill(process)
    process.wait()
    assert not finished(killed)
    said = train(config, overrides(tiny_shards, killed, settings), ranks, resume=True)

    assert said.count("BatchNorm layers") == (1 if network == "batch" else 0)
    assert [line["step"] for line in lines(killed, "train")] == list(range(1, STEPS + 1))
    losses = [[line["loss"] for line in lines(out, "train")] for out in (whole, killed)]
    assert losses[0] == losses[1]
    expected, weights = (load_file(last_weights(out)) for out in (whole, killed))
    assert expected.keys() == weights.keys()
    assert all(torch.equal(expected[name], weights[name]) for name in expected)


def test_a_change_is_asked_for_by_name_and_remembered(tiny_shards: Path, tmp_path: Path) -> None:
    """Twice the learning rate, and more steps; the command of the beginning, started again, means the changed run."""
    config, out = empty_config(tmp_path), tmp_path / "run"
    arguments = overrides(tiny_shards, out, UNET, {"steps": 3, "optim.warmup": 0, "optim.final_lr": 1})
    train(config, arguments)
    before = load_file(last_weights(out))
    asked = ["--change", "optim.lr=6e-3", "--change", "steps=5"]
    printed = train(config, [*arguments, *asked], resume=True)
    assert "changed at step 3: key optim.lr  before 0.003  now 0.006" in printed
    assert [line["lr"] for line in lines(out, "train")] == [0.003] * 3 + [0.006] * 2
    changes = [(line["key"], line["now"]) for line in lines(out, "event") if line["event"] == "changed"]
    assert sorted(changes) == [("optim.lr", 0.006), ("steps", 5)]
    weights = load_file(last_weights(out))
    assert any(not torch.equal(weights[name], value) for name, value in before.items())
    last_weights(out).unlink()
    train(config, arguments, resume=True)
    assert [line["step"] for line in lines(out, "train")] == [1, 2, 3, 4, 5]
    assert all(torch.equal(load_file(last_weights(out))[name], value) for name, value in weights.items())
    for more, said in (
        (["--change", "model.charts=[SIC]"], "--change model.charts: only steps"),
        (["optim.lr=0.5"], "give --change optim.lr=0.5"),
    ):
        process = start(config, [*arguments, *more], resume=True)
        printed, _ = process.communicate(timeout=120)
        assert process.returncode == USER_ERROR
        assert said in printed


def test_the_weights_of_a_checkpoint_are_exported(tiny_shards: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    settings = UNET | {"steps": 2, "engine.precision": "bf16"}
    train(empty_config(tmp_path), overrides(tiny_shards, out, settings), ranks=2)
    done = run("export", out, "--out", tmp_path / "weights.safetensors")
    assert done.returncode == 0, done.stderr
    expected, exported = load_file(last_weights(out)), load_file(tmp_path / "weights.safetensors")
    assert expected.keys() == exported.keys()
    assert all(torch.equal(exported[name], value) for name, value in expected.items())
    # The masters, not what the network computes with.
    assert any(not torch.equal(value.bfloat16().float(), value) for value in expected.values())
    assert load_weights(tmp_path / "weights.safetensors")[1] == load_weights(last_weights(out))[1]
    assert run("export", tmp_path).returncode == USER_ERROR


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
    assert json.loads(state.read_text())["position"]["step"] == lines(out, "train")[-1]["step"]


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
