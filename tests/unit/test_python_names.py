"""What programs of others import."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import rasterio

import arcticseg
from arcticseg.ice.scene import open_scene
from arcticseg.predict import write_geotiff
from tests.scenes import write_raw


def test_scenes_open_by_either_name() -> None:
    assert open_scene is arcticseg.open_scene


def test_charts_of_ones_own_become_a_geotiff_in_their_place(tmp_path: Path) -> None:
    path = write_raw(tmp_path / "scene.nc")
    with arcticseg.open_scene(path) as scene:
        charts = np.full((3, scene.shape[0] // 2, scene.shape[1] // 2), 255, np.uint8)
        charts[0, :3, :5] = 7
        write_geotiff(tmp_path / "charts.tif", scene, charts)
    with rasterio.open(tmp_path / "charts.tif") as file:
        np.testing.assert_array_equal(file.read(), charts)
        assert len(file.gcps[0]) >= 9
