import numpy as np
import pyproj
import pytest

from arcticseg.errors import SceneError
from arcticseg.ice.geo import GeoGrid, check_extent, interpolate, pixel_of


def make_grid(lat0: float, lon0: float, pixels: int = 10_000, points: int = 21, turn: float = 0.4) -> GeoGrid:
    """A scene-like grid: a rotated, slightly bent square of 40 m pixels around a place."""
    plane = pyproj.Proj(proj="stere", lat_0=lat0, lon_0=lon0)
    at = np.linspace(0, pixels - 1, points)
    lines, samples = np.meshgrid(at, at, indexing="ij")
    down, across = (lines - pixels / 2) * 40, (samples - pixels / 2) * 40
    x = np.cos(turn) * down - np.sin(turn) * across + 2e-8 * down * across
    y = np.sin(turn) * down + np.cos(turn) * across
    lon, lat = plane(x, y, inverse=True)
    incidence = 20 + samples / pixels * 25
    return GeoGrid(at, at, lat, lon, incidence)


PLACES = [(75.0, -60.0), (89.5, 10.0), (72.0, 179.9)]


@pytest.mark.parametrize(("lat0", "lon0"), PLACES)
def test_grid_points_keep_their_positions(lat0: float, lon0: float) -> None:
    geo = make_grid(lat0, lon0)
    latitude, longitude, incidence = interpolate(geo, geo.lines, geo.samples)
    np.testing.assert_allclose(latitude, geo.latitude, atol=1e-9)
    np.testing.assert_allclose(np.cos(np.radians(longitude - geo.longitude)), 1, atol=1e-12)
    np.testing.assert_allclose(incidence, geo.incidence, rtol=1e-12)


@pytest.mark.parametrize(("lat0", "lon0"), PLACES)
def test_halfway_lies_on_the_geodesic(lat0: float, lon0: float) -> None:
    geo = make_grid(lat0, lon0)
    latitude, longitude, _ = interpolate(geo, geo.lines[:1], [(geo.samples[3] + geo.samples[4]) / 2])
    (middle,) = pyproj.Geod(ellps="WGS84").npts(
        geo.longitude[0, 3], geo.latitude[0, 3], geo.longitude[0, 4], geo.latitude[0, 4], 1
    )
    _, _, off = pyproj.Geod(ellps="WGS84").inv(longitude[0, 0], latitude[0, 0], *middle)
    assert off < 1  # metres; the cell is 20 km


@pytest.mark.parametrize(("lat0", "lon0"), PLACES)
def test_pixel_of_is_the_inverse(lat0: float, lon0: float) -> None:
    geo, rng = make_grid(lat0, lon0), np.random.default_rng(0)
    lines, samples = rng.uniform(-500, 10_500, (2, 60))
    latitude, longitude, _ = interpolate(geo, lines, samples)
    line, sample = pixel_of(geo, longitude, latitude)
    np.testing.assert_allclose(line, np.broadcast_to(lines[:, None], line.shape), atol=1e-6)
    np.testing.assert_allclose(sample, np.broadcast_to(samples[None], line.shape), atol=1e-6)


def test_pixel_of_far_places_is_nan() -> None:
    line, sample = pixel_of(make_grid(75, -60), [-60.0, 0.0, 120.0], [75.0, 40.0, -75.0])
    assert np.isfinite(line[0])
    assert np.isnan(line[1:]).all()
    assert np.isnan(sample[1:]).all()


def test_pixel_of_on_an_uneven_grid() -> None:
    geo = make_grid(75, -60, pixels=1000)
    uneven = GeoGrid(
        geo.lines[[0, 1, 7, 20]],
        geo.samples[[0, 11, 20]],
        *(field[[0, 1, 7, 20]][:, [0, 11, 20]] for field in (geo.latitude, geo.longitude, geo.incidence)),
    )
    latitude, longitude, _ = interpolate(uneven, [3.25, 700], [10.5, 990])
    line, sample = pixel_of(uneven, longitude, latitude)
    np.testing.assert_allclose(line, [[3.25] * 2, [700] * 2], atol=1e-6)
    np.testing.assert_allclose(sample, [[10.5, 990]] * 2, atol=1e-6)


def test_unknown_incidence_stays_unknown() -> None:
    geo = make_grid(75, -60)
    geo.incidence[0, 0] = np.nan
    _, _, incidence = interpolate(geo, [10, 5000], [10, 5000])
    np.testing.assert_array_equal(np.isnan(incidence), [[True, False], [False, False]])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lines": np.array([0.0, 5, 5])}, "lines .*5. 5."),
        ({"samples": np.array([3.0, 2, 1])}, "samples .*3. 2. 1."),
        ({"latitude": np.zeros((3, 2))}, r"latitude has shape \(3, 2\)"),
        ({"latitude": np.full((3, 3), np.nan)}, "latitude nan"),
        ({"longitude": np.full((3, 3), 1e20)}, r"longitude 1e\+20"),
        ({"latitude": np.full((3, 3), 90.5)}, r"latitude 90\.5"),
        ({"incidence": np.full((3, 3), 1e29)}, r"incidence is 1e\+29 .*0 to 90"),
        ({"incidence": np.full((3, 3), -0.5)}, r"incidence is -0\.5 "),
        ({"incidence": np.full((3, 3), np.inf)}, "incidence is inf"),
    ],
)
def test_impossible_grids_are_refused(change: dict[str, np.ndarray], message: str) -> None:
    good = {"lines": np.arange(3.0), "samples": np.arange(3.0)}
    good |= {name: np.zeros((3, 3)) for name in ("latitude", "longitude", "incidence")}
    with pytest.raises(SceneError, match=message):
        GeoGrid(**(good | change))


@pytest.mark.parametrize(
    ("n", "is_right"), [(950, True), (999, True), (1090, True), (850, False), (1300, False), (5, False)]
)
def test_a_grid_must_be_one_of_the_raster(n: int, is_right: bool) -> None:
    geo = make_grid(75, -60, pixels=1000)
    if is_right:
        assert check_extent(geo, (n, 1000)) is geo
        return
    for shape, name in (((n, 1000), "lines"), ((1000, n), "samples")):
        with pytest.raises(SceneError, match=rf"covers {name} 0 to 999 of a raster of {n};"):
            check_extent(geo, shape)
