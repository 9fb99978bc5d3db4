"""A scene through a network: charts at 80 m, as netCDF with positions and as GeoTIFF with control points."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from arcticseg import config
from arcticseg.data.batch import Batch, collate
from arcticseg.data.sample import cut
from arcticseg.data.transforms import Assemble
from arcticseg.engine.checkpoint import load_weights, weights_file
from arcticseg.errors import ConfigError
from arcticseg.files import atomic_path
from arcticseg.ice import layers as scene_layers
from arcticseg.ice.channels import CHANNELS, COARSE
from arcticseg.ice.geo import GeoGrid, interpolate
from arcticseg.ice.layers import LayerConfig, Layers
from arcticseg.ice.resample import coarse_shape
from arcticseg.ice.scene import Scene
from arcticseg.ice.sigrid import CHARTS, CLASS_NAMES, IGNORE_INDEX, N_CLASSES
from arcticseg.ice.tiling import blend_weights, windows
from arcticseg.run import build_model
from arcticseg.settings import RunConfig

# Official scores and products are at this factor of 40 m.
PRODUCT_FACTOR = 2

Float = NDArray[np.float32]
Progress = Callable[[int, int], None]


def _quiet(done: int, total: int) -> None:
    """No progress."""


@dataclass(frozen=True)
class Predictor:
    """A trained network and what it needs to see a scene as it saw its training tiles."""

    name: str
    cfg: RunConfig
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
        wanted = dict.fromkeys(CHANNELS[name].group for name in self.cfg.channels)
        return [group for group in wanted if not there[group]]

    def charts(
        self, own: Layers, product: Layers, overlap: int | None = None, batch_size: int = 8, progress: Progress = _quiet
    ) -> NDArray[np.uint8]:
        """SIC, SOD and FLOE at 80 m, uint8 [3, H, W], of a scene's layers at the network's factor and at 80 m.

        255 where there is no SAR data, and on land.
        """
        return fields_to_charts(self.fields(own, overlap, batch_size, progress), self.factor, product)


def fields_to_charts(fields: dict[str, Float], factor: int, product: Layers) -> NDArray[np.uint8]:
    """Fields at `factor` -> classes at 80 m, uint8 [3, H, W]; 255 where `product` has no SAR data, and on land."""
    out = np.empty((3, *product.shape), np.uint8)
    for i, chart in enumerate(CHARTS):
        for first, rows in _resampled(fields[chart], factor, product.shape):
            out[i, first : first + rows.shape[1]] = _classes(rows)
    out[:, ~product.valid | (product.distance == 0)] = IGNORE_INDEX
    return out


def _probabilities(logits: Tensor) -> Tensor:
    """Softmax of class logits; a regression stays as it is."""
    return logits.float() if logits.shape[1] == 1 else logits.float().softmax(dim=1)


def _classes(field: Float) -> NDArray[np.uint8]:
    """[K, H, W] -> uint8 [H, W]."""
    if field.shape[0] == 1:
        return np.clip(np.rint(field[0]), 0, N_CLASSES["SIC"] - 1).astype(np.uint8)
    return field.argmax(axis=0).astype(np.uint8)


def _resampled(field: Float, factor: int, shape: tuple[int, int], band: int = 256) -> Iterator[tuple[int, Float]]:
    """Bands (first row, [K, rows, W]) of a field at `factor` brought to 80 m by bilinear interpolation.

    The centre of 80 m pixel r lies at (r + 0.5) 2 / factor - 0.5 of the field; edge values are held.
    """

    def weights(n: int, size: int) -> tuple[NDArray[np.intp], NDArray[np.intp], Float]:
        at = np.clip((np.arange(n) + 0.5) * PRODUCT_FACTOR / factor - 0.5, 0, size - 1)
        low = np.minimum(at.astype(np.intp), max(size - 2, 0))
        return low, np.minimum(low + 1, size - 1), (at - low).astype(np.float32)

    low, high, part = weights(shape[0], field.shape[1])
    left, right, share = weights(shape[1], field.shape[2])
    for first in range(0, shape[0], band):
        rows = slice(first, first + band)
        between = part[rows, None]
        mixed = field[:, low[rows]] * (1 - between) + field[:, high[rows]] * between
        brought = mixed[:, :, left] * (1 - share) + mixed[:, :, right] * share
        yield first, brought.astype(np.float32, copy=False)


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
    cfg = config.build(RunConfig, json.loads(metadata["config"]))
    if cfg.task != "segment":
        raise ConfigError(f"{path}: is a pretraining, which draws no charts; give a run of task: segment")
    tile = int(metadata["tile"])
    model = build_model(cfg, tile)
    model.load_state_dict(weights)
    chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    statistics = {name: (mean, std) for name, (mean, std) in json.loads(metadata["statistics"]).items()}
    return Predictor(
        name=Path(place).name if Path(place).is_dir() else path.stem,
        cfg=cfg,
        model=model.to(chosen).eval(),
        assemble=Assemble(cfg.channels, cfg.data.valid_plane, statistics),
        tile=tile,
        factor=factor or min(json.loads(metadata["factors"])),
        simulated=bool(json.loads(metadata["simulated"])),
        device=chosen,
    )


def product_positions(scene: Scene) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Latitude and longitude of the 80 m pixels, float64 [H, W]."""
    step = scene_layers.step_of(scene, PRODUCT_FACTOR)
    rows, cols = coarse_shape(scene.shape, step)
    shift = (step - 1) / 2
    latitude, longitude, _ = interpolate(scene.geo, np.arange(rows) * step + shift, np.arange(cols) * step + shift)
    return latitude, longitude


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
        "title": f"{'SIMULATED: ' if scene.simulated else ''}Sea ice charts of {scene.name}",
        "source": f"ArcticSeg, {predictor.name}, factor {predictor.factor}",
        "history": f"{datetime.now(UTC).isoformat(timespec='seconds')} arcticseg predict",
        "pixel_spacing": str(scene_layers.step_of(scene, PRODUCT_FACTOR) * scene.pixel_spacing),
        "trained_on_simulated_scenes": str(predictor.simulated),
    }
    if scene.simulated:
        attributes["simulated"] = "simulated: the scene is simulated"
    encoding: dict[str, dict[str, Any]] = {name: {"zlib": True, "complevel": 1} for name in variables}
    encoding |= {chart: {"zlib": True, "complevel": 1, "_FillValue": np.uint8(IGNORE_INDEX)} for chart in CHARTS}
    with atomic_path(path) as temporary:
        xr.Dataset(variables, attrs=attributes).to_netcdf(temporary, engine="netcdf4", encoding=encoding)


def write_geotiff(path: Path, scene: Scene, charts: NDArray[np.uint8]) -> None:
    """SIC, SOD and FLOE as three bands with ground control points in EPSG:4326; nodata 255.

    Raises:
        OutputError: the file cannot be written.
    """
    from rasterio.control import GroundControlPoint
    from rasterio.io import MemoryFile

    step = scene_layers.step_of(scene, PRODUCT_FACTOR)
    geo: GeoGrid = scene.geo
    points = [
        # A control point's row and column count from the corner of the first pixel.
        GroundControlPoint(
            row=(line + 0.5) / step, col=(sample + 0.5) / step, x=geo.longitude[i, j], y=geo.latitude[i, j]
        )
        for i, line in enumerate(geo.lines)
        for j, sample in enumerate(geo.samples)
    ]
    _, height, width = charts.shape
    # In memory first: GDAL says nothing when the disk is full at the time it closes a file.
    with MemoryFile() as memory:
        with memory.open(
            driver="GTiff", height=height, width=width, count=3, dtype="uint8", nodata=IGNORE_INDEX,
            compress="deflate", gcps=points, crs="EPSG:4326",
        ) as target:  # fmt: skip
            target.write(charts)
            target.descriptions = CHARTS
            if scene.simulated:
                target.update_tags(simulated="simulated: the scene is simulated")
        with atomic_path(path) as temporary:
            temporary.write_bytes(memory.getbuffer())
