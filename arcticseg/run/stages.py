"""The stages of a training: where each begins and ends, and its learning rate.

At the end of a stage the training writes a checkpoint and goes on from it with a new engine, in which other weights
learn, as a run would that was stopped there and resumed. So a run that was killed goes on bit for bit, wherever it was.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from arcticseg.engine.config import OptimConfig
from arcticseg.engine.length import Length
from arcticseg.engine.optim import learning_rate
from arcticseg.errors import BadValueError
from arcticseg.run.config import RunConfig

# Of a step, which a position may miss by rounding.
_CLOSE = 1e-6


@dataclass(frozen=True)
class Stage:
    """A stage of a training.

    Attributes:
        number: from 0.
        frozen: as of `model.frozen`.
        lr: highest learning rate of a curve of its own; None: the whole training's curve.
        start, stop: positions, in steps as `Length.schedule` counts them.
        is_last: whether it goes on to the end of the training.
    """

    number: int
    frozen: str | int
    lr: float | None
    start: float
    stop: float
    is_last: bool

    def last_step(self, step: int, position: float, end: int) -> int:
        """The step that it ends with, at a step and position within it; `end` is that of the training."""
        return end if self.is_last else min(end, step + math.ceil(self.stop - position - _CLOSE))

    def rate(self, optim: OptimConfig) -> Callable[[float, int], float]:
        """(position, length of the training) -> learning rate."""
        if self.lr is None:
            return lambda position, total: learning_rate(position, total, optim)
        own = replace(optim, lr=self.lr)

        def rate(position: float, total: int) -> float:
            stop = total if self.is_last else self.stop
            return learning_rate(position - self.start, round(stop - self.start), own)

        return rate


def stages_of(cfg: RunConfig, length: Length) -> list[Stage]:
    """The stages of a training, one if the config names none.

    Raises:
        BadValueError: one would have no step.
    """
    total = length.schedule(0, 0)[1]
    if not cfg.stages:
        return [Stage(0, cfg.model.frozen, None, 0, total, is_last=True)]
    stages: list[Stage] = []
    start = 0
    for number, wanted in enumerate(cfg.stages):
        is_last = number == len(cfg.stages) - 1
        steps = wanted.steps if wanted.steps is not None else round((wanted.share or 0) * total)
        stop = total if is_last else start + steps
        if not start < stop <= total:
            remedy = f"leave each at least one of the training's {total} steps (stage {number + 1} has none)"
            raise BadValueError("stages", len(cfg.stages), remedy)
        stages.append(Stage(number, wanted.frozen, wanted.lr, start, stop, is_last))
        start = stop
    return stages


def stage_at(stages: Sequence[Stage], position: float, least: int) -> Stage:
    """The stage of the next step at a position, and at least that of the number `least`.

    A training whose length has changed does not go back to an earlier stage.
    """
    later = (stage for stage in stages if stage.number >= least)
    return next(stage for stage in later if stage.is_last or position < stage.stop - _CLOSE)
