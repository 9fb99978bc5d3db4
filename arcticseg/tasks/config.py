"""Configs of the tasks and their losses; no torch here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from arcticseg.choice import Choice
from arcticseg.data.config import check_channels
from arcticseg.errors import need
from arcticseg.ice.sigrid import CHARTS


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
    normalise_targets: bool = False

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


LossConfig.table = {"cross_entropy": CrossEntropyConfig, "squared_error": SquaredErrorConfig}


@dataclass(frozen=True)
class SegmentConfig:
    """Multitask segmentation."""

    # Weight of each chart's loss.
    weights: dict[str, float] = field(default_factory=lambda: dict.fromkeys(CHARTS, 1.0))
    # Chart -> loss, where it is not the one of the chart's head.
    losses: dict[str, LossConfig] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for chart in (*self.weights, *self.losses):
            key = "weights" if chart in self.weights else "losses"
            need(chart in CHARTS, f"{key}.{chart}", chart, f"name charts of {', '.join(CHARTS)}")
        good = all(weight >= 0 for weight in self.weights.values())
        need(good, "weights", self.weights, "set weights of 0 or more")

    def loss(self, chart: str, default: str) -> LossConfig:
        """The loss of a chart; `default` names that of its head."""
        return self.losses.get(chart) or LossConfig.named(default)
