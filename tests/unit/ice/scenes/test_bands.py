"""What the numbers of a GeoTIFF's band mean: each form of a scene equals its plain form, or is refused in one line."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray

from arcticseg.errors import SceneError
from arcticseg.ice.layers import read_layers
from arcticseg.ice.scenes.open import open_scene
from launchers.cli import main
from tests import rasters

SHAPE = (60, 80)
HH = np.round(rasters.texture(*SHAPE), 2)
GAP = np.zeros(SHAPE, bool)
GAP[:, :10] = True
GAP[20:30, 40:50] = True
Write = Callable[[Path], Path]


def gapped(fill: float, dtype: str = "f4") -> NDArray[Any]:
    """HH in dB, with a fill value in the gap."""
    return np.where(GAP, fill, HH).astype(dtype)


def packed(dtype: str, scale: float, offset: float, fill: float | None = None) -> NDArray[Any]:
    counts = np.round((HH - offset) / scale)
    return (counts if fill is None else np.where(GAP, fill, counts)).astype(dtype)


def db(*, values: NDArray[Any] = HH, **how: Any) -> Write:
    return lambda path: rasters.write(path, values, **({"unit": "dB"} | how))


def linear(values: NDArray[Any], **how: Any) -> Write:
    return lambda path: rasters.write(path, values, **how)


POWER = (10 ** (HH / 10)).astype(np.float32)
INT16 = {"scale": 0.01, "offset": -20.0}

# Name -> how a file is written, whether it has the gap, and by how much (dB) it may differ from the plain values.
READ: dict[str, tuple[Write, bool, float]] = {
    "int16 by scale": (db(values=packed("i2", 0.01, -20), **INT16), False, 0.006),
    "uint16 by scale": (db(values=packed("u2", 0.01, -60), scale=0.01, offset=-60.0), False, 0.006),
    "uint8 by scale": (db(values=packed("u1", 0.25, -50), scale=0.25, offset=-50.0), False, 0.13),
    "int32 by scale": (db(values=packed("i4", 1e-5, 0), scale=1e-5), False, 1e-4),
    "scale alone": (db(values=packed("f4", 0.01, 0), scale=0.01), False, 1e-4),
    "offset alone": (db(values=HH + 40, offset=-40.0), False, 1e-4),
    "scale and the netCDF's attributes": (
        db(values=packed("i2", 0.01, -20), band_tags={"scale_factor": "0.01", "add_offset": "-20"}, **INT16),
        False,
        0.006,
    ),
    "power by scale": (linear((POWER * 1000).astype(np.float32), scale=0.001), False, 1e-4),
    "packed power": (linear(np.round(POWER * 1e7).astype("u4"), scale=1e-7, unit="1"), False, 0.01),
    "nodata before scale": (
        db(values=packed("i2", 0.01, -20, fill=-32768), nodata=-32768, **INT16), True, 0.006,
    ),
    "nodata of zero": (db(values=packed("u2", 0.01, -60, fill=0), scale=0.01, offset=-60.0, nodata=0), True, 0.006),
    "nodata": (db(values=gapped(-9999), nodata=-9999), True, 0),
    "nodata that float32 rounds": (db(values=gapped(-9999.9), nodata=-9999.9), True, 0),
    "the smallest float32": (db(values=gapped(np.finfo("f4").min), nodata=float(np.finfo("f4").min)), True, 0),
    "NaN": (db(values=gapped(np.nan), nodata=np.nan), True, 0),
    "infinity": (db(values=gapped(np.inf)), True, 0),
    "nodata that no number of the type has": (
        db(values=packed("u2", 0.01, -60), scale=0.01, offset=-60.0, band_tags={"_FillValue": "-9999"}), False, 0.006,
    ),
    "_FillValue of the band": (db(values=gapped(-999), band_tags={"_FillValue": "-999"}), True, 0),
    "_FillValue of the variable": (
        db(values=gapped(-999), band_tags={"NETCDF_VARNAME": "sigma"}, tags={"sigma#_FillValue": "-999"}), True, 0,
    ),
    "another variable's _FillValue": (db(tags={"other#_FillValue": str(HH[0, 20])}), False, 0),
    "_FillValue before scale": (
        db(values=packed("i2", 0.01, -20, fill=-999), band_tags={"_FillValue": "-999"}, **INT16), True, 0.006,
    ),
    "missing_value": (db(values=gapped(99), band_tags={"missing_value": "{98,99}"}), True, 0),
    "valid_range": (db(values=gapped(-500), band_tags={"valid_range": "{-60,20}"}), True, 0),
    "valid_min": (db(values=gapped(-500), band_tags={"valid_min": "-60"}), True, 0),
    "valid_max": (db(values=gapped(500), band_tags={"valid_max": "20"}), True, 0),
    "a mask in the file": (db(values=gapped(7), mask=~GAP), True, 0),
    "an alpha band": (
        lambda path: rasters.write(
            path, gapped(7), np.where(GAP, 0, 255).astype("f4"), unit="dB", photometric="MINISBLACK", ALPHA="YES"
        ),
        True,
        0,
    ),
    "big endian": (db(ENDIANNESS="BIG"), False, 0),
    "big endian int16": (db(values=packed("i2", 0.01, -20), ENDIANNESS="BIG", **INT16), False, 0.006),
    "float64": (db(values=HH.astype("f8")), False, 1e-5),
    "unit of the band's tags": (db(unit=None, band_tags={"units": "DB"}), False, 0),
    "unit of the file's tags": (db(unit=None, tags={"units": "decibel"}), False, 0),
    "unit in the description": (db(unit=None, description="Sigma0_HH_db"), False, 0),
    "power of no unit": (linear(POWER), False, 1e-4),
    "power in m2/m2": (linear(POWER, unit="m2/m2"), False, 1e-4),
    "compressed in tiles": (db(compress="deflate", tiled=True, blockxsize=16, blockysize=16), False, 0),
}  # fmt: skip

# Name -> how a file is written, and what its refusal says.
REFUSED: dict[str, tuple[Write, str]] = {
    "digital numbers as uint16": (linear(np.full(SHAPE, 300, np.uint16)), "holds uint16, not calibrated"),
    "int16 without a scale": (db(values=packed("i2", 0.01, 0)), "holds int16, not calibrated"),
    "int16 without a unit": (linear(packed("i2", 0.01, -20), **INT16), "holds int16, not calibrated"),
    "complex numbers": (linear(POWER.astype(np.complex64)), "holds complex64"),
    "scale of zero": (db(scale=0.0, offset=3.0), "has scale 0"),
    "a scale that GDAL does not know": (db(band_tags={"scale_factor": "0.01"}), "tag scale_factor = 0.01"),
    "an offset that differs": (db(offset=-40.0, band_tags={"add_offset": "-30"}), "tag add_offset = -30"),
    "kelvin": (linear(POWER, unit="K"), "unit 'K'"),
    "digital numbers by unit": (linear(POWER, unit="DN"), "unit 'DN'"),
    "amplitude": (linear(POWER, unit="amplitude"), "unit 'amplitude'"),
    "two units": (db(band_tags={"units": "1"}), "units 'dB' and '1'"),
    "a fill value that is no number": (db(band_tags={"_FillValue": "none"}), "_FillValue = none, which is no number"),
    "a range of one number": (db(band_tags={"valid_range": "3"}), "valid_range = 3; it must be two"),
    "a range beside a scale": (
        db(values=packed("i2", 0.01, -20), band_tags={"valid_range": "0,100"}, **INT16), "the tag valid_range",
    ),
    "_Unsigned": (db(values=packed("i2", 0.01, -20), band_tags={"_Unsigned": "true"}, **INT16), "_Unsigned = true"),
    "digital numbers as floats": (linear(np.round(np.sqrt(POWER) * 474)), "median"),
    "dB taken for power": (linear(HH), "negative"),
    "power taken for dB": (db(values=POWER), "not in dB"),
    "a frame of -9999": (db(values=gapped(-9999)), "exactly -9999 dB"),
    "a constant": (linear(np.zeros(SHAPE, np.float32)), "no valid pixel"),
}  # fmt: skip


def read(path: Path) -> NDArray[np.float32]:
    with open_scene(path) as scene:
        return scene.sar("hh")


def use(path: Path) -> None:
    """Read a scene as shards and networks do, which look at its backscatter."""
    with open_scene(path) as scene:
        next(read_layers(scene, [1]))


@pytest.mark.parametrize("name", READ)
def test_a_file_that_says_what_its_numbers_are(name: str, tmp_path: Path) -> None:
    write, has_gap, tolerance = READ[name]
    backscatter = read(write(tmp_path / rasters.NAME))
    expected = np.where(GAP, np.nan, HH) if has_gap else HH
    np.testing.assert_array_equal(np.isnan(backscatter), np.isnan(expected))
    np.testing.assert_allclose(backscatter, expected, atol=tolerance + 2e-5)


@pytest.mark.parametrize("name", REFUSED)
def test_a_file_that_does_not(name: str, tmp_path: Path) -> None:
    write, reason = REFUSED[name]
    path = write(tmp_path / rasters.NAME)
    with pytest.raises(SceneError, match=rf"^{path}: .*{reason}") as caught:
        use(path)
    assert "\n" not in str(caught.value)


def test_a_frame_of_one_number_is_named(tmp_path: Path) -> None:
    path = rasters.write(tmp_path / rasters.NAME, gapped(0), unit="dB")
    with open_scene(path) as scene, pytest.warns(UserWarning, match=f"^{path}: .* HH is exactly 0 dB"):
        next(read_layers(scene, [1]))
    assert any("exactly 0 dB" in note for note in scene.notes)


def test_a_mask_beside_the_file(tmp_path: Path) -> None:
    path = rasters.write(tmp_path / rasters.NAME, gapped(7), unit="dB")
    mask = path.with_name(f"{path.name}.msk")
    with rasterio.open(path) as file:
        profile = file.profile
    with rasterio.open(mask, "w", **(profile | {"dtype": "uint8", "driver": "GTiff"})) as file:
        file.write(np.where(GAP, 0, 255).astype(np.uint8), 1)
    np.testing.assert_array_equal(np.isnan(read(path)), GAP)
    shutil.copy(rasters.write(tmp_path / "small_HH.tif", HH[:50]), mask)
    with pytest.raises(SceneError, match=rf"^{mask}: the mask has 50 x 80 pixels, its image 60 x 80"):
        read(path)


@pytest.mark.parametrize("fact", ["NoDataValue", "Scale", "SRS", "GCPList", "UnitType"])
def test_a_metadata_file_beside_it(fact: str, tmp_path: Path) -> None:
    """Statistics there do no harm; what would change numbers or places is refused, since it is not read."""
    path = rasters.write(tmp_path / rasters.NAME, HH, unit="dB")
    beside = path.with_name(f"{path.name}.aux.xml")
    beside.write_text('<PAMDataset><PAMRasterBand band="1"><Metadata><MDI key="STATISTICS_MEAN">0</MDI></Metadata>'
                      "</PAMRasterBand></PAMDataset>")  # fmt: skip
    np.testing.assert_allclose(read(path), HH, atol=1e-4)
    beside.write_text(f"<PAMDataset><{fact}>0</{fact}></PAMDataset>")
    with pytest.raises(SceneError, match=rf"^{path}: .*aux\.xml beside it says its {fact}"):
        open_scene(path)


@pytest.mark.parametrize("name", ["int16 without a scale", "kelvin", "digital numbers as floats"])
def test_a_build_ends_in_one_line(name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    REFUSED[name][0](tmp_path / "scenes" / rasters.NAME)
    command = ["shards", "build", str(tmp_path / "scenes"), "--out", str(tmp_path / "out"), "--factors", "2"]
    assert main([*command, "--tile", "16", "--workers", "1"]) == 2
    errors = [line for line in capfd.readouterr().err.splitlines() if "error: " in line]
    assert len(errors) == 1
    assert REFUSED[name][1] in errors[0]
