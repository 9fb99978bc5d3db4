"""The training loop; what it trains is a task, what happens beside it are hooks."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
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
from arcticseg.engine.checkpoint import Progress
from arcticseg.engine.deepspeed_engine import DTYPES
from arcticseg.engine.hooks.hook import Hook
from arcticseg.engine.length import Length
from arcticseg.engine.optim import learning_rate
from arcticseg.engine.process_group import Ranks, agree, gather, sum_array, sum_over_ranks
from arcticseg.engine.weights import save_weights
from arcticseg.errors import ArcticSegError
from arcticseg.run.config import RunConfig
from arcticseg.tasks.task import Task

# Numbers of the signals that ask for a checkpoint and a clean end: SLURM sends them before it kills.
_STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


@dataclass
class Trainer:
    """Everything that a training needs, put together by `run`.

    Attributes:
        validation: gives (batch, samples that count) for one pass over the validation samples; None: there are none.
        length: of the training.
        metadata: stored with weights.
    """

    cfg: RunConfig
    out: Path
    engine: Any
    task: Task
    assemble: Assemble
    loader: Loader | WebDatasetLoader
    validation: ValidationLoader | None
    length: Length
    ranks: Ranks
    hooks: Sequence[Hook]
    metadata: dict[str, str]
    progress: Progress

    def __post_init__(self) -> None:
        self._dtype = DTYPES[self.cfg.engine.precision]
        self._stop_asked = False
        self._total = self.length.last_step(self.progress.step, self.loader.consumed)

    def _forward(self, x: Tensor, *rest: Any) -> Any:
        return self.engine(x.to(self._dtype), *rest)

    def _seed(self, step: int) -> None:
        """Drop path and the like draw from (seed, step, rank), so a resumed run draws what the first would have."""
        torch.manual_seed(xxhash.xxh3_64_intdigest(f"{self.cfg.seed} {step} {self.ranks.rank}".encode()) >> 1)

    def train(self) -> bool:
        """Train to the end; return False when a signal stopped it early, with a checkpoint to go on from."""
        handlers = {number: signal.signal(number, self._ask_stop) for number in _STOP_SIGNALS}
        try:
            return self._train()
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
            for hook in self.hooks:
                hook.on_end(self.progress.step)

    def _ask_stop(self, *_: object) -> None:
        self._stop_asked = True

    def _train(self) -> bool:
        self.engine.train()
        since, samples = time.monotonic(), 0
        stopped = False
        while self.progress.step < self._total and not stopped:
            step = self.progress.step
            self._seed(step)
            inputs, counted, stopped = self._next_step()
            rate = learning_rate(*self.length.schedule(step, self.loader.consumed), self.cfg.optim)
            for group in self.engine.optimizer.param_groups:
                group["lr"] = rate
            sums = self._optimise(inputs, counted)
            self.loader.stepped()
            self.progress.step, samples = step + 1, samples + self.cfg.engine.global_batch_size
            values = None
            done = self.progress.step == self._total
            if self.progress.step % self.cfg.tracking.every == 0 or done:
                values = self._values(sums, counted) | {"lr": rate}
                now = time.monotonic()
                values["samples_per_s"] = round(samples / max(now - since, 1e-9), 3)
                since, samples = now, 0
            for hook in self.hooks:
                hook.on_step(self.progress.step, values)
            if done or _due(self.progress.step, self.cfg.validate_every):
                self._validate()
                since, samples = time.monotonic(), 0
            if done or stopped or _due(self.progress.step, self.cfg.checkpoint_every):
                self._checkpoint()
                since, samples = time.monotonic(), 0
        self._tell("summary", self._summary())
        if self.progress.step < self._total:
            return False
        save_weights(self.engine, self.out / "weights" / "last.safetensors", self.metadata)
        return True

    def _next_step(self) -> tuple[list[Inputs], Tensor, bool]:
        """Inputs of a step's micro batches, what counts in them over all ranks, and whether any rank was asked to stop.

        Raises:
            ArcticSegError: a rank's error, the same on all ranks.
        """
        batches = self.loader.step()
        while True:
            inputs = [self.assemble(batch.to(self.ranks.device)) for batch in batches]
            # One sum over ranks carries the counts that losses are divided by, the wish to stop, and trouble with data.
            counts = torch.zeros(len(self.task.terms), dtype=torch.float64, device=self.ranks.device)
            counts += sum(self.task.counts(item) for item in inputs)
            flags = counts.new_tensor([float(self._stop_asked), float(self.loader.trouble)])
            counts, stop, trouble = sum_over_ranks(torch.cat([counts, flags])).split([len(counts), 1, 1])
            if not trouble.item():
                return inputs, counts, bool(stop.item())
            batches, damages = self.loader.settle(gather)
            self._tell_damage("damaged sample, replaced", damages)

    def _tell(self, event: str, values: dict[str, Any]) -> None:
        for hook in self.hooks:
            hook.on_event(self.progress.step, event, values)

    def _tell_damage(self, event: str, damages: Sequence[Damage]) -> None:
        for damage in damages:
            self._tell(event, asdict(damage))

    def _summary(self) -> dict[str, Any]:
        """What the data came to: samples used, damaged ones replaced, and what the tail was."""
        consumed = self.loader.consumed
        rest = self.length.rest(consumed) if self.progress.step == self._total else {}
        return {"samples": consumed, "damaged": self.loader.damaged} | rest

    def _optimise(self, inputs: Sequence[Inputs], counted: Tensor) -> Tensor:
        """One optimiser step over its micro batches; returns the sums of the terms, float32 [terms]."""
        weights = torch.tensor(self.task.weights, dtype=torch.float64, device=counted.device)
        shares = (weights / counted.clamp(min=1)).float()
        # DeepSpeed divides by micro steps and averages over ranks; our division by counts is the only one wanted.
        scale = len(inputs) * self.ranks.world_size
        total = torch.zeros(len(weights), device=counted.device)
        for item in inputs:
            sums = self.task.sums(self._forward, item)  # type: ignore[arg-type]
            self.engine.backward((sums * shares).sum() * scale)
            self.engine.step()
            total += sums.detach()
        return total

    def _values(self, sums: Tensor, counted: Tensor) -> dict[str, float]:
        """Loss and its terms over the global batch.

        Raises:
            ArcticSegError: the loss is no number.
        """
        terms = sum_over_ranks(sums.double()) / counted.clamp(min=1)
        found = dict(zip(self.task.terms, terms.tolist(), strict=True))
        loss = sum(w * value for w, value in zip(self.task.weights, found.values(), strict=True))
        if loss != loss:
            raise ArcticSegError(
                f"the loss is no number at step {self.progress.step}; lower optim.lr ({self.cfg.optim.lr}), "
                f"or set engine.precision to fp32 (now {self.cfg.engine.precision})"
            )
        return {"loss": loss} | {f"loss_{name}": value for name, value in found.items()}

    def _validate(self) -> None:
        """Score the validation samples and keep the weights that are best by each score."""
        if self.validation is None:
            return
        self.engine.eval()
        total: Any = None
        with torch.no_grad():
            for batch, n in self._on_all_ranks(iter(self.validation)):
                tally = self.task.tally(self._forward, self.assemble(batch.to(self.ranks.device)), n)  # type: ignore[arg-type]
                total = tally if total is None else total + tally
        self.engine.train()
        if total is None:
            return
        damages = [damage for found in gather(self.validation.damages) for damage in found]
        self._tell_damage("damaged validation sample, left out", sorted(damages, key=lambda damage: damage.number))
        scores = self.task.scores(sum_array(total, self.ranks.device))
        for hook in self.hooks:
            hook.on_validation(self.progress.step, scores)
        for name in self.task.best_by:
            value = scores[name]
            if value is not None and value > self.progress.best.get(name, float("-inf")):
                self.progress.best[name] = value
                save_weights(self.engine, self.out / "weights" / f"best-{name}.safetensors", self.metadata)

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
        self.progress.loader = self.loader.state_dict()
        checkpoint.save(self.engine, self.out, self.progress, self.ranks)


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
