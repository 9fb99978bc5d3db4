"""What is really in a simulated scene, pixel by pixel, which a chart does not say: a reference file at 80 m.

A chart gives a whole polygon what its code says; here each pixel has the ice that was drawn into it. The layout is that
of the archive's reference charts, so that `arcticseg evaluate --reference` takes the file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import netCDF4
import numpy as np
from numpy.typing import NDArray

from arcticseg.files import atomic_path, make_folder
from arcticseg.ice.sigrid import CHARTS, FLOE_CLASS, IGNORE_INDEX, SOD_CLASS
from arcticseg.ice.simulated import ATTRIBUTE, marked
from shards.simulation.backscatter import PARTIALS
from shards.simulation.eggs import Egg
from shards.simulation.noise import Array
from shards.simulation.place import Place, coarse_places, heading_of_lines

FOLDER = "truth"
_STEP = 2
_CHUNK = 1000
_MEANING = {
    "SIC": "tenths of the pixel under ice, 0 to 10",
    "SOD": "stage of development of the ice that covers most of it, in classes; 0 = water",
    "FLOE": "floe size of that ice, in classes; 0 = water",
}


def truth_path(scene: Path) -> Path:
    """Where the truth of a scene file stands."""
    return scene.parent / FOLDER / f"{scene.stem}_reference.nc"


class Truth:
    """SIC, SOD and FLOE classes at 80 m, uint8 [3, H // 2, W // 2], collected block by block; 255 = masked."""

    def __init__(self, size: tuple[int, int], eggs: Sequence[Egg]) -> None:
        self.planes = np.full((len(CHARTS), size[0] // _STEP, size[1] // _STEP), IGNORE_INDEX, np.uint8)
        # Of each partial in each polygon; the last polygon is nothing.
        self._classes = np.full((2, PARTIALS, len(eggs) + 1), IGNORE_INDEX, np.uint8)
        for number, egg in enumerate(eggs):
            for partial, ice in enumerate(egg.partials[:PARTIALS]):
                self._classes[0, partial, number] = SOD_CLASS.get(ice.stage, IGNORE_INDEX)
                self._classes[1, partial, number] = FLOE_CLASS.get(ice.floe, IGNORE_INDEX)

    def add(
        self, first: int, polygons: NDArray[np.int32], covers: Mapping[int, Array], unknown: NDArray[np.bool_]
    ) -> None:
        """Take in the lines from `first`, an even number, on.

        Args:
            polygons: int32 [n, W], the egg of each pixel; -1 = none.
            covers: partial -> share of each pixel that it covers, float32 [n, W]; the rest is water.
            unknown: bool [n, W], land and pixels outside the image.
        """
        target = self.planes[:, first // _STEP : (first + len(polygons)) // _STEP]
        ice = np.zeros(target.shape[1:], np.float32)
        most = np.zeros(target.shape[1:], np.float32)
        kinds = np.zeros((2, *target.shape[1:]), np.uint8)
        for partial, cover in covers.items():
            for quarter, polygon in zip(_quarters(cover), _quarters(polygons), strict=True):
                ice += quarter
                more = quarter > most
                np.copyto(most, quarter, where=more)
                for kind, table in zip(kinds, self._classes[:, partial], strict=True):
                    kind[more] = table[polygon[more]]
        target[0] = np.rint(ice * (10 / _STEP**2))
        target[1:] = np.where(target[0] == 0, 0, kinds)
        target[:, np.logical_or.reduce(_quarters(unknown))] = IGNORE_INDEX

    def write(
        self, scene: Path, statement: str, place: Place, size: tuple[int, int], wind: Mapping[str, Array]
    ) -> None:
        """Write the file beside a scene's.

        Args:
            statement: that the scene is simulated, and from what.
            wind: u10m_rotated and v10m_rotated on the 2 km cells, m/s.
        """
        path = truth_path(scene)
        make_folder(path.parent)
        with atomic_path(path) as temporary, netCDF4.Dataset(temporary, "w") as file:
            file.setncatts({
                "title": f"{marked('scene', True)}, no observation: the ice that was drawn, pixel by pixel, at 80 m",
                "original_id": f"{scene.stem}.nc",
                "pixel_spacing": 80,
                ATTRIBUTE: statement,
            })  # fmt: skip
            for name, count in zip(("sar_lines", "sar_samples"), self.planes.shape[1:], strict=True):
                file.createDimension(name, count)
            chunks = tuple(min(_CHUNK, count) for count in self.planes.shape[1:])
            for name, plane in zip(CHARTS, self.planes, strict=True):
                variable = file.createVariable(
                    name, "u1", ("sar_lines", "sar_samples"), zlib=True, complevel=1, chunksizes=chunks
                )
                variable.long_name = _MEANING[name]
                variable[:] = plane
            across, down = wind["u10m_rotated"], wind["v10m_rotated"]
            heading = np.radians(heading_of_lines(place, size, *(coarse_places(0, n) for n in across.shape)))
            for name, count in zip(("2km_grid_lines", "2km_grid_samples"), across.shape, strict=True):
                file.createDimension(name, count)
            for name, towards, values in (
                ("u10m", "eastward", down * np.sin(heading) + across * np.cos(heading)),
                ("v10m", "northward", down * np.cos(heading) - across * np.sin(heading)),
            ):
                variable = file.createVariable(name, "f4", ("2km_grid_lines", "2km_grid_samples"), zlib=True)
                variable.setncatts({"units": "m/s", "long_name": f"{towards} component of the wind at 10 m"})
                variable[:] = values


def _quarters(values: NDArray) -> list[NDArray]:
    """The four pixels of each 2 x 2 block, each [n // 2, W // 2]."""
    rows, columns = (count // _STEP * _STEP for count in values.shape)
    return [values[i:rows:_STEP, j:columns:_STEP] for i in range(_STEP) for j in range(_STEP)]
