"""The training loop; what it trains is a task, how it steps a step, what happens beside it are hooks."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
import xxhash
from torch import Tensor

from arcticseg.data.batch import Batch
from arcticseg.data.loader import Loader
from arcticseg.data.quarantine import Damage
from arcticseg.data.transforms import Assemble, Inputs
from arcticseg.data.validation import ValidationLoader
from arcticseg.data.webdataset_reader import WebDatasetLoader
from arcticseg.engine import checkpoint
from arcticseg.engine.checkpoint import Position
from arcticseg.engine.config import EngineConfig, OptimConfig
from arcticseg.engine.hooks.hook import Hook, Training, Values
from arcticseg.engine.length import Length
from arcticseg.engine.optim import learning_rate
from arcticseg.engine.process_group import agree, gather, sum_array, sum_over_ranks
from arcticseg.engine.weights import check_engine, save_weights
from arcticseg.errors import ArcticSegError
from arcticseg.run.folder import last_weights

# Numbers of the signals that ask for a checkpoint and a clean end: SLURM sends them before it kills.
_STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
# Seconds in which a terminal's and a launcher's SIGINT are the same wish.
_SAME_WISH = 0.3


@dataclass(frozen=True)
class Every:
    """Optimiser steps between what happens now and then; 0: only at the end."""

    validation: int
    checkpoint: int
    log: int


@dataclass
class Trainer:
    """Everything that a training needs, put together by `run.start`.

    Attributes:
        validation: gives (batch, samples that count) for one pass over the validation samples; None: there are none.
        length: of the training.
        seed: of what draws from torch's generator, such as drop path.
    """

    training: Training
    engine: EngineConfig
    optim: OptimConfig
    assemble: Assemble
    loader: Loader | WebDatasetLoader
    validation: ValidationLoader | None
    length: Length
    every: Every
    hooks: Sequence[Hook]
    position: Position
    seed: int

    def __post_init__(self) -> None:
        self.ranks, self.task, self.step = self.training.ranks, self.training.task, self.training.step
        self._stop_asked, self._interrupted = False, float("inf")
        self._waited = 0.0

    def train(self) -> bool:
        """Train to the end; return False when a signal or a hook stopped it early, with a checkpoint to go on from."""
        handlers = {number: signal.signal(number, self._ask_stop) for number in _STOP_SIGNALS}
        try:
            for hook in self.hooks:
                hook.on_start(self.training)
            return self._train()
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
            for hook in self.hooks:
                hook.on_end(self.position.step)

    def _ask_stop(self, number: int, _: object) -> None:
        self._stop_asked = True
        if number == signal.SIGINT:
            now = time.monotonic()
            if now > self._interrupted + _SAME_WISH:
                # The second ends at once.
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)
            self._interrupted = min(self._interrupted, now)

    def _train(self) -> bool:
        self.step.train()
        total = self.training.last
        since, samples = time.monotonic(), 0
        stopped = False
        while self.position.step < total and not stopped:
            before = self.position.step
            self._seed(before)
            inputs, counted, stopped = self._next_inputs()
            rate = learning_rate(*self.length.schedule(before, self.loader.consumed), self.optim)
            sums = self.step(inputs, counted, rate)
            self.loader.stepped()
            self.position.step, samples = before + 1, samples + self.engine.global_batch_size
            values: Values | None = None
            done = self.position.step == total
            if self.position.step % self.every.log == 0 or done:
                values = self._values(sums, counted, rate)
                now = time.monotonic()
                values["samples_per_s"] = round(samples / max(now - since, 1e-9), 3)
                values["data_wait"] = round(self._waited / max(now - since, 1e-9), 5)
                since, samples, self._waited = now, 0, 0.0
            for hook in self.hooks:
                hook.on_step(self.position.step, values)
            if done or _due(self.position.step, self.every.validation):
                self._validate()
                since, samples, self._waited = time.monotonic(), 0, 0.0
            if done or stopped or _due(self.position.step, self.every.checkpoint):
                self._checkpoint()
                since, samples, self._waited = time.monotonic(), 0, 0.0
        self._tell("summary", self._summary())
        if self.position.step < total:
            return False
        path = last_weights(self.training.out)
        save_weights(self.training.engine, path, self.training.metadata, self.position.step)
        return True

    def _seed(self, step: int) -> None:
        """Drop path and the like draw from (seed, step, rank), so a resumed run draws what the first would have."""
        torch.manual_seed(xxhash.xxh3_64_intdigest(f"{self.seed} {step} {self.ranks.rank}".encode()) >> 1)

    def _next_inputs(self) -> tuple[list[Inputs], Tensor, bool]:
        """Inputs of a step's micro batches, what counts in them over all ranks, and whether any rank wants to stop.

        Raises:
            ArcticSegError: a rank's error, the same on all ranks.
        """
        began = time.monotonic()
        batches = self.loader.step()
        self._waited += time.monotonic() - began
        while True:
            inputs = [self.assemble(batch.to(self.ranks.device)) for batch in batches]
            # One sum over ranks carries the counts that losses are divided by, the wish to stop, and trouble with data.
            counts = torch.zeros(len(self.task.terms), dtype=torch.float64, device=self.ranks.device)
            counts += sum(self.task.counts(item) for item in inputs)
            wants_stop = self._stop_asked or any(hook.wants_stop() for hook in self.hooks)
            flags = counts.new_tensor([float(wants_stop), float(self.loader.trouble)])
            counts, stop, trouble = sum_over_ranks(torch.cat([counts, flags])).split([len(counts), 1, 1])
            if not trouble.item():
                return inputs, counts, bool(stop.item())
            batches, damages = self.loader.settle(gather)
            self._tell_damage("damaged sample, replaced", damages)

    def _tell(self, event: str, values: dict[str, Any]) -> None:
        for hook in self.hooks:
            hook.on_event(self.position.step, event, values)

    def _tell_damage(self, event: str, damages: Sequence[Damage]) -> None:
        for damage in damages:
            self._tell(event, asdict(damage))

    def _summary(self) -> dict[str, Any]:
        """What the data came to: samples used, damaged ones replaced, and what the tail was."""
        consumed = self.loader.consumed
        rest = self.length.rest(consumed) if self.position.step == self.training.last else {}
        return {"samples": consumed, "damaged": self.loader.damaged} | rest

    def _values(self, sums: Tensor, counted: Tensor, rate: float) -> dict[str, Tensor | float]:
        """Loss and its terms over the global batch, on the device, and the learning rate.

        Raises:
            ArcticSegError: the loss is not a number.
        """
        means = (sum_over_ranks(sums.double()) / counted.clamp(min=1)).unbind()
        loss = self.task.weighted(means)
        if loss.isnan().item():
            raise ArcticSegError(
                f"the loss is NaN at step {self.position.step}; lower optim.lr ({self.optim.lr}), "
                f"or set engine.precision to fp32 (now {self.engine.precision})"
            )
        terms = {f"loss_{name}": mean for name, mean in zip(self.task.terms, means, strict=True)}
        return {"loss": loss, **terms, "lr": rate}

    def _validate(self) -> None:
        """Score the validation samples."""
        if self.validation is None:
            return
        self.step.train(False)
        total: Any = None
        with torch.no_grad():
            for batch, n in self._on_all_ranks(iter(self.validation)):
                tally = self.task.tally(self.step.forward, self.assemble(batch.to(self.ranks.device)), n)
                total = tally if total is None else total + tally
        self.step.train()
        if total is None:
            return
        damages = [damage for of_rank in gather(self.validation.damages) for damage in of_rank]
        self._tell_damage("damaged validation sample, left out", sorted(damages, key=lambda damage: damage.number))
        scores = self.task.scores(sum_array(total, self.ranks.device))
        for hook in self.hooks:
            hook.on_validation(self.position.step, scores)

    def _on_all_ranks(self, batches: Iterator[tuple[Batch, int]]) -> Iterator[tuple[Batch, int]]:
        """The items of an iterator that is as long on all ranks.

        Raises:
            ArcticSegError: that of one rank's iterator, the same on all ranks.
        """
        while True:
            item, error = None, None
            try:
                item = next(batches, None)
            except ArcticSegError as caught:
                error = caught
            agree(error, self.ranks.device)
            if item is None:
                return
            yield item

    def _checkpoint(self) -> None:
        self.position.loader = self.loader.state_dict()
        check_engine(self.training.engine, self.position.step)
        out, config = self.training.out, json.loads(self.training.metadata["config"])
        checkpoint.save(self.step, self.engine.zero_stage, out, self.position, self.hooks, self.ranks, config)


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
