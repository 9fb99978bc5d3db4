from pathlib import Path

import netCDF4
import numpy as np
import pytest

from arcticseg.errors import SceneError
from arcticseg.ice.reference import find_references, read_reference, reference_of, short_name
from tests import scenes

SHORT = "20180721T120156_cis"


def write(path: Path, original: str | None = None, shape: tuple[int, int] = (30, 40), value: int = 3) -> Path:
    planes = {name: (scenes.SAR_DIMS, np.full(shape, value, np.uint8)) for name in ("SIC", "SOD", "FLOE")}
    return scenes.write(path, planes, {} if original is None else {"original_id": original})


def test_short_names() -> None:
    assert short_name(scenes.RAW_NAME) == SHORT
    assert short_name(f"{SHORT}_prep_reference") == SHORT
    assert short_name("S1B_EW_GRDM_1SDH_20200123T120618") is None
    assert short_name("_dmi_") is None


@pytest.mark.parametrize(
    ("file", "original", "scene"),
    [
        (f"{SHORT}_prep_reference.nc", None, scenes.RAW_NAME),  # as those of the archive
        (f"{SHORT}_prep_reference.nc", None, f"{SHORT}_prep"),  # for its ready-to-train scenes
        ("a.nc", f"{scenes.RAW_NAME}.nc", scenes.RAW_NAME),
        (f"{scenes.RAW_NAME}.nc", None, scenes.RAW_NAME),
        ("mine_reference.nc", None, "mine"),
    ],
)
def test_scenes_find_their_references(tmp_path: Path, file: str, original: str | None, scene: str) -> None:
    path = write(tmp_path / file, original)
    write(tmp_path / "20200101T000000_dmi_prep_reference.nc")
    references = find_references(tmp_path)
    assert reference_of(scene, references) == path
    assert reference_of("another", references) is None


def test_reading(tmp_path: Path) -> None:
    path = write(tmp_path / "a.nc")
    with netCDF4.Dataset(path, "a") as file:
        file["SOD"][0, :5] = [0, 1, 2, 5, 255]
    charts = read_reference(path, (30, 40))
    assert charts.dtype == np.uint8
    assert charts.shape == (3, 30, 40)
    assert charts[1, 0, :6].tolist() == [0, 1, 2, 5, 255, 3]
    assert (charts[[0, 2]] == 3).all()


def test_charts_stored_otherwise(tmp_path: Path) -> None:
    """int16 with a fill value, float32 with NaN, and scaled."""
    classes = np.arange(6, dtype=np.int16).reshape(2, 3)
    masked = classes == 4
    planes = {
        "SIC": (scenes.SAR_DIMS, np.where(masked, np.int16(-1), classes)),
        "SOD": (scenes.SAR_DIMS, np.where(masked, np.nan, classes).astype(np.float32)),
        "FLOE": (scenes.SAR_DIMS, np.where(masked, 90, 10 * classes).astype(np.uint8)),
    }
    attributes = {"SIC": {"_FillValue": np.int16(-1)}, "FLOE": {"scale_factor": 0.1, "missing_value": np.uint8(90)}}
    path = scenes.write(tmp_path / "a.nc", planes, attributes_of=attributes)
    charts = read_reference(path, (2, 3))
    assert charts.dtype == np.uint8
    np.testing.assert_array_equal(charts, np.broadcast_to(np.where(masked, 255, classes), (3, 2, 3)))
    attributes["FLOE"]["units"] = "m"
    path = scenes.write(tmp_path / "b.nc", planes, attributes_of=attributes)
    with pytest.raises(SceneError, match=rf"^{path}: FLOE has units 'm'; expected"):
        read_reference(path, (2, 3))


def test_files_that_are_not_references(tmp_path: Path) -> None:
    with pytest.raises(SceneError, match=rf"^{tmp_path}/none: .*\.nc"):
        find_references(tmp_path / "none")
    path = write(tmp_path / "a.nc")
    with pytest.raises(SceneError, match=r"a\.nc: SIC .*\(30, 40\).*\(31, 40\)"):
        read_reference(path, (31, 40))
    write(path, value=6)
    with pytest.raises(SceneError, match=r"a\.nc: SOD holds 6,"):
        read_reference(path, (30, 40))
    scenes.write(path, {"SIC": (scenes.SAR_DIMS, np.zeros((30, 40), np.uint8))})
    with pytest.raises(SceneError, match=r"a\.nc: variable SOD"):
        read_reference(path, (30, 40))
    path.write_bytes(b"not netCDF")
    with pytest.raises(SceneError, match=r"a\.nc: cannot be read"):
        find_references(tmp_path)


def test_two_references_of_a_scene(tmp_path: Path) -> None:
    write(tmp_path / f"{SHORT}_reference.nc")
    write(tmp_path / f"{SHORT}_prep.nc")
    with pytest.raises(SceneError, match=rf"{SHORT}_reference\.nc: .*{SHORT}_prep\.nc"):
        find_references(tmp_path)
