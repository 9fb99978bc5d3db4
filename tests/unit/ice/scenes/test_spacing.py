from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from arcticseg.errors import SceneError
from arcticseg.ice.channels import CHANNELS
from arcticseg.ice.geo import GeoGrid
from arcticseg.ice.scenes import spacing
from arcticseg.ice.scenes.open import open_scene
from tests import rasters, scenes

SHAPE = (400, 500)
PLACE = (75.0, -20.0)


def grid(
    sides: tuple[float, float], place: tuple[float, float] = PLACE, lines: NDArray[np.float64] | None = None
) -> GeoGrid:
    """The geolocation grid of pixels of these sides."""
    at = np.linspace(0, SHAPE[0] - 1, 21) if lines is None else lines
    samples = np.linspace(0, SHAPE[1] - 1, 21)
    longitude, latitude = rasters.lonlat(SHAPE, sides, place, at[:, None], samples[None])
    return GeoGrid(at, samples, latitude, longitude, np.full(latitude.shape, 30.0))


@pytest.mark.parametrize("place", [PLACE, (60.0, 179.99), (89.99, 0.0), (-70.0, 30.0)])
def test_sides_are_measured_on_the_ellipsoid(place: tuple[float, float]) -> None:
    for sides in ((40.0, 40.0), (40.7, 39.5), (550.0, 540.0)):
        assert spacing.sides(grid(sides, place), Path("a")) == pytest.approx(sides, rel=1e-3)


def test_points_may_stand_at_any_lines() -> None:
    lines = np.array([0.0, 3.0, 4.5, 90.0, 91.0, 250.0, 399.0])
    assert spacing.medians(grid((40.0, 45.0), lines=lines)) == pytest.approx((40, 45), rel=1e-4)


@pytest.mark.parametrize(
    ("sides", "assumed", "wanted"),
    [
        ((40.0, 40.0), 40.0, None),
        ((40.7, 40.75), 40.0, None),
        ((39.3, 40.0), 40.0, None),
        ((40.0, 41.0), 40.0, 40.0),
        ((51.0, 51.0), 51.0, 40.0),
        ((55.0, 55.0), 40.0, 40.0),
        ((62.0, 62.0), 62.0, 80.0),
        ((80.5, 79.9), 80.0, None),
        ((80.0, 80.0), 40.0, 80.0),
        ((40.0, 40.0), 80.0, 40.0),
        ((10.0, 10.0), 10.0, 40.0),
        ((550.0, 550.0), 40.0, 560.0),
        ((1000.0, 1000.0), 1000.0, None),
    ],
)
def test_the_spacing_that_a_scene_is_brought_to(
    sides: tuple[float, float], assumed: float, wanted: float | None
) -> None:
    assert spacing.target(sides, assumed) == wanted


def test_pixels_that_are_no_squares_and_positions_that_are_no_grid() -> None:
    with pytest.raises(SceneError, match=r"^a\.nc: pixels of 40\.0 x 60\.0 m are not squares; .*rio warp"):
        spacing.sides(grid((40.0, 60.0)), Path("a.nc"))
    geo = grid((40.0, 40.0))
    same_place = vars(geo) | {"latitude": np.full((21, 21), 75.0), "longitude": np.zeros((21, 21))}
    with pytest.raises(SceneError, match=r"^a\.nc: by its positions its lines are 0\.0 to 0\.0 m apart"):
        spacing.sides(GeoGrid(**same_place), Path("a.nc"))
    jump = vars(geo) | {"latitude": np.concatenate([geo.latitude[:11], geo.latitude[:10]])}
    with pytest.raises(SceneError, match=r"^a\.nc: by its positions its lines are 40\.0 to 400\.0 m apart"):
        spacing.sides(GeoGrid(**jump), Path("a.nc"))
    one_wrong = geo.longitude.copy()
    one_wrong[7, 9] += 0.5
    with pytest.raises(SceneError, match=r"^a\.nc: by its positions its (lines|samples) are \d+\.\d to \d+\.\d m"):
        spacing.sides(GeoGrid(**(vars(geo) | {"longitude": one_wrong})), Path("a.nc"))


def test_scenes_of_the_archive_are_not_resampled(tmp_path: Path, real_data: Path) -> None:
    raw = scenes.write_raw(tmp_path / f"{scenes.RAW_NAME}.nc")
    statistics = {name: (channel.mean, channel.std) for name, channel in CHANNELS.items()}
    ready = scenes.write(tmp_path / "a_prep.nc", scenes.rtt(statistics)[0], scenes.RTT_ATTRIBUTES)
    for path, metres in ((raw, 40), (ready, 80)):
        with open_scene(path) as scene:
            assert scene.pixel_spacing == metres
            assert not any("resampled" in note for note in scene.notes)
    for path in sorted((real_data / "sar").glob("*.tif")):
        with open_scene(path) as scene:
            assert scene.shape == (1000, 1000)
            assert scene.pixel_spacing == pytest.approx(40.4, abs=0.4)
