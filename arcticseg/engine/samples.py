"""A fixed subset of the validation samples, for hooks that look at what a network makes of some."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from arcticseg.data.batch import Batch
from arcticseg.data.folds import counts_of
from arcticseg.data.inputs import Inputs
from arcticseg.data.select import Selection
from arcticseg.data.transforms import Assemble
from arcticseg.data.validation import ValidationLoader
from arcticseg.engine.process_group import Ranks, agree
from arcticseg.engine.stage import make_stage
from arcticseg.errors import ArcticSegError
from arcticseg.ice.passes import known_of
from arcticseg.ice.scenes.names import Facts
from arcticseg.ice.strata import Counts
from arcticseg.tasks.task import Task

Item = TypeVar("Item")


class Samples:
    """Some validation samples with labels, also where the training itself reads none.

    Nothing is read before it is asked for. Which samples these are depends on the shards, `data.factors` and the number
    asked for alone: neither on the seed nor on ranks; fewer are some of more.

    Args:
        select: gives the validation samples; those with a chart only, if asked so.
        loader: gives passes over a selection, this rank's share of each.
        assemble: makes the inputs.
        task: what it draws for samples depends on their numbers, so it is the same in each pass.
        facts: scene -> what the manifests say of it.
    """

    def __init__(
        self,
        select: Callable[[bool], Selection],
        loader: Callable[[Selection], ValidationLoader],
        assemble: Assemble,
        task: Task,
        ranks: Ranks,
        facts: Mapping[str, Mapping[str, Any]] = {},
    ) -> None:
        self._select, self._loader = select, loader
        self._assemble, self._task, self._ranks = assemble, task, ranks
        self._facts = facts
        self._chosen: dict[tuple[int, bool], Selection] = {}

    def chosen(self, count: int, labels: bool = True) -> Selection:
        """The samples that `batches` gives; `Inputs.place` are their numbers, which say the scene and factor of each.

        Args:
            count: of samples, over all ranks; all where there are fewer.
            labels: of samples with a chart only.

        Raises:
            ConfigError: there is no such sample.
            ShardError: an index cannot be read.
        """
        key = (count, labels)
        if key not in self._chosen:
            self._chosen[key] = self._select(labels).few(count)
        return self._chosen[key]

    def batches(self, count: int, labels: bool = True) -> Iterator[tuple[Inputs, int]]:
        """One pass: this rank's inputs, with their labels, and how many samples of each count.

        All ranks must go through it together, to the end; all get the same number of batches of the same size, the
        last filled up. A damaged sample has no data and masked labels. Inputs may be used until the next are asked for.

        Args:
            count: see `chosen`.
            labels: see `chosen`.

        Raises:
            ArcticSegError: the samples cannot be read, on any rank; the same error on all.
        """
        loader: ValidationLoader | None = None
        error: ArcticSegError | None = None
        try:
            loader = self._loader(self.chosen(count, labels))
        except ArcticSegError as caught:
            error = caught
        agree(error)
        assert loader is not None
        stage = make_stage(self._assemble, self._ranks.device)
        loader.stream = stage.stream
        yield from stage.passing((self._drawn(batch), number) for batch, number in on_all_ranks(loader))

    def known(self, names: Sequence[str]) -> tuple[dict[str, Counts], dict[str, Facts]]:
        """Class counts of scenes, and what is known of their passes; what `ice.strata.parts` takes."""
        scenes = {name: self._facts[name] for name in names if name in self._facts}
        return counts_of(scenes), known_of(scenes)

    def _drawn(self, batch: Batch) -> Batch:
        return replace(batch, drawn=self._task.draw(batch.place.tolist(), batch.size))


def on_all_ranks(items: Iterable[Item]) -> Iterator[Item]:
    """The items of an iterable that is as long on all ranks.

    Raises:
        ArcticSegError: that of one rank's iterable, the same on all ranks.
    """
    iterator = iter(items)
    while True:
        item: Item | None = None
        error: ArcticSegError | None = None
        try:
            item = next(iterator, None)
        except ArcticSegError as caught:
            error = caught
        agree(error)
        if item is None:
            return
        yield item
