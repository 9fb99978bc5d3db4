"""Charts as a picture: SAR, chart, prediction and difference."""

from __future__ import annotations

from pathlib import Path

from arcticseg.ice.channels import RAW_SPACING
from arcticseg.products.product import Drawn, Product


class Map(Product):
    """A PNG with the charts in the colours of the ice services."""

    extension = ".png"
    folder = "maps"

    def write(self, path: Path, drawn: Drawn) -> None:
        from arcticseg.pictures.maps import scene_map

        scene, layers, network = drawn.scene, drawn.layers, drawn.network
        latitude, longitude = drawn.positions
        scene_map(
            path,
            title=f"{scene.name}\n{network.name}, trained at {network.factor * RAW_SPACING:g} m",
            hh=layers.sar["hh"] if "hh" in scene.polarisations else None,
            hv=layers.sar["hv"] if "hv" in scene.polarisations else None,
            chart=drawn.labels,
            prediction=drawn.charts,
            land=layers.distance == 0,
            pixel_spacing=layers.pixel_spacing,
            latitude=latitude,
            longitude=longitude,
            simulated=scene.simulated,
            scores=drawn.scores,
        )
