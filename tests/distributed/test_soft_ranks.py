"""Soft targets in real trainings: the same losses on one rank and on two, with polygons cropped and mixed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.training import UNET, empty_config, lines, overrides, train

SOFT: dict[str, Any] = {
    "segment.losses.SOD.name": "soft",
    "segment.losses.FLOE.name": "soft",
    "segment.losses.FLOE.where": "all",
    "segment.polygons.SOD.least": 32,
    "segment.polygons.FLOE.weight": 0.5,
    "data.augment.crop": 0.6,
    "data.augment.cutmix": 0.7,
}
TERMS = tuple(f"loss_{term}" for term in ("SIC", "SOD", "FLOE", "SOD_polygons", "FLOE_polygons"))


def test_losses_of_polygons_do_not_depend_on_ranks_and_micro_batches(tiny_shards: Path, tmp_path: Path) -> None:
    losses = {}
    for ranks, micro in ((1, 4), (1, 2), (2, 2)):
        out = tmp_path / f"{ranks}-{micro}"
        settings: dict[str, Any] = {**UNET, **SOFT, "steps": 6, "engine.micro_batch_size": micro}
        train(empty_config(tmp_path), overrides(tiny_shards, out, settings), ranks)
        logged = lines(out, "train")
        losses[ranks, micro] = np.array([[line[term] for term in ("loss", *TERMS)] for line in logged])
    expected = losses[1, 4]
    assert expected.shape == (6, 6)
    assert (expected > 0).all()
    assert expected[:, 0] == pytest.approx(expected[:, 1:] @ np.array([1, 1, 1, 1, 0.5]), rel=1e-5)
    for told in losses.values():
        np.testing.assert_allclose(told, expected, rtol=1e-4)
