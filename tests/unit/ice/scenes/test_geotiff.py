from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyproj
import pytest
import rasterio
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.transform import Affine

from arcticseg.errors import SceneError
from arcticseg.ice.geo import interpolate
from arcticseg.ice.scenes.geotiff import open_geotiff
from arcticseg.ice.scenes.open import open_scene

NAME = "S1A_EW_GRDM_1SDH_20161005T142446.tif"
SHAPE = (60, 80)
STEREO = "+proj=stere +lat_0=84 +lon_0=-37 +datum=WGS84 +units=m"


TO_LONLAT = pyproj.Transformer.from_crs(STEREO, "EPSG:4326", always_xy=True)


def place(row: Any, column: Any) -> tuple[Any, Any]:
    """Stereographic x, y of GDAL's pixel coordinates (counted from the corner): a turned, bent grid of 40 m."""
    x = 28.0 * column + 28.5 * row + 1e-3 * row * column
    y = 28.5 * column - 28.0 * row + 2e-3 * column**2
    return x, y


def lonlat(row: Any, column: Any) -> tuple[Any, Any]:
    lon, lat = TO_LONLAT.transform(*place(row, column))
    return lon, lat


def gcps(where: Any, noise: float = 0.0, count: int = 60) -> list[GroundControlPoint]:
    rng = np.random.default_rng(2)
    points = []
    for _ in range(count):
        row, column = rng.uniform(0, SHAPE[0]), rng.uniform(0, SHAPE[1])
        x, y = where(row, column)
        points.append(GroundControlPoint(row, column, x + rng.normal(0, noise), y + rng.normal(0, noise), 0))
    return points


def write(
    path: Path, *bands: np.ndarray, tags: dict[str, str] | None = None, description: str = "sigma0_HV", **how: Any
) -> Path:
    profile = {"gcps": gcps(lonlat), "crs": CRS.from_epsg(4326)} | how
    data = bands or (np.full(SHAPE, 0.01, np.float32),)
    with rasterio.open(
        path, "w", driver="GTiff", height=SHAPE[0], width=SHAPE[1], count=len(data), dtype=data[0].dtype, **profile
    ) as sink:
        for number, band in enumerate(data, start=1):
            sink.write(band, number)
        if description:
            for number, text in enumerate(description.split(","), start=1):
                sink.set_band_description(number, text)
        sink.update_tags(1, **(tags or {}))
    return path


def largest_error(scene: Any) -> float:
    """Largest distance in metres between the scene's positions and the true positions."""
    lines, samples = np.arange(0, SHAPE[0], 7), np.arange(0, SHAPE[1], 7)
    latitude, longitude, _ = interpolate(scene.geo, lines, samples)
    true_lon, true_lat = lonlat(lines[:, None] + 0.5, samples[None] + 0.5)
    return float(np.max(pyproj.Geod(ellps="WGS84").inv(longitude, latitude, true_lon, true_lat)[2]))


def test_a_scene_of_linear_power(tmp_path: Path) -> None:
    power = np.full(SHAPE, 0.01, np.float32)
    power[0, :4] = [1.0, 0.0, -0.1, np.nan]
    scene = open_geotiff(write(tmp_path / NAME, power))
    expected = np.full(SHAPE, -20.0)
    expected[0, :4] = [0, np.nan, np.nan, np.nan]
    backscatter = scene.sar("hv")
    assert backscatter.dtype == np.float32
    np.testing.assert_allclose(backscatter, expected, atol=1e-5)
    assert scene.shape == SHAPE
    assert scene.polarisations == ("hv",)
    assert scene.name == NAME.removesuffix(".tif")
    assert scene.time == datetime(2016, 10, 5, 14, 24, 46, tzinfo=UTC)
    assert not scene.has_chart
    assert not scene.simulated
    assert scene.ice_service is None
    assert scene.chart() is None
    assert scene.distance() is None
    assert scene.coarse("btemp_6_9h") is None
    assert scene.geo.latitude.shape == (21, 21)
    assert np.isnan(scene.geo.incidence).all()


@pytest.mark.parametrize("crs", ["EPSG:4326", STEREO])
def test_control_points_in_the_files_own_system(tmp_path: Path, crs: str) -> None:
    where = lonlat if crs == "EPSG:4326" else place
    scene = open_geotiff(write(tmp_path / NAME, gcps=gcps(where), crs=CRS.from_string(crs)))
    assert scene.misfit < 0.1
    assert largest_error(scene) < 0.5
    assert scene.pixel_spacing == pytest.approx(40, rel=0.02)


def test_a_projection(tmp_path: Path) -> None:
    transform = Affine(40, 0, -1000, 0, -40, 2000)
    scene = open_geotiff(write(tmp_path / NAME, gcps=None, crs=CRS.from_epsg(3413), transform=transform))
    latitude, longitude, _ = interpolate(scene.geo, [10], [30])
    back = pyproj.Transformer.from_crs("EPSG:4326", "EPSG:3413", always_xy=True)
    x, y = back.transform(longitude[0, 0], latitude[0, 0])
    assert (x, y) == pytest.approx((-1000 + 30.5 * 40, 2000 - 10.5 * 40), abs=0.5)
    # True scale of EPSG:3413 is at 70 degrees north; at the pole its metres are 3 % long.
    assert scene.pixel_spacing == pytest.approx(40 / 0.97, rel=0.01)
    assert scene.misfit == 0


@pytest.mark.parametrize(
    ("crs", "metres", "how"),
    [
        (STEREO, 1.0, {"ENDIANNESS": "BIG"}),
        (STEREO, 1.0, {"nodata": 40.0}),
        (STEREO.replace("+units=m", "+units=us-ft"), 1200 / 3937, {}),
        (STEREO.replace("+units=m", "+units=km"), 1000.0, {}),
    ],
)
def test_positions_are_of_the_unit_that_the_file_says(
    crs: str, metres: float, how: dict[str, Any], tmp_path: Path
) -> None:
    def placed(row: Any, column: Any) -> tuple[Any, Any]:
        x, y = place(row, column)
        return x / metres, y / metres

    scene = open_geotiff(write(tmp_path / NAME, gcps=gcps(placed), crs=CRS.from_string(crs), **how))
    assert largest_error(scene) < 0.5


def test_positions_of_another_unit(tmp_path: Path) -> None:
    """Metres that are said to be degrees are no places; kilometres said to be metres are pixels of 4 cm."""
    with pytest.raises(SceneError, match=rf"{NAME}: positions outside its reference system"):
        open_geotiff(write(tmp_path / NAME, gcps=gcps(place), crs=CRS.from_epsg(4326)))
    points = [GroundControlPoint(p.row, p.col, p.x / 1000, p.y / 1000) for p in gcps(place)]
    path = write(tmp_path / NAME, gcps=points, crs=CRS.from_string(STEREO))
    with pytest.raises(SceneError, match=rf"{NAME}: .* pixels of 0\.04 x 0\.04 m are less than 2 pixels of 40 m"):
        open_scene(path)


def test_misfit_is_measured_and_limited(tmp_path: Path) -> None:
    noisy = open_geotiff(write(tmp_path / "a_HV.tif", gcps=gcps(place, 10.0), crs=CRS.from_string(STEREO)))
    assert 8 < noisy.misfit < 15
    with pytest.raises(SceneError, match=r"b_HV\.tif: ground control points .* \d+ m"):
        open_geotiff(write(tmp_path / "b_HV.tif", gcps=gcps(place, 500.0), crs=CRS.from_string(STEREO)))


@pytest.mark.parametrize(
    ("description", "tags", "name", "expected"),
    [
        ("sigma0_HH", {}, NAME, "hh"),
        ("", {"polarization": "HV"}, NAME, "hv"),
        ("", {"name": "sigma0_HV"}, "x.tif", "hv"),
        ("", {}, "s1a-ew-grd-hh-20161005t142446.tif", "hh"),
        ("", {}, "scene_HV.tif", "hv"),
        ("HV", {}, "scene_HH.tif", "hv"),
    ],
)
def test_polarisation_is_read(tmp_path: Path, description: str, tags: dict[str, str], name: str, expected: str) -> None:
    scene = open_geotiff(write(tmp_path / name, description=description, tags=tags))
    assert scene.polarisations == (expected,)


def test_two_bands(tmp_path: Path) -> None:
    bands = np.full(SHAPE, 0.1, np.float32), np.full(SHAPE, 0.01, np.float32), np.full(SHAPE, 30, np.float32)
    scene = open_geotiff(write(tmp_path / NAME, *bands, description="HV,HH,incidence"))
    assert scene.polarisations == ("hh", "hv")
    assert scene.sar("hh")[0, 0] == pytest.approx(-20)
    assert scene.sar("hv")[0, 0] == pytest.approx(-10)


def test_arguments_win(tmp_path: Path) -> None:
    path = write(tmp_path / NAME, np.full(SHAPE, -25.0, np.float32), description="")
    scene = open_geotiff(path, polarisation="hh", units="db")
    assert scene.polarisations == ("hh",)
    assert scene.sar("hh")[5, 5] == -25
    with pytest.raises(SceneError, match=rf"{NAME}: no HV .*HH"):
        scene.sar("hv")


def test_decibels_by_tag_and_no_data(tmp_path: Path) -> None:
    values = np.full(SHAPE, -25.0, np.float32)
    values[3, 3] = -9999
    scene = open_geotiff(write(tmp_path / NAME, values, tags={"units": "dB"}, nodata=-9999))
    assert scene.sar("hv")[0, 0] == -25
    assert np.isnan(scene.sar("hv")[3, 3])


def test_time_from_tags(tmp_path: Path) -> None:
    path = write(tmp_path / "scene_HV.tif")
    with rasterio.open(path, "r+") as sink:
        sink.update_tags(time_coverage_start="2020-01-23T12:06:18.368255", simulated="simulated: made in a test")
    scene = open_geotiff(path)
    assert scene.simulated
    assert scene.time == datetime(2020, 1, 23, 12, 6, 18, 368255, tzinfo=UTC)


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_refused_files(tmp_path: Path) -> None:
    text = tmp_path / "text.tif"
    text.write_text("not an image")
    wide = Affine(0.01, 0, -40, 0, -0.01, 80)
    cases = [
        (text, "cannot be read"),
        (write(tmp_path / "s.tif", description=""), "no polarisation"),
        (write(tmp_path / "v.tif", description="VV"), "only VV"),
        (write(tmp_path / "i.tif", np.full(SHAPE, 300, np.uint16)), "band 1 holds uint16"),
        (write(tmp_path / "n.tif", gcps=None, crs=None), "neither ground control points nor a projection"),
        (write(tmp_path / "few.tif", gcps=gcps(lonlat, count=3)), "3 ground control points"),
        (write(tmp_path / "w.tif", gcps=None, transform=wide), r"pixels of \d+\.\d x \d+\.\d m"),
        (write(tmp_path / "d.tif", *[np.ones(SHAPE, np.float32)] * 2, description="HH,HH"), "bands 1 and 2 .* HH"),
    ]
    for path, message in cases:
        with pytest.raises(SceneError, match=f"^{path}: .*{message}") as caught:
            open_geotiff(path)
        assert "\n" not in str(caught.value)
    with pytest.raises(SceneError, match="units 'watts'"):
        open_geotiff(text, units="watts")
    with pytest.raises(SceneError, match="polarisation 'vv'"):
        open_geotiff(text, polarisation="vv")
    with pytest.raises(SceneError, match=r"d\.tif: .*hv.* 2 bands"):
        open_geotiff(cases[-1][0], polarisation="hv")


def test_control_points_on_one_line(tmp_path: Path) -> None:
    points = [GroundControlPoint(r, 10, *lonlat(r, 10), 0) for r in range(0, 60, 10)]
    with pytest.raises(SceneError, match=rf"{NAME}: the 6 ground control points"):
        open_geotiff(write(tmp_path / NAME, gcps=points))


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_control_points_that_cannot_be(tmp_path: Path) -> None:
    """In a corner, outside the scene, or no numbers; a projection without a place."""
    everywhere = gcps(lonlat)
    corner = [GroundControlPoint(p.row / 8, p.col / 8, *lonlat(p.row / 8, p.col / 8)) for p in everywhere]
    outside = [GroundControlPoint(p.row + 500, p.col, *lonlat(p.row + 500, p.col)) for p in everywhere]
    nowhere = [GroundControlPoint(np.nan, p.col, p.x, p.y) for p in everywhere]
    for points in (corner, outside, nowhere):
        with pytest.raises(SceneError, match=rf"{NAME}: the 60 ground control points do not span the scene: .* lines"):
            open_geotiff(write(tmp_path / NAME, gcps=points))
    infinite = [GroundControlPoint(p.row, p.col, np.inf, p.y) for p in everywhere]
    with pytest.raises(SceneError, match=rf"{NAME}: positions outside its reference system"):
        open_geotiff(write(tmp_path / NAME, gcps=infinite))
    with pytest.raises(SceneError, match=rf"{NAME}: neither ground control points nor a projection"):
        open_geotiff(write(tmp_path / NAME, gcps=None, crs=CRS.from_epsg(3413)))


def test_decibels_without_a_tag_are_noticed(tmp_path: Path) -> None:
    scene = open_geotiff(write(tmp_path / NAME, np.full(SHAPE, -25.0, np.float32)))
    with pytest.raises(SceneError, match=rf"{NAME}: 4800 of 4800 values .*units=dB"):
        scene.sar("hv")


def test_a_cut_file(tmp_path: Path) -> None:
    path = write(tmp_path / NAME, np.random.default_rng(0).random(SHAPE).astype(np.float32))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(SceneError, match=rf"{NAME}: cannot be read"):
        open_geotiff(path).sar("hv")


def test_real_crops(real_data: Path) -> None:
    paths = sorted((real_data / "sar").glob("*.tif"))
    assert len(paths) == 4
    for path in paths:
        scene = open_geotiff(path)
        assert scene.shape == (1000, 1000)
        assert scene.polarisations == ("hv",)
        assert not scene.simulated
        assert scene.pixel_spacing == pytest.approx(40.7, abs=0.7)
        assert scene.misfit < 5
        assert scene.time is not None
        assert scene.time.strftime("%Y%m%dT%H%M%S") in path.name
        backscatter = scene.sar("hv")
        assert -32 < np.nanmedian(backscatter) < -15
        assert np.isfinite(backscatter).mean() > 0.99
        assert (np.abs(scene.geo.latitude - 85) < 2).all()
