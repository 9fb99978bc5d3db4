"""The loaders that `loader.py` compares, each in a process of its own that measures one round when it is told to.

    python benchmarks/contestants.py NAME FOLDER [--prepare]

reads rounds as JSON lines, {"table": "codes" or "floats", "workers": 0, "seconds": 2}, and answers with samples and
seconds. All give batches of 16 of the same samples in a shuffled order without end. The peers are in `peers.py`.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from peers import BATCH, ENDLESS, NAMES, Batches, Grain, LitData, Mosaic, Pickles, Spdl, WebDataset

from arcticseg.data.manifest import read_manifest
from arcticseg.data.reader import SampleReader
from arcticseg.data.select import Selection, select
from arcticseg.data.tile import Tile

# Batches that are not timed: starts of workers, first looks at files.
_WARM_UP = 4
_LEAST = 8


def selection_of(folder: Path) -> Selection:
    """All samples of the shards."""
    shards = folder / "shards"
    return select(shards, read_manifest(shards), "train")


def tiles_of(folder: Path) -> Iterator[Tile]:
    """All samples, decoded, in the order of the shards."""
    reader = SampleReader(selection_of(folder))
    yield from map(reader.read, range(len(reader.selection)))


class Ours:
    """ArcticSeg: the loader of `arcticseg train`, and for floats the transforms that follow it."""

    def __init__(self, folder: Path) -> None:
        self.selection, self.tile = selection_of(folder), read_manifest(folder / "shards").tile

    def batches(self, table: str, workers: int) -> Batches:
        from arcticseg.data.config import DataConfig
        from arcticseg.data.decode import Layout
        from arcticseg.data.loader import Loader, make_order
        from arcticseg.data.share import Share
        from arcticseg.data.transforms import Assemble

        layout = Layout.of(self.tile, sorted(set(self.selection.factor.tolist())), NAMES)
        order = make_order(self.selection, DataConfig(), "none", seed=0)
        loader = Loader(SampleReader(self.selection), layout, order, Share(0, 1, BATCH, BATCH), workers=workers)
        assemble = Assemble(NAMES, valid_plane=True)
        try:
            while True:
                (batch,) = loader.step()
                yield assemble(batch) if table == "floats" else batch
                loader.stepped()
        finally:
            loader.close()


class Copy:
    """The floor: the batch copied once, into the same memory or into fresh memory."""

    def __init__(self, folder: Path, fresh: bool) -> None:
        self.folder, self.fresh = folder, fresh

    def batches(self, table: str, workers: int) -> Batches:
        loader = Ours(self.folder).batches(table, 0)
        given = next(loader)
        if table == "floats":
            tensors = [given.x, given.labels]
        else:
            tensors = [value for value in vars(given).values() if isinstance(value, torch.Tensor)]
        copies = [tensor.clone() for tensor in tensors]
        loader.close()  # type: ignore[attr-defined]
        while True:
            if self.fresh:
                copies = [torch.empty_like(tensor) for tensor in tensors]
            for copy, tensor in zip(copies, tensors, strict=True):
                copy.copy_(tensor)
            yield copies


CONTESTANTS: dict[str, Callable[[Path], Any]] = {
    "arcticseg": Ours,
    "joblib": Pickles,
    "webdataset": WebDataset,
    "litdata": LitData,
    "mosaicml": Mosaic,
    "grain": Grain,
    "spdl": Spdl,
    "copy, reused memory": lambda folder: Copy(folder, fresh=False),
    "copy, fresh memory": lambda folder: Copy(folder, fresh=True),
}


def measure(batches: Batches, seconds: float) -> tuple[int, float]:
    """Samples given in a time, and that time; at least `_LEAST` batches."""
    for _ in range(_WARM_UP):
        next(batches)
    began = time.perf_counter()
    for count in range(1, ENDLESS):
        next(batches)
        took = time.perf_counter() - began
        if count >= _LEAST and took >= seconds:
            break
    return count * BATCH, took


def main() -> None:
    """Prepare the contestant's files, or measure rounds until the input ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("name", choices=CONTESTANTS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--prepare", action="store_true")
    options = parser.parse_args()
    if options.name == "mosaicml":
        from arcticseg.models.torchvision_compat import ensure_torchvision

        ensure_torchvision()
    contestant = CONTESTANTS[options.name](options.folder)
    if options.prepare:
        contestant.prepare(tiles_of(options.folder))
        return
    for line in sys.stdin:
        asked = json.loads(line)
        batches = contestant.batches(asked["table"], asked["workers"])
        samples, took = measure(batches, asked["seconds"])
        del batches
        print(json.dumps({"samples": samples, "seconds": took}), flush=True)


if __name__ == "__main__":
    main()
