"""BatchNorm where a network has it: statistics in float32 in any precision, and a word about what they cost.

Ioffe and Szegedy, "Batch Normalization", ICML 2015. The networks of this project normalise within a sample; some of
timm's do not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

if TYPE_CHECKING:
    from collections.abc import Callable

_STATISTICS = ("running_mean", "running_var")


class SteadyBatchNorm(_BatchNorm):
    """BatchNorm whose statistics stay float32 when a network is cast, and whose weights come to them.

    Rounded to bf16, running means would stop moving; and on CPU torch refuses weights of a precision other than the
    statistics'.
    """

    def forward(self, input: Tensor) -> Tensor:
        """x: [B, C, H, W] -> the same shape and dtype, with what timm's kind adds: an activation."""
        mean, spread = self.running_mean, self.running_var
        kind = torch.float32 if mean is None else mean.dtype
        weight, bias = (None if value is None else value.to(kind) for value in (self.weight, self.bias))
        x = F.batch_norm(input, mean, spread, weight, bias, self.training, self.momentum or 0.0, self.eps)
        for part in ("drop", "act"):
            x = getattr(self, part, _nothing)(x)
        return x

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        before = {name: getattr(self, name) for name in _STATISTICS}
        super()._apply(fn, recurse)
        for name, value in before.items():
            if value is not None and getattr(self, name).dtype.itemsize < value.dtype.itemsize:
                setattr(self, name, value.to(getattr(self, name).device))
        return self


def _nothing(x: Tensor) -> Tensor:
    return x


# Kind of BatchNorm -> its steady one.
_kinds: dict[type[Any], type[Any]] = {}


def _steady_kind(kind: type[Any]) -> type[Any]:
    if kind not in _kinds:
        _kinds[kind] = type(f"Steady{kind.__name__}", (SteadyBatchNorm, kind), {})
    return _kinds[kind]


def steady(network: nn.Module) -> None:
    """Make every BatchNorm below `network` a steady one; weights and names stay."""
    for part in network.modules():
        if isinstance(part, _BatchNorm) and not isinstance(part, SteadyBatchNorm):
            part.__class__ = _steady_kind(type(part))


def batch_norm(channels: int) -> nn.Module:
    """BatchNorm of maps of so many channels."""
    norm = nn.BatchNorm2d(channels)
    steady(norm)
    return norm


def caution(network: nn.Module) -> str | None:
    """What a user must know of a network with BatchNorm; None: it has none."""
    count = sum(isinstance(part, _BatchNorm) for part in network.modules())
    if not count:
        return None
    return (
        f"the network has {count} BatchNorm layers, so a sample's output depends on its micro batch: loss and weights "
        "change with ranks and engine.micro_batch_size, and running statistics are those of rank 0"
    )


def statistics(network: nn.Module) -> list[Tensor]:
    """The running statistics of all BatchNorm layers, in order."""
    kept = [part for part in network.modules() if isinstance(part, _BatchNorm)]
    return [value for part in kept for name in _STATISTICS if (value := getattr(part, name)) is not None]
