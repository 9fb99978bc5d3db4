"""Every loss, every way to weigh and combine them, on 1 x 8, 2 x 4 and 4 x 2 ranks x samples, whole and accumulated.

Not here: networks with BatchNorm, whose statistics are those of a micro batch. Dice over the batch is not accumulated.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from arcticseg.tasks.config import LossConfig
from tests.distributed.equal import STEPS
from tests.forked import Forked
from tests.loss_cases import CASES, WHOLE

RANKS = (1, 2, 4)


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Any]:
    """Ranks -> arrays of all cases."""
    folder = tmp_path_factory.mktemp("equal")
    arrays = {}
    for ranks in RANKS:
        process = Forked("tests.distributed.equal", [folder / f"{ranks}.npz"], ranks, merged=True)
        printed, _ = process.communicate(timeout=600)
        assert process.returncode == 0, printed
        arrays[ranks] = np.load(folder / f"{ranks}.npz")
    return arrays


def test_no_loss_is_forgotten() -> None:
    assert set(LossConfig.table) <= set(CASES)
    weighing = [name for name, kind in LossConfig.table.items() if kind.weighs]  # type: ignore[attr-defined]
    assert {f"{name} weighed" for name in weighing} <= set(CASES)


@pytest.mark.parametrize("name", [*CASES, *WHOLE])
def test_loss_and_gradient_do_not_depend_on_how_a_batch_is_shared_out(name: str, told: dict[int, Any]) -> None:
    of_one = {key.removeprefix(f"{name}/1/"): told[1][key] for key in told[1].files if key.startswith(f"{name}/1/")}
    largest = np.abs(of_one["gradients"]).max(axis=1, keepdims=True)
    assert of_one["gradients"].shape[0] == STEPS
    assert (largest > 1e-4).all()
    assert np.isfinite(of_one["gradients"]).all()
    for ranks in RANKS:
        for parts in (1,) if name in WHOLE else (1, 2):
            for what, expected in of_one.items():
                value = told[ranks][f"{name}/{parts}/{what}"]
                shown = f"{what} of {ranks} ranks, {parts} parts"
                scale = largest if what == "gradients" else 1.0
                np.testing.assert_allclose(value / scale, expected / scale, rtol=2e-5, atol=2e-5, err_msg=shown)


def test_weights_by_gradients_were_not_1(told: dict[int, Any]) -> None:
    for name in ("gradient", "gradient, a decoder a chart"):
        first, second = (told[1][f"{name}/1/weights {number}"] for number in range(STEPS))
        assert np.ptp(first) > 0.01
        assert np.abs(second - first).max() > 1e-4
