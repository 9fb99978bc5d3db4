"""A scene through a network: its fields, such as the class probabilities of every pixel."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from arcticseg import config
from arcticseg.data.batch import Batch, collate
from arcticseg.data.config import DataConfig, groups_of
from arcticseg.data.inputs import Want
from arcticseg.data.manifest import hash_file
from arcticseg.data.tile import cut
from arcticseg.data.transforms import Assemble
from arcticseg.errors import ConfigError, SceneError
from arcticseg.ice.channels import CHANNELS, COARSE
from arcticseg.ice.layers import Layers
from arcticseg.ice.sigrid import IGNORE_INDEX
from arcticseg.ice.tiling import blend_weights, windows
from arcticseg.models.build import build_segmenter
from arcticseg.models.config import ModelConfig
from arcticseg.models.segmenter import Segmenter
from arcticseg.models.weights import check_fits, facts_of, load_weights
from arcticseg.products.charts import Classes, Float
from arcticseg.products.product import Network
from arcticseg.products.turns import PLAIN, Turn
from arcticseg.run.folder import weights_file
from arcticseg.run.migrate import stored

# Takes (windows done, windows in all).
Progress = Callable[[int, int], None]


def quiet(done: int, total: int) -> None:
    """Show no progress."""


@dataclass(frozen=True)
class Predictor:
    """A trained network, and what it needs to see a scene as it saw its training tiles.

    Attributes:
        assemble: makes its input planes.
        tile: edge of its windows in pixels.
        weights: checksum of its weights file; None: it is not from a file.
        path: of that file.
        learnt_denoising: whose noise removal the scenes that it learnt from have seen; empty: not known.
        encoder: its name.
    """

    network: Network
    model: Segmenter
    assemble: Assemble
    tile: int
    device: torch.device
    weights: str | None = None
    path: Path | None = None
    learnt_denoising: tuple[str, ...] = ()
    encoder: str = ""

    @property
    def classes(self) -> dict[str, Classes]:
        """Chart -> what makes classes of its field."""
        return {chart: self.model.head(chart).field_classes for chart in self.model.charts}

    def overlap(self, pixels: int | None) -> int:
        """Pixels that windows share; None: a quarter of a tile."""
        return self.tile // 4 if pixels is None else pixels

    def windows(self, layers: Layers, overlap: int | None = None, whole: bool = False) -> int:
        """How many windows cover a scene."""
        return len(list(windows(layers.shape, *self._cut(layers, overlap, whole))))

    def _cut(self, layers: Layers, overlap: int | None, whole: bool) -> tuple[int, int]:
        """Edge of the windows, and the pixels that they share."""
        return (max(layers.shape), 0) if whole else (self.tile, self.overlap(overlap))

    def tiles(
        self, layers: Layers, edge: int, overlap: int, batch_size: int
    ) -> Iterator[tuple[list[tuple[int, int]], Batch]]:
        """Batches of the windows that cover a scene, with their first rows and columns; empty windows are left out."""
        corners: list[tuple[int, int]] = []
        tiles = []
        for row, column in windows(layers.shape, edge, overlap):
            tile = cut(layers, row, column, edge)
            if tile.valid.any():
                corners.append((row, column))
                tiles.append(tile)
            if len(tiles) == batch_size:
                yield corners, collate(tiles, range(len(tiles)))
                corners, tiles = [], []
        if tiles:
            yield corners, collate(tiles, range(len(tiles)))

    def fields(
        self,
        layers: Layers,
        overlap: int | None = None,
        batch_size: int = 8,
        progress: Progress = quiet,
        turns: Sequence[Turn] = PLAIN,
        whole: bool = False,
    ) -> dict[str, Float]:
        """What the network says of every pixel of a scene; overlapping windows are blended.

        Args:
            layers: the scene at the network's factor.
            overlap: pixels that windows share; None: a quarter of a tile.
            turns: views of each window, of which the mean is taken.
            whole: the scene as a single window, filled up to a square; for convolutional networks.

        Returns:
            chart -> float32 [K, H, W]: class probabilities, or a regression in classes.

        Raises:
            SceneError: the network says NaN or infinity of a pixel, or the whole scene does not fit in memory.
            ConfigError: `whole`, and the network is not convolutional.
        """
        if whole:
            self._check_whole(layers)
        edge, shared = self._cut(layers, overlap, whole)
        weight = blend_weights(edge, shared)
        height, width = layers.shape
        total = np.zeros((height, width), np.float32)
        fields: dict[str, Float] = {}
        n_windows = self.windows(layers, overlap, whole)
        done = 0
        for corners, batch in self.tiles(layers, edge, shared, batch_size):
            parts = self._said(layers, corners, batch, turns)
            for i, (row, column) in enumerate(corners):
                rows, columns = min(edge, height - row), min(edge, width - column)
                window = np.s_[row : row + rows, column : column + columns]
                total[window] += weight[:rows, :columns]
                for chart, values in parts.items():
                    field = fields.setdefault(chart, np.zeros((values.shape[1], height, width), np.float32))
                    field[:, *window] += values[i, :, :rows, :columns] * weight[:rows, :columns]
            done += len(corners)
            progress(done, n_windows)
        progress(n_windows, n_windows)
        np.maximum(total, np.float32(1e-12), out=total)
        for field in fields.values():
            field /= total
        return fields

    def _said(
        self, layers: Layers, corners: list[tuple[int, int]], batch: Batch, turns: Sequence[Turn]
    ) -> dict[str, Float]:
        """Chart -> fields [B, K, S, S] of some windows, the mean over their views."""
        means: dict[str, torch.Tensor] = {}
        try:
            with torch.inference_mode():
                for turn in turns:
                    moved = self.assemble.moved(turn.of(batch), self.device)
                    outputs = self.model(self.assemble(moved).seen)
                    _check_finite(layers.scene, outputs, corners)
                    for chart, output in outputs.items():
                        field = turn.back(self.model.head(chart).fields(output))
                        means[chart] = means[chart] + field if chart in means else field
                if len(turns) > 1:
                    means = {chart: total / len(turns) for chart, total in means.items()}
                return {chart: mean.cpu().numpy() for chart, mean in means.items()}
        except (torch.OutOfMemoryError, MemoryError) as error:
            size = len(batch) * batch.size**2 * self.assemble.n_planes * 4 / 1e9
            raise SceneError(
                f"{layers.scene}: {len(batch)} windows of {batch.size} x {batch.size} pixels do not fit in the memory "
                f"of {self.device}, of which their input alone takes {size:.1f} GB; set a smaller --batch-size, or "
                "leave --whole out"
            ) from error

    def _check_whole(self, layers: Layers) -> None:
        if any("attention" in type(module).__name__.lower() for module in self.model.encoder.modules()):
            raise ConfigError(
                f"--whole takes convolutional networks; the encoder of {self.network.name} ({self.encoder}) attends to "
                "all of a window, which it knows at the size of a tile; leave --whole out"
            )
        # What the network needs within comes on top.
        edge, free = max(layers.shape), _free(self.device)
        planes = self.assemble.n_planes + sum(self.model.head(chart).out_channels for chart in self.model.charts)
        needed = 4 * planes * edge**2
        if needed > free:
            raise SceneError(
                f"{layers.scene}: as a window of {edge} x {edge} pixels it takes more than {needed / 1e9:.1f} GB, and "
                f"{self.device} has {free / 1e9:.1f} GB free; leave --whole out"
            )

    def missing(self, layers: Layers) -> list[str]:
        """Channel groups that the network is trained with and of which a scene has no value."""
        present = {name: bool(np.isfinite(values).any()) for name, values in layers.sar.items()}
        present |= {
            "incidence": bool(np.isfinite(layers.geo.incidence).any()),
            "distance": bool((layers.distance != IGNORE_INDEX).any()),
            **dict.fromkeys(("time", "season"), layers.time is not None),
            **dict.fromkeys(("location", "position", "spacing"), True),
        }
        for group in ("amsr2", "era5"):
            index = [i for i, name in enumerate(COARSE) if CHANNELS[name].group == group]
            present[group] = bool(np.isfinite(layers.coarse[index]).any())
        return [group for group in groups_of(self.assemble.channels) if not present[group]]


def _free(device: torch.device) -> int:
    """Bytes of memory that a device has free."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    lines = Path("/proc/meminfo").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))


def _check_finite(scene: str, outputs: Mapping[str, torch.Tensor], corners: list[tuple[int, int]]) -> None:
    """Raise SceneError where the outputs [B, K, H, W] of windows with these first rows and columns are no numbers."""
    for chart, output in outputs.items():
        if not torch.isfinite(output).all():
            bad = (~torch.isfinite(output)).flatten(1).any(1).tolist().index(True)
            number = "NaN" if output[bad].isnan().any() else "infinite"
            row, column = corners[bad]
            raise SceneError(
                f"{scene}: what the network says of {chart} is {number} in the window at row {row}, column {column}; "
                "look for impossible values in the scene, or use other weights"
            )


@dataclass(frozen=True)
class StoredRun:
    """What a weights file holds, checked.

    Attributes:
        name: of the run folder, or of the file.
        facts, sections: see `models.weights.facts_of`; the sections of its config, with the keys of today.
        tile: edge of the training tiles in pixels.
    """

    path: Path
    name: str
    weights: dict[str, torch.Tensor]
    facts: dict[str, Any]
    sections: dict[str, Any]
    data: DataConfig
    model: ModelConfig
    tile: int

    @property
    def statistics(self) -> dict[str, tuple[float, float]]:
        """Channel -> mean and standard deviation by which it was normalised; the published ones where it is absent."""
        return {name: (mean, std) for name, (mean, std) in self.facts["statistics"].items()}


def stored_run(place: Path | str, task: str, otherwise: str) -> StoredRun:
    """The weights of a run folder or a weights file, and what stands beside them.

    Args:
        task: of the run.
        otherwise: what to say of a run of another task.

    Raises:
        ConfigError: there are no weights, those of another task, or damaged ones.
    """
    path = weights_file(Path(place))
    weights, metadata = load_weights(path)
    facts = facts_of(path, metadata)
    sections = stored(facts["config"])
    if sections["task"] != task:
        raise ConfigError(f"{path}: {otherwise}")
    try:
        data = config.build(DataConfig, sections["data"], "data.")
        model = config.build(ModelConfig, sections["model"], "model.")
    except ConfigError as error:
        raise unusable(path, error) from error
    name = Path(place).name if Path(place).is_dir() else path.stem
    return StoredRun(path, name, weights, facts, sections, data, model, int(facts["tile"]))


def unusable(path: Path, error: ConfigError) -> ConfigError:
    """The error of weights whose config cannot work."""
    return ConfigError(f"{path}: has a config that cannot work ({error}); give other weights of the run")


def load_predictor(place: Path | str, factor: int | None = None, device: str | None = None) -> Predictor:
    """The network of a run folder or a weights file.

    Args:
        factor: downsampling factor to predict at; None: the finest of its training.
        device: None: the GPU where there is one.

    Raises:
        ConfigError: there are no weights, those of a pretraining, or damaged ones.
    """
    run = stored_run(place, "segment", "is a pretraining, which draws no charts; give a run of task: segment")
    path, facts, data, tile = run.path, run.facts, run.data, run.tile
    identity = hash_file(path)
    with torch.device("meta"):
        check_fits(path, build_segmenter(run.model, data.in_chans, tile).state_dict(), run.weights)
    model = build_segmenter(run.model, data.in_chans, tile)
    model.load_state_dict(run.weights)
    assemble = Assemble.of(data, run.statistics, Want(targets=()))
    chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    network = Network(
        name=run.name,
        factor=factor or min(facts["factors"]),
        simulated=bool(facts["simulated"]),
        charts=model.charts,
    )
    learnt = tuple(facts["denoising"])
    return Predictor(
        network, model.to(chosen).eval(), assemble, tile, chosen, identity, path, learnt, run.model.encoder.name
    )
