"""Several networks that draw one chart: what they say of a pixel is averaged, chart by chart."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from arcticseg.errors import ConfigError
from arcticseg.ice import denoising
from arcticseg.ice.layers import LayerConfig, Layers, read_layers
from arcticseg.ice.scenes.scene import Scene
from arcticseg.ice.sigrid import CHARTS
from arcticseg.products.charts import PRODUCT_FACTOR, Classes, Float, resampled
from arcticseg.products.predictor import Predictor, Progress, load_predictor, quiet
from arcticseg.products.product import Network
from arcticseg.products.tta import factors_of
from arcticseg.products.turns import turns_of

# Factor -> a scene at that factor.
ByFactor = Mapping[int, Layers]


@dataclass(frozen=True)
class Ensemble:
    """One network or several, each with the channels, tiles and factor that it was trained with.

    A chart is the mean of the members that draw it, on the grid of the finest factor.

    Raises:
        ConfigError: members draw a chart by heads of different kinds, whose fields have no mean.
    """

    members: tuple[Predictor, ...]

    def __post_init__(self) -> None:
        for chart in self._charts:
            first, *others = self._drawing(chart)
            kind = type(first.model.head(chart))
            for other in others:
                if type(other.model.head(chart)) is not kind:
                    kinds = (f"{m.network.name} by {type(m.model.head(chart)).__name__}" for m in (first, other))
                    raise ConfigError(f"{chart} is drawn {' and '.join(kinds)}, which have no mean; leave one out")

    @property
    def network(self) -> Network:
        """Facts of all members as of one network: the finest factor, every chart that one draws."""
        networks = [member.network for member in self.members]
        if len(networks) == 1:
            return networks[0]
        return Network(
            name=" + ".join(network.name for network in networks),
            factor=min(network.factor for network in networks),
            simulated=any(network.simulated for network in networks),
            charts=tuple(chart for chart in CHARTS if any(chart in network.charts for network in networks)),
        )

    @property
    def weights(self) -> str | list[str] | None:
        """Checksum of the weights, or of those of each member; None: some are not from a file."""
        sums = [member.weights for member in self.members if member.weights is not None]
        if len(sums) < len(self.members):
            return None
        return sums[0] if len(sums) == 1 else sums

    @property
    def paths(self) -> str | None:
        """Where the weights lie; None: some are not from a file."""
        paths = [str(member.path) for member in self.members if member.path is not None]
        return ", ".join(paths) if len(paths) == len(self.members) else None

    @property
    def classes(self) -> dict[str, Classes]:
        """Chart -> what makes classes of its field."""
        return {chart: self._drawing(chart)[0].classes[chart] for chart in self._charts}

    def overlaps(self, pixels: int | None) -> int | list[int]:
        """Pixels that windows of the network, or of each member, share; None: a quarter of a tile."""
        overlaps = [member.overlap(pixels) for member in self.members]
        return overlaps[0] if len(overlaps) == 1 else overlaps

    def read(self, scene: Scene, rules: LayerConfig = LayerConfig(), tta: Sequence[str] = ()) -> dict[int, Layers]:
        """A scene at the factors of all members and at 80 m, read once.

        Raises:
            SceneError, ConfigError: the scene cannot be read, or not at these factors.

        Warns:
            of a scene with another noise removal than those that a member learnt from; products say it, too.
        """
        for member in self.members:
            clause = denoising.differing(scene.denoising, member.learnt_denoising)
            if clause and clause not in scene.notes:
                scene.note(clause)
                warnings.warn(f"{scene.path}: {clause}", stacklevel=2)
        factors = {factor for member in self.members for factor in factors_of(member.network.factor, tta)}
        return {layers.factor: layers for layers in read_layers(scene, factors | {PRODUCT_FACTOR}, rules)}

    def missing(self, scene: ByFactor) -> list[str]:
        """Channel groups that a member is trained with and of which a scene has no value."""
        groups = [group for member in self.members for group in member.missing(scene[member.network.factor])]
        return list(dict.fromkeys(groups))

    def fields(
        self,
        scene: ByFactor,
        overlap: int | None = None,
        batch_size: int = 8,
        progress: Progress = quiet,
        tta: Sequence[str] = (),
        whole: bool = False,
    ) -> dict[str, Float]:
        """What the members say of every pixel, averaged.

        Args:
            scene: from `read`.
            overlap, whole: see `Predictor.fields`.
            tta: see `tta.NAMES`.

        Returns:
            chart -> float32 [K, H, W] at the finest factor: class probabilities, or a regression in classes.

        Raises:
            SceneError: a network says NaN or infinity of a pixel.
            ConfigError: `whole`, and a network is not convolutional.
        """
        grid = scene[self.network.factor]
        passes = [
            (member, scene[factor]) for member in self.members for factor in factors_of(member.network.factor, tta)
        ]
        windows = [member.windows(layers, overlap, whole) for member, layers in passes]
        total: dict[str, Float] = {}
        drawn = dict.fromkeys(self._charts, 0)
        for number, (member, layers) in enumerate(passes):
            own = _after(progress, sum(windows[:number]), sum(windows))
            fields = member.fields(layers, overlap, batch_size, own, turns_of(tta), whole)
            for chart in list(fields):
                field = fields.pop(chart)
                if layers.factor != grid.factor:
                    field = np.concatenate([*_rows(field, layers, grid)], axis=1)
                drawn[chart] += 1
                if chart in total:
                    total[chart] += field
                else:
                    total[chart] = field
        for chart, field in total.items():
            if drawn[chart] > 1:
                field /= np.float32(drawn[chart])
        return total

    def _drawing(self, chart: str) -> list[Predictor]:
        """The members that draw a chart."""
        return [member for member in self.members if chart in member.model.charts]

    @property
    def _charts(self) -> list[str]:
        """Charts that some member draws."""
        return [chart for chart in CHARTS if self._drawing(chart)]


def _rows(field: Float, layers: Layers, grid: Layers) -> Iterator[Float]:
    """A field on the grid of another factor, band by band."""
    for _, rows in resampled(field, layers.factor, grid.shape, grid.factor):
        yield rows


def _after(progress: Progress, before: int, total: int) -> Progress:
    """Progress of a part, of which so many windows of all come before."""
    return lambda done, _: progress(before + done, total)


def ensemble(predictor: Predictor | Ensemble) -> Ensemble:
    """A network as an ensemble of one."""
    return predictor if isinstance(predictor, Ensemble) else Ensemble((predictor,))


def load_ensemble(places: Sequence[Path | str], factor: int | None = None, device: str | None = None) -> Ensemble:
    """The networks of run folders or weights files.

    Args:
        factor: downsampling factor to predict at; None: for each the finest of its training.
        device: None: the GPU where there is one.

    Raises:
        ConfigError: there are no weights, those of a pretraining, or damaged ones; networks that have no mean.
    """
    return Ensemble(tuple(load_predictor(place, factor, device) for place in places))
