"""Decoders compared with a library's: without norms, with the same convolutions."""

from __future__ import annotations

from torch import nn


def without_norms(network: nn.Module) -> nn.Module:
    """Put nothing in the place of each norm."""
    for name, part in network.named_children():
        if isinstance(part, (nn.GroupNorm, nn.BatchNorm2d, nn.LayerNorm)):
            setattr(network, name, nn.Identity())
        else:
            without_norms(part)
    return network


def convolutions(*parts: nn.Module) -> list[nn.Conv2d]:
    """All convolutions of some parts, in order."""
    return [conv for part in parts for conv in part.modules() if isinstance(conv, nn.Conv2d)]
