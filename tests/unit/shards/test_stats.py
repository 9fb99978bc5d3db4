from dataclasses import asdict, replace
from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arcticseg.data.tile import decode_sar, encode_sar
from arcticseg.errors import ConfigError
from arcticseg.ice.channels import CHANNELS, COARSE, SAR
from arcticseg.ice.geo import GeoGrid
from arcticseg.ice.layers import Layers
from shards.stats import SceneTallies, Tally, bin_width, combine, merge, rows, table, tally, tally_sar, unmerge
from tests.archive import leaves

arrays = st.lists(st.floats(-1e3, 1e3), max_size=30).map(np.array)


def histogram(counted: Tally, width: float) -> dict[float, int]:
    """Left edge of a bin -> count, without empty bins."""
    return {(counted.first + i) * width: n for i, n in enumerate(counted.bins) if n}


@given(arrays, arrays)
def test_tallies_add_up(a: np.ndarray, b: np.ndarray) -> None:
    both = combine(tally(a, 0.5), tally(b, 0.5))
    together = np.concatenate([a, b])
    assert both.count == together.size == sum(both.bins)
    if together.size:
        assert both.mean == pytest.approx(together.mean(), abs=1e-9)
        assert both.squares == pytest.approx(((together - together.mean()) ** 2).sum(), rel=1e-9, abs=1e-6)
        assert replace(both, mean=0, squares=0) == replace(tally(together, 0.5), mean=0, squares=0)


@given(arrays.filter(len))
def test_histograms_are_numpys(values: np.ndarray) -> None:
    edges = np.arange(-1000, 1001, 0.5)
    counts, _ = np.histogram(values, edges)
    expected = {float(edge): int(n) for edge, n in zip(edges, counts, strict=False) if n}
    if (values != 1000).all():  # numpy closes the last bin on both sides
        assert histogram(tally(values, 0.5), 0.5) == expected


def test_tallies_are_of_finite_values() -> None:
    values = np.array([1, np.nan, 3, np.inf, -np.inf], np.float32)
    assert tally(values) == Tally(2, 2.0, 2.0, 1, (1, 0, 1))
    assert tally(np.array([np.nan])) == Tally()


def test_large_offsets_lose_nothing() -> None:
    random = np.random.default_rng(0)
    parts = [random.normal(1e7, 1e-2, 1000) for _ in range(5)]
    total = tally(parts[0])
    for part in parts[1:]:
        total = combine(total, tally(part))
    assert np.sqrt(total.squares / total.count) == pytest.approx(np.concatenate(parts).std(), rel=1e-6)


@given(st.lists(st.floats(-80, 60, width=32) | st.sampled_from([np.nan, -np.inf]), max_size=50))
def test_backscatter_is_counted_as_it_is_stored(values: list[float]) -> None:
    decibels = np.array(values, np.float32).reshape(1, -1)
    codes = encode_sar(decibels)
    stored = -60 + 0.05 * (codes[codes > 0].astype(float) - 1)
    counted = tally_sar(decibels)
    assert counted.count == stored.size
    if stored.size:
        assert counted.mean == pytest.approx(stored.mean(), abs=1e-9)
        assert counted.squares == pytest.approx(((stored - stored.mean()) ** 2).sum(), rel=1e-9, abs=1e-9)
        edges, counts = np.unique(-60 + 0.5 * ((codes[codes > 0].astype(int) - 1) // 10), return_counts=True)
        assert histogram(counted, 0.5) == dict(zip(edges.tolist(), counts.tolist(), strict=True))


def layers_of(seed: int, factor: int, size: int) -> Layers:
    random = np.random.default_rng(seed)
    sar = {name: random.normal(-20, 6, (size, size)).astype(np.float32) for name in SAR}
    sar["hv"][:3] = np.nan
    distance = random.integers(0, 42, (size, size)).astype(np.uint8)
    distance[-1] = 255
    coarse = random.uniform(0.0, 300.0, (20, 4, 4)).astype(np.float32)
    coarse[0, 0] = np.nan
    line = np.linspace(0, 100, 3)
    places = (random.uniform(60, 80, (3, 3)), random.uniform(-60, -20, (3, 3)), random.uniform(19, 47, (3, 3)))
    return Layers(
        scene=f"s{seed}",
        factor=factor,
        step=factor,
        pixel_spacing=40.0 * factor,
        time=datetime(2020, 1 + seed, 3, tzinfo=UTC),
        ice_service=None,
        simulated=True,
        sar=sar,
        distance=distance,
        chart=None,
        coarse=coarse,
        geo=GeoGrid(line, line, *places),
    )


def test_statistics_are_those_of_all_values_together() -> None:
    scenes = [[layers_of(seed, factor, 60 // factor) for factor in (2, 3)] for seed in range(3)]
    collected = []
    for scene in scenes:
        tallies = SceneTallies()
        for layers in scene:
            tallies.add(layers)
        collected.append(tallies.to_dict())
    merged = merge(collected)
    assert list(merged) == list(CHANNELS)

    def check(statistics: dict, values: np.ndarray, width: float) -> None:
        finite = values[np.isfinite(values)].astype(np.float64)
        assert statistics["count"] == finite.size
        assert statistics["mean"] == pytest.approx(finite.mean(), rel=1e-12)
        assert statistics["std"] == pytest.approx(finite.std(), rel=1e-12)
        assert statistics["histogram"]["width"] == width
        first, counts = statistics["histogram"]["first"], statistics["histogram"]["counts"]
        edges = (first + np.arange(len(counts) + 1)) * width
        # A hair below: backscatter lies on the edges but for the rounding of 0.05.
        assert counts == np.histogram(finite + 1e-9, edges)[0].tolist()
        assert counts[0]
        assert counts[-1]

    for i, factor in enumerate((2, 3)):
        for name, channel in SAR.items():
            stored = np.concatenate([encode_sar(scene[i].sar[name]).ravel() for scene in scenes]).astype(np.float64)
            check(merged[channel]["factors"][str(factor)], np.where(stored > 0, -60 + 0.05 * (stored - 1), np.nan), 0.5)
        zones = np.concatenate([scene[i].distance.ravel() for scene in scenes]).astype(np.float64)
        check(merged["distance_map"]["factors"][str(factor)], np.where(zones == 255, np.nan, zones), 1.0)
    assert merged["nersc_sar_primary"]["mean"] == merged["nersc_sar_primary"]["factors"]["2"]["mean"]
    for j, name in enumerate(COARSE):
        values = np.concatenate([scene[0].coarse[j].ravel() for scene in scenes]).astype(np.float64)
        check(merged[name], values, bin_width(name))
        assert "factors" not in merged[name]
    for name, field in (("sar_incidenceangle", "incidence"), ("sar_grid_latitude", "latitude")):
        check(merged[name], np.concatenate([getattr(s[0].geo, field).ravel() for s in scenes]), 2.0)
    assert merged["month"]["mean"] == 2.0
    assert merged["day"]["count"] == 3


def test_codes_and_exact_values_differ_by_rounding_alone() -> None:
    decibels = np.random.default_rng(0).normal(-20, 6, (400, 400)).astype(np.float32)
    assert tally_sar(decibels).mean == pytest.approx(decibels.astype(float).mean(), abs=1e-3)
    assert tally_sar(decibels).mean == pytest.approx(decode_sar(encode_sar(decibels)).astype(float).mean(), abs=1e-6)


def test_merge_leaves_out_channels_without_values() -> None:
    def scene(values: list[float]) -> dict:
        return {"scene": {"t2m": asdict(tally(np.array(values))), "skt": asdict(tally(np.array([])))}}

    (name, values), *others = merge([scene([1.0, 3.0]), scene([5.0])]).items()
    assert (name, others) == ("t2m", [])
    assert (values["mean"], values["count"]) == (3.0, 3)
    assert values["std"] == pytest.approx(np.std([1, 3, 5]))
    assert merge([]) == {}


def test_statistics_can_be_added_to() -> None:
    scenes = []
    for seed in range(4):
        tallies = SceneTallies()
        for factor in (2, 10):
            tallies.add(layers_of(seed, factor, 40))
        scenes.append(tallies.to_dict())
    extended = merge([unmerge(merge(scenes[:2])), *scenes[2:]])
    together = merge(scenes)
    assert leaves(extended) == pytest.approx(leaves(together), rel=1e-12)


def test_table_compares_with_what_is_published() -> None:
    known = CHANNELS["t2m"]
    lines = table([("t2m", "", {"mean": known.mean + 2 * known.std, "std": 1.0, "count": 5})]).splitlines()
    assert len(lines) == 2
    assert lines[1].split()[0] == "t2m"
    assert lines[1].split()[-1] == "+2.00"
    assert "published" not in table([("t2m", "", {"mean": 1.0, "std": 1.0, "count": 5})], published=False)


def test_table_by_factor() -> None:
    tallies = SceneTallies()
    for factor in (2, 10):
        tallies.add(layers_of(0, factor, 40))
    statistics = merge([tallies.to_dict()])
    all_lines = [line.split() for line in table(rows(statistics)).splitlines()[1:]]
    assert [line[1] for line in all_lines if line[0] == "nersc_sar_primary"] == ["2", "10"]
    assert len(all_lines) == len(CHANNELS) + 3
    lines = [line.split() for line in table(rows(statistics, 10)).splitlines()[1:]]
    assert len(lines) == len(CHANNELS)
    sar = statistics["nersc_sar_primary"]["factors"]["10"]
    (line,) = [line for line in lines if line[0] == "nersc_sar_primary"]
    assert line[1:5] == ["10", f"{sar['mean']:.3f}", f"{sar['std']:.3f}", str(sar["count"])]
    with pytest.raises(ConfigError, match=r"--factor is 3.*2, 10"):
        rows(statistics, 3)
