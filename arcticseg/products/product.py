"""What a product is, and what it is made of. No torch here."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from arcticseg.ice.layers import Layers
from arcticseg.ice.scenes.scene import Scene
from arcticseg.ice.simulated import statement
from arcticseg.products.charts import Float, chart_positions

# Attribute `simulated.ATTRIBUTE` of products of simulated scenes.
SIMULATED = statement("the scene is simulated")


def comment(scene: Scene) -> str:
    """The notes of a scene as one text, which products carry as their attribute `comment` (CF conventions)."""
    return "; ".join(scene.notes)


@dataclass(frozen=True)
class Network:
    """Facts of the network that draws.

    Attributes:
        factor: downsampling factor of 40 m at which it sees a scene.
        simulated: it is trained on simulated scenes.
        charts: those that it draws.
    """

    name: str
    factor: int
    simulated: bool
    charts: tuple[str, ...]


@dataclass(frozen=True)
class Drawn:
    """A scene and its charts, made once and given to every product.

    Attributes:
        scene: the open file.
        seen: its layers at the network's factor.
        layers: its layers at 80 m.
        fields: chart -> float32 [K, H, W] at the network's factor: class probabilities, or a regression in classes.
        charts: SIC, SOD and FLOE at 80 m, uint8 [3, H, W]; 255 = no data or land.
        labels: the charts to compare with, as `charts`; None: there are none.
        scores: R2 and F1 times 100 of this scene by chart, and "combined"; None: it is not scored.
    """

    scene: Scene
    seen: Layers
    layers: Layers
    fields: Mapping[str, Float]
    charts: NDArray[np.uint8]
    labels: NDArray[np.uint8] | None
    scores: Mapping[str, float | None] | None
    network: Network

    @cached_property
    def positions(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Latitude and longitude of the pixels at 80 m, float64 [H, W]."""
        return chart_positions(self.scene)


class Product(ABC):
    """A kind of file that is made of a drawn scene.

    Attributes:
        extension: of its files, such as `.tif`; no other product has it.
        mark: stands between the scene's name and the extension where a scene of that name may lie in the same folder.
        folder: of an evaluation, for its files.
    """

    extension: str
    mark: str = ""
    folder: str = "products"

    @abstractmethod
    def write(self, path: Path, drawn: Drawn) -> None:
        """Write the whole file or none.

        Raises:
            OutputError: the file cannot be written.
        """
