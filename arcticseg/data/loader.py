"""Batches for one rank, in the order that `order` gives, from any position on."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from arcticseg.data.batch import Augment, Batch, collate
from arcticseg.data.order import Order, quotas, rank_places
from arcticseg.data.sample import Tile
from arcticseg.data.stream import Selection, ShardReader
from arcticseg.errors import ConfigError


class _Tiles(Dataset[tuple[int, Tile]]):
    """Place -> (place, tile); runs in the loader's worker processes."""

    def __init__(self, reader: ShardReader, order: Order) -> None:
        self.reader, self.order = reader, order

    def __getitem__(self, place: int) -> tuple[int, Tile]:
        return place, self.reader.read(self.order.sample(place))


class _Collate:
    """Samples -> Batch; a class, so that it travels to worker processes."""

    def __init__(self, augment: Augment) -> None:
        self.augment = augment

    def __call__(self, samples: Sequence[tuple[int, Tile]]) -> Batch:
        places, tiles = zip(*samples, strict=True)
        return collate(tiles, places, self.augment)


def _micro_batches(
    consumed: int, global_batch: int, micro_batch: int, rank: int, world_size: int
) -> Iterator[list[int]]:
    """Places of each micro batch of a rank, without end."""
    while True:
        places = rank_places(consumed, global_batch, rank, world_size)
        for first in range(0, len(places), micro_batch):
            yield list(places[first : first + micro_batch])
        consumed += global_batch


class Loader:
    """Training batches of one rank without end; `consumed` is the whole state.

    Args:
        selection: the samples.
        order: their order.
        global_batch, micro_batch: samples to an optimiser step over all ranks, and to one batch here.
        workers: processes that read and decode; 0: none.
    """

    def __init__(
        self,
        selection: Selection,
        order: Order,
        global_batch: int,
        micro_batch: int,
        rank: int = 0,
        world_size: int = 1,
        workers: int = 0,
        augment: Augment = Augment(),
        pin_memory: bool = False,
    ) -> None:
        self.selection, self.order = selection, order
        self.global_batch, self.micro_batch = global_batch, micro_batch
        self.rank, self.world_size, self.workers = rank, world_size, workers
        self.augment, self.pin_memory = augment, pin_memory
        self.consumed = 0

    def __iter__(self) -> Iterator[Batch]:
        """Micro batches from `consumed` on."""
        places = _micro_batches(self.consumed, self.global_batch, self.micro_batch, self.rank, self.world_size)
        return iter(_data_loader(self.selection, self.order, places, self.augment, self.workers, self.pin_memory))

    def stepped(self) -> None:
        """Count one optimiser step."""
        self.consumed += self.global_batch

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"consumed": self.consumed, "fingerprint": self.selection.fingerprint}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where a checkpoint was made.

        Raises:
            ConfigError: the checkpoint was made with other samples.
        """
        if state["fingerprint"] != self.selection.fingerprint:
            raise ConfigError(
                f"{self.selection.folder}: the selected samples ({len(self.selection)}, fingerprint "
                f"{self.selection.fingerprint[:12]}) are not those of the checkpoint ({state['fingerprint'][:12]}); "
                "restore shards, data.factors, data.scenes and data.label_fraction, or start a new run"
            )
        self.consumed = int(state["consumed"])


def _data_loader(
    selection: Selection, order: Order, places: Any, augment: Augment, workers: int, pin_memory: bool
) -> DataLoader[Any]:
    return DataLoader(
        _Tiles(ShardReader(selection), order),
        batch_sampler=places,
        collate_fn=_Collate(augment),
        num_workers=workers,
        pin_memory=pin_memory,
        # The generator only seeds the workers; without one it would draw from torch's global state.
        generator=torch.Generator().manual_seed(0),
    )


def evaluation_batches(
    selection: Selection, micro_batch: int, rank: int = 0, world_size: int = 1, workers: int = 0
) -> Iterator[tuple[Batch, int]]:
    """Every sample once over all ranks: (batch, how many of its samples count).

    All ranks get the same number of batches (ZeRO-3 needs that); the last are filled up with samples that do not count.
    """
    order = Order(selection.fingerprint, (np.arange(len(selection), dtype=np.int64),), shuffle=False)
    total = math.ceil(len(selection) / (micro_batch * world_size))
    firsts = [(i * world_size + rank) * micro_batch for i in range(total)]
    places = [[min(first + j, len(selection) - 1) for j in range(micro_batch)] for first in firsts]
    counts = [min(max(len(selection) - first, 0), micro_batch) for first in firsts]
    batches = _data_loader(selection, order, places, Augment(), workers, False)
    return zip(batches, counts, strict=True)


def make_order(
    selection: Selection, mix: str, weights: dict[int, float], block: int, seed: int, shuffle: bool = True
) -> Order:
    """The training order of a selection.

    Args:
        mix: `none`, or `weights`: one stream a factor.
        weights: factor -> weight; empty: equal.

    Raises:
        ConfigError: a weight for a factor that is not selected, or none for one that is.
    """
    factors = np.array([entry.factor for _, entry in selection.samples])
    if mix == "none":
        return Order(selection.fingerprint, (np.arange(len(factors), dtype=np.int64),), seed, shuffle)
    present = sorted(set(factors.tolist()))
    chosen = weights or dict.fromkeys(present, 1.0)
    if set(chosen) != set(present):
        raise ConfigError(f"key 'data.weights' is {chosen}; set a weight for each factor selected: {present}")
    shares = tuple(chosen[factor] for factor in present)
    try:
        quotas(shares, block)
    except ValueError as error:
        raise ConfigError(f"key 'data.block' is {block}; {error} (data.weights {chosen})") from error
    streams = tuple(np.flatnonzero(factors == factor) for factor in present)
    return Order(selection.fingerprint, streams, seed, shuffle, shares, block)
