"""A second decoder that helps an encoder learn, in a config; no torch here."""

from __future__ import annotations

from dataclasses import dataclass

from arcticseg.errors import need
from arcticseg.models.config.tuning import LARGEST


@dataclass(frozen=True)
class AuxiliaryConfig:
    """A convolution and heads on one of the encoder's maps, in training only."""

    # Which map, from the shallowest; negative: from the deepest.
    map: int = -2
    # Width of the convolution.
    channels: int = 256
    # Of its losses, beside those of the decoder.
    weight: float = 0.4

    def __post_init__(self) -> None:
        good = 0 < self.channels <= LARGEST and self.channels % 4 == 0
        need(good, "channels", self.channels, f"set a multiple of 4, {LARGEST} or less")
        need(self.weight > 0, "weight", self.weight, "set a positive number, or auxiliary to null")
