"""Steps with NaN or infinity are left out: seen on the device once a step, and read by the host later.

The optimiser's fused kernel takes two numbers on the device: `grad_scale`, by which it divides gradients, here for
clipping, and `found_inf`, at which it leaves weights and moments alone (`torch.optim.AdamW(fused=True)`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from arcticseg.engine import reshard
from arcticseg.engine.process_group import sum_over_ranks

# As torch.nn.utils.clip_grad_norm_ has it.
_EPS = 1e-6


@dataclass
class Guard:
    """Clips the gradient of an engine's step, and lets the optimiser leave the step out where something is not finite.

    Args:
        clip: largest norm of the gradient; 0: no clipping.
    """

    engine: Any
    clip: float
    # Of the steps that the host has not read yet: 0-d, 1.0 = left out.
    _flags: list[Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.norm: Tensor | None = None
        # Of the last step: 1.0 where it is left out, else 0.0; 0-d.
        self.bad: Tensor | None = None

    @torch.no_grad()
    def before_step(self, sums: Tensor) -> None:
        """Look at what a step would do; call it after the last backward, before the engine's step.

        Args:
            sums: of the terms of the loss on this rank.
        """
        self._decide(*gradient_norm(self.engine, sums))

    @torch.no_grad()
    def before_steps(self, others: Sequence[Guard], sums: Tensor) -> Tensor:
        """The same for an engine whose step is made, or left out, with those of others; `read` tells of all of them.

        Returns:
            1.0 where the steps are left out, else 0.0; float32, 0-d.
        """
        guards = [self, *others]
        norms, flags = zip(*(gradient_norm(guard.engine, sums) for guard in guards), strict=True)
        bad = torch.stack(flags).amax()
        for guard, norm in zip(guards, norms, strict=True):
            guard._decide(norm, bad)
        for guard in others:
            guard._flags.clear()
        return bad

    def _decide(self, norm: Tensor, bad: Tensor) -> None:
        optimizer: Any = reshard.inner(self.engine)
        optimizer.found_inf = bad
        optimizer.grad_scale = ((norm + _EPS) / self.clip).clamp(min=1.0) if self.clip else torch.ones_like(norm)
        self.norm, self.bad = norm, bad
        self._flags.append(bad)

    def read(self) -> list[bool]:
        """Of each step since the last call, whether it was left out; waits for the device once."""
        flags, self._flags = self._flags, []
        return [flag > 0 for flag in torch.stack(flags).tolist()] if flags else []


def gradient_norm(engine: Any, sums: Tensor) -> tuple[Tensor, Tensor]:
    """Norm of the whole gradient, and 1.0 where it or any rank's loss is not finite, else 0.0; float32, 0-d.

    Both are the same on all ranks, and stay on the device.
    """
    parts = reshard.gradients(engine)
    square = sums.new_zeros((), dtype=torch.float64)
    if parts:
        norms = torch.stack(torch._foreach_norm(parts)).to(sums.device, torch.float64)
        square = norms.square().sum()
    broken = sums.isfinite().all().logical_not().double()
    # In stage 0 each rank has the whole gradient.
    share = 1 / engine.dp_world_size if engine.zero_optimization_stage() == 0 else 1.0
    square, broken = sum_over_ranks(torch.stack([square * share, broken])).unbind()
    norm = square.sqrt() / reshard.loss_scale(engine)
    bad = (norm.isfinite() & (broken == 0)).logical_not()
    return norm.float(), bad.float()
