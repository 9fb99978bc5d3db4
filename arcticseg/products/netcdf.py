"""Charts as netCDF, with the position of every pixel, by the CF conventions."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from arcticseg.files import atomic_path
from arcticseg.ice import simulated
from arcticseg.ice.scenes.view import CONVENTIONS, chart_attributes, position_attributes
from arcticseg.ice.sigrid import CHARTS, IGNORE_INDEX
from arcticseg.products.product import SIMULATED, Drawn, Product, comment

_DIMENSIONS = ("line", "sample")


class NetCDF(Product):
    """SIC, SOD and FLOE with latitude and longitude of every pixel; 255 = no data or land."""

    extension = ".nc"

    def write(self, path: Path, drawn: Drawn) -> None:
        import xarray as xr

        variables = _charts(drawn) | _positions(drawn)
        encoding: dict[str, dict[str, Any]] = {name: {"zlib": True, "complevel": 1} for name in variables}
        for chart in CHARTS:
            encoding[chart]["_FillValue"] = np.uint8(IGNORE_INDEX)
        with atomic_path(path) as temporary:
            dataset = xr.Dataset(variables, attrs=_attributes(drawn))
            dataset.to_netcdf(temporary, engine="netcdf4", encoding=encoding)


def _charts(drawn: Drawn) -> dict[str, Any]:
    """Name -> dimensions, values and attributes of the three charts."""
    return {
        chart: (_DIMENSIONS, classes, chart_attributes(chart) | {"coordinates": "latitude longitude"})
        for chart, classes in zip(CHARTS, drawn.charts, strict=True)
    }


def _positions(drawn: Drawn) -> dict[str, Any]:
    """Name -> dimensions, values and attributes of latitude and longitude."""
    return {
        name: (_DIMENSIONS, degrees.astype(np.float32), position_attributes(name))
        for name, degrees in zip(("latitude", "longitude"), drawn.positions, strict=True)
    }


def _attributes(drawn: Drawn) -> dict[str, str]:
    """Attributes of the whole file."""
    scene, network = drawn.scene, drawn.network
    attributes = {
        "Conventions": CONVENTIONS,
        "title": f"{f'{simulated.MARK}: ' if scene.simulated else ''}Sea ice charts of {scene.name}",
        "source": f"ArcticSeg, {network.name}, factor {network.factor}",
        "history": f"{datetime.now(UTC).isoformat(timespec='seconds')} arcticseg predict",
        "pixel_spacing": str(drawn.layers.pixel_spacing),
        "trained_on_simulated_scenes": str(network.simulated),
    }
    if scene.notes:
        attributes["comment"] = comment(scene)
    if scene.simulated:
        attributes[simulated.ATTRIBUTE] = SIMULATED
    return attributes
