"""Configs of the tasks and their losses; no torch here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from arcticseg.choice import Choice
from arcticseg.data.config import check_channels
from arcticseg.errors import need
from arcticseg.ice.sigrid import CHARTS, N_CLASSES
from arcticseg.ice.soft import CHARTS as SOFT_CHARTS


@dataclass(frozen=True)
class AdversarialConfig:
    """A discriminator beside a masked autoencoder."""

    # Weight of the adversarial term, times one that makes its gradient as large as that of the reconstruction.
    weight: float = 0.1
    # Share of all steps in which the reconstruction is alone.
    start: float = 0.1
    # Of the discriminator: channels after its first halving, and how often it halves an image.
    channels: int = 64
    depth: int = 3
    # Its learning rate as a share of optim.lr, and the memory of its Adam.
    lr_scale: float = 1.0
    betas: tuple[float, float] = (0.5, 0.9)

    def __post_init__(self) -> None:
        need(self.weight > 0, "weight", self.weight, "set a positive number; pretrain.adversarial=null is without")
        need(0 <= self.start < 1, "start", self.start, "set a share of the steps in [0, 1)")
        good = 0 < self.channels <= 1024 and self.channels % 4 == 0
        need(good, "channels", self.channels, "set a multiple of 4, up to 1024")
        need(1 <= self.depth <= 6, "depth", self.depth, "set 1 to 6")
        need(self.lr_scale > 0, "lr_scale", self.lr_scale, "set a positive number")
        need(all(0 <= beta < 1 for beta in self.betas), "betas", list(self.betas), "set two values in [0, 1)")


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
    # Null: reconstruction alone.
    adversarial: AdversarialConfig | None = None

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
    """A loss of a chart. The implementation takes (chart) and the config's keys; see `tasks.losses.loss.Loss`."""

    # In the chart's loss, beside its other losses.
    weight: float = 1.0

    # Heads whose output it takes; empty: any.
    heads: ClassVar[tuple[str, ...]] = ()
    # Charts that it is for.
    charts: ClassVar[tuple[str, ...]] = CHARTS
    # Whether it asks what is in polygons.
    polygons: ClassVar[bool] = False
    # Whether it takes weights of classes: whether its `weigh` is heeded.
    weighs: ClassVar[bool] = False

    @property
    def whole(self) -> bool:
        """Whether it needs the whole global batch at once, one micro batch of each rank."""
        return False

    def __post_init__(self) -> None:
        need(self.weight > 0, "weight", self.weight, "set a positive number, or leave the loss out")

    def arguments(self) -> dict[str, Any]:
        return {key: value for key, value in super().arguments().items() if key != "weight"}


@dataclass(frozen=True)
class CrossEntropyConfig(LossConfig):
    """Cross entropy of a class."""

    name: str = "cross_entropy"

    implementation: ClassVar[str] = "arcticseg.tasks.losses.pixel:CrossEntropy"
    heads: ClassVar[tuple[str, ...]] = ("classification",)
    weighs: ClassVar[bool] = True


@dataclass(frozen=True)
class SquaredErrorConfig(LossConfig):
    """Squared error of a regression."""

    name: str = "squared_error"

    implementation: ClassVar[str] = "arcticseg.tasks.losses.pixel:SquaredError"
    heads: ClassVar[tuple[str, ...]] = ("regression",)
    weighs: ClassVar[bool] = True


@dataclass(frozen=True)
class FocalConfig(LossConfig):
    """Cross entropy that cares less for what is known well."""

    name: str = "focal"
    # 0: cross entropy.
    gamma: float = 2.0

    implementation: ClassVar[str] = "arcticseg.tasks.losses.pixel:Focal"
    heads: ClassVar[tuple[str, ...]] = ("classification",)
    weighs: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
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
    weighs: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        need(self.delta > 0, "delta", self.delta, "set a positive number")


@dataclass(frozen=True)
class OrdinalConfig(LossConfig):
    """Binary cross entropies of classes in order."""

    name: str = "ordinal"

    implementation: ClassVar[str] = "arcticseg.tasks.losses.ordinal:Ordinal"
    heads: ClassVar[tuple[str, ...]] = ("ordinal",)
    weighs: ClassVar[bool] = True


@dataclass(frozen=True)
class EarthMoverConfig(LossConfig):
    """Squared distance of cumulated probabilities."""

    name: str = "earth_mover"

    implementation: ClassVar[str] = "arcticseg.tasks.losses.ordinal:EarthMover"
    heads: ClassVar[tuple[str, ...]] = ("classification",)
    weighs: ClassVar[bool] = True


@dataclass(frozen=True)
class DiceConfig(LossConfig):
    """Overlap of each sample's classes, or of those of the whole batch."""

    name: str = "dice"
    # batch: hits and pixels are added up over the global batch before they are divided.
    over: Literal["sample", "batch"] = "sample"

    implementation: ClassVar[str] = "arcticseg.tasks.losses.region:Dice"
    heads: ClassVar[tuple[str, ...]] = ("classification",)

    @property
    def whole(self) -> bool:
        return self.over == "batch"


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
        super().__post_init__()
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
    soft_weight: float = 1.0
    # Open water has the share that the total concentration leaves; false: soft targets are those of the ice.
    water: bool = True

    implementation: ClassVar[str] = "arcticseg.tasks.losses.soft:Soft"
    heads: ClassVar[tuple[str, ...]] = ("classification",)
    charts: ClassVar[tuple[str, ...]] = SOFT_CHARTS
    polygons: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        remedy = "set a positive number, or choose the loss cross_entropy"
        need(self.soft_weight > 0, "soft_weight", self.soft_weight, remedy)


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
class ClassWeightsConfig(Choice):
    """Weights of a chart's classes. The implementation takes counts of pixels; see `tasks.class_weights`."""


@dataclass(frozen=True)
class NoWeightsConfig(ClassWeightsConfig):
    """All classes alike."""

    name: str = "none"

    implementation: ClassVar[str] = "arcticseg.tasks.class_weights:none"


@dataclass(frozen=True)
class InverseWeightsConfig(ClassWeightsConfig):
    """One over a class's share of the labelled pixels."""

    name: str = "inverse"
    # The largest weight, as a multiple of the mean over labelled pixels.
    cap: float = 10.0

    implementation: ClassVar[str] = "arcticseg.tasks.class_weights:inverse"

    def __post_init__(self) -> None:
        need(self.cap >= 1, "cap", self.cap, "set 1 or more")


@dataclass(frozen=True)
class EffectiveWeightsConfig(ClassWeightsConfig):
    """One over a class's effective number of samples."""

    name: str = "effective"
    # 0: all classes alike; towards 1: as `inverse`.
    beta: float = 0.999
    # The largest weight, as a multiple of the mean over labelled pixels.
    cap: float = 10.0

    implementation: ClassVar[str] = "arcticseg.tasks.class_weights:effective"

    def __post_init__(self) -> None:
        need(0 <= self.beta < 1, "beta", self.beta, "set a number in [0, 1)")
        need(self.cap >= 1, "cap", self.cap, "set 1 or more")


@dataclass(frozen=True)
class GivenWeightsConfig(ClassWeightsConfig):
    """A list of weights."""

    name: str = "given"
    # Of the chart's classes, in their order.
    values: tuple[float, ...] = ()

    implementation: ClassVar[str] = "arcticseg.tasks.class_weights:given"

    def __post_init__(self) -> None:
        good = all(value >= 0 for value in self.values) and any(self.values)
        need(good, "values", list(self.values), "set a number of 0 or more for each class, some above 0")


_CLASS_WEIGHTS = (NoWeightsConfig, InverseWeightsConfig, EffectiveWeightsConfig, GivenWeightsConfig)
ClassWeightsConfig.table = {kind.name: kind for kind in _CLASS_WEIGHTS}


@dataclass(frozen=True)
class SegmentConfig:
    """Multitask segmentation."""

    # Weight of each chart's loss.
    weights: dict[str, float] = field(default_factory=lambda: dict.fromkeys(CHARTS, 1.0))
    # Chart -> loss, or a list of losses that are added up, where it is not the one of the chart's head.
    losses: dict[str, LossConfig | tuple[LossConfig, ...]] = field(default_factory=dict)
    # Chart -> weights of its classes, where they do not count alike.
    class_weights: dict[str, ClassWeightsConfig] = field(default_factory=dict)
    # Chart -> a term of its polygons.
    polygons: dict[str, PolygonsConfig] = field(default_factory=dict)
    # Weight of a term that has charts agree on where there is water; 0: none.
    consistency: float = 0.0
    # How the charts' losses stand to each other, beside `weights`.
    balance: Literal["fixed", "uncertainty", "gradient"] = "fixed"

    def __post_init__(self) -> None:
        for key in ("weights", "losses", "class_weights"):
            for chart in getattr(self, key):
                need(chart in CHARTS, f"{key}.{chart}", chart, f"name charts of {', '.join(CHARTS)}")
        for chart in self.polygons:
            need(chart in SOFT_CHARTS, f"polygons.{chart}", chart, f"name charts of {', '.join(SOFT_CHARTS)}")
        good = all(weight >= 0 for weight in self.weights.values())
        need(good, "weights", self.weights, "set weights of 0 or more")
        need(self.consistency >= 0, "consistency", self.consistency, "set 0 (none) or more")
        for chart, losses in self.losses.items():
            names = [loss.name for loss in _several(losses)]
            good = len(names) == len(set(names)) > 0
            need(good, f"losses.{chart}", names, "name one loss or more, each once")
            for loss in _several(losses):
                need(chart in loss.charts, f"losses.{chart}", loss.name, f"it is for {', '.join(loss.charts)}")
        for chart, weights in self.class_weights.items():
            if isinstance(weights, GivenWeightsConfig):
                remedy = f"set {N_CLASSES[chart]} numbers, one a class"
                good = len(weights.values) == N_CLASSES[chart]
                need(good, f"class_weights.{chart}.values", list(weights.values), remedy)

    def chart_losses(self, chart: str, default: str) -> tuple[LossConfig, ...]:
        """The losses of a chart; `default` names that of its head."""
        return _several(self.losses[chart]) if chart in self.losses else (LossConfig.named(default),)

    def needs_polygons(self, charts: tuple[str, ...]) -> bool:
        """Whether a run that learns these charts needs what charts say of polygons."""
        asking = {chart for chart, losses in self.losses.items() if any(loss.polygons for loss in _several(losses))}
        return any(chart in self.polygons or chart in asking for chart in charts)


def _several(losses: LossConfig | tuple[LossConfig, ...]) -> tuple[LossConfig, ...]:
    return losses if isinstance(losses, tuple) else (losses,)
