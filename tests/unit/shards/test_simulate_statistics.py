"""Fifty small simulated scenes against the published statistics of the real archive."""

from __future__ import annotations

import json
import shutil
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from arcticseg.ice.channels import COARSE, SAR
from arcticseg.ice.scenes.open import open_scene
from shards.simulate import simulate_archive

pytestmark = pytest.mark.slow

SCENES = 50


@dataclass
class Summary:
    """What the tests ask of the scenes, read once.

    Attributes:
        classes: pixels int64 [3, 256] of SIC, SOD, FLOE by class, of all scenes.
        sums: channel -> sum and number of its finite values.
        has_land: of each scene.
        lacks_amsr2: of each scene, the share of cells without 89 GHz.
        brightness, cross: `water` or `ice` -> mean of 6.9 GHz H in K and of HV in dB of each scene of that kind.
    """

    classes: np.ndarray = field(default_factory=lambda: np.zeros((3, 256), np.int64))
    sums: dict[str, list[float]] = field(default_factory=lambda: defaultdict(lambda: [0.0, 0.0]))
    has_land: list[bool] = field(default_factory=list)
    lacks_amsr2: list[float] = field(default_factory=list)
    brightness: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    cross: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def add(self, path: Path) -> None:
        with open_scene(path) as scene:
            chart, zones = scene.chart(), scene.distance()
            channels = {channel: scene.sar(name) for name, channel in SAR.items()} | {"distance_map": zones}
            channels |= {name: scene.coarse(name) for name in COARSE}
            channels |= {"sar_incidenceangle": scene.geo.incidence, "sar_grid_latitude": scene.geo.latitude}
            channels["sar_grid_longitude"] = scene.geo.longitude
        assert chart is not None
        assert zones is not None
        for number, plane in enumerate(chart):
            self.classes[number] += np.bincount(plane.ravel(), minlength=256)
        for name, values in channels.items():
            assert values is not None
            known = values[np.isfinite(values)].astype(float)
            self.sums[name][0] += known.sum()
            self.sums[name][1] += known.size
        self.has_land.append(bool((zones == 0).any()))
        self.lacks_amsr2.append(float(np.isnan(channels["btemp_89_0v"]).mean()))
        sic = chart[0][chart[0] != 255]
        # Scenes of one kind, the sea far from land: the footprint of 6.9 GHz is wider than a small scene.
        kind = "water" if sic.max() == 0 and zones.min() > 24 else "ice" if sic.mean() > 8 else ""
        if np.isfinite(channels["btemp_6_9h"]).any():
            self.brightness[kind].append(float(np.nanmean(channels["btemp_6_9h"])))
        self.cross[kind].append(float(np.nanmean(channels[SAR["hv"]])))


@pytest.fixture(scope="module")
def summary(tiny_archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Summary:
    """Of fifty scenes, the first five of which are those of `tiny_archive`."""
    folder = tmp_path_factory.mktemp("fifty")
    shutil.copytree(tiny_archive, folder, dirs_exist_ok=True)
    paths = simulate_archive(folder, SCENES, seed=0, size=500)
    assert len(paths) == SCENES
    summary = Summary()
    for path in paths:
        summary.add(path)
    return summary


def test_class_shares_are_those_of_the_archive(summary: Summary, real_data: Path) -> None:
    real = json.loads((real_data / "stats/class_frequencies.json").read_text())
    counts = summary.classes
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


def test_channel_means_are_those_of_the_archive(summary: Summary, real_data: Path) -> None:
    real = json.loads((real_data / "stats/channel_stats.json").read_text())["channels"]
    assert len(summary.sums) == 26
    for name, (total, count) in summary.sums.items():
        off = (total / count - real[name]["mean"]) / real[name]["std"]
        assert abs(off) < 1, f"{name}: mean {total / count:.2f} is {off:.2f} standard deviations off"


def test_amsr2_and_backscatter_tell_water_from_ice(summary: Summary) -> None:
    brightness, cross = summary.brightness, summary.cross
    assert len(brightness["water"]) >= 3
    assert len(brightness["ice"]) >= 3
    assert np.median(brightness["water"]) < 130 < np.median(brightness["ice"]) - 40
    assert np.median(cross["water"]) < np.median(cross["ice"])


def test_some_scenes_lack_land_and_some_lack_amsr2_in_part(summary: Summary) -> None:
    assert 0.4 < np.mean(summary.has_land) < 0.8
    assert 0 < np.mean(np.array(summary.lacks_amsr2) > 0) < 0.2
