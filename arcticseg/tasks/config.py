"""Configs of the tasks and their losses; no torch here."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class PretrainConfig:
    """Masked autoencoder."""

    mask_ratio: float = 0.75
    # Channels or groups to reconstruct.
    targets: tuple[str, ...] = ("hh", "hv")
    decoder_dim: int = 512
    decoder_depth: int = 8
    decoder_heads: int = 16
    # Compare patches after normalising each by its own mean and spread.
    normalise_targets: bool = False


@dataclass(frozen=True)
class SegmentConfig:
    """Multitask segmentation."""

    # Weight of each chart's loss.
    weights: dict[str, float] = field(default_factory=lambda: {"SIC": 1.0, "SOD": 1.0, "FLOE": 1.0})
