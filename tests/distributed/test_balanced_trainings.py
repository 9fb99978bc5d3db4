"""Trainings whose charts are balanced: on two ranks in each ZeRO stage, and stopped and gone on with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from safetensors.torch import load_file

from tests.training import UNET, empty_config, lines, overrides, train

STEPS = 6
EXTRA = {"segment.consistency": 0.5, "segment.losses.SOD": "[cross_entropy, {name: dice, weight: 0.5}]"}


def trained(
    shards: Path, out: Path, settings: dict[str, Any], ranks: int = 1, resume: bool = False
) -> list[dict[str, Any]]:
    """Train; the logged steps."""
    train(empty_config(shards.parent), overrides(shards, out, UNET | EXTRA | settings), ranks, resume)
    return lines(out, "train")


def numbers(logged: list[dict[str, Any]]) -> np.ndarray[Any, Any]:
    names = [name for name in logged[0] if name.startswith(("loss", "weight_", "grad_norm"))]
    assert {"loss_SOD_dice", "loss_water", "weight_SIC", "weight_SOD", "weight_FLOE"} <= set(names)
    return np.array([[line[name] for name in names] for line in logged])


@pytest.mark.parametrize(
    ("balance", "stage", "precision"),
    [("uncertainty", 3, "fp32"), ("gradient", 2, "fp32"), ("uncertainty", 1, "bf16"), ("gradient", 3, "bf16")],
)
def test_two_ranks_and_accumulation_are_as_one(
    balance: str, stage: int, precision: str, tiny_shards: Path, tmp_path: Path
) -> None:
    settings = {"segment.balance": balance, "steps": STEPS, "engine.precision": precision}
    plain = {"engine.zero_stage": 0 if precision == "fp32" else 1}
    expected = numbers(trained(tiny_shards, tmp_path / "one", settings | plain))
    settings |= {"engine.zero_stage": stage, "engine.micro_batch_size": 1}
    told = numbers(trained(tiny_shards, tmp_path / "two", settings, ranks=2))
    rough = {"rtol": 1e-3, "atol": 1e-5} if precision == "fp32" else {"rtol": 0.05, "atol": 0.02}
    np.testing.assert_allclose(told, expected, **rough)
    # They have moved.
    weights = expected[:, -3:]
    assert np.abs(weights[-1] - weights[0]).max() > 1e-3


@pytest.mark.parametrize("balance", ["uncertainty", "gradient"])
def test_a_resumed_training_is_the_same_bit_for_bit(balance: str, tiny_shards: Path, tmp_path: Path) -> None:
    settings = {"segment.balance": balance, "engine.zero_stage": 2}
    trained(tiny_shards, tmp_path / "whole", settings | {"steps": STEPS, "checkpoint_every": 3}, ranks=2)
    whole = load_file(tmp_path / "whole" / "weights" / "last.safetensors")
    # As a training that was killed after step 3.
    out = tmp_path / "whole"
    for path in [*out.glob("weights/*"), *out.glob(f"checkpoints/step-{STEPS:08d}/*")]:
        path.unlink()
    (out / "checkpoints" / f"step-{STEPS:08d}").rmdir()
    logged = trained(tiny_shards, out, settings | {"steps": STEPS, "checkpoint_every": 3}, ranks=2, resume=True)
    again = load_file(out / "weights" / "last.safetensors")
    assert [line["step"] for line in logged] == list(range(1, STEPS + 1))
    assert set(again) == set(whole)
    assert not [name for name in whole if name.startswith("task.")]
    assert all(torch.equal(again[name], value) for name, value in whole.items())
