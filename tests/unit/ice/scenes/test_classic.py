import os
from pathlib import Path

import netCDF4
import numpy as np
import pytest

from arcticseg.errors import SceneError
from arcticseg.ice.scenes.classic import check_whole
from arcticseg.ice.scenes.open import open_scene
from tests import scenes

FORMATS = ("NETCDF3_CLASSIC", "NETCDF3_64BIT_OFFSET", "NETCDF3_64BIT_DATA")


def classic_scene(path: Path, form: str) -> Path:
    """A scene without a chart; its last variable is the one that a cut file loses first."""
    variables = scenes.raw(60, 70, chart=False)
    del variables["amsr2_swath_map"]
    with netCDF4.Dataset(path, "w", format=form) as file:
        file.title = "odd number of letters"
        for name, (dims, values) in variables.items():
            for dim, length in zip(dims, values.shape, strict=True):
                if dim not in file.dimensions:
                    file.createDimension(dim, length)
            variable = file.createVariable(name, values.dtype, dims)
            variable.units = "" if name != "t2m" else "K"
            variable[:] = values
    return path


@pytest.mark.parametrize("form", FORMATS)
def test_a_file_of_netcdf_3_that_ends_early_is_cut(tmp_path: Path, form: str) -> None:
    path = classic_scene(tmp_path / "a.nc", form)
    whole = path.stat().st_size
    with open_scene(path) as scene:
        assert scene.shape == (60, 70)
    for size in (whole - 1, whole // 2):
        os.truncate(path, size)
        with pytest.raises(SceneError, match=rf"^{path}: cannot be read \(it ends after {size} of {whole} bytes\); "):
            open_scene(path)
    os.truncate(path, 20)
    with pytest.raises(SceneError, match=rf"^{path}: cannot be read \("):
        open_scene(path)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("dtypes", [("i2",), ("i2", "f8"), ("i1", "i2", "S1")])
@pytest.mark.parametrize("records", [0, 1, 5])
def test_records_are_counted(tmp_path: Path, form: str, dtypes: tuple[str, ...], records: int) -> None:
    path = tmp_path / "a.nc"
    with netCDF4.Dataset(path, "w", format=form) as file:
        file.createDimension("endless", None)
        file.createDimension("three", 3)
        file.createVariable("fixed", "i2", ("three",))[:] = [1, 2, 3]
        for i, dtype in enumerate(dtypes):
            variable = file.createVariable(f"x{i}", dtype, ("endless", "three"))
            if records:
                variable[:] = np.ones((records, 3), dtype)
    check_whole(path)
    # The library may end a file with three bytes of filling.
    os.truncate(path, path.stat().st_size - 4)
    with pytest.raises(SceneError, match="it ends after"):
        check_whole(path)


def test_other_files_pass(tmp_path: Path) -> None:
    path = scenes.write_raw(tmp_path / "a.nc", lines=60, samples=70)
    check_whole(path)
    path.write_bytes(b"")
    check_whole(path)
