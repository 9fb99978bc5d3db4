"""Batches for one rank, in the order that `order` gives, from any position on.

The main process decides which sample stands at which place; the ring reads, verifies and decodes. A damaged sample is
replaced only when all ranks know of it, so that every rank's batches are a function of the order and of one quarantine.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from arcticseg.data.augment import Augment
from arcticseg.data.batch import Batch
from arcticseg.data.cache import Prefetch
from arcticseg.data.decode import Layout
from arcticseg.data.manifest import ShardEntry
from arcticseg.data.order import AT_ONCE, Order, Stream, quotas, rank_places
from arcticseg.data.quarantine import Damage, Quarantine
from arcticseg.data.reader import SampleReader
from arcticseg.data.ring import Filled, Ring, Rows
from arcticseg.data.select import Selection
from arcticseg.data.source import Source
from arcticseg.errors import ArcticSegError, ConfigError, ShardError

# What every rank has to say, from every rank: `process_group.gather`.
Gather = Callable[[Any], list[Any]]


class Loader:
    """Training batches of one rank without end, a step at a time.

    A step: `step` gives its micro batches; where `trouble` is true on any rank, all ranks call `settle` until it is
    false on all; then the batches may be used; `stepped` counts the step.

    Args:
        reader: of the selected samples.
        layout: the arrays of a sample.
        order: of the samples.
        global_batch, micro_batch: samples to an optimiser step over all ranks, and to one batch here.
        workers: processes that read and decode; 0: none.
        max_damaged: damaged samples that are replaced; one more is an error.
        window: shards that are used at a time, and so how far ahead of need a cache is filled.
    """

    def __init__(
        self,
        reader: SampleReader,
        layout: Layout,
        order: Order,
        global_batch: int,
        micro_batch: int,
        rank: int = 0,
        world_size: int = 1,
        workers: int = 0,
        augment: Augment = Augment(),
        pin_memory: bool = False,
        max_damaged: int = 0,
        window: int = 1,
        patience: float = 60.0,
    ) -> None:
        self.reader, self.selection, self.order = reader, reader.selection, order
        self.global_batch, self.micro_batch = global_batch, micro_batch
        self.rank, self.world_size, self.augment, self.window = rank, world_size, augment, window
        self.consumed = 0
        self.quarantine = Quarantine(max_damaged)
        self.micro_steps = global_batch // world_size // micro_batch
        # A step's batches are in use together, while workers fill those of the next.
        slots = self.micro_steps + max(2, 2 * workers)
        self._ring = Ring(reader, layout, micro_batch, workers, slots, pin_memory, patience)
        self._filled: Iterator[Filled] | None = None
        self._prefetch: Prefetch | None = None
        self._held: list[Filled] = []
        self._error: ArcticSegError | None = None

    def step(self) -> list[Batch]:
        """The micro batches of the next optimiser step; none where reading fails, which is `trouble`."""
        if self._filled is None:
            self._filled = self._ring.fill(self._rows())
            self._prefetch = self._start_prefetch()
        for filled in self._held:
            self._ring.release(filled)
        self._held = []
        try:
            for _ in range(self.micro_steps):
                self._held.append(next(self._filled))
            self._mend()
        except ArcticSegError as error:
            self._error = error
        return self._batches()

    @property
    def trouble(self) -> bool:
        """Whether this rank has an error, or damage that the others do not know of."""
        return self._error is not None or bool(self._news())

    def settle(self, gather: Gather) -> tuple[list[Batch], list[Damage]]:
        """Share errors and damage with all ranks, which must call this together, and replace what is damaged.

        Returns:
            the step's micro batches, and the damage that is new to the run.

        Raises:
            ArcticSegError: one rank's error, the same on all; or more samples are damaged than may be.
        """
        shared = gather((self._error, self._news()))
        for error, _ in shared:
            if error is not None:
                raise error
        new = self.quarantine.add(damage for _, found in shared for damage in found)
        try:
            self._mend()
        except ArcticSegError as error:
            self._error = error
        return self._batches(), new

    @property
    def damaged(self) -> int:
        """Samples in quarantine."""
        return len(self.quarantine)

    def stepped(self) -> None:
        """Count one optimiser step."""
        self.consumed += self.global_batch
        if self._prefetch is not None:
            self._prefetch.consumed = self.consumed

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {
            "consumed": self.consumed,
            "fingerprint": self.selection.fingerprint,
            "selection": self.selection.summary,
            "quarantine": self.quarantine.state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where a checkpoint was made, on any number of ranks and with any batch size.

        Raises:
            ConfigError: the checkpoint was made with other samples.
        """
        if state["fingerprint"] != self.selection.fingerprint:
            raise ConfigError(
                f"{', '.join(source.address for source in self.selection.sources)}: the selected samples are not those "
                f"of the checkpoint: {_changes(state['selection'], self.selection.summary)}; "
                "restore data.shards, data.factors, data.scenes and data.label_fraction, or start a new run"
            )
        self.consumed = int(state["consumed"])
        self.quarantine.restore(state["quarantine"])

    def close(self) -> None:
        """End worker processes; close files and connections."""
        if self._prefetch is not None:
            self._prefetch.stop()
        self._ring.close()

    def _rows(self) -> Iterator[Rows]:
        """Rows of each micro batch of this rank, without end."""
        consumed = self.consumed
        steps = range(math.ceil(AT_ONCE / (self.micro_steps * self.micro_batch)))
        while True:
            starts = (consumed + step * self.global_batch for step in steps)
            places = [
                place for start in starts for place in rank_places(start, self.global_batch, self.rank, self.world_size)
            ]
            rows = list(zip(places, self.order.samples(places), strict=True))
            for first in range(0, len(rows), self.micro_batch):
                yield [self._sound(*row) for row in rows[first : first + self.micro_batch]]
            consumed += len(steps) * self.global_batch

    def _sound(self, place: int, number: int) -> tuple[int, int]:
        """A place and its sample, or another sample where that is in quarantine by now."""
        if number not in self.quarantine:
            return place, number
        try:
            return place, self.order.samples([place], self.quarantine)[0]
        except LookupError as error:
            raise ShardError(f"{error.args[0]}; restore the shards") from error

    def _mend(self) -> None:
        """Read substitutes into the rows whose samples are in quarantine; they were asked for before they were."""
        for filled in self._held:
            for row, (place, number) in enumerate(filled.rows):
                if number in self.quarantine:
                    self._ring.refill(filled, row, self._sound(place, number)[1])

    def _news(self) -> list[Damage]:
        found = (damage for filled in self._held for damage in filled.damages.values())
        return [damage for damage in found if damage.number not in self.quarantine]

    def _batches(self) -> list[Batch]:
        return [] if self._error is not None else [self.augment(filled.batch) for filled in self._held]

    def _start_prefetch(self) -> Prefetch | None:
        if self.reader.cache is None:
            return None
        chosen = self.selection
        ahead = max(4 * self.global_batch, len(chosen) * self.window // len(chosen.shards))

        def needed(places: range) -> Iterator[tuple[Source, ShardEntry]]:
            for number in self.order.samples(places):
                index, shard = chosen.shards[chosen.shard[number]]
                yield chosen.sources[index], shard

        return Prefetch(self.reader.cache, needed, self.consumed, ahead)


def _changes(before: dict[str, Any], now: dict[str, Any]) -> str:
    """What differs between two selections' summaries, in words."""
    old, new = (
        {name: found[name] for name in ("samples", "scenes", "shards")}
        | {f"of factor {factor}": count for factor, count in found["factors"].items()}
        for found in (before, now)
    )
    said = [f"{old.get(key, 0)} -> {new.get(key, 0)} {key}" for key in old | new if old.get(key) != new.get(key)]
    return ", ".join(said) or "as many samples of as many scenes, but others"


def make_order(
    selection: Selection,
    mix: str,
    weights: dict[int, float],
    block: int,
    seed: int,
    shuffle: str = "global",
    window: int = 1,
    set_weights: tuple[float, ...] = (),
) -> Order:
    """The training order of a selection.

    Args:
        mix: `none`, or `weights`: one stream a factor of a set.
        weights: factor -> weight; empty: equal.
        shuffle: `global`, or `blocks` of `window` shards.
        set_weights: of the sets; each factor's weight is shared out by them among the sets that have it; empty: equal.

    Raises:
        ConfigError: a weight for a factor that is not selected, or none for one that is.
    """

    def stream(samples: range | np.ndarray[Any, Any]) -> Stream:
        if shuffle == "global":
            return Stream(samples)
        starts = np.flatnonzero(np.diff(selection.shard[samples], prepend=-1))
        return Stream(samples, (*starts.tolist(), len(samples)), window)

    if mix == "none":
        return Order(selection.fingerprint, (stream(range(len(selection))),), seed)
    sets = np.array([index for index, _ in selection.shards])[selection.shard]
    pairs = sorted(set(zip(selection.factor.tolist(), sets.tolist(), strict=True)))
    present = sorted({factor for factor, _ in pairs})
    chosen = weights or dict.fromkeys(present, 1.0)
    if set(chosen) != set(present):
        raise ConfigError(f"key 'data.weights' is {chosen}; set a weight for each factor selected: {present}")
    of_set = set_weights or (1.0,) * len(selection.sources)
    whole = {factor: sum(of_set[index] for k, index in pairs if k == factor) for factor in present}
    shares = tuple(chosen[factor] * of_set[index] / whole[factor] for factor, index in pairs)
    try:
        quotas(shares, block)
    except ValueError as error:
        raise ConfigError(f"key 'data.block' is {block}; {error} (data.weights {chosen})") from error
    numbers = [
        np.flatnonzero((selection.factor == factor) & (sets == index)).astype(np.int32) for factor, index in pairs
    ]
    return Order(selection.fingerprint, tuple(map(stream, numbers)), seed, shares, block)
