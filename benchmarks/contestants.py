"""The loaders that `loader.py` compares, each in a process of its own that measures one round when it is told to.

    python benchmarks/contestants.py NAME FOLDER [--prepare]

reads rounds as JSON lines, {"table": "codes" or "floats", "workers": 0, "seconds": 2}, and answers with samples and
seconds. All give batches of 16 of the same samples in a shuffled order without end. Peers are used as their manuals
say, with the settings that were fastest here; what stands around them is competent numpy.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import torch

from arcticseg.data import sample
from arcticseg.data.batch import Batch, collate
from arcticseg.data.manifest import read_manifest
from arcticseg.data.reader import SampleReader
from arcticseg.data.select import Selection, select
from arcticseg.data.tile import Tile, decode_coarse, decode_sar, interpolation_matrix
from arcticseg.ice.channels import CHANNELS, COARSE, SAR
from arcticseg.ice.sigrid import CHARTS, IGNORE_INDEX

BATCH = 16
# All that AutoICE gives for every pixel: SAR, incidence angle, distance to land, AMSR2, ERA5.
NAMES = tuple(name for name, channel in CHANNELS.items() if channel.group not in ("location", "time"))
# Batches that are not timed: starts of workers, first looks at files.
_WARM_UP = 4
_LEAST = 8
_ENDLESS = 1 << 20

Sample = dict[str, Any]
Batches = Iterator[Any]


def selection_of(folder: Path) -> Selection:
    """All samples of the shards."""
    shards = folder / "shards"
    return select(shards, read_manifest(shards), "train")


def tiles_of(folder: Path) -> Iterator[Tile]:
    """All samples, decoded, in the order of the shards."""
    reader = SampleReader(selection_of(folder))
    yield from map(reader.read, range(len(reader.selection)))


# What a pipeline around a peer does with codes, by numpy, sample by sample.


def normalised(values: np.ndarray, name: str) -> np.ndarray:
    """Values in the channel's unit, normalised; 0 where there are none."""
    channel = CHANNELS[name]
    return np.nan_to_num((values - channel.mean) / channel.std).astype(np.float32)


def floats_of(tile: Tile) -> tuple[np.ndarray, np.ndarray]:
    """float32 [25, H, W]: the normalised channels and the valid plane, 0 where there is no data; and labels."""
    size = tile.hh.shape[0]
    planes = np.empty((len(NAMES) + 1, size, size), np.float32)
    for name, codes in ((SAR["hh"], tile.hh), (SAR["hv"], tile.hv)):
        planes[NAMES.index(name)] = normalised(decode_sar(codes), name)
    rows, cols = (interpolation_matrix(p, size, clamp=False) for p in (tile.geo_rows, tile.geo_cols))
    planes[NAMES.index("sar_incidenceangle")] = normalised(rows @ tile.geo[2] @ cols.T, "sar_incidenceangle")
    zones = np.where(tile.dist == IGNORE_INDEX, np.nan, tile.dist)
    planes[NAMES.index("distance_map")] = normalised(zones, "distance_map")
    first = NAMES.index(COARSE[0])
    rows, cols = (interpolation_matrix(p, size, clamp=True) for p in (tile.aux_rows, tile.aux_cols))
    coarse = decode_coarse(tile.aux)
    there = np.isfinite(coarse)
    values = np.stack([normalised(plane, name) for plane, name in zip(coarse, COARSE, strict=True)])
    total = np.matmul(rows @ values, cols.T, out=planes[first : first + len(COARSE)])
    if not there.all():
        weight = rows @ there.astype(np.float32) @ cols.T
        np.divide(total, weight, out=total, where=weight > 1e-6)
    planes[-1] = tile.valid
    lab = np.full((len(CHARTS), size, size), IGNORE_INDEX, np.uint8) if tile.lab is None else tile.lab
    return planes, lab


def to_batch(tiles: Sequence[Tile]) -> Batch:
    """Codes on their native grids, stacked; coarse windows filled up to the largest."""
    return collate(tiles, range(len(tiles)))


def to_tensors(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Planes and labels, stacked."""
    planes, labels = zip(*pairs, strict=True)
    return torch.stack([*map(torch.from_numpy, planes)]), torch.stack([*map(torch.from_numpy, labels)])


ARRAYS = ("hh", "hv", "dist", "aux", "aux_rows", "aux_cols", "geo", "geo_rows", "geo_cols", "lab")
FACTS = ("key", "scene", "factor", "row", "col", "pixel_spacing", "time", "ice_service", "simulated")


def to_fields(tile: Tile) -> Sample:
    """The tile as arrays and one text, as libraries with a format of their own store it."""
    return {name: np.ascontiguousarray(getattr(tile, name)) for name in ARRAYS} | {
        "facts": json.dumps({name: getattr(tile, name) for name in FACTS})
    }


def from_fields(fields: Sample) -> Tile:
    """The inverse."""
    return Tile(**json.loads(fields["facts"]), **{name: fields[name] for name in ARRAYS})


class Finish:
    """Tile -> what is stacked for a table, and how; travels to workers."""

    def __init__(self, table: str) -> None:
        self.convert = floats_of if table == "floats" else None
        self.stack: Callable[[Any], Any] = to_tensors if table == "floats" else to_batch

    def __call__(self, tile: Tile) -> Any:
        return tile if self.convert is None else self.convert(tile)


# The contestants.


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


class Pickles:
    """The common way: a joblib pickle of a dict of full-resolution arrays a sample, and a DataLoader.

    The dict holds what `build.common_way` writes: a float32 plane for each channel (normalised beforehand, which spares
    the loader that), positions and incidence angle in float64, planes of month and day, and labels. A pickle is read
    whole; the channels are stacked.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "pickles"

    def prepare(self, tiles: Iterator[Tile]) -> None:
        self.folder.mkdir()
        for number, tile in enumerate(tiles):
            joblib.dump(fields_of_common_way(tile), self.folder / f"{number:06d}.joblib")

    def batches(self, table: str, workers: int) -> Batches:
        files = sorted(self.folder.glob("*.joblib"))
        sampler = torch.utils.data.RandomSampler(files, num_samples=_ENDLESS)
        return iter(
            torch.utils.data.DataLoader(
                _Files(files), BATCH, sampler=sampler, num_workers=workers, collate_fn=to_tensors
            )
        )


def fields_of_common_way(tile: Tile) -> Sample:
    """The arrays of one tile as `build.common_way` has them, and the valid plane."""
    planes, lab = floats_of(tile)
    size = tile.hh.shape[0]
    rows, cols = (interpolation_matrix(p, size, clamp=False) for p in (tile.geo_rows, tile.geo_cols))
    fields: Sample = {name: plane.copy() for name, plane in zip(NAMES, planes, strict=False)}
    fields["sar_incidenceangle"] = fields["sar_incidenceangle"].astype(np.float64)
    for name, points in zip(("latitude", "longitude"), tile.geo, strict=False):
        fields[name] = (rows @ points @ cols.T).astype(np.float64)
    fields |= {name: np.full((size, size), 1) for name in ("month", "day")}
    return fields | {"valid": tile.valid} | dict(zip(CHARTS, lab, strict=True))


class _Files(torch.utils.data.Dataset[Any]):
    def __init__(self, files: list[Path]) -> None:
        self.files = files

    def __getitem__(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        fields = joblib.load(self.files[number])
        planes = np.stack([*(fields[name] for name in NAMES), fields["valid"]], dtype=np.float32, casting="same_kind")
        return planes, np.stack([fields[chart] for chart in CHARTS])


class WebDataset:
    """Stock webdataset on the same shards."""

    def __init__(self, folder: Path) -> None:
        self.shards = sorted(map(str, (folder / "shards").glob("*.tar")))

    def batches(self, table: str, workers: int) -> Batches:
        import webdataset as wds

        finish = Finish(table)
        # Each worker needs a shard of its own; more shards than workers are the rule.
        shards = self.shards * max(1, workers)
        data = (
            wds.WebDataset(shards, resampled=True, shardshuffle=False)
            .shuffle(64)
            .map(_Decode(finish))
            .batched(BATCH, collation_fn=finish.stack, partial=False)
        )
        return iter(wds.WebLoader(data, batch_size=None, num_workers=workers))


class _Decode:
    def __init__(self, finish: Finish) -> None:
        self.finish = finish

    def __call__(self, members: Sample) -> Any:
        own = {name: data for name, data in members.items() if not name.startswith("__")}
        return self.finish(sample.decode(members["__key__"], own))


class LitData:
    """LitData's own format, codes as plain arrays."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "litdata"

    def prepare(self, tiles: Iterator[Tile]) -> None:
        from litdata.streaming.writer import BinaryWriter

        self.folder.mkdir()
        writer = BinaryWriter(str(self.folder), chunk_bytes=1 << 26)
        for number, tile in enumerate(tiles):
            writer[number] = to_fields(tile)
        writer.done()
        writer.merge()

    def batches(self, table: str, workers: int) -> Batches:
        from litdata import ParallelStreamingDataset, StreamingDataLoader, StreamingDataset

        finish = Finish(table)
        data = ParallelStreamingDataset(
            [StreamingDataset(str(self.folder), shuffle=True)], length=_ENDLESS, transform=_Unpack(finish)
        )
        return iter(StreamingDataLoader(data, batch_size=BATCH, num_workers=workers, collate_fn=finish.stack))


class _Unpack:
    def __init__(self, finish: Finish) -> None:
        self.finish = finish

    def __call__(self, fields: Any) -> Any:
        return self.finish(from_fields(fields[0] if isinstance(fields, tuple) else fields))


class Mosaic:
    """MosaicML Streaming's own format, codes as plain arrays."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "mds"

    def prepare(self, tiles: Iterator[Tile]) -> None:
        from streaming import MDSWriter

        columns = dict.fromkeys(ARRAYS, "ndarray") | {"facts": "str"}
        with MDSWriter(out=str(self.folder), columns=columns, size_limit=1 << 26) as writer:
            for tile in tiles:
                writer.write(to_fields(tile))

    def batches(self, table: str, workers: int) -> Batches:
        from streaming.base.util import clean_stale_shared_memory

        clean_stale_shared_memory()
        finish = Finish(table)
        data = _mosaic_dataset()(str(self.folder), finish)
        return iter(torch.utils.data.DataLoader(data, BATCH, num_workers=workers, collate_fn=finish.stack))


def _mosaic_dataset() -> Any:
    from streaming import StreamingDataset

    class Tiles(StreamingDataset):
        def __init__(self, folder: str, finish: Finish) -> None:
            super().__init__(local=folder, shuffle=True, batch_size=BATCH, epoch_size=1 << 16)
            self.finish = finish

        def __getitem__(self, at: Any) -> Any:
            return self.finish(from_fields(super().__getitem__(at)))

    return Tiles


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
    "copy, reused memory": lambda folder: Copy(folder, fresh=False),
    "copy, fresh memory": lambda folder: Copy(folder, fresh=True),
}


def measure(batches: Batches, seconds: float) -> tuple[int, float]:
    """Samples given in a time, and that time; at least `_LEAST` batches."""
    for _ in range(_WARM_UP):
        next(batches)
    began = time.perf_counter()
    for count in range(1, _ENDLESS):
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
