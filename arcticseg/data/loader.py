"""Batches for one rank, in the order that `order` gives, from any position on.

The main process decides which sample stands at which place; the ring reads, verifies and decodes. A damaged sample is
replaced only when all ranks know of it, so the batches of all ranks are a function of the order and of the quarantine
that they share.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from arcticseg.data.augment import Augment
from arcticseg.data.batch import Batch
from arcticseg.data.cache import Prefetch
from arcticseg.data.config import DataConfig
from arcticseg.data.decode import Layout
from arcticseg.data.manifest import ShardEntry
from arcticseg.data.order import AT_ONCE, Order, Stream, quotas
from arcticseg.data.quarantine import Damage, Quarantine
from arcticseg.data.reader import SampleReader
from arcticseg.data.ring import Filled, PlacedSamples, Ring
from arcticseg.data.select import Selection
from arcticseg.data.share import Share
from arcticseg.data.source import Source
from arcticseg.errors import ArcticSegError, ConfigError, ShardError

# A value of this rank -> the values of all ranks: `process_group.gather`.
Gather = Callable[[Any], list[Any]]


class Loader:
    """Training batches of one rank without end, a step at a time.

    A step: `step` gives its micro batches; where `trouble` is true on any rank, all ranks call `settle` until it is
    false on all; then the batches may be used, until `release` or the next `step`; `stepped` counts the step. The next
    step may be asked for while the last batches of this one are in use.

    Args:
        reader: of the selected samples.
        layout: the arrays of a sample.
        order: of the samples.
        share: the samples of each step that are this rank's, and its micro batches.
        workers: processes that read and decode; 0: threads of this process do.
        augment: draws the augmentation of each sample.
        pin_memory: page-lock the buffers, so that copies to a GPU overlap with work.
        max_damaged: damaged samples that are replaced; more are an error.
        window: shards that are used at a time, and so how far ahead a cache is filled.
        patience: seconds after which a read is named in a warning.

    Attributes:
        selection: the samples.
        consumed: samples used, over all ranks; with the quarantine, the loader's whole state.
        quarantine: damaged samples that all ranks know of.
    """

    def __init__(
        self,
        reader: SampleReader,
        layout: Layout,
        order: Order,
        share: Share,
        workers: int = 0,
        augment: Augment = Augment(),
        pin_memory: bool = False,
        max_damaged: int = 0,
        window: int = 1,
        patience: float = 60.0,
    ) -> None:
        self.reader, self.selection, self.order = reader, reader.selection, order
        self.share, self.augment, self.window = share, augment, window
        self.consumed = 0
        self.quarantine = Quarantine(max_damaged)
        # A step's batches are there together, beside the last one of the step before, while workers fill others.
        slots = share.accumulation_steps + 1 + max(2, 2 * workers)
        self._ring = Ring(reader, layout, share.micro_batch, workers, slots, pin_memory, patience)
        self._filled: Iterator[Filled] | None = None
        self._prefetch: Prefetch | None = None
        # Of this step, and of the one before.
        self._held: list[Filled] = []
        self._in_use: list[Filled] = []
        self._error: ArcticSegError | None = None

    def copies_on(self, stream: Any) -> None:
        """Tell on which CUDA stream batches are copied, where it is not the current one."""
        self._ring.stream = stream

    def release(self) -> None:
        """Give this step's batches back: nothing uses them any more but copies to the device that have been started."""
        for filled in self._held:
            self._ring.release(filled)
        self._held = []

    def step(self, in_use: int = 0) -> list[Batch]:
        """The micro batches of the next optimiser step; an empty list where reading fails, which is `trouble`.

        Args:
            in_use: how many batches of this step, the last ones, are in use until the step after the next is asked for.
        """
        if self._filled is None:
            self._filled = self._ring.fill(self._micro_batches())
            self._prefetch = self._start_prefetch()
        for filled in self._in_use:
            self._ring.release(filled)
        self._in_use = [self._held.pop() for _ in range(min(in_use, len(self._held)))]
        self.release()
        try:
            for _ in range(self.share.accumulation_steps):
                self._held.append(next(self._filled))
            self._replace_damaged()
        except ArcticSegError as error:
            self._error = error
        return self._batches()

    @property
    def waited(self) -> float:
        """Seconds in which a step was held up by reading and decoding."""
        return self._ring.waited

    @property
    def trouble(self) -> bool:
        """Whether this rank has an error, or damage that the others do not know of."""
        return self._error is not None or bool(self._new_damages())

    def settle(self, gather: Gather) -> tuple[list[Batch], list[Damage]]:
        """Share errors and damage with all ranks, which must call this together, and replace what is damaged.

        Returns:
            The step's micro batches, and the damage that is new to the run.

        Raises:
            ArcticSegError: the first rank's error, the same on all; or more samples are damaged than may be.
        """
        shared = gather((self._error, self._new_damages()))
        for error, _ in shared:
            if error is not None:
                raise error
        new = self.quarantine.add(damage for _, damages in shared for damage in damages)
        try:
            self._replace_damaged()
        except ArcticSegError as error:
            self._error = error
        return self._batches(), new

    def names(self, consumed: int) -> list[str]:
        """Where the samples of a step of all ranks are, for people; `consumed` samples were used before it.

        Those that are damaged are replaced as far as is known now.
        """
        numbers = self.order.samples(range(consumed, consumed + self.share.global_batch), self.quarantine)
        scenes, scene = self.selection.scenes, self.selection.scene
        return [f"{scenes[scene[number]]}: {self.reader.where(number)}" for number in numbers]

    @property
    def damaged(self) -> int:
        """Samples in quarantine."""
        return len(self.quarantine)

    def stepped(self) -> None:
        """Count one optimiser step."""
        self.consumed += self.share.global_batch
        if self._prefetch is not None:
            self._prefetch.consumed = self.consumed

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps: samples consumed, what was selected, and the quarantine."""
        return {
            "consumed": self.consumed,
            "fingerprint": self.selection.fingerprint,
            "selection": self.selection.summary,
            "quarantine": self.quarantine.state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint's state, on any number of ranks and with any batch size.

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
        """End workers; close files and connections."""
        if self._prefetch is not None:
            self._prefetch.stop()
        self._ring.close()

    def _micro_batches(self) -> Iterator[PlacedSamples]:
        """The samples of each micro batch of this rank, without end."""
        share, consumed = self.share, self.consumed
        # Whole steps, of `AT_ONCE` places or a few more.
        steps = math.ceil(AT_ONCE / (share.accumulation_steps * share.micro_batch))
        while True:
            places: list[int] = []
            for _ in range(steps):
                places += share.places(consumed)
                consumed += share.global_batch
            samples = list(zip(places, self.order.samples(places), strict=True))
            for first in range(0, len(samples), share.micro_batch):
                yield [self._sound(*sample) for sample in samples[first : first + share.micro_batch]]

    def _sound(self, place: int, number: int) -> tuple[int, int]:
        """A place and its sample, or a substitute where the sample is in quarantine by now."""
        if number not in self.quarantine:
            return place, number
        try:
            return place, self.order.samples([place], self.quarantine)[0]
        except LookupError as error:
            raise ShardError(f"{error.args[0]}; restore the shards") from error

    def _replace_damaged(self) -> None:
        """Read substitutes for samples that have come into quarantine since they were requested."""
        for filled in self._held:
            for row, (place, number) in enumerate(filled.samples):
                if number in self.quarantine:
                    self._ring.refill(filled, row, self._sound(place, number)[1])

    def _new_damages(self) -> list[Damage]:
        """Damage in this step's batches that is not in quarantine."""
        damages = (damage for filled in self._held for damage in filled.damages.values())
        return [damage for damage in damages if damage.number not in self.quarantine]

    def _batches(self) -> list[Batch]:
        return [] if self._error is not None else [self.augment(filled.batch) for filled in self._held]

    def _start_prefetch(self) -> Prefetch | None:
        if self.reader.cache is None:
            return None
        selection = self.selection
        ahead = max(4 * self.share.global_batch, len(selection) * self.window // len(selection.shards))

        def needed(places: range) -> Iterator[tuple[Source, ShardEntry]]:
            for number in self.order.samples(places):
                index, shard = selection.shards[selection.shard[number]]
                yield selection.sources[index], shard

        return Prefetch(self.reader.cache, needed, self.consumed, ahead)


def _changes(before: dict[str, Any], now: dict[str, Any]) -> str:
    """What differs between two selections' summaries, in words."""
    old, new = (
        {name: summary[name] for name in ("samples", "scenes", "shards")}
        | {f"of factor {factor}": count for factor, count in summary["factors"].items()}
        for summary in (before, now)
    )
    changes = [f"{old.get(key, 0)} -> {new.get(key, 0)} {key}" for key in old | new if old.get(key) != new.get(key)]
    return ", ".join(changes) or "as many samples of as many scenes, but other samples"


def make_order(selection: Selection, config: DataConfig, mix: str, seed: int) -> Order:
    """The training order of a selection.

    Args:
        config: `shuffle` and `window`; under `mix: weights` also `weights`, `set_weights` (each factor's weight is
            divided by them among the sets that have samples of it) and `block`.
        mix: `none`, or `weights`: a stream for each factor of each set.
        seed: of the shuffle.

    Raises:
        ConfigError: `data.weights` are not those of the selected factors, or `data.block` has no place for a stream.
    """

    def stream(samples: range | np.ndarray[Any, Any]) -> Stream:
        if config.shuffle == "global":
            return Stream(samples)
        starts = np.flatnonzero(np.diff(selection.shard[samples], prepend=-1))
        return Stream(samples, (*starts.tolist(), len(samples)), config.window)

    if mix == "none":
        return Order(selection.fingerprint, (stream(range(len(selection))),), seed)
    sets = np.array([index for index, _ in selection.shards])[selection.shard]
    pairs = sorted(set(zip(selection.factor.tolist(), sets.tolist(), strict=True)))
    factors = sorted({factor for factor, _ in pairs})
    of_factor = config.weights or dict.fromkeys(factors, 1.0)
    if set(of_factor) != set(factors):
        raise ConfigError(f"key 'data.weights' is {of_factor}; set a weight for each selected factor: {factors}")
    of_set = config.set_weights or (1.0,) * len(selection.sources)
    totals = {factor: sum(of_set[index] for k, index in pairs if k == factor) for factor in factors}
    weights = tuple(of_factor[factor] * of_set[index] / totals[factor] for factor, index in pairs)
    try:
        quotas(weights, config.block)
    except ValueError as error:
        raise ConfigError(f"key 'data.block' is {config.block}; {error} (data.weights {of_factor})") from error
    streams = [
        stream(np.flatnonzero((selection.factor == factor) & (sets == index)).astype(np.int32))
        for factor, index in pairs
    ]
    return Order(selection.fingerprint, tuple(streams), seed, weights, config.block)
