"""The points of a probe, and what it refuses."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from arcticseg import config
from arcticseg.engine.config import ProbeConfig
from arcticseg.engine.hooks.probe import majority
from arcticseg.errors import ConfigError
from arcticseg.run.config import RunConfig
from tests.unit.engine.trainings import trainer_of


def test_the_class_of_a_patch_is_the_most_frequent_of_its_labelled_pixels() -> None:
    random = np.random.default_rng(0)
    cells = random.integers(0, 4, (5, 40, 9)).astype(np.uint8)
    cells[random.random(cells.shape) < 0.5] = 255
    expected = np.full(cells.shape[:2], 255)
    for at in np.ndindex(cells.shape[:2]):
        labelled = cells[at][cells[at] != 255]
        if 2 * len(labelled) >= 9:
            expected[at] = np.bincount(labelled).argmax()
    assert {0, 1, 2, 3, 255} == set(expected.ravel())
    np.testing.assert_array_equal(majority(torch.from_numpy(cells), 4).numpy(), expected)


def test_a_training_without_validation_samples_is_refused(tmp_path: Path) -> None:
    training = dataclasses.replace(trainer_of(tmp_path, []).training, samples=None)
    with pytest.raises(ConfigError, match="needs validation scenes with charts"):
        ProbeConfig().make().on_start(training)


def test_keys_are_checked() -> None:
    with pytest.raises(ConfigError, match=r"hooks\[0\].*it is for task pretrain"):
        config.build(RunConfig, {"steps": 1, "hooks": ["probe"]})
    for key, value in (("every", 0), ("samples", 0), ("patches", 0), ("shrinkage", 0), ("charts", ["ice"])):
        with pytest.raises(ConfigError, match=key):
            config.build(RunConfig, {"steps": 1, "task": "pretrain", "hooks": [{"name": "probe", key: value}]})
