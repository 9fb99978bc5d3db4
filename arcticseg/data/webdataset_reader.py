"""`data.reader: webdataset`: a stock WebDataset pipeline over the same shards, local or http(s).

Shards are drawn with replacement and streamed from end to end, so that a run can read them from a web server and every
rank always has work. What it does not do, the index-based loader does: each sample exactly once an epoch, exact
resumption, the same batches on any number of ranks.
"""

from __future__ import annotations

import random
import shutil
import urllib.error
import urllib.request
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from arcticseg.data import manifest as manifests
from arcticseg.data import sample
from arcticseg.data.batch import Augment, Batch, collate
from arcticseg.data.stream import Selection
from arcticseg.errors import ConfigError, ShardError

# Samples held to shuffle among; a shard's own order is shuffled already when it is built.
_BUFFER = 256


def is_url(place: str) -> bool:
    """Whether shards are on a web server."""
    return place.startswith(("http://", "https://"))


def fetch_index(url: str, folder: Path) -> Path:
    """Copy the manifest and the indices, but no shard, of a folder on a web server to a local folder.

    Raises:
        ShardError: they cannot be had.
    """
    if shutil.which("curl") is None:
        raise ConfigError("curl is not found; webdataset reads http with it; install curl (apt-get install curl)")

    def fetch(name: str) -> None:
        try:
            with urllib.request.urlopen(f"{url.rstrip('/')}/{name}", timeout=60) as answer:
                (folder / name).write_bytes(answer.read())
        except (urllib.error.URLError, TimeoutError) as error:
            raise ShardError(f"{url}: {name} cannot be read ({error}); check the address in data.shards") from error

    fetch(manifests.MANIFEST)
    for shards in manifests.read_manifest(folder).splits.values():
        for shard in shards:
            fetch(manifests.index_path(Path(shard.name)).name)
    return folder


class _Decode:
    """A sample as webdataset gives it -> Tile."""

    def __call__(self, found: dict[str, Any]) -> sample.Tile:
        key = found["__key__"]
        return sample.decode(key, {name: data for name, data in found.items() if not name.startswith("__")})


class _Chosen:
    """Whether a sample is selected."""

    def __init__(self, keys: frozenset[str]) -> None:
        self.keys = keys

    def __call__(self, found: dict[str, Any]) -> bool:
        return found["__key__"] in self.keys


def _as_list(tiles: Sequence[sample.Tile]) -> list[sample.Tile]:
    return list(tiles)


def pipeline(place: str, selection: Selection, micro_batch: int, seed: int, workers: int) -> Any:
    """A webdataset pipeline that gives lists of `micro_batch` tiles without end."""
    import webdataset

    shards = sorted({shard for shard, _ in selection.samples})
    keys = frozenset(entry.key for _, entry in selection.samples)
    data = (
        webdataset.WebDataset(
            [f"{place.rstrip('/')}/{shard}" for shard in shards], resampled=True, shardshuffle=False, seed=seed
        )
        .select(_Chosen(keys))
        .shuffle(_BUFFER, initial=min(_BUFFER, len(selection)), rng=random.Random(seed))
        .map(_Decode())
        .batched(micro_batch, collation_fn=_as_list, partial=False)
    )
    return webdataset.WebLoader(data, batch_size=None, num_workers=workers)


class WebDatasetLoader:
    """What `loader.Loader` is to the index-based reader, without its promises."""

    def __init__(
        self,
        place: str,
        selection: Selection,
        global_batch: int,
        micro_batch: int,
        rank: int = 0,
        world_size: int = 1,
        workers: int = 0,
        augment: Augment = Augment(),
    ) -> None:
        self.place, self.selection = place, selection
        self.global_batch, self.micro_batch = global_batch, micro_batch
        self.rank, self.world_size, self.workers, self.augment = rank, world_size, workers, augment
        self.consumed = 0

    def __iter__(self) -> Iterator[Batch]:
        """Micro batches; a place is (batches before) x (samples of all ranks) + this rank's own."""
        # A resumed run must not see the samples of its beginning again in the same order.
        seed = hash((self.augment.seed, self.rank, self.consumed)) & 0x7FFFFFFF
        first = self.consumed + self.rank * self.micro_batch
        for tiles in pipeline(self.place, self.selection, self.micro_batch, seed, self.workers):
            yield collate(tiles, range(first, first + len(tiles)), self.augment)
            first += self.micro_batch * self.world_size

    def stepped(self) -> None:
        """Count one optimiser step."""
        self.consumed += self.global_batch

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"consumed": self.consumed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with samples drawn anew; the position in a stream cannot be restored."""
        warnings.warn("data.reader webdataset cannot resume exactly: samples are drawn anew", stacklevel=2)
        self.consumed = int(state["consumed"])
