"""Charts as netCDF, with the position of every pixel, by the CF conventions."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from arcticseg.files import atomic_path
from arcticseg.ice import layers as scene_layers
from arcticseg.ice import simulated
from arcticseg.ice.scenes.scene import Scene
from arcticseg.ice.sigrid import CHARTS, CLASS_NAMES, IGNORE_INDEX, N_CLASSES
from arcticseg.products.charts import PRODUCT_FACTOR, product_positions
from arcticseg.products.predictor import Predictor


def write_netcdf(path: Path, scene: Scene, charts: NDArray[np.uint8], predictor: Predictor) -> None:
    """Charts with the position of every pixel, by the CF conventions; 255 = no data or land.

    Raises:
        OutputError: the file cannot be written.
    """
    import xarray as xr

    latitude, longitude = product_positions(scene)
    long_names = {"SIC": "sea ice concentration class", "SOD": "stage of development class", "FLOE": "floe size class"}
    variables: dict[str, Any] = {
        chart: (
            ("line", "sample"),
            plane,
            {
                "long_name": long_names[chart],
                "flag_values": np.arange(N_CLASSES[chart], dtype=np.uint8),
                "flag_meanings": " ".join(
                    name.replace(" ", "_").replace("%", "percent") for name in CLASS_NAMES[chart]
                ),
                "coordinates": "latitude longitude",
            },
        )
        for chart, plane in zip(CHARTS, charts, strict=True)
    }
    variables["latitude"] = (
        ("line", "sample"),
        latitude.astype(np.float32),
        {"standard_name": "latitude", "units": "degrees_north"},
    )
    variables["longitude"] = (
        ("line", "sample"),
        longitude.astype(np.float32),
        {"standard_name": "longitude", "units": "degrees_east"},
    )
    attributes = {
        "Conventions": "CF-1.8",
        "title": f"{f'{simulated.MARK}: ' if scene.simulated else ''}Sea ice charts of {scene.name}",
        "source": f"ArcticSeg, {predictor.name}, factor {predictor.factor}",
        "history": f"{datetime.now(UTC).isoformat(timespec='seconds')} arcticseg predict",
        "pixel_spacing": str(scene_layers.step_of(scene, PRODUCT_FACTOR) * scene.pixel_spacing),
        "trained_on_simulated_scenes": str(predictor.simulated),
    }
    if scene.simulated:
        attributes[simulated.ATTRIBUTE] = simulated.statement("the scene is simulated")
    encoding: dict[str, dict[str, Any]] = {name: {"zlib": True, "complevel": 1} for name in variables}
    encoding |= {chart: {"zlib": True, "complevel": 1, "_FillValue": np.uint8(IGNORE_INDEX)} for chart in CHARTS}
    with atomic_path(path) as temporary:
        xr.Dataset(variables, attrs=attributes).to_netcdf(temporary, engine="netcdf4", encoding=encoding)
