"""How fast a training goes between two log lines."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from arcticseg.engine.pace import Pace, Steps, rank_of
from tests.unit.engine.trainings import ALONE


@pytest.mark.parametrize("count", [1, 2, 3, 10, 99, 100, 101])
@pytest.mark.parametrize("percent", [50, 99])
def test_percentiles_are_those_of_numpy(count: int, percent: int) -> None:
    values = sorted(np.random.default_rng(count).random(count).tolist())
    assert rank_of(values, percent) == np.percentile(values, percent, method="inverted_cdf")


def clock(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A clock that is set by hand."""
    hands = SimpleNamespace(now=100.0)
    for name in ("monotonic", "perf_counter"):
        monkeypatch.setattr(time, name, lambda: hands.now)
    return hands


def test_pauses_are_in_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    hands, loader = clock(monkeypatch), SimpleNamespace(waited=5.0)
    pace = Pace(loader, ALONE, 8)  # type: ignore[arg-type]
    for seconds in (1.0, 3.0):
        hands.now += seconds
        pace.stepped()
    loader.waited += 1.0
    told = pace.values()
    memory = told.pop("memory/host_gb/rank_0")
    assert 0.01 < memory < 100
    assert told == {
        "samples_per_s": 4.0,
        "data_wait": 0.25,
        "speed/samples_per_s_a_gpu": 4.0,
        "speed/step_ms_p50/rank_0": 1000.0,
        "speed/step_ms_p99/rank_0": 3000.0,
    }
    # A step, a validation of 50 s with waits of its own, and another step.
    hands.now += 2.0
    pace.stepped()
    hands.now += 50.0
    loader.waited += 40.0
    pace.restart()
    hands.now += 4.0
    pace.stepped()
    told = pace.values()
    assert (told["samples_per_s"], told["data_wait"]) == (2.0, 0.0)
    assert (told["speed/step_ms_p50/rank_0"], told["speed/step_ms_p99/rank_0"]) == (2000.0, 4000.0)


def test_no_step_has_no_time() -> None:
    steps = Steps()
    steps.restart()
    assert steps.read() == []
