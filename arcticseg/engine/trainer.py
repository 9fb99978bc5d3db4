"""The training loop; what it trains is a task, how it steps a step, what happens beside it are hooks."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import torch
import xxhash
from numpy.typing import NDArray
from torch import Tensor

from arcticseg.data.loader import Loader
from arcticseg.data.quarantine import Damage
from arcticseg.data.transforms import Assemble
from arcticseg.data.validation import ValidationLoader
from arcticseg.data.webdataset_reader import WebDatasetLoader
from arcticseg.engine import checkpoint
from arcticseg.engine.checkpoint import Position
from arcticseg.engine.config import EngineConfig, OptimConfig
from arcticseg.engine.feed import Feed
from arcticseg.engine.hooks.hook import Hook, Training
from arcticseg.engine.length import Length
from arcticseg.engine.optim import learning_rate
from arcticseg.engine.pace import Pace
from arcticseg.engine.process_group import gather, sum_over_ranks
from arcticseg.engine.progress import beat, begin_step
from arcticseg.engine.samples import on_all_ranks
from arcticseg.engine.stop import StopWish
from arcticseg.engine.watchdog import watched
from arcticseg.engine.weights import check_engine, save_weights
from arcticseg.errors import ArcticSegError
from arcticseg.files import append_line
from arcticseg.models.drop_path import sample_seeds
from arcticseg.run.folder import last_weights, skipped_path
from arcticseg.tasks.task import dividing

# Steps in a row that even a short training may leave out.
_FEW_SKIPPED = 2


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
        seed: of what a network draws.
        events: what is to be told at its start: name and values.
        until: step at which another trainer goes on, as the next stage does; None: the end of the training.
        rate: (position, length) as `Length.schedule` gives them -> learning rate; None: the optimiser's own curve.
        wish: of who started it that it ends; it is listened to from the start.
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
    events: Sequence[tuple[str, Mapping[str, Any]]] = ()
    until: int | None = None
    rate: Callable[[float, int], float] | None = None
    wish: StopWish = field(default_factory=StopWish)

    def __post_init__(self) -> None:
        self.ranks, self.task, self.step = self.training.ranks, self.training.task, self.training.step
        self.last = self.training.last if self.until is None else self.until
        # Whether another trainer is to go on from the checkpoint, with the same hooks and the same `wish`.
        self.goes_on = False
        self._rate = self.rate or partial(learning_rate, cfg=self.optim)
        self.feed = Feed(
            self.loader,
            self.assemble,
            self.task,
            self.ranks,
            stops=self._wants_stop,
            tell=lambda damages: self._tell_damage("damaged sample, replaced", damages),
            seeds=lambda step, places: sample_seeds(self.seed, step, places),
        )
        self._saver = checkpoint.make_saver(self.training.out, self.ranks)
        # A short training must not end in steps that were all left out.
        self._most_skipped = min(self.engine.max_skipped, max(_FEW_SKIPPED, self.training.last // 10))
        # Of steps of which it is not known yet whether they were left out: number, and the keys of their samples.
        self._unread: list[tuple[int, Callable[[], list[str]]]] = []

    def train(self) -> bool:
        """Train to the end, to the step at which another trainer goes on, or until a hook has finished.

        Returns:
            False when a signal or a hook stopped it before; then and between trainers there is a checkpoint to go on
            from.
        """
        self.wish.listen()
        try:
            for hook in self.hooks:
                hook.on_start(self.training)
            for event, values in self.events:
                self._tell(event, values)
            with watched(self.engine.hang_seconds, self.ranks):
                return self._train()
        finally:
            self._saver.abandon()
            if not self.goes_on:
                self._end()

    def _end(self) -> None:
        """End what `train` has begun, where no other trainer goes on."""
        self.wish.close()
        for hook in self.hooks:
            hook.on_end(self.position.step)

    def _train(self) -> bool:
        self.step.train()
        if self.position.step == 0:
            # What is to be beaten.
            self._tell_scores()
        pace = Pace(self.loader, self.ranks, self.engine.global_batch_size)
        stopped, finished = False, self._finished()
        turns = self.feed.turns(self.position.step, self.last)
        while self.position.step < self.last and not (stopped or finished):
            before = self.position.step
            begin_step(before + 1)
            self._seed(before)
            turn = next(turns)
            rate = self._rate(*self.length.schedule(before, self.loader.consumed))
            sums = self.step(turn, turn.counted, rate)
            stopped = turn.stop
            self.loader.stepped()
            pace.stepped()
            self.position.step = before + 1
            self._unread.append((self.position.step, turn.keys))
            values: dict[str, Tensor | float] | None = None
            done = self.position.step == self.training.last
            if self.position.step % self.every.log == 0 or done:
                values = {**self._values(sums, turn.counted, rate), **pace.values()}
                for hook in self.hooks:
                    values = {**values, **hook.logged(values)}
            beat(f"hooks after step {self.position.step}")
            for hook in self.hooks:
                hook.on_step(self.position.step, values)
            paused = self._tell_scores()
            if done or _due(self.position.step, self.every.validation):
                self._validate()
                finished, paused = None if done else self._finished(), True
            ends = self.position.step == self.last or stopped or bool(finished)
            if ends or _due(self.position.step, self.every.checkpoint):
                self._checkpoint(ends)
                paused = True
            if paused:
                pace.restart()
        self.goes_on = self.position.step == self.last < self.training.last and not (stopped or finished)
        if self.goes_on:
            return True
        self._tell("summary", self._summary())
        if self.position.step < self.training.last and not finished:
            return False
        beat("writing the weights")
        path = last_weights(self.training.out)
        save_weights(self.training.engine, path, self.training.metadata, self.position.step, self.ranks)
        for hook in self.hooks:
            hook.on_finish(self.position.step)
        return True

    def _seed(self, step: int) -> None:
        """What draws from torch's generator draws from (seed, step, rank): a resumed run draws what the first would."""
        torch.manual_seed(xxhash.xxh3_64_intdigest(f"{self.seed} {step} {self.ranks.rank}".encode()) >> 1)

    def _wants_stop(self) -> bool:
        return self.wish.asked or any(hook.wants_stop() for hook in self.hooks)

    def _finished(self) -> str | None:
        """Why a hook ends the training, which is told."""
        reason = next((reason for hook in self.hooks if (reason := hook.finished())), None)
        if reason:
            self._tell("finished early", {"reason": reason})
        return reason

    def _tell_scores(self) -> bool:
        """Tell all hooks of the scores that some have of their own; whether there are any."""
        scores = {name: value for hook in self.hooks for name, value in hook.scored(self.position.step).items()}
        if scores:
            for hook in self.hooks:
                hook.on_scores(self.position.step, scores)
        return bool(scores)

    def _tell(self, event: str, values: Mapping[str, Any]) -> None:
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
        """Loss and its terms over the global batch, norm of the gradient, on the device; learning rate, steps left out.

        Raises:
            ArcticSegError: too many steps were left out.
        """
        self._read_skipped()
        means = (sum_over_ranks(sums.double()) / dividing(counted)).unbind()
        terms = {f"loss_{name}": mean for name, mean in zip(self.task.terms, means, strict=True)}
        values: dict[str, Tensor | float] = {"loss": self.task.weighted(means, counted), **terms, **self.task.told()}
        values |= {"lr": rate, **self.step.rates}
        values |= {"grad_norm": self.step.norm, "skipped": self.position.skipped}
        return {**values, **self.step.values}

    def _read_skipped(self) -> None:
        """Learn which steps were left out for NaN or infinity, and write down their samples.

        Raises:
            ArcticSegError: more in a row than `engine.max_skipped`, or than a tenth of the training.
        """
        unread, self._unread = self._unread, []
        for skipped, (step, keys) in zip(self.step.read_skipped(), unread, strict=True):
            self.position.in_a_row = self.position.in_a_row + 1 if skipped else 0
            if not skipped:
                continue
            self.position.skipped += 1
            path = skipped_path(self.training.out)
            self._tell("step left out for NaN or infinity", {"number": step, "samples": path.name})
            if self.ranks.is_main:
                append_line(path, json.dumps({"step": step, "samples": keys()}))
            if self.position.in_a_row > self._most_skipped:
                raise ArcticSegError(
                    f"loss or gradient was NaN or infinite in {self.position.in_a_row} steps in a row, up to step "
                    f"{step} (at most {self._most_skipped}, see engine.max_skipped); {path} names their samples, such "
                    f"as {keys()[0]}; look at these, lower optim.lr ({self.optim.lr}), or set engine.precision to fp32 "
                    f"(now {self.engine.precision}); weights and checkpoints are as before these steps"
                )

    def _validate(self) -> None:
        """Score the validation samples, and tell the hooks."""
        if self.validation is None:
            return
        beat(f"the validation after step {self.position.step}")
        total = self._tally(self.validation)
        if total is None:
            return
        scores = self.task.scores(total)
        damages = [damage for of_rank in gather(self.validation.damages) for damage in of_rank]
        self._tell_damage("damaged validation sample, left out", sorted(damages, key=lambda damage: damage.number))
        for hook in self.hooks:
            weights = hook.other_weights()
            if weights is not None:
                beat(f"the validation of {hook.name} after step {self.position.step}")
                with weights:
                    other = self._tally(self.validation)
                others = {} if other is None else self.task.scores(other)
                scores |= {f"{hook.name}/{score}": others.get(score) for score in self.task.best_by}
        for hook in self.hooks:
            hook.on_validation(self.position.step, scores)
        confusions = self.task.confusions(total)
        for hook in self.hooks if confusions else ():
            hook.on_confusions(self.position.step, confusions)

    def _tally(self, validation: ValidationLoader) -> NDArray[Any] | None:
        """The task's tally over all ranks, of what the network computes with; None: there are no samples."""
        self.step.train(False)
        validation.stream = self.feed.stage.stream
        total: Tensor | None = None
        with torch.no_grad():
            for inputs, n in self.feed.passing(on_all_ranks(validation)):
                tally = self.task.tally(self.step.forward, inputs, n)
                total = tally if total is None else total + tally
        self.step.train()
        return None if total is None else sum_over_ranks(total).cpu().numpy()

    def _checkpoint(self, needed: bool) -> None:
        """Write a checkpoint; one that is not `needed` may fail, and training goes on to the next.

        Raises:
            ArcticSegError: something that it would hold is not finite; it is needed and cannot be written.
        """
        beat(f"the checkpoint of step {self.position.step}")
        self._read_skipped()
        self._settle(needed=False)
        self.position.loader = self.loader.state_dict()
        for engine in self.step.engines.values():
            check_engine(engine, self.position.step)
        checkpoint.save(self._saver, self.step, self.training.out, self.position, self.hooks, self.training.metadata)
        if needed or not self._saver.beside:
            self._settle(needed)

    def _settle(self, needed: bool) -> None:
        """See whether the checkpoint that was begun last is written."""
        error = self._saver.settle()
        if error is not None and needed:
            raise error
        if error is not None:
            self._tell("checkpoint failed, training goes on", {"error": str(error)})


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
