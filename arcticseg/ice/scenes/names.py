"""What the name of a scene, or the attributes and tags of its file, say of it: time, satellite, orbit, product.

Names of Sentinel-1 products, of their measurement files (lower case, hyphens), of AI4Arctic scenes and of files made
from any of these are read by the same rules. What a name does not say, or what cannot be, is None.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any

# YYYYMMDDThhmmss, as products have it, or with hyphens and colons, as tools write it.
_TIME = re.compile(r"(?<!\d)(\d{4})(-?)(\d\d)\2(\d\d)[Tt_ ](\d\d)([-:_]?)(\d\d)\6(\d\d)(?!\d)")
_SATELLITE = re.compile(r"(?<![A-Za-z0-9])S(?:ENTINEL-?)?1([A-D])(?![A-Za-z0-9])", re.IGNORECASE)
# Start and stop of a product, absolute orbit, data take.
_ORBIT = re.compile(r"\d{8}T\d{6}[_-]\d{8}T\d{6}[_-](\d{6})[_-][0-9A-F]{6}(?![0-9A-Z])", re.IGNORECASE)
# Mode (with the swath in measurement files of SLC) and type, with the resolution class in products.
_PRODUCT = re.compile(
    r"(?<![A-Z0-9])S1[A-D][_-](EW|IW|WV|EN|N?S[1-6])[1-5]?[_-](RAW|SLC|GRD|OCN|ETA)(?:[FHM_]_[0-2][SANC](SH|SV|DH|DV))?",
    re.IGNORECASE,
)
# HH or HV as a word: sigma0_HV and s1a-ew-grd-hv-... contain it, 1SDH does not.
_POLARISATION = re.compile(r"(?<![A-Z0-9])(HH|HV|VV|VH)(?![A-Z0-9])", re.IGNORECASE)
_OF_CLASS = {"SH": ("hh",), "SV": ("vv",), "DH": ("hh", "hv"), "DV": ("vv", "vh")}
_SERVICE = re.compile(r"_(dmi|cis)(?:_|\b)")

# (orbit - first) % 175 + 1 is the relative orbit; the Copernicus SAR mission's numbering, S1D's is not known to us.
_FIRST_ORBIT = {"S1A": 73, "S1B": 27, "S1C": 172}
_LARGEST_ORBIT = 999_999

# Attributes and tags, in any case, that say a fact: those of AI4Arctic, of GDAL's readers and of SNAP.
_NAMES = ("original_id", "upstream_id", "scene_id", "product", "product_name", "source_product")
_TIMES = ("acquisition_start_time", "time_coverage_start", "start_time", "first_line_time")
_SATELLITES = ("mission_id", "satellite_identifier", "platform", "satellite", "mission")
_ORBITS = ("orbit_number", "abs_orbit", "absolute_orbit_number", "orbit")
# Times as SNAP writes them.
_SNAP_TIME = "%d-%b-%Y %H:%M:%S"


@dataclass(frozen=True)
class Facts:
    """What is known of an acquisition without reading its image.

    Attributes:
        time: start of acquisition, UTC.
        satellite: `S1A` to `S1D`.
        orbit: absolute orbit number.
        product: mode and type, such as `EW_GRD`.
        polarisations: of `hh`, `hv`, `vv`, `vh`.
    """

    time: datetime | None = None
    satellite: str | None = None
    orbit: int | None = None
    product: str | None = None
    polarisations: tuple[str, ...] | None = None

    @property
    def relative_orbit(self) -> int | None:
        """Number of the orbit in the satellite's cycle of 175."""
        first = _FIRST_ORBIT.get(self.satellite or "")
        return None if first is None or self.orbit is None else (self.orbit - first) % 175 + 1

    def completed(self, other: Facts) -> Facts:
        """These facts; what is missing, from another source."""
        mine = {field.name: getattr(self, field.name) for field in fields(self)}
        return Facts(**{key: getattr(other, key) if value is None else value for key, value in mine.items()})


def facts_of(name: str, attributes: Mapping[str, Any] = {}) -> Facts:
    """What the name of a scene says, completed by the attributes or tags of its file."""
    facts = _facts_of_text(name)
    if attributes:
        said = {key.lower(): str(value) for key, value in attributes.items()}
        for key in _NAMES:
            facts = facts.completed(_facts_of_text(said.get(key, "")))
        facts = facts.completed(
            Facts(
                time=_first(said, _TIMES, _instant),
                satellite=_first(said, _SATELLITES, _satellite),
                orbit=_first(said, _ORBITS, _orbit),
            )
        )
    return facts


def time_of(name: str) -> datetime | None:
    """Start of acquisition, UTC: the first time in a name; None where there is none, or one that cannot be."""
    match = _TIME.search(name)
    if not match:
        return None
    year, _, month, day, hour, _, minute, second = match.groups()
    try:
        return datetime(int(year), int(month), int(day), int(hour), int(minute), int(second), tzinfo=UTC)
    except ValueError:
        return None


def service_of(name: str) -> str | None:
    """Ice service (`dmi` or `cis`) from a file name; None where it has neither."""
    match = _SERVICE.search(name)
    return match.group(1) if match else None


def _facts_of_text(name: str) -> Facts:
    orbit, product = _ORBIT.search(name), _PRODUCT.search(name)
    return Facts(
        time=time_of(name),
        satellite=_satellite(name),
        orbit=_orbit(orbit.group(1)) if orbit else None,
        product=f"{product.group(1)}_{product.group(2)}".upper() if product else None,
        polarisations=_polarisations(name, product.group(3) if product else None),
    )


def _polarisations(name: str, of_class: str | None) -> tuple[str, ...] | None:
    """Those that stand in a name as words; else those of the product's class."""
    words = tuple(sorted({word.lower() for word in _POLARISATION.findall(name.replace("_", " "))}))
    return words or (_OF_CLASS[of_class.upper()] if of_class else None)


def _satellite(text: str) -> str | None:
    match = _SATELLITE.search(text.replace("_", " "))
    return f"S1{match.group(1).upper()}" if match else None


def _orbit(text: str) -> int | None:
    number = int(text) if re.fullmatch(r"\d{1,7}", text.strip()) else 0
    return number if 0 < number <= _LARGEST_ORBIT else None


def _instant(text: str) -> datetime | None:
    """A time in ISO 8601, or as SNAP writes it."""
    text = text.strip()
    try:
        instant = datetime.fromisoformat(text)
        return instant.astimezone(UTC) if instant.tzinfo else instant.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        pass
    try:
        return datetime.strptime(text.partition(".")[0], _SNAP_TIME).replace(tzinfo=UTC)
    except ValueError:
        return None


def _first(said: Mapping[str, str], keys: tuple[str, ...], read: Any) -> Any:
    """What the first of the keys that says something says."""
    return next((value for key in keys if (value := read(said.get(key, ""))) is not None), None)
