"""Every input channel: its group, unit, grid, published statistics and storage in a sample.

Means and standard deviations of `CHANNELS` are those published with the AutoICE challenge (its `global_meanstd`
table; SAR in dB at 80 m; latitude, longitude, month and day as used by the 2025 MAE study). Names are the
scene file's own. `DERIVED` holds what is computed from these, or from a sample's facts, for a network only.
"""

from __future__ import annotations

from dataclasses import dataclass

GROUPS = (
    *("hh", "hv", "incidence", "distance", "amsr2", "era5", "location", "time"),
    *("season", "position", "spacing"),
)


@dataclass(frozen=True)
class Channel:
    """An input channel.

    Attributes:
        name: in scene files.
        group: one of `GROUPS`.
        unit: of its values.
        grid: where the scene holds it: `sar` (every pixel), `2km`, `geo` (geolocation grid) or `scene` (once).
        mean, std: as published.
        offset, scale: of the stored uint16 code of a 2 km channel: value = offset + scale x (code - 1), code 0 = no
            data; every scale keeps the rounding error under 0.01 of the unit.
    """

    name: str
    group: str
    unit: str
    grid: str
    mean: float
    std: float
    offset: float = 0.0
    scale: float = 0.0


def _brightness(name: str, mean: float, std: float) -> Channel:
    return Channel(f"btemp_{name}", "amsr2", "K", "2km", mean, std, offset=20.0, scale=0.005)


CHANNELS: dict[str, Channel] = {
    channel.name: channel
    for channel in (
        Channel("nersc_sar_primary", "hh", "dB", "sar", -14.508255, 5.659746),
        Channel("nersc_sar_secondary", "hv", "dB", "sar", -24.701205, 4.746759),
        Channel("sar_incidenceangle", "incidence", "degree", "geo", 33.998018, 8.322267),
        Channel("distance_map", "distance", "zone", "sar", 23.627670, 14.990186),
        _brightness("6_9h", 148.846980, 61.648469),
        _brightness("6_9v", 203.519445, 38.666432),
        _brightness("7_3h", 149.898965, 61.675445),
        _brightness("7_3v", 204.205340, 38.666220),
        _brightness("10_7h", 153.891692, 60.875250),
        _brightness("10_7v", 208.904087, 36.244959),
        _brightness("18_7h", 165.680262, 52.617873),
        _brightness("18_7v", 218.586834, 28.060390),
        _brightness("23_8h", 182.208937, 42.887162),
        _brightness("23_8v", 226.396466, 22.117582),
        _brightness("36_5h", 185.194724, 38.644438),
        _brightness("36_5v", 228.205902, 17.652645),
        _brightness("89_0h", 212.537458, 22.584971),
        _brightness("89_0v", 241.257479, 16.310962),
        Channel("u10m_rotated", "era5", "m/s", "2km", 0.674799, 4.749647, offset=-60.0, scale=0.002),
        Channel("v10m_rotated", "era5", "m/s", "2km", 0.607557, 5.196105, offset=-60.0, scale=0.002),
        Channel("t2m", "era5", "K", "2km", 268.626549, 9.469171, offset=180.0, scale=0.0025),
        Channel("skt", "era5", "K", "2km", 268.910152, 10.305256, offset=180.0, scale=0.0025),
        Channel("tcwv", "era5", "kg/m2", "2km", 7.747742, 5.268575, offset=0.0, scale=0.002),
        Channel("tclw", "era5", "kg/m2", "2km", 0.041246, 0.071128, offset=0.0, scale=0.0001),
        Channel("sar_grid_latitude", "location", "degree", "geo", 69.148574, 7.023603),
        Channel("sar_grid_longitude", "location", "degree", "geo", -56.351131, 31.263271),
        Channel("month", "time", "month", "scene", 6.0, 3.245930),
        Channel("day", "time", "day of year", "scene", 182.0, 99.556355),
    )
}

# Component of a unit vector -> the number of the year's cycle that it is of, and whether it is the cosine.
CYCLES = {f"{name}_{part}": (name, part == "cos") for name in ("month", "day") for part in ("sin", "cos")}
# Months and days in a year. They are of equal length, and stand for their middle: the angle of month m is
# 2 pi (m - 1/2) / 12.
CYCLE_LENGTHS = {"month": 12.0, "day": 365.25}

# Components of the unit vector from the Earth's centre: towards 0 N 0 E, 0 N 90 E and the north pole.
POSITION = ("position_x", "position_y", "position_z")

# What no scene or sample holds, and a network may see. Components of unit vectors stay as they are: their statistics
# are 0 and 1, whatever `data.statistics` says. The mean and the standard deviation of the spacing are those of the
# factors 2 to 10, equally often: of log2(2), ..., log2(10).
DERIVED: dict[str, Channel] = {
    channel.name: channel
    for channel in (
        *(Channel(name, "season", "1", "scene", 0.0, 1.0) for name in CYCLES),
        *(Channel(name, "position", "1", "geo", 0.0, 1.0) for name in POSITION),
        Channel("pixel_spacing", "spacing", "log2(40 m)", "scene", 2.421229, 0.729475),
    )
}

# All that a network may see.
INPUTS = CHANNELS | DERIVED

# The channels on the 2 km grid, in the order of the sample member `aux.b2`.
COARSE = tuple(name for name, channel in CHANNELS.items() if channel.grid == "2km")

# Vectors by their two components: along the image's columns, and along its rows. The archive says of the wind that its
# components are "rotated to account for S-1 flight direction", "with the satellite flight direction as reference": that
# takes the place of north, so that v counts along the flight direction and u to its right, where the radar looks. In an
# image, lines grow along the flight direction and samples to its right: v > 0 blows towards growing lines, u > 0
# towards growing samples. An image that is turned or flipped has other axes, see `data.vectors`.
VECTORS = (("u10m_rotated", "v10m_rotated"),)

# Metres between the centres of pixels: of raw scenes (factors count in it), of ready-to-train scenes, of the 2 km grid.
RAW_SPACING = 40.0
RTT_SPACING = 80.0
COARSE_SPACING = 2000.0

# Polarisation -> its name in scene files.
SAR = {"hh": "nersc_sar_primary", "hv": "nersc_sar_secondary"}


def expand(names: list[str] | tuple[str, ...]) -> tuple[str, ...]:
    """The channels that a list of channel and group names means, in the order given, each once.

    Raises:
        KeyError: a name is neither a channel nor a group; the message lists both.
    """
    expanded: dict[str, None] = {}
    for name in names:
        if name in GROUPS:
            members = [channel.name for channel in INPUTS.values() if channel.group == name]
        elif name in INPUTS:
            members = [name]
        else:
            raise KeyError(f"unknown channel '{name}'; groups: {', '.join(GROUPS)}; channels: {', '.join(INPUTS)}")
        expanded.update(dict.fromkeys(members))
    return tuple(expanded)
