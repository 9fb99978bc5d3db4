"""Configs of the tasks and their losses; no torch here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from arcticseg.choice import Choice
from arcticseg.data.config import check_channels
from arcticseg.errors import need
from arcticseg.ice.sigrid import CHARTS
from arcticseg.ice.soft import CHARTS as SOFT_CHARTS


@dataclass(frozen=True)
class PretrainConfig:
    """Masked autoencoder."""

    mask_ratio: float = 0.75
    # Channels or groups to reconstruct.
    targets: tuple[str, ...] = ("hh", "hv")
    decoder_dim: int = 512
    decoder_depth: int = 8
    decoder_heads: int = 16
    # Compare patches after normalising each by the mean and spread of its own valid values, all targets together.
    normalise_targets: bool = True

    def __post_init__(self) -> None:
        need(0 < self.mask_ratio < 1, "mask_ratio", self.mask_ratio, "set a share in (0, 1)")
        check_channels("targets", self.targets)
        need(self.decoder_depth > 0, "decoder_depth", self.decoder_depth, "set 1 or more")
        need(self.decoder_heads > 0, "decoder_heads", self.decoder_heads, "set 1 or more")
        good = self.decoder_dim > 0 and self.decoder_dim % 4 == 0 and self.decoder_dim % self.decoder_heads == 0
        remedy = f"set a positive multiple of 4 and of decoder_heads ({self.decoder_heads})"
        need(good, "decoder_dim", self.decoder_dim, remedy)


# Scores by which a pretraining keeps its best weights; higher is better.
PRETRAIN_SCORES = ("reconstruction",)


def segment_scores(charts: tuple[str, ...]) -> tuple[str, ...]:
    """Scores by which a run that learns these charts keeps its best weights; the combined one needs all three."""
    return ("combined", *CHARTS) if charts == CHARTS else charts


@dataclass(frozen=True)
class LossConfig(Choice):
    """The loss of a chart. The implementation takes (chart) and the config's keys; see `tasks.losses.loss.Loss`."""

    # Heads whose output it takes; empty: any.
    heads: ClassVar[tuple[str, ...]] = ()
    # Charts that it is for.
    charts: ClassVar[tuple[str, ...]] = CHARTS
    # Whether it asks what is in polygons.
    polygons: ClassVar[bool] = False


@dataclass(frozen=True)
class CrossEntropyConfig(LossConfig):
    """Cross entropy of a class."""

    name: str = "cross_entropy"

    implementation: ClassVar[str] = "arcticseg.tasks.losses.pixel:CrossEntropy"
    heads: ClassVar[tuple[str, ...]] = ("classification",)


@dataclass(frozen=True)
class SquaredErrorConfig(LossConfig):
    """Squared error of a regression."""

    name: str = "squared_error"

    implementation: ClassVar[str] = "arcticseg.tasks.losses.pixel:SquaredError"
    heads: ClassVar[tuple[str, ...]] = ("regression",)


@dataclass(frozen=True)
class FocalConfig(LossConfig):
    """Cross entropy that cares less for what is known well."""

    name: str = "focal"
    # 0: cross entropy.
    gamma: float = 2.0

    implementation: ClassVar[str] = "arcticseg.tasks.losses.pixel:Focal"
    heads: ClassVar[tuple[str, ...]] = ("classification",)

    def __post_init__(self) -> None:
        # Below 1 the gradient is infinite where the label's probability is 1.
        need(self.gamma == 0 or self.gamma >= 1, "gamma", self.gamma, "set 0, or 1 or more")


@dataclass(frozen=True)
class HuberConfig(LossConfig):
    """Squared error that grows linearly beyond `delta`."""

    name: str = "huber"
    # In halves of the largest class.
    delta: float = 0.4

    implementation: ClassVar[str] = "arcticseg.tasks.losses.pixel:Huber"
    heads: ClassVar[tuple[str, ...]] = ("regression",)

    def __post_init__(self) -> None:
        need(self.delta > 0, "delta", self.delta, "set a positive number")


@dataclass(frozen=True)
class OrdinalConfig(LossConfig):
    """Binary cross entropies of classes in order."""

    name: str = "ordinal"

    implementation: ClassVar[str] = "arcticseg.tasks.losses.ordinal:Ordinal"
    heads: ClassVar[tuple[str, ...]] = ("ordinal",)


@dataclass(frozen=True)
class EarthMoverConfig(LossConfig):
    """Squared distance of cumulated probabilities."""

    name: str = "earth_mover"

    implementation: ClassVar[str] = "arcticseg.tasks.losses.ordinal:EarthMover"
    heads: ClassVar[tuple[str, ...]] = ("classification",)


@dataclass(frozen=True)
class DiceConfig(LossConfig):
    """Overlap of each sample's classes."""

    name: str = "dice"

    implementation: ClassVar[str] = "arcticseg.tasks.losses.region:Dice"
    heads: ClassVar[tuple[str, ...]] = ("classification",)


@dataclass(frozen=True)
class TverskyConfig(LossConfig):
    """Overlap, with a price of its own for false alarms and misses."""

    name: str = "tversky"
    # Price of false alarms and of misses.
    alpha: float = 0.3
    beta: float = 0.7

    implementation: ClassVar[str] = "arcticseg.tasks.losses.region:Tversky"
    heads: ClassVar[tuple[str, ...]] = ("classification",)

    def __post_init__(self) -> None:
        for key in ("alpha", "beta"):
            need(getattr(self, key) >= 0, key, getattr(self, key), "set 0 or more")
        need(self.alpha + self.beta > 0, "beta", self.beta, "set one of alpha and beta above 0")


@dataclass(frozen=True)
class LovaszConfig(LossConfig):
    """Surrogate of intersection over union."""

    name: str = "lovasz"

    implementation: ClassVar[str] = "arcticseg.tasks.losses.region:Lovasz"
    heads: ClassVar[tuple[str, ...]] = ("classification",)


@dataclass(frozen=True)
class SoftConfig(LossConfig):
    """Cross entropy with the label or, where there is none, with what the polygon holds."""

    name: str = "soft"
    # masked: pixels without a label have soft targets; all: all pixels of polygons that say enough.
    where: Literal["masked", "all"] = "masked"
    # Of a pixel with a soft target; one with a label weighs 1.
    weight: float = 1.0
    # Open water has the share that the total concentration leaves; false: soft targets are those of the ice.
    water: bool = True

    implementation: ClassVar[str] = "arcticseg.tasks.losses.soft:Soft"
    heads: ClassVar[tuple[str, ...]] = ("classification",)
    charts: ClassVar[tuple[str, ...]] = SOFT_CHARTS
    polygons: ClassVar[bool] = True

    def __post_init__(self) -> None:
        need(self.weight > 0, "weight", self.weight, "set a positive number, or choose the loss cross_entropy")


@dataclass(frozen=True)
class PolygonsConfig:
    """A term beside a chart's loss: what polygons hold as a whole, against the mean of the probabilities in them."""

    # Of the term, beside that of the chart.
    weight: float = 1.0
    # Pixels that a polygon needs in a tile.
    least: int = 64
    # As in SoftConfig.
    water: bool = True

    def __post_init__(self) -> None:
        need(self.weight > 0, "weight", self.weight, "set a positive number, or leave the chart out")
        need(self.least > 0, "least", self.least, "set 1 or more")


_LOSSES = (
    CrossEntropyConfig,
    SquaredErrorConfig,
    FocalConfig,
    HuberConfig,
    OrdinalConfig,
    EarthMoverConfig,
    DiceConfig,
    TverskyConfig,
    LovaszConfig,
    SoftConfig,
)
LossConfig.table = {kind.name: kind for kind in _LOSSES}


@dataclass(frozen=True)
class SegmentConfig:
    """Multitask segmentation."""

    # Weight of each chart's loss.
    weights: dict[str, float] = field(default_factory=lambda: dict.fromkeys(CHARTS, 1.0))
    # Chart -> loss, where it is not the one of the chart's head.
    losses: dict[str, LossConfig] = field(default_factory=dict)
    # Chart -> a term of its polygons.
    polygons: dict[str, PolygonsConfig] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for chart in (*self.weights, *self.losses):
            key = "weights" if chart in self.weights else "losses"
            need(chart in CHARTS, f"{key}.{chart}", chart, f"name charts of {', '.join(CHARTS)}")
        for chart in self.polygons:
            need(chart in SOFT_CHARTS, f"polygons.{chart}", chart, f"name charts of {', '.join(SOFT_CHARTS)}")
        for chart, loss in self.losses.items():
            need(chart in loss.charts, f"losses.{chart}", loss.name, f"it is for {', '.join(loss.charts)}")
        good = all(weight >= 0 for weight in self.weights.values())
        need(good, "weights", self.weights, "set weights of 0 or more")

    def loss(self, chart: str, default: str) -> LossConfig:
        """The loss of a chart; `default` names that of its head."""
        return self.losses.get(chart) or LossConfig.named(default)

    def needs_polygons(self, charts: tuple[str, ...]) -> bool:
        """Whether a run that learns these charts needs what charts say of polygons."""
        return any(chart in self.polygons or (chart in self.losses and self.losses[chart].polygons) for chart in charts)
