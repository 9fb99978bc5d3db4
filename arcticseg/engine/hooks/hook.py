"""What the trainer asks of a hook: something beside the training loop, one concern a class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from arcticseg.engine.process_group import Ranks
from arcticseg.engine.samples import Samples
from arcticseg.engine.step import Step
from arcticseg.tasks.task import Task
from arcticseg.tracking import Confusions, Tracker

# Name -> value of a logged step: 0-d tensors on the device (reading one waits for it), and numbers of the host.
Values = Mapping[str, Tensor | float]


@dataclass(frozen=True)
class Training:
    """What a hook may use of a training.

    Attributes:
        out: run folder.
        engine: DeepSpeed's; `engine.module` has the weights.
        metadata: stored with weights.
        first: steps done at its start.
        last: step that it ends with.
        samples: a fixed subset of the validation samples with labels; None: there are no validation samples, or only a
            server to stream whole shards from.
        trackers: of rank 0, which take what a run has to show; the others have none.
    """

    out: Path
    engine: Any
    step: Step
    task: Task
    ranks: Ranks
    metadata: dict[str, str]
    first: int
    last: int
    samples: Samples | None = None
    trackers: Sequence[Tracker] = ()


def numbers(values: Values) -> dict[str, float]:
    """Values as numbers of the host; waits once for the device."""
    on_device = {name: value for name, value in values.items() if isinstance(value, Tensor)}
    if not on_device:
        return {name: float(value) for name, value in values.items()}
    read = dict(zip(on_device, torch.stack([v.double() for v in on_device.values()]).tolist(), strict=True))
    return {name: read[name] if name in read else float(value) for name, value in values.items()}


class Hook:
    """Does nothing. The trainer calls each hook on every rank, in the same order, with the same values.

    Attributes:
        name: under which a checkpoint keeps its state.
    """

    name = "hook"

    def on_start(self, training: Training) -> None:
        """Before the first step, after the state was loaded; again before the first step of a further stage, which has
        another engine, after the state was loaded again."""

    def on_step(self, step: int, values: Values | None) -> None:
        """After each optimiser step; with loss, terms, `lr` and `samples_per_s` every `tracking.every` steps."""

    def logged(self, values: Values) -> Mapping[str, float]:
        """What it adds to a log line, given what that holds so far; asked on every rank, without communication."""
        return {}

    def on_validation(self, step: int, scores: Mapping[str, float | None]) -> None:
        """After each validation."""

    def on_confusions(self, step: int, confusions: Confusions) -> None:
        """After each validation of a task that counts them: pixels by (class of the chart, predicted class)."""

    def scored(self, step: int) -> Mapping[str, float | None]:
        """Scores of its own that are due after a step, higher is better, None = undefined; the same on all ranks.

        Asked after each `on_step`, and once before the first step of a run, as step 0; ranks may talk and call the
        network. The best weights are kept by each of them.
        """
        return {}

    def on_scores(self, step: int, scores: Mapping[str, float | None]) -> None:
        """When a hook has scores of its own."""

    def other_weights(self) -> AbstractContextManager[None] | None:
        """Weights that a validation is to score, too: a context in which the network computes with them; None: none.

        Their scores come with those of the validation, as `NAME/SCORE` for each score by which the task keeps its best.
        """
        return None

    def on_finish(self, step: int) -> None:
        """When training has reached its end, after its weights were written; ranks may talk."""

    def on_event(self, step: int, event: str, values: Mapping[str, Any]) -> None:
        """When a damaged sample is met, when a hook has `finished`, and, as `summary`, before the end."""

    def on_end(self, step: int) -> None:
        """When training stops, finished or not, also by an error; without communication."""

    def wants_stop(self) -> bool:
        """Whether training should stop after the next step, with a checkpoint; one rank's wish is enough."""
        return False

    def finished(self) -> str | None:
        """Why training is at its end, though steps are left; the same on all ranks, asked after each validation."""
        return None

    def state(self) -> dict[str, Any]:
        """What JSON can hold of its state; a checkpoint keeps that of rank 0."""
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave."""

    def tensors(self) -> dict[str, Tensor]:
        """Tensors that a checkpoint keeps, those of rank 0."""
        return {}

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from what `tensors` gave, on the CPU."""
