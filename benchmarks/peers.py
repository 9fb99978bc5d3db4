"""ArcticSeg's peers on the same samples, as their manuals say, with the settings that were fastest here.

What stands around them is competent numpy. Each class has `prepare`, which writes its files from tiles, and `batches`.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import torch

from arcticseg.data import sample
from arcticseg.data.batch import Batch, collate
from arcticseg.data.tile import Tile, decode_coarse, decode_sar, interpolation_matrix
from arcticseg.ice.channels import CHANNELS, COARSE, SAR
from arcticseg.ice.sigrid import CHARTS, IGNORE_INDEX

BATCH = 16
# All that AutoICE gives for every pixel: SAR, incidence angle, distance to land, AMSR2, ERA5.
NAMES = tuple(name for name, channel in CHANNELS.items() if channel.group not in ("location", "time"))
ENDLESS = 1 << 20
# Threads of a library that works by threads, where there are no worker processes: as many as ArcticSeg has then.
_THREADS = 2

Sample = dict[str, Any]
Batches = Iterator[Any]


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
        sampler = torch.utils.data.RandomSampler(files, num_samples=ENDLESS)
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
            [StreamingDataset(str(self.folder), shuffle=True)], length=ENDLESS, transform=_Unpack(finish)
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


class Grain:
    """Grain, records in its own format (ArrayRecord), each holding a sample's plain arrays, which are not copied."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "grain" / "tiles.array_record"

    def prepare(self, tiles: Iterator[Tile]) -> None:
        from array_record.python.array_record_module import ArrayRecordWriter

        self.file.parent.mkdir()
        # One record a group, for random access, and no compression.
        writer = ArrayRecordWriter(str(self.file), "group_size:1,uncompressed")
        for tile in tiles:
            writer.write(_to_record(tile))
        writer.close()

    def batches(self, table: str, workers: int) -> Batches:
        import grain

        finish = Finish(table)
        data = (
            grain.MapDataset.source(grain.sources.ArrayRecordDataSource([str(self.file)]))
            .shuffle(seed=0)
            .repeat()
            .map(_FromRecord(finish))
        )
        read = grain.ReadOptions(num_threads=_THREADS, prefetch_buffer_size=4)
        if not workers:
            return iter(data.batch(BATCH, batch_fn=finish.stack).to_iter_dataset(read))
        batched = data.batch(BATCH, batch_fn=_ToArrays(finish.stack)).to_iter_dataset(read)
        return iter(batched.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers)))


class _ToArrays:
    """Stacks a batch as plain arrays, which Grain's processes hand over in shared memory."""

    def __init__(self, stack: Callable[[Any], Any]) -> None:
        self.stack = stack

    def __call__(self, items: Any) -> dict[str, np.ndarray]:
        batch = self.stack(items)
        named = enumerate(batch) if isinstance(batch, tuple) else vars(batch).items()
        return {str(name): value.numpy() for name, value in named if isinstance(value, torch.Tensor)}


class _FromRecord:
    def __init__(self, finish: Finish) -> None:
        self.finish = finish

    def __call__(self, record: bytes) -> Any:
        return self.finish(_from_record(record))


_LENGTH = struct.Struct("<Q")


def _to_record(tile: Tile) -> bytes:
    """The tile's facts and arrays as one text, and the arrays' bytes behind it."""
    fields = to_fields(tile)
    arrays = {name: fields[name] for name in ARRAYS if fields.get(name) is not None}
    layout = {name: [array.dtype.str, array.shape] for name, array in arrays.items()}
    head = json.dumps({"facts": fields["facts"], "layout": layout}).encode()
    head += b" " * (-len(head) % 8)
    return b"".join([_LENGTH.pack(len(head)), head, *(array.tobytes() for array in arrays.values())])


def _from_record(record: bytes) -> Tile:
    (length,) = _LENGTH.unpack_from(record)
    place = _LENGTH.size + length
    head = json.loads(record[_LENGTH.size : place])
    fields: Sample = {"facts": head["facts"]}
    for name, (dtype, shape) in head["layout"].items():
        count = int(np.prod(shape))
        fields[name] = np.frombuffer(record, dtype, count, place).reshape(shape)
        place += count * np.dtype(dtype).itemsize
    return from_fields(fields)


class Spdl:
    """SPDL: threads read uncompressed NPZ files of plain arrays, which its own function unpacks without a copy."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "spdl"

    def prepare(self, tiles: Iterator[Tile]) -> None:
        self.folder.mkdir()
        for number, tile in enumerate(tiles):
            fields = to_fields(tile)
            facts = np.frombuffer(fields.pop("facts").encode(), np.uint8)
            np.savez(self.folder / f"{number:06d}.npz", facts=facts, **fields)

    def batches(self, table: str, workers: int) -> Batches:
        from spdl.pipeline import PipelineBuilder

        finish, threads = Finish(table), workers or _THREADS
        pipeline = (
            PipelineBuilder()
            .add_source(_shuffled(sorted(self.folder.glob("*.npz"))))
            .pipe(_Unzip(finish), concurrency=threads)
            .aggregate(BATCH)
            .pipe(finish.stack)
            .add_sink(2)
            .build(num_threads=threads + 1)
        )
        with pipeline.auto_stop():
            yield from pipeline


def _shuffled(files: Sequence[Path]) -> Iterator[Path]:
    random = np.random.default_rng(0)
    while True:
        yield from (files[number] for number in random.permutation(len(files)))


class _Unzip:
    def __init__(self, finish: Finish) -> None:
        self.finish = finish

    def __call__(self, path: Path) -> Any:
        import spdl.io

        fields = dict(spdl.io.load_npz(path.read_bytes()).items())
        return self.finish(from_fields(fields | {"facts": fields["facts"].tobytes()}))
