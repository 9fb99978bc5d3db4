"""What a masked autoencoder makes of a scene: its patches removed and painted, in the channels' own units."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from arcticseg import config
from arcticseg.data.batch import collate
from arcticseg.data.tile import cut
from arcticseg.data.transforms import Assemble
from arcticseg.errors import ConfigError, SceneError
from arcticseg.ice.channels import INPUTS, expand
from arcticseg.ice.layers import Layers, read_layers
from arcticseg.ice.scenes.scene import Scene
from arcticseg.ice.tiling import windows
from arcticseg.models.build import build_autoencoder
from arcticseg.models.mae import MaskedAutoencoder
from arcticseg.models.weights import check_fits
from arcticseg.pictures.panels import PAINTED_COLUMNS, Painted, draw_panels, painted_row
from arcticseg.products.predictor import stored_run, unusable
from arcticseg.tasks.config import PretrainConfig
from arcticseg.tasks.pretrain import Pretrain

# Pixels of a panel of a tile and of a scene.
_TILE_EDGE, _SCENE_EDGE = 240, 480


@dataclass(frozen=True)
class Reconstruction:
    """A window of a scene, or all of it, before and after.

    Attributes:
        row, column: of its first pixel, at the network's factor.
        image: float32 [C, H, W] of all input channels in their units; NaN = no data.
        painted: channel -> float32 [H, W] of each target, with what the network made of the removed patches.
        removed: bool [H, W], patches that it was not shown.
    """

    row: int
    column: int
    image: NDArray[np.float32]
    painted: dict[str, NDArray[np.float32]]
    removed: NDArray[np.bool_]


@dataclass(frozen=True)
class Reconstructor:
    """A masked autoencoder, and what it needs to see a scene as it saw its training tiles.

    Attributes:
        name: of the run.
        channels: names of its inputs.
        targets: those that it reconstructs.
        factor: downsampling factor at which it sees a scene.
        simulated: whether it has learnt from simulated scenes.
    """

    name: str
    model: MaskedAutoencoder
    task: Pretrain
    assemble: Assemble
    channels: tuple[str, ...]
    targets: tuple[str, ...]
    tile: int
    factor: int
    simulated: bool
    device: torch.device

    def read(self, scene: Scene) -> Layers:
        """A scene at the network's factor.

        Raises:
            SceneError: it cannot be read, or not at this factor.
        """
        (layers,) = read_layers(scene, {self.factor})
        return layers

    def windows(self, layers: Layers) -> list[tuple[int, int]]:
        """First rows and columns of windows with data that lie side by side."""
        size = self.tile
        valid = layers.valid
        corners = windows(layers.shape, size, 0)
        return [(row, column) for row, column in corners if valid[row : row + size, column : column + size].any()]

    def reconstruct(self, layers: Layers, corners: Sequence[tuple[int, int]]) -> Iterator[Reconstruction]:
        """Windows of a scene, one after the other; which patches are removed depends on seed and window alone.

        Raises:
            SceneError: the network says NaN or infinity.
        """
        means, spreads = self._statistics(self.channels)
        for row, column in corners:
            place = row * layers.shape[1] + column
            batch = collate([cut(layers, row, column, self.tile)], [place])
            batch = replace(batch, drawn=self.task.draw([place], self.tile))
            with torch.inference_mode():
                inputs = self.assemble(self.assemble.moved(batch, self.device))
                assert inputs.drawn is not None
                prediction, mask = self.model(inputs.seen, inputs.drawn)
                if not prediction.isfinite().all():
                    raise SceneError(
                        f"{layers.scene}: the reconstruction at row {row}, column {column} is NaN or infinite; look "
                        "for impossible values in the scene, or use other weights"
                    )
                _, painted, asked = self.task.images(prediction, inputs)
            height, width = min(self.tile, layers.shape[0] - row), min(self.tile, layers.shape[1] - column)
            inside = np.s_[..., :height, :width]
            data = inputs.data[0, : len(self.channels)].cpu().numpy()
            normalised = inputs.x[0, : len(self.channels)].float().cpu().numpy()
            image: NDArray[np.float32] = np.where(data, normalised * spreads + means, np.nan).astype(np.float32)
            gone = _of_patches(mask, self.tile, self.model.patch)
            yield Reconstruction(
                row,
                column,
                image[inside],
                self._painted(image, painted[0].cpu().numpy(), asked[0].cpu().numpy(), gone, inside),
                gone[inside],
            )

    def _painted(
        self,
        image: NDArray[np.float32],
        painted: NDArray[np.float32],
        asked: NDArray[np.bool_],
        gone: NDArray[np.bool_],
        inside: Any,
    ) -> dict[str, NDArray[np.float32]]:
        """Targets in their units: seen patches as they are, removed ones as painted; nothing where nothing is asked."""
        means, spreads = self._statistics(self.targets)
        values = painted * spreads + means
        out = {}
        for at, name in enumerate(self.targets):
            seen = np.where(gone, np.nan, image[self.channels.index(name)])
            out[name] = np.where(asked[at], values[at], seen).astype(np.float32)[inside]
        return out

    def _statistics(self, names: Sequence[str]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean and spread by which channels are normalised, [C, 1, 1] each."""
        pairs = np.array([self.assemble.statistics[name] for name in names], np.float64)
        return pairs[:, 0, None, None], np.where(pairs[:, 1] > 0, pairs[:, 1], 1.0)[:, None, None]


def _of_patches(mask: torch.Tensor, size: int, patch: int) -> NDArray[np.bool_]:
    """What is removed of the first sample's pixels, bool [size, size], of its patches [B, L]."""
    patches = mask[0].bool().cpu().numpy().reshape(size // patch, size // patch)
    return patches.repeat(patch, 0).repeat(patch, 1)


def load_reconstructor(
    place: Path | str, factor: int | None = None, device: str | None = None, seed: int = 0
) -> Reconstructor:
    """The masked autoencoder of a run folder or a weights file.

    Args:
        factor: downsampling factor; None: the finest of its training.
        device: None: the GPU where there is one.
        seed: of the patches that are removed.

    Raises:
        ConfigError: there are no weights, those of a segmentation, or damaged ones.
    """
    run = stored_run(place, "pretrain", "draws charts and reconstructs nothing; give a run of task: pretrain")
    data, tile = run.data, run.tile
    try:
        pretrain = config.build(PretrainConfig, run.sections.get("pretrain", {}), "pretrain.")
    except ConfigError as error:
        raise unusable(run.path, error) from error
    targets = expand(pretrain.targets)
    sizes = {key: getattr(pretrain, key) for key in ("decoder_dim", "decoder_depth", "decoder_heads")}
    with torch.device("meta"):
        network = build_autoencoder(run.model, data.in_chans, tile, len(targets), **sizes)
        check_fits(run.path, network.state_dict(), run.weights)
    network = build_autoencoder(run.model, data.in_chans, tile, len(targets), **sizes)
    network.load_state_dict(run.weights)
    planes = [data.names.index(name) for name in targets]
    task = Pretrain(planes, network.patch, pretrain.mask_ratio, seed, pretrain.normalise_targets)
    chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    return Reconstructor(
        name=run.name,
        model=network.to(chosen).eval(),
        task=task,
        assemble=Assemble.of(data, run.statistics),
        channels=data.names,
        targets=targets,
        tile=tile,
        factor=factor or min(run.facts["factors"]),
        simulated=bool(run.facts["simulated"]),
        device=chosen,
    )


def reconstruct_scene(
    reconstructor: Reconstructor, scene: Scene, out: Path, tiles: int | None = 4, netcdf: bool = False, seed: int = 0
) -> Iterator[Path]:
    """Pictures of some windows of a scene, or of all of it, as they are written.

    Args:
        tiles: windows, drawn by seed among those with data, a picture each; None: the whole scene in one picture.
        netcdf: also a netCDF file beside each picture.

    Raises:
        SceneError: it cannot be read, or has no value of any channel that the network reconstructs.
        OutputError: a file cannot be written.

    Warns:
        of channels of which the scene has no value.
    """
    layers = reconstructor.read(scene)
    corners = reconstructor.windows(layers)
    if tiles is not None and tiles < len(corners):
        chosen = np.random.default_rng(seed).choice(len(corners), tiles, replace=False)
        corners = [corners[number] for number in sorted(chosen)]
    parts = list(reconstructor.reconstruct(layers, corners))
    _check_channels(reconstructor, scene, parts)
    if tiles is None:
        parts = [_whole(reconstructor, layers, parts)]
    for part in parts:
        mark = "" if tiles is None else f".row{part.row:05d}_column{part.column:05d}"
        path = out / f"{scene.name}.reconstruction{mark}.png"
        edge = _SCENE_EDGE if tiles is None else _TILE_EDGE
        _draw(reconstructor, layers, part, path, edge, seed)
        yield path
        if netcdf:
            _write(reconstructor, layers, part, path.with_suffix(".nc"), seed)
            yield path.with_suffix(".nc")


def _check_channels(reconstructor: Reconstructor, scene: Scene, parts: Sequence[Reconstruction]) -> None:
    """See that there is something to reconstruct; warn of channels without a value."""
    some = [any(bool(np.isfinite(part.image[at]).any()) for part in parts) for at in range(len(reconstructor.channels))]
    missing = [name for name, there in zip(reconstructor.channels, some, strict=True) if not there]
    if set(reconstructor.targets) <= set(missing):
        raise SceneError(
            f"{scene.path}: has no value of {', '.join(reconstructor.targets)}, which {reconstructor.name} "
            "reconstructs; give another scene, or a run with other pretrain.targets"
        )
    if missing:
        warnings.warn(f"{scene.path}: has no value of {', '.join(missing)}; the network sees none", stacklevel=2)


def _whole(reconstructor: Reconstructor, layers: Layers, parts: Sequence[Reconstruction]) -> Reconstruction:
    """Windows side by side as one; where there is none there is no data."""
    shape = layers.shape
    image = np.full((len(reconstructor.channels), *shape), np.nan, np.float32)
    painted = {name: np.full(shape, np.nan, np.float32) for name in reconstructor.targets}
    gone = np.zeros(shape, bool)
    for part in parts:
        height, width = part.removed.shape
        window = np.s_[..., part.row : part.row + height, part.column : part.column + width]
        image[window], gone[window] = part.image, part.removed
        for name, values in part.painted.items():
            painted[name][window] = values
    return Reconstruction(0, 0, image, painted, gone)


def _draw(reconstructor: Reconstructor, layers: Layers, part: Reconstruction, path: Path, edge: int, seed: int) -> None:
    # A panel shows no more than its own pixels.
    step = max(1, part.removed.shape[1] // edge)
    thin = np.s_[::step, ::step]
    rows = [
        painted_row(
            Painted(
                name,
                INPUTS[name].unit,
                part.image[at][thin],
                part.removed[thin],
                part.painted[name][thin] if name in part.painted else None,
            )
        )
        for at, name in enumerate(reconstructor.channels)
    ]
    title = f"Reconstruction of {layers.scene}"
    draw_panels(path, title, _says(reconstructor, layers, part, seed), PAINTED_COLUMNS, rows, layers.simulated, edge)


def _says(reconstructor: Reconstructor, layers: Layers, part: Reconstruction, seed: int) -> str:
    """What a picture is of, in a line."""
    height, width = part.removed.shape
    trained = ", which has learnt from simulated scenes" if reconstructor.simulated else ""
    return (
        f"row {part.row}, column {part.column}, {height} x {width} pixels of {layers.pixel_spacing:g} m; "
        f"{part.removed.mean():.0%} removed by seed {seed}; by {reconstructor.name}{trained}"
    )


def _write(reconstructor: Reconstructor, layers: Layers, part: Reconstruction, path: Path, seed: int) -> None:
    """A netCDF file with each channel as NAME, each target also as NAME_reconstructed, and what was removed."""
    import xarray as xr

    from arcticseg.files import atomic_path
    from arcticseg.ice import simulated
    from arcticseg.products.product import SIMULATED

    dimensions = ("line", "sample")
    variables: dict[str, Any] = {
        "removed": (dimensions, part.removed.astype(np.uint8), {"long_name": "1 where the network was shown nothing"})
    }
    for at, name in enumerate(reconstructor.channels):
        variables[name] = (dimensions, part.image[at], {"units": INPUTS[name].unit})
    for name, values in part.painted.items():
        variables[f"{name}_reconstructed"] = (dimensions, values, {"units": INPUTS[name].unit})
    attributes = {
        "title": f"{f'{simulated.MARK}: ' if layers.simulated else ''}Reconstruction of {layers.scene}",
        "source": f"ArcticSeg, {reconstructor.name}, factor {reconstructor.factor}",
        "comment": _says(reconstructor, layers, part, seed),
        "trained_on_simulated_scenes": str(reconstructor.simulated),
    }
    if layers.simulated:
        attributes[simulated.ATTRIBUTE] = SIMULATED
    encoding = {name: {"zlib": True, "complevel": 1} for name in variables}
    with atomic_path(path) as temporary:
        xr.Dataset(variables, attrs=attributes).to_netcdf(temporary, engine="netcdf4", encoding=encoding)
