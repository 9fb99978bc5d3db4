"""`data.reader: webdataset`: a stock WebDataset pipeline over the same shards, local or http(s).

Shards are drawn with replacement and streamed from end to end, so that a run can read them from a web server and every
rank always has work. Only the index-based loader gives each sample exactly once an epoch, resumes exactly, and has the
same batches on any number of ranks.
"""

from __future__ import annotations

import random
import shutil
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import xxhash

from arcticseg.data import sample
from arcticseg.data.augment import Augment
from arcticseg.data.batch import Batch, collate
from arcticseg.data.loader import Gather
from arcticseg.data.quarantine import Damage
from arcticseg.data.select import Selection
from arcticseg.data.share import Share
from arcticseg.data.source import is_remote
from arcticseg.data.tile import Tile
from arcticseg.errors import ArcticSegError, ConfigError

# Samples among which the next is drawn; a shard's own order is shuffled already when it is built.
_BUFFER = 256


class _Decode:
    """A sample as webdataset gives it -> Tile."""

    def __call__(self, item: dict[str, Any]) -> Tile:
        return sample.decode(item["__key__"], {name: data for name, data in item.items() if not name.startswith("__")})


class _IsSelected:
    """Whether a sample, as webdataset gives it, is selected."""

    def __init__(self, keys: frozenset[int]) -> None:
        self.keys = keys

    def __call__(self, item: dict[str, Any]) -> bool:
        return xxhash.xxh3_64_intdigest(item["__key__"].encode()) in self.keys


def _as_list(tiles: Sequence[Tile]) -> list[Tile]:
    return list(tiles)


def pipeline(selection: Selection, micro_batch: int, seed: int, workers: int) -> Any:
    """A webdataset pipeline that gives lists of `micro_batch` tiles without end.

    Raises:
        ConfigError: shards are on a server, and curl is not installed.
    """
    import webdataset

    shards = [selection.address(shard) for shard in range(len(selection.shards))]
    if any(map(is_remote, shards)) and shutil.which("curl") is None:
        raise ConfigError("curl is not installed, and webdataset reads http with it; install it (apt-get install curl)")
    data = (
        webdataset.WebDataset(shards, resampled=True, shardshuffle=False, seed=seed)
        .select(_IsSelected(frozenset(selection.key.tolist())))
        .shuffle(_BUFFER, initial=min(_BUFFER, len(selection)), rng=random.Random(seed))
        .map(_Decode())
        .batched(micro_batch, collation_fn=_as_list, partial=False)
    )
    return webdataset.WebLoader(data, batch_size=None, num_workers=workers)


class WebDatasetLoader:
    """`loader.Loader` for the stock reader, without its promises.

    Args:
        selection: the samples.
        share: rank, world size and batch sizes.
        workers: processes that read and decode; 0: this process does.
        augment: draws the augmentation of each sample.
    """

    # The stock reader notices no damage.
    damaged = 0

    def __init__(
        self,
        selection: Selection,
        share: Share,
        workers: int = 0,
        augment: Augment = Augment(),
    ) -> None:
        self.selection, self.share = selection, share
        self.workers, self.augment = workers, augment
        self.consumed = 0
        self._batches: Iterator[Batch] | None = None
        self._error: ArcticSegError | None = None

    def __iter__(self) -> Iterator[Batch]:
        """Micro batches; a place is (batches before) x (samples of all ranks) + this rank's own."""
        # A resumed run must not see the samples of its beginning again in the same order.
        share = self.share
        seed = hash((self.augment.seed, share.rank, self.consumed)) & 0x7FFFFFFF
        first = self.consumed + share.rank * share.micro_batch
        for tiles in pipeline(self.selection, share.micro_batch, seed, self.workers):
            yield collate(tiles, range(first, first + len(tiles)), self.augment)
            first += share.micro_batch * share.world_size

    def step(self) -> list[Batch]:
        """The micro batches of the next optimiser step; an empty list where reading fails, which is `trouble`."""
        if self._batches is None:
            self._batches = iter(self)
        try:
            return [next(self._batches) for _ in range(self.share.accumulation_steps)]
        except ArcticSegError as error:
            self._error = error
            return []

    @property
    def trouble(self) -> bool:
        """Whether reading has failed on this rank."""
        return self._error is not None

    def settle(self, gather: Gather) -> tuple[list[Batch], list[Damage]]:
        """End on all ranks with the first rank's error.

        Raises:
            ArcticSegError: always.
        """
        raise next(error for error in gather(self._error) if error is not None)

    def stepped(self) -> None:
        """Count one optimiser step."""
        self.consumed += self.share.global_batch

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps: samples consumed."""
        return {"consumed": self.consumed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with other draws; the position in a stream cannot be restored."""
        warnings.warn("data.reader webdataset cannot resume exactly: it draws other samples", stacklevel=2)
        self.consumed = int(state["consumed"])

    def close(self) -> None:
        """End worker processes, which end with the iterator."""
        self._batches = None
