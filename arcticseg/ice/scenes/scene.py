"""A scene file: opened lazily, checked against its schema, read layer by layer.

`open.open_scene` takes raw AI4Arctic netCDF (40 m), ready-to-train netCDF (80 m), SAR GeoTIFFs and Sentinel-1 SAFE
products. All give the same layers in the same units, NaN where there is no data; the scene file's own variable names
stay in the readers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from arcticseg.ice.channels import COARSE_SPACING
from arcticseg.ice.geo import GeoGrid
from arcticseg.ice.indexed import IndexedChart
from arcticseg.ice.scenes.names import Facts

if TYPE_CHECKING:
    import xarray as xr

Float = NDArray[np.float32]

GEO_POINTS = 21


def coarse_cells(pixels: int, pixel_spacing: float) -> int:
    """Cells of the 2 km grid along an edge of a number of pixels: floor(n x spacing / 2000)."""
    return int(pixels * pixel_spacing // COARSE_SPACING)


class Scene(ABC):
    """A scene; each subclass reads a kind of file.

    Attributes:
        kind: of file, for people.
        path: the file.
        name: its stem.
        shape: lines and samples of the SAR raster.
        pixel_spacing: metres, nominal (40 raw, 80 ready-to-train).
        time: start of acquisition, UTC, or None.
        satellite: `S1A` to `S1D`, or None.
        orbit: absolute orbit number, or None.
        denoising: whose thermal noise removal the backscatter has seen, of `denoising.METHODS`; None: not known.
        ice_service: `dmi`, `cis` or None.
        simulated: whether the file says that it is simulated.
        polarisations: which of `hh`, `hv` it holds.
        geo: geolocation and incidence angle on a grid of pixels.
        has_chart: whether there is an ice chart.
        notes: what was done to the file's values, or is odd about them, and whoever uses a product must know: a clause
            each, such as "resampled from 50 m to 40 m"; products carry them. See `note`.
        threads: number of threads that may work on the scene at a time; only speed depends on it.
        file_pixels: pixels of the file's own raster where it is resampled to `shape`; else 0.
    """

    kind: str = "scene"
    path: Path
    name: str
    shape: tuple[int, int]
    pixel_spacing: float
    time: datetime | None
    satellite: str | None = None
    orbit: int | None = None
    denoising: str | None = None
    ice_service: str | None
    simulated: bool
    polarisations: tuple[str, ...]
    geo: GeoGrid
    has_chart: bool
    notes: tuple[str, ...] = ()
    threads: int = 1
    file_pixels: int = 0
    _reuses = False
    _memory: NDArray[Any] | None = None

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

    def indexed_chart(self, rules: str = "autoice", strict: bool = False) -> IndexedChart | None:
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

    def to_xarray(self, rules: str = "autoice") -> xr.Dataset:
        """The scene as a dataset by the CF conventions; rasters are read when their values are asked for.

        Variables (line, sample): `hh` and `hv` in dB, `incidence_angle`, `distance_map`, and `SIC`, `SOD` and `FLOE` as
        classes with NaN where they are masked; coordinates `latitude` and `longitude`, in degrees. The 2 km channels
        stay on their own grid (line_2km, sample_2km), under the names of the scene file. What a scene lacks is absent.

        Args:
            rules: chart rules, `autoice` or `corrected`.

        Returns:
            A dataset that is open as long as the scene; closing it closes the scene.

        Raises:
            SceneError: the file is damaged; also when values are read.
        """
        from arcticseg.ice.scenes import view

        return view.dataset(self, rules)

    def __repr__(self) -> str:
        from arcticseg.ice.scenes import view

        return view.text(self)

    def _repr_html_(self) -> str:
        from arcticseg.ice.scenes import view

        return view.page(self)

    def note(self, clause: str) -> None:
        """Add a clause to the notes, once."""
        if clause not in self.notes:
            self.notes = (*self.notes, clause)

    @contextmanager
    def reusing_memory(self) -> Iterator[None]:
        """In this block each raster of the file's own size may overwrite the raster read before.

        Fresh memory of that size costs more time than filling it. A reader fills `_memory` again where `_reuses` says
        so.
        """
        self._reuses = True
        try:
            yield
        finally:
            self._reuses, self._memory = False, None

    def take_facts(self, facts: Facts) -> None:
        """Set time, satellite and orbit."""
        self.time, self.satellite, self.orbit = facts.time, facts.satellite, facts.orbit

    def close(self) -> None:  # noqa: B027  a scene without an open file has nothing to do
        """Close the file."""

    def __enter__(self) -> Scene:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
