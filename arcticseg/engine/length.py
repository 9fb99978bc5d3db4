"""How long a training is, and how far it has come."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Length:
    """A number of optimiser steps, or of samples.

    A length in samples stays what it is when a run goes on with another global batch size, and so does the learning
    rate at each sample; a length in steps stays the same number of steps.

    Attributes:
        steps: None: as many as `samples` need.
        samples: that make up the epochs; not used with steps.
        global_batch: samples to a step, from now on.
        tail: what to do with the samples that fill no whole step: `drop` them, or `pad` the step with samples of a
            further pass.
    """

    steps: int | None
    samples: int
    global_batch: int
    tail: Literal["drop", "pad"] = "drop"

    def _steps(self, samples: int) -> int:
        return -(-samples // self.global_batch) if self.tail == "pad" else samples // self.global_batch

    def last_step(self, step: int, consumed: int) -> int:
        """The step that training ends with, `step` steps and `consumed` samples after its start."""
        return self.steps if self.steps is not None else step + max(0, self._steps(self.samples - consumed))

    def schedule(self, step: int, consumed: int) -> tuple[float, int]:
        """Position and length, in steps of the global batch size, for the learning rate."""
        if self.steps is not None:
            return step, self.steps
        return consumed / self.global_batch, self._steps(self.samples)

    def rest(self, consumed: int) -> dict[str, int]:
        """How many samples were left out of the last epoch, or seen beyond it, at the end."""
        if self.steps is not None:
            return {}
        return {"dropped": max(0, self.samples - consumed), "padded": max(0, consumed - self.samples)}
