"""A scene through a network: charts at 80 m, as netCDF with positions and as GeoTIFF with control points."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from arcticseg import config
from arcticseg.data.batch import Batch, collate
from arcticseg.data.config import DataConfig
from arcticseg.data.tile import cut
from arcticseg.data.transforms import Assemble
from arcticseg.errors import ConfigError
from arcticseg.ice import layers as scene_layers
from arcticseg.ice.channels import CHANNELS, COARSE
from arcticseg.ice.layers import LayerConfig, Layers
from arcticseg.ice.scenes.scene import Scene
from arcticseg.ice.sigrid import IGNORE_INDEX
from arcticseg.ice.tiling import blend_weights, windows
from arcticseg.models.build import build_segmenter
from arcticseg.models.config import ModelConfig
from arcticseg.models.weights import load_weights
from arcticseg.products.charts import PRODUCT_FACTOR, Float, fields_to_charts
from arcticseg.run.folder import weights_file
from arcticseg.run.migrate import stored

Progress = Callable[[int, int], None]


def _quiet(done: int, total: int) -> None:
    """No progress."""


@dataclass(frozen=True)
class Predictor:
    """A trained network and what it needs to see a scene as it saw its training tiles."""

    name: str
    channels: tuple[str, ...]
    model: nn.Module
    assemble: Assemble
    tile: int
    factor: int
    simulated: bool
    device: torch.device

    def tiles(self, layers: Layers, overlap: int, batch_size: int) -> Iterator[tuple[list[tuple[int, int]], Batch]]:
        """Places and batches of the windows that cover a scene; windows without any data are left out."""
        held: list[tuple[int, int]] = []
        tiles = []
        for row, col in windows(layers.shape, self.tile, overlap):
            tile = cut(layers, row, col, self.tile)
            if tile.valid.any():
                held.append((row, col))
                tiles.append(tile)
            if len(tiles) == batch_size:
                yield held, collate(tiles, range(len(tiles)))
                held, tiles = [], []
        if tiles:
            yield held, collate(tiles, range(len(tiles)))

    def fields(
        self, layers: Layers, overlap: int | None = None, batch_size: int = 8, progress: Progress = _quiet
    ) -> dict[str, Float]:
        """Class probabilities of every pixel of a scene at the network's factor; overlapping windows are blended.

        Args:
            layers: the scene at `factor`.
            overlap: pixels that windows share; None: a quarter of a tile.

        Returns:
            chart -> float32 [K, H, W] probabilities; a SIC regression [1, H, W] in SIC classes.
        """
        overlap = self.tile // 4 if overlap is None else overlap
        weight = blend_weights(self.tile, overlap)
        height, width = layers.shape
        total = np.zeros((height, width), np.float32)
        sums: dict[str, Float] = {}
        n_windows = len(list(windows(layers.shape, self.tile, overlap)))
        done = 0
        with torch.inference_mode():
            for places, batch in self.tiles(layers, overlap, batch_size):
                logits = self.model(self.assemble(batch.to(self.device)).seen)
                found = {chart: _probabilities(values).cpu().numpy() for chart, values in logits.items()}
                for i, (row, col) in enumerate(places):
                    rows, cols = min(self.tile, height - row), min(self.tile, width - col)
                    window = np.s_[row : row + rows, col : col + cols]
                    total[window] += weight[:rows, :cols]
                    for chart, values in found.items():
                        field = sums.setdefault(chart, np.zeros((values.shape[1], height, width), np.float32))
                        field[:, *window] += values[i, :, :rows, :cols] * weight[:rows, :cols]
                done += len(places)
                progress(done, n_windows)
        progress(n_windows, n_windows)
        total = np.maximum(total, np.float32(1e-12))
        return {chart: (field / total).astype(np.float32, copy=False) for chart, field in sums.items()}

    def read(self, scene: Scene, rules: LayerConfig = LayerConfig()) -> tuple[Layers, Layers]:
        """A scene at the network's factor and at 80 m, read once.

        Raises:
            SceneError, ConfigError: the scene cannot be read, or not at these factors.
        """
        at = {layers.factor: layers for layers in scene_layers.read_layers(scene, {self.factor, PRODUCT_FACTOR}, rules)}
        return at[self.factor], at[PRODUCT_FACTOR]

    def missing(self, own: Layers) -> list[str]:
        """Channel groups that the network was trained with and the scene has nothing of."""
        there = {name: bool(np.isfinite(values).any()) for name, values in own.sar.items()}
        there |= {
            "incidence": bool(np.isfinite(own.geo.incidence).any()),
            "time": own.time is not None,
            "location": True,
        }
        there["distance"] = bool((own.distance != IGNORE_INDEX).any())
        for group in ("amsr2", "era5"):
            index = [i for i, name in enumerate(COARSE) if CHANNELS[name].group == group]
            there[group] = bool(np.isfinite(own.coarse[index]).any())
        wanted = dict.fromkeys(CHANNELS[name].group for name in self.channels)
        return [group for group in wanted if not there[group]]

    def charts(
        self, own: Layers, product: Layers, overlap: int | None = None, batch_size: int = 8, progress: Progress = _quiet
    ) -> NDArray[np.uint8]:
        """SIC, SOD and FLOE at 80 m, uint8 [3, H, W], of a scene's layers at the network's factor and at 80 m.

        255 where there is no SAR data, and on land.
        """
        return fields_to_charts(self.fields(own, overlap, batch_size, progress), self.factor, product)


def _probabilities(logits: Tensor) -> Tensor:
    """Softmax of class logits; a regression stays as it is."""
    return logits.float() if logits.shape[1] == 1 else logits.float().softmax(dim=1)


def load_predictor(place: Path | str, factor: int | None = None, device: str | None = None) -> Predictor:
    """The network of a run folder or a weights file.

    Args:
        factor: downsampling factor to predict at; None: the finest that it was trained at.
        device: None: the GPU where there is one.

    Raises:
        ConfigError: no weights there, or those of a pretraining.
    """
    path = weights_file(Path(place))
    weights, metadata = load_weights(path)
    stored_config = stored(json.loads(metadata["config"]))
    if stored_config["task"] != "segment":
        raise ConfigError(f"{path}: is a pretraining, which draws no charts; give a run of task: segment")
    tile = int(metadata["tile"])
    data = config.build(DataConfig, stored_config["data"], "data.")
    model = build_segmenter(config.build(ModelConfig, stored_config["model"], "model."), data.in_chans, tile)
    model.load_state_dict(weights)
    chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    statistics = {name: (mean, std) for name, (mean, std) in json.loads(metadata["statistics"]).items()}
    return Predictor(
        name=Path(place).name if Path(place).is_dir() else path.stem,
        channels=data.names,
        model=model.to(chosen).eval(),
        assemble=Assemble(data.names, data.valid_plane, statistics),
        tile=tile,
        factor=factor or min(json.loads(metadata["factors"])),
        simulated=bool(json.loads(metadata["simulated"])),
        device=chosen,
    )
