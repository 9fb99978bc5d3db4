"""What gives a training the micro batches of each optimiser step.

    for turn in feed.turns(first, last):        # a turn is a step
        sums = step(turn, turn.counted, rate)   # goes through the turn once: inputs of one micro batch after another
        feed.loader.stepped()

Two things make that fast. *Flags on the host, counts on the device*: whether a rank has trouble with its data or wishes
to stop is known on the host, so ranks tell each other by a gloo group: of trouble a step ahead, of a wish in the step
after which it is granted. What losses are divided by is summed over ranks on the device and never comes to the host.
*Counts before floats*: a step's batches are counted as codes, and each is assembled when its turn comes (see `stage`).

So the next step's batches are read once all work of this one has been started. They are the batches that would have
come later: the state of the loader changes in `Loader.settle` and `stepped` only, when a step's turn comes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from arcticseg.data.batch import Batch
from arcticseg.data.inputs import Inputs
from arcticseg.data.loader import Loader
from arcticseg.data.quarantine import Damage
from arcticseg.data.transforms import Assemble, Codes
from arcticseg.data.webdataset_reader import WebDatasetLoader
from arcticseg.engine.process_group import Later, Ranks, any_later, gather, sum_later
from arcticseg.engine.stage import Started, make_stage
from arcticseg.tasks.task import Task

# (step, places) -> seeds of what the network draws for the samples, int64 [B] on the CPU.
Seeds = Callable[[int, Tensor], Tensor]


@dataclass
class _Ahead:
    """A step whose batches have been read.

    Attributes:
        batches: on the device, or on their way there.
        counted: gives what counts in the global batch.
        first: the first batch, which is being assembled; None: there is none, since reading failed.
        trouble: gives whether any rank has trouble.
    """

    batches: list[Batch]
    counted: Later
    first: Started | None
    trouble: Callable[[], list[bool]]


class Turn:
    """The micro batches of a step, to be gone through once; inputs may be used until the next are asked for.

    Attributes:
        step: number of the steps before it.
        counted: float64 [terms], what counts in the global batch, on the device.
        keys: gives names of the samples of the global batch.
    """

    def __init__(self, feed: Feed, step: int, ahead: _Ahead, more: bool) -> None:
        self.step, self.counted = step, ahead.counted()
        self._wishes: Callable[[], list[bool]] | None = feed.wishes()
        self._stop = False
        self._feed, self._batches, self._started, self._more = feed, ahead.batches, ahead.first, more
        # Where the samples of the global batch are, for people; the same on all ranks. Holds no batch.
        self.keys: Callable[[], list[str]] = partial(feed.loader.names, feed.loader.consumed)

    @property
    def stop(self) -> bool:
        """Whether any rank wishes to stop after this step; it need not wait once the step's work has been started."""
        if self._wishes is not None:
            (self._stop,), self._wishes = self._wishes(), None
        return self._stop

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Inputs]:
        stage, started = self._feed.stage, self._started
        assert started is not None
        for after in range(1, len(self) + 1):
            inputs = started()
            if after < len(self):
                started = stage.start(self._batches[after])
            yield inputs
            stage.used()
        # All work of this step has been started, so a device is busy while the host looks after the next.
        if self._more and not self.stop:
            self._feed.read_ahead(self.step + 1)


class Feed:
    """Gives the turns of a training.

    Args:
        stops: whether this rank wishes to stop.
        tell: is told of damage that is new to the run.
        seeds: of what the network draws; None: it draws nothing.

    Attributes:
        stage: where batches become inputs.
    """

    def __init__(
        self,
        loader: Loader | WebDatasetLoader,
        assemble: Assemble,
        task: Task,
        ranks: Ranks,
        stops: Callable[[], bool],
        tell: Callable[[Sequence[Damage]], None],
        seeds: Seeds | None = None,
    ) -> None:
        self.loader = loader
        self.stage = make_stage(assemble, ranks.device)
        loader.copies_on(self.stage.stream)
        self._assemble, self._task, self._ranks = assemble, task, ranks
        self._stops, self._tell, self._seeds = stops, tell, seeds
        self._ahead: _Ahead | None = None

    def turns(self, first: int, last: int) -> Iterator[Turn]:
        """The turns of steps first .. last - 1, or as far as that of which a rank wishes that it be the last.

        Raises:
            ArcticSegError: a rank's error, the same on all ranks.
        """
        for step in range(first, last):
            if self._ahead is None:
                self.read_ahead(step)
            turn = Turn(self, step, self._settled(step), more=step + 1 < last)
            yield turn
            if turn.stop:
                return

    def wishes(self) -> Callable[[], list[bool]]:
        """Begin to tell all ranks whether this one wishes to stop."""
        return any_later([self._stops])

    def read_ahead(self, step: int) -> None:
        """Read the batches of a step, tell the other ranks how that went, and start to copy, count and assemble."""
        batches = self.loader.step(in_use=1 if self.stage.keeps else 0)
        self._ahead = self._begin(batches, step)

    def _begin(self, batches: Sequence[Batch], step: int) -> _Ahead:
        trouble = any_later([lambda: self.loader.trouble])
        copied = self.stage.copied([self._drawn(batch, step) for batch in batches])
        counts = self.stage.counted(lambda: sum_later(self._counts(copied)))
        return _Ahead(copied, counts, self.stage.start(copied[0]) if copied else None, trouble)

    def passing(self, batches: Iterable[tuple[Batch, int]]) -> Iterator[tuple[Inputs, int]]:
        """Inputs of batches beside training, each with the number that comes with it; the network draws nothing."""
        return self.stage.passing((self._drawn(batch, None), number) for batch, number in batches)

    def _drawn(self, batch: Batch, step: int | None) -> Batch:
        """A batch with all that is drawn for it on the host."""
        drawn = self._task.draw(batch.place.tolist(), batch.size)
        seeds = None if self._seeds is None or step is None else self._seeds(step, batch.place)
        return replace(batch, drawn=drawn, seeds=seeds)

    def _counts(self, batches: Sequence[Batch]) -> Tensor:
        """What counts in this rank's batches, float64 [terms], on the device."""
        zero = torch.zeros(len(self._task.terms), dtype=torch.float64, device=self._ranks.device)
        return sum((self._task.counts(Codes(self._assemble, batch)) for batch in batches), zero)

    def _settled(self, step: int) -> _Ahead:
        """The step that was read ahead, once no rank has trouble with it."""
        ahead = self._ahead
        assert ahead is not None
        self._ahead = None
        while any(ahead.trouble()):
            batches, damages = self.loader.settle(gather)
            self._tell(damages)
            ahead = self._begin(batches, step)
        if not self.stage.keeps:
            self.loader.release()
        return ahead
