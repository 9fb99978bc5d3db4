"""A masked autoencoder against a discriminator: on ranks, in parts, in ZeRO stages, killed and resumed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from arcticseg.engine.checkpoint import Checkpoint
from arcticseg.run.folder import CHECKPOINTS, finished
from tests.training import MAE, empty_config, kill, lines, overrides, start, train, wait_for_step

STEPS = 60
GAN = MAE | {
    "pretrain.adversarial.channels": 4,
    "pretrain.adversarial.depth": 2,
    "pretrain.adversarial.weight": 0.5,
    "pretrain.adversarial.start": 0.1,
    # At the rate of the others this game of two would make much of each rounding.
    "pretrain.adversarial.lr_scale": 0.2,
    "model.encoder.depth": 2,
    "model.encoder.drop_path": 0.2,
}
TERMS = ("loss_reconstruction", "loss_adversarial", "loss_discriminator", "adversarial_weight", "grad_norm")


def trained(shards: Path, out: Path, ranks: int, **keys: Any) -> dict[str, NDArray[np.float64]]:
    """What was logged, by term."""
    dotted = {name.replace("__", "."): value for name, value in keys.items()}
    train(empty_config(out.parent), overrides(shards, out, GAN, {"steps": STEPS} | dotted), ranks)
    logged = lines(out, "train")
    assert [line["step"] for line in logged] == list(range(1, len(logged) + 1))
    return {name: np.array([line[name] for line in logged]) for name in TERMS}


@pytest.fixture(scope="module")
def alone(tiny_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, NDArray[np.float64]]:
    """Sixty steps on one rank."""
    return trained(tiny_shards, tmp_path_factory.mktemp("alone") / "run", 1)


def test_the_discriminator_begins_when_it_should_and_both_learn(alone: dict[str, NDArray[np.float64]]) -> None:
    begins = round(0.1 * STEPS)
    for name in ("loss_adversarial", "loss_discriminator"):
        assert not alone[name][:begins].any()
        assert alone[name][begins:].all()
    assert not alone["adversarial_weight"][:begins].any()
    assert (alone["adversarial_weight"][begins:] > 0).all()
    # A hinge loss of 1 tells nothing apart.
    assert alone["loss_discriminator"][begins] == pytest.approx(1, abs=0.1)
    assert alone["loss_discriminator"][-10:].mean() < 0.95
    assert alone["loss_reconstruction"][-10:].mean() < alone["loss_reconstruction"][:10].mean()


@pytest.mark.parametrize(("ranks", "zero_stage", "micro"), [(2, 0, "null"), (2, 2, 1), (2, 3, "null")])
def test_losses_do_not_depend_on_ranks_parts_and_stages(
    ranks: int, zero_stage: int, micro: object, alone: dict[str, NDArray[np.float64]], tiny_shards: Path, tmp_path: Path
) -> None:
    several = trained(
        tiny_shards, tmp_path / "run", ranks, engine__zero_stage=zero_stage, engine__micro_batch_size=micro
    )
    for name in ("loss_reconstruction", "loss_discriminator"):
        assert np.ptp(alone[name]) > 1e-3  # it does learn, so that equality means something
        np.testing.assert_allclose(several[name], alone[name], rtol=1e-4)
    # The adversarial loss passes 0.
    np.testing.assert_allclose(several["loss_adversarial"], alone["loss_adversarial"], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(several["adversarial_weight"], alone["adversarial_weight"], rtol=1e-3)


def tensors_of(out: Path) -> dict[str, torch.Tensor]:
    """All tensors of the newest checkpoint."""
    (newest,) = sorted((out / CHECKPOINTS).glob("step-*"))[-1:]
    return dict(Checkpoint.open(newest).tensors)


@pytest.mark.parametrize(("ranks", "killed_after"), [(1, 5), (2, 14)])
def test_killed_and_resumed_is_the_same_bit_for_bit(
    ranks: int, killed_after: int, tiny_shards: Path, tmp_path: Path
) -> None:
    """Both networks, both optimisers and the weight between them; killed before the discriminator begins, and after."""
    config, steps = empty_config(tmp_path), 22
    settings = GAN | {"steps": steps, "checkpoint_every": 4, "pretrain.adversarial.start": 0.4}
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    train(config, overrides(tiny_shards, whole, settings), ranks)
    process = start(config, overrides(tiny_shards, killed, settings), ranks)
    wait_for_step(process, killed, killed_after)
    kill(process)
    process.wait()
    assert not finished(killed)
    train(config, overrides(tiny_shards, killed, settings), ranks, resume=True)
    assert [line["step"] for line in lines(killed, "train")] == list(range(1, steps + 1))
    logged = [[[line[name] for name in TERMS] for line in lines(out, "train")] for out in (whole, killed)]
    assert logged[0] == logged[1]
    expected, tensors = tensors_of(whole), tensors_of(killed)
    assert expected.keys() == tensors.keys()
    assert all(torch.equal(expected[name], value) for name, value in tensors.items())
    for name in ("module/logit.weight", "optimiser.exp_avg/logit.weight", "optimiser.exp_avg_sq/layers.0.weight"):
        assert f"step/discriminator/{name}" in tensors
    assert float(tensors["step.kept/ratio"]) > 0


def test_bf16_under_zero_3_trains_validates_and_resumes(tiny_shards: Path, tmp_path: Path) -> None:
    config, out = empty_config(tmp_path), tmp_path / "run"
    keys = {"engine.zero_stage": 3, "engine.precision": "bf16", "pretrain.adversarial.start": 0, "steps": 4}
    arguments = overrides(tiny_shards, out, GAN, keys, {"checkpoint_every": 2})
    train(config, arguments, 2)
    before = lines(out, "train")
    (last,) = (out / CHECKPOINTS).glob("step-*04")
    for path in (*last.iterdir(), out / "weights" / "last.safetensors"):
        path.unlink()
    train(config, arguments, 2, resume=True)
    assert [line["loss_discriminator"] for line in lines(out, "train")] == [
        line["loss_discriminator"] for line in before
    ]
    assert all(np.isfinite(line["loss"]) for line in before)
    assert lines(out, "validation")[-1]["reconstruction"] < 1
