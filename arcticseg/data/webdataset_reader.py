"""`data.reader: webdataset`: a stock WebDataset pipeline over the same shards, local or http(s).

Shards are drawn with replacement and streamed from end to end, so that a run can read them from a web server and every
rank always has work. Only the index-based loader gives each sample exactly once an epoch, resumes exactly, and has the
same batches on any number of ranks.
"""

from __future__ import annotations

import os
import random
import shutil
import tarfile
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
from arcticseg.errors import ArcticSegError, ConfigError, ShardError

# Samples among which the next is drawn; a shard's own order is shuffled already when it is built.
_BUFFER = 256
# A member that no batch holds.
_UNUSED = "aux_poly.zst"


class _Decode:
    """A sample as webdataset gives it -> Tile."""

    def __call__(self, item: dict[str, Any]) -> Tile:
        members = {name: data for name, data in item.items() if not name.startswith("__") and name != _UNUSED}
        return sample.decode(item["__key__"], members)


class _IsSelected:
    """Whether a sample, as webdataset gives it, is selected."""

    def __init__(self, keys: frozenset[int]) -> None:
        self.keys = keys

    def __call__(self, item: dict[str, Any]) -> bool:
        return xxhash.xxh3_64_intdigest(item["__key__"].encode()) in self.keys


class _Damaged:
    """webdataset's handler of errors: those of a shard, which it names behind what they say, become ours.

    Raises:
        ShardError: always.
    """

    def __init__(self, shards: Iterable[str]) -> None:
        self.shards = frozenset(shards)

    def __call__(self, error: Exception) -> bool:
        if isinstance(error, ArcticSegError):
            # On its way webdataset adds arguments, which would show.
            error.args = error.args[:1]
            raise error
        named = [part for part in error.args if isinstance(part, str) and part in self.shards]
        if not named:
            # It comes again, with the shard's name.
            raise error
        raise _damaged(named[-1], error) from None


class _Counted:
    """A stage that lets samples pass, and sees that shards have as many as their manifest says.

    tarfile takes a damaged header in the middle of a file for its end.

    Raises:
        ShardError: a shard has fewer.
    """

    def __init__(self, samples: Mapping[str, int]) -> None:
        self.samples = samples

    def __call__(self, items: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        shard, first, count = "", "", 0
        for item in items:
            if item["__url__"] != shard or item["__key__"] == first:
                self._check(shard, count)
                shard, first, count = item["__url__"], item["__key__"], 0
            count += 1
            yield item

    def _check(self, shard: str, count: int) -> None:
        if shard and count < self.samples[shard]:
            raise _damaged(shard, f"{count} of {self.samples[shard]} samples")


def _damaged(shard: str, why: object) -> ShardError:
    said = why.args[0] if isinstance(why, Exception) and why.args else why
    reason = " ".join(str(said).split(" @ ")[0].split()) or type(why).__name__
    return ShardError(
        f"{shard}: cannot be read to its end ({reason}); copy or build it again, or set data.reader to index"
    )


def _errors_as_items(items: Iterable[Any]) -> Iterator[Any]:
    """Items, and at last the error that ended them: a worker's exception would come with its whole traceback."""
    try:
        yield from items
    except ArcticSegError as error:
        yield error
    except (tarfile.TarError, OSError, ValueError) as error:
        yield _damaged("a shard", error)


def _check_sizes(selection: Selection, shards: Sequence[str]) -> None:
    """Raise ShardError where a local shard is shorter or longer than its manifest says."""
    for shard, (_, entry) in zip(shards, selection.shards, strict=True):
        if is_remote(shard):
            continue
        try:
            size = os.path.getsize(shard)
        except OSError as error:
            raise ShardError(f"{shard}: {error.strerror}; copy or build it again") from error
        if size != entry.bytes:
            raise ShardError(f"{shard}: {size} bytes, where the manifest says {entry.bytes}; copy or build it again")


def _as_list(tiles: Sequence[Tile]) -> list[Tile]:
    return list(tiles)


def pipeline(selection: Selection, micro_batch: int, seed: int, workers: int) -> Any:
    """A webdataset pipeline that gives lists of `micro_batch` tiles without end, or at last an ArcticSegError.

    Raises:
        ConfigError: shards are on a server, and curl is not installed.
        ShardError: a shard is shorter or longer than its manifest says.
    """
    import webdataset

    shards = [selection.address(shard) for shard in range(len(selection.shards))]
    if any(map(is_remote, shards)) and shutil.which("curl") is None:
        raise ConfigError("curl is not installed, and webdataset reads http with it; install it (apt-get install curl)")
    _check_sizes(selection, shards)
    damaged = _Damaged(shards)
    data = (
        webdataset.WebDataset(shards, resampled=True, shardshuffle=False, seed=seed, handler=damaged)
        .compose(_Counted({name: entry.samples for name, (_, entry) in zip(shards, selection.shards, strict=True)}))
        .select(_IsSelected(frozenset(selection.key.tolist())))
        .shuffle(_BUFFER, initial=min(_BUFFER, len(selection)), rng=random.Random(seed))
        .map(_Decode(), handler=damaged)
        .batched(micro_batch, collation_fn=_as_list, partial=False)
        .compose(_errors_as_items)
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
        # Seconds in which a step was held up by reading and decoding.
        self.waited = 0.0
        self._batches: Iterator[Batch] | None = None
        self._error: ArcticSegError | None = None

    def __iter__(self) -> Iterator[Batch]:
        """Micro batches; a place is (batches before) x (samples of all ranks) + this rank's own."""
        # A resumed run must not see the samples of its beginning again in the same order.
        share = self.share
        seed = hash((self.augment.seed, share.rank, self.consumed)) & 0x7FFFFFFF
        first = self.consumed + share.rank * share.micro_batch
        for tiles in pipeline(self.selection, share.micro_batch, seed, self.workers):
            if isinstance(tiles, ArcticSegError):
                raise tiles
            yield collate(tiles, range(first, first + len(tiles)), self.augment)
            first += share.micro_batch * share.world_size

    def copies_on(self, stream: Any) -> None:
        """Nothing is used again, so nobody need know."""

    def release(self) -> None:
        """Batches are not used again."""

    def names(self, consumed: int) -> list[str]:
        """The stream does not tell where a sample is."""
        return [f"{self.selection.sources[0].address}: some sample of the stream"]

    def step(self, in_use: int = 0) -> list[Batch]:
        """The micro batches of the next optimiser step; an empty list where reading fails, which is `trouble`."""
        if self._batches is None:
            self._batches = iter(self)
        began = time.monotonic()
        try:
            return [next(self._batches) for _ in range(self.share.accumulation_steps)]
        except ArcticSegError as error:
            self._error = error
            return []
        finally:
            self.waited += time.monotonic() - began

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
