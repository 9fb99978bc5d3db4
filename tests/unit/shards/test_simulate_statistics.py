"""Fifty small simulated scenes against the published statistics of the real archive."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from arcticseg.ice.scenes.open import open_scene
from shards.simulate import simulate_archive

pytestmark = pytest.mark.slow

SCENES = 50


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return simulate_archive(tmp_path_factory.mktemp("fifty"), SCENES, seed=0, size=500, workers=2, progress=False)


def test_class_shares_are_those_of_the_archive(archive: list[Path], real_data: Path) -> None:
    real = json.loads((real_data / "stats/class_frequencies.json").read_text())
    counts = np.zeros((3, 256), np.int64)
    for path in archive:
        with open_scene(path) as scene:
            chart = scene.chart()
        assert chart is not None
        for number in range(3):
            counts[number] += np.bincount(chart[number].ravel(), minlength=256)
    for number, name in enumerate(("SIC", "SOD", "FLOE")):
        labelled = counts[number, :255].sum()
        for label, share in real[name]["fraction_of_labelled"].items():
            if share > 0.01:
                ratio = counts[number, int(label)] / labelled / share
                assert 1 / 3 < ratio < 3, f"{name} {label}: {ratio:.2f} of the published share"
    # Some pixels have no chart, and a good part of the ice no dominant stage or floe size, as in the real archive.
    masked = counts[:, 255] / counts.sum(axis=1)
    assert 0.05 < masked[0] < 0.4
    assert masked[1] > masked[0] + 0.05
    assert masked[2] > masked[0] + 0.05


def test_channel_means_are_those_of_the_archive(archive: list[Path], real_data: Path) -> None:
    real = json.loads((real_data / "stats/channel_stats.json").read_text())["channels"]
    sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for path in archive:
        with open_scene(path) as scene:
            found = {"nersc_sar_primary": scene.sar("hh"), "nersc_sar_secondary": scene.sar("hv")}
            found |= {"distance_map": scene.distance(), "sar_incidenceangle": scene.geo.incidence}
            found |= {"sar_grid_latitude": scene.geo.latitude, "sar_grid_longitude": scene.geo.longitude}
            coarse = [name for name in real if name.startswith("btemp") or name in ("t2m", "skt", "tcwv", "tclw")]
            for name in (*coarse, "u10m_rotated", "v10m_rotated"):
                found[name] = scene.coarse(name)
        for name, values in found.items():
            known = values[np.isfinite(values)].astype(float)
            sums[name][0] += known.sum()
            sums[name][1] += known.size
    assert len(sums) == 26
    for name, (total, count) in sums.items():
        off = (total / count - real[name]["mean"]) / real[name]["std"]
        assert abs(off) < 1, f"{name}: mean {total / count:.2f} is {off:.2f} standard deviations off"


def test_amsr2_and_backscatter_tell_water_from_ice(archive: list[Path]) -> None:
    cold, cross = defaultdict(list), defaultdict(list)
    for path in archive:
        with open_scene(path) as scene:
            chart, hv, brightness = scene.chart(), scene.sar("hv"), scene.coarse("btemp_6_9h")
            zones = scene.distance()
        assert chart is not None
        assert zones is not None
        assert brightness is not None
        sic = chart[0][chart[0] != 255]
        # Scenes of one kind, the sea far from land: the footprint of 6.9 GHz is wider than a small scene.
        kind = "water" if sic.max() == 0 and zones.min() > 24 else "ice" if sic.mean() > 8 else ""
        if np.isfinite(brightness).any():
            cold[kind].append(np.nanmean(brightness))
        cross[kind].append(np.nanmean(hv))
    assert len(cold["water"]) >= 3
    assert len(cold["ice"]) >= 3
    assert np.nanmedian(cold["water"]) < 130 < np.nanmedian(cold["ice"]) - 50
    assert np.median(cross["water"]) < np.median(cross["ice"])


def test_some_scenes_lack_land_and_some_lack_amsr2_in_part(archive: list[Path]) -> None:
    land, missing = [], []
    for path in archive:
        with open_scene(path) as scene:
            land.append(bool((scene.distance() == 0).any()))
            missing.append(float(np.isnan(scene.coarse("btemp_89_0v")).mean()))
    assert 0.4 < np.mean(land) < 0.8
    assert 0 < np.mean(np.array(missing) > 0) < 0.2
