"""When and where a simulated scene was taken: its file name, its geolocation and its incidence angles."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from arcticseg.ice.channels import RAW_SPACING
from arcticseg.ice.geo import GeoGrid
from shards.simulation.facts import CIS_REGIONS, CIS_SHARE, DMI_REGIONS, MONTHS
from shards.simulation.noise import generator, low_discrepancy

PIXEL_KM = RAW_SPACING / 1000
GRID_POINTS = 21
INCIDENCE_RANGE = (18.9, 46.5)
# Over the first pixels incidence grows faster than over the last: the curve's share of the range.
_INCIDENCE_BEND = 0.12
_EARTH_KM = 6371.0

# An orbit number of each satellite at a known time, from AI4Arctic file names, and orbits a day (175 in 12 days).
_ORBITS = {
    "S1A": (datetime(2018, 7, 21, 12, 1, 56, tzinfo=UTC), 22892),
    "S1B": (datetime(2018, 6, 7, 18, 43, 26, tzinfo=UTC), 11271),
}
_ORBITS_A_DAY = 175 / 12
_YEARS = (2018, 2019, 2020, 2021)


@dataclass(frozen=True)
class Place:
    """Where and when.

    time: start of the acquisition, UTC. service: `dmi` or `cis`. product: the Sentinel-1 product's name.
    chart_name: the ice chart's. latitude, longitude: scene centre in degrees. heading: direction of growing lines,
    degrees clockwise from north.
    """

    time: datetime
    service: str
    product: str
    chart_name: str
    latitude: float
    longitude: float
    heading: float

    @property
    def file_name(self) -> str:
        """A name that follows the AI4Arctic pattern."""
        return f"{self.product}_icechart_{self.chart_name}.nc"


def _month_of(fraction: float) -> int:
    """The month at which the cumulative share of real scenes passes `fraction`."""
    counts = np.array([MONTHS[month][0] for month in range(1, 13)], float)
    return int(np.searchsorted(np.cumsum(counts) / counts.sum(), fraction, side="right")) + 1


def place_scene(
    index: int, seed: int, date: datetime | None = None, centre: tuple[float, float] | None = None, service: str = ""
) -> Place:
    """Draw time and place of scene `index`.

    date: fixes the day (and the time of day, where it is not midnight). centre: (longitude, latitude) in degrees
    instead of a region of the ice service. service: `dmi` or `cis` instead of a draw.
    """
    rng = generator(seed, index, 1)
    if not service:
        service = "cis" if low_discrepancy(index, 4, seed) < CIS_SHARE else "dmi"
    seconds = int(rng.integers(0, 86_400))
    if date is None:
        month = _month_of(low_discrepancy(index, 2, seed))
        day = datetime(int(rng.choice(_YEARS)), month, int(rng.integers(1, 29)), tzinfo=UTC)
        time = day + timedelta(seconds=seconds)
    else:
        time = date.replace(tzinfo=UTC)
        if (time.hour, time.minute, time.second) == (0, 0, 0):
            time += timedelta(seconds=seconds)
    mission = str(rng.choice(["S1A", "S1B"]))
    start, number = _ORBITS[mission]
    orbit = max(1, number + int((time - start).total_seconds() / 86_400 * _ORBITS_A_DAY))
    take, unique = int(orbit * 7.1) % 0xFFFFF, int(rng.integers(0, 0x10000))
    end = time + timedelta(seconds=60)
    product = f"{mission}_EW_GRDM_1SDH_{time:%Y%m%dT%H%M%S}_{end:%Y%m%dT%H%M%S}_{orbit:06d}_{take:06X}_{unique:04X}"
    regions = CIS_REGIONS if service == "cis" else DMI_REGIONS
    region = str(rng.choice(sorted(regions)))
    if service == "cis":
        chart_name = f"cis_{region}_{time:%Y%m%dT%H%M}Z_pl_a"
    else:
        chart_name = f"dmi_{time - timedelta(minutes=time.minute % 5):%Y%m%d%H%M}_{region}"
    latitude, longitude = regions[region]
    latitude += float(rng.uniform(-1.5, 1.5))
    longitude += float(rng.uniform(-3, 3))
    if centre is not None:
        longitude, latitude = centre
    # Ascending passes head about north-north-west, descending passes about south-south-west.
    heading = float(rng.choice([-18.0, 198.0]) + rng.uniform(-6, 6))
    return Place(time, service, product, chart_name, latitude, longitude, heading)


def incidence(samples: NDArray[np.float64], width: int) -> NDArray[np.float64]:
    """Incidence angle in degrees at pixel coordinates `samples` of a scene `width` pixels wide."""
    low, high = INCIDENCE_RANGE
    x = np.asarray(samples, float) / max(width - 1, 1)
    return np.asarray(low + (high - low) * ((1 + _INCIDENCE_BEND) * x - _INCIDENCE_BEND * x**2), np.float64)


def positions(
    place: Place, size: tuple[int, int], lines: NDArray[np.float64], samples: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Latitude and longitude [n, m] in degrees at the crossings of pixel coordinates.

    Azimuthal equidistant projection on a sphere about the scene's centre (Snyder, Map Projections, 1987, eq. 20-14).
    """
    down = (np.asarray(lines, float) - (size[0] - 1) / 2)[:, None] * PIXEL_KM
    right = (np.asarray(samples, float) - (size[1] - 1) / 2)[None, :] * PIXEL_KM
    heading = np.radians(place.heading)
    # The radar looks to the right of the flight direction.
    north = down * np.cos(heading) - right * np.sin(heading)
    east = down * np.sin(heading) + right * np.cos(heading)
    distance = np.hypot(north, east)
    c = distance / _EARTH_KM
    latitude0, longitude0 = np.radians(place.latitude), np.radians(place.longitude)
    toward = np.where(distance > 0, north / np.maximum(distance, 1e-12), 0.0)
    aside = np.where(distance > 0, east / np.maximum(distance, 1e-12), 0.0)
    latitude = np.arcsin(np.clip(np.cos(c) * np.sin(latitude0) + toward * np.sin(c) * np.cos(latitude0), -1, 1))
    longitude = longitude0 + np.arctan2(
        aside * np.sin(c), np.cos(latitude0) * np.cos(c) - toward * np.sin(latitude0) * np.sin(c)
    )
    return np.degrees(latitude), (np.degrees(longitude) + 180) % 360 - 180


def heading_of_lines(
    place: Place, size: tuple[int, int], lines: NDArray[np.float64], samples: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Direction of growing lines [n, m] in degrees clockwise from the north of each place.

    The initial bearing of the great circle to the next line; to the right of it samples grow.
    """
    latitude, longitude = (np.radians(angles) for angles in positions(place, size, lines, samples))
    ahead, beside = (np.radians(angles) for angles in positions(place, size, lines + 1, samples))
    east = np.sin(beside - longitude) * np.cos(ahead)
    north = np.cos(latitude) * np.sin(ahead) - np.sin(latitude) * np.cos(ahead) * np.cos(beside - longitude)
    return np.asarray(np.degrees(np.arctan2(east, north)))


def geolocation(place: Place, size: tuple[int, int]) -> GeoGrid:
    """The 21 x 21 geolocation grid of a scene."""
    lines, samples = (np.linspace(0, count - 1, GRID_POINTS) for count in size)
    latitude, longitude = positions(place, size, lines, samples)
    angles = np.repeat(incidence(samples, size[1])[None], GRID_POINTS, axis=0)
    return GeoGrid(lines, samples, latitude, longitude, angles)


def coarse_places(first: int, last: int) -> NDArray[np.float64]:
    """Pixel coordinates of the 2 km cells `first` .. `last` - 1: cell i is centred at pixel 50 i + 24.5."""
    return np.arange(first, last, dtype=np.float64) * 50.0 + 24.5
