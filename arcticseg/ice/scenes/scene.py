"""A scene file: opened lazily, checked against its schema, read layer by layer.

`open.open_scene` takes raw AI4Arctic netCDF (40 m), ready-to-train netCDF (80 m) and SAR GeoTIFFs. All three give the
same layers in the same units, NaN where there is no data; the scene file's own variable names stay in the readers.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from arcticseg.ice import chart as charts
from arcticseg.ice.channels import COARSE_SPACING
from arcticseg.ice.geo import GeoGrid

Float = NDArray[np.float32]

GEO_POINTS = 21
_TIME = re.compile(r"(\d{8}T\d{6})")
_SERVICE = re.compile(r"_(dmi|cis)(?:_|\b)")


def time_of(name: str) -> datetime | None:
    """Start of acquisition, UTC, from the first `YYYYMMDDThhmmss` in a file name; None where there is none."""
    match = _TIME.search(name)
    try:
        return datetime.strptime(match.group(1), "%Y%m%dT%H%M%S").replace(tzinfo=UTC) if match else None
    except ValueError:
        return None


def service_of(name: str) -> str | None:
    """Ice service (`dmi` or `cis`) from a file name; None where it has neither."""
    match = _SERVICE.search(name)
    return match.group(1) if match else None


def coarse_cells(pixels: int, pixel_spacing: float) -> int:
    """Cells of the 2 km grid along an edge of a number of pixels: floor(n x spacing / 2000)."""
    return int(pixels * pixel_spacing // COARSE_SPACING)


class Scene(ABC):
    """A scene; each subclass reads a kind of file.

    Attributes:
        path: the file.
        name: its stem.
        shape: lines and samples of the SAR raster.
        pixel_spacing: metres, nominal (40 raw, 80 ready-to-train).
        time: start of acquisition, UTC, or None.
        ice_service: `dmi`, `cis` or None.
        simulated: whether the file says that it is simulated.
        polarisations: which of `hh`, `hv` it holds.
        geo: geolocation and incidence angle on a grid of pixels.
        has_chart: whether there is an ice chart.
        threads: number of threads that may work on the scene at a time; only speed depends on it.
        resampling: a sentence on how the file's pixels were brought to `pixel_spacing`; None: they are the file's own.
    """

    path: Path
    name: str
    shape: tuple[int, int]
    pixel_spacing: float
    time: datetime | None
    ice_service: str | None
    simulated: bool
    polarisations: tuple[str, ...]
    geo: GeoGrid
    has_chart: bool
    threads: int = 1
    resampling: str | None = None

    @abstractmethod
    def sar(self, polarisation: str) -> Float:
        """Backscatter in dB, float32 [H, W]; NaN = no data.

        Raises:
            SceneError: the file is damaged.
        """

    def distance(self) -> Float | None:
        """Zone ids 0-41 of the distance to land, float32 [H, W]; NaN = no data; None: the scene has none.

        Raises:
            SceneError: the file is damaged, or a value is not a zone.
        """
        return None

    def coarse(self, name: str) -> Float | None:
        """A channel on the 2 km grid, float32 [h, w] in its unit; NaN = no data; None: the scene lacks it.

        Raises:
            SceneError: the file is damaged.
        """
        return None

    def indexed_chart(self, rules: str = "autoice", strict: bool = False) -> charts.IndexedChart | None:
        """The ice chart; None: the scene has none.

        Args:
            rules: chart rules, `autoice` or `corrected`.
            strict: an unlisted ice code is an error.

        Raises:
            SceneError: the file is damaged, or cannot give a chart by these rules.
        """
        return None

    def chart(self, rules: str = "autoice", strict: bool = False) -> NDArray[np.uint8] | None:
        """SIC, SOD, FLOE, uint8 [3, H, W]; 255 = masked; None: the scene has no chart. See `indexed_chart`."""
        indexed = self.indexed_chart(rules, strict)
        return None if indexed is None else indexed.planes()

    @contextmanager
    def reusing_memory(self) -> Iterator[None]:
        """In this block each raster of the file's own size may overwrite the raster read before.

        Fresh memory of that size costs more time than filling it.
        """
        yield

    def close(self) -> None:  # noqa: B027  a scene without an open file has nothing to do
        """Close the file."""

    def __enter__(self) -> Scene:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
