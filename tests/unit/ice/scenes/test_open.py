import time
import tracemalloc
from pathlib import Path

import netCDF4
import pytest

from arcticseg.errors import SceneError
from arcticseg.ice.channels import COARSE
from arcticseg.ice.scenes.open import list_scenes, open_scene
from tests import scenes


def test_a_file_of_another_kind_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.nc"
    path.write_text("not netCDF")
    with pytest.raises(SceneError, match=rf"^{path}: "):
        open_scene(path)
    with netCDF4.Dataset(path, "w") as file:
        file.title = "something else"
    with pytest.raises(SceneError, match=rf"^{path}: .*nersc_sar_primary, nersc_sar_secondary"):
        open_scene(path)
    other = tmp_path / "a.txt"
    other.write_text("")
    with pytest.raises(SceneError, match=rf"^{other}: .*\.nc, \.safe, \.tif, \.tiff, \.zip"):
        open_scene(other)
    with pytest.raises(SceneError, match=rf"^{tmp_path}/b\.nc: "):
        open_scene(tmp_path / "b.nc")


def test_a_full_size_scene_opens_without_reading_it(tmp_path: Path) -> None:
    """The dimensions are those of the raw scene of the schema file; variables that nobody wrote hold fill values."""
    path = tmp_path / f"{scenes.RAW_NAME}.nc"
    with netCDF4.Dataset(path, "w") as file:
        for dim, length in zip((*scenes.SAR_DIMS, *scenes.COARSE_DIMS), (9985, 10372, 199, 207), strict=True):
            file.createDimension(dim, length)
        file.createDimension("sar_grid_points", 441)
        for name in ("nersc_sar_primary", "nersc_sar_secondary", "distance_map"):
            file.createVariable(name, "f4", scenes.SAR_DIMS, zlib=True)
        for name in COARSE:
            file.createVariable(name, "f8", scenes.COARSE_DIMS)
        for name, values in scenes.geolocation(9985, 10372).items():
            file.createVariable(f"sar_grid_{name}", "f8", scenes.POINT_DIMS)[:] = values.ravel()
    tracemalloc.start()
    began = time.monotonic()
    with open_scene(path) as scene:
        assert scene.shape == (9985, 10372)
        values = scene.coarse("t2m")
        assert values is not None
        assert values.shape == (199, 207)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20e6
    assert time.monotonic() - began < 20


def test_list_scenes(tmp_path: Path) -> None:
    for name in ("b.nc", "a.NC", "c.tif", "d.txt", ".hidden.nc", "e.tiff"):
        (tmp_path / name).touch()
    assert [path.name for path in list_scenes(tmp_path)] == ["a.NC", "b.nc", "c.tif", "e.tiff"]
    assert list_scenes(tmp_path / "b.nc") == [tmp_path / "b.nc"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(SceneError, match=rf"^{tmp_path}/empty: .*\.nc, \.safe, \.tif, \.tiff, \.zip"):
        list_scenes(tmp_path / "empty")
    with pytest.raises(SceneError, match=rf"^{tmp_path}/nowhere: "):
        list_scenes(tmp_path / "nowhere")
