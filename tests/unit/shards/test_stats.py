from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arcticseg.ice.channels import CHANNELS
from shards.stats import Moments, combine, merge, moments, table

arrays = st.lists(st.floats(-1e3, 1e3), max_size=30).map(np.array)


@given(arrays, arrays)
def test_moments_add_up(a: np.ndarray, b: np.ndarray) -> None:
    both = combine(moments(a), moments(b))
    together = np.concatenate([a, b])
    assert both.count == together.size
    if together.size:
        assert both.mean == pytest.approx(together.mean(), abs=1e-9)
        assert both.squares == pytest.approx(((together - together.mean()) ** 2).sum(), rel=1e-9, abs=1e-6)


def test_moments_are_of_finite_values() -> None:
    values = np.array([1, np.nan, 3, np.inf, -np.inf], np.float32)
    assert moments(values) == Moments(2, 2.0, 2.0)
    assert moments(np.array([np.nan])) == Moments(0, 0.0, 0.0)


def test_large_offsets_lose_nothing() -> None:
    random = np.random.default_rng(0)
    parts = [random.normal(1e7, 1e-2, 1000) for _ in range(5)]
    total = moments(parts[0])
    for part in parts[1:]:
        total = combine(total, moments(part))
    assert np.sqrt(total.squares / total.count) == pytest.approx(np.concatenate(parts).std(), rel=1e-6)


def test_merge_leaves_out_channels_without_values() -> None:
    scenes = [
        {"t2m": asdict(moments(np.array([1.0, 3.0]))), "skt": asdict(moments(np.array([])))},
        {"t2m": asdict(moments(np.array([5.0])))},
    ]
    assert merge(scenes) == {"t2m": {"mean": 3.0, "std": pytest.approx(np.std([1, 3, 5])), "count": 3}}
    assert merge([]) == {}


def test_table_compares_with_what_is_published() -> None:
    known = CHANNELS["t2m"]
    lines = table({"t2m": {"mean": known.mean + 2 * known.std, "std": 1.0, "count": 5}}).splitlines()
    assert len(lines) == 2
    assert lines[1].split()[0] == "t2m"
    assert lines[1].split()[-1] == "+2.00"
