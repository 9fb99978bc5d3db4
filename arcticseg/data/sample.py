"""A tile and its tar members: the sample format, shared by the shard builder, the loader and prediction.

Members, in tar order, so that a sample is one contiguous range of its shard:

    aux.b2           uint16 [20, h, w]: the 2 km channels on their own window, codes of `channels.Channel`
    aux_poly.zst     uint8 or uint16 [H, W]: rows of the table of polygons in `json`; absent where there is none
    dist.zst         uint8 [H, W]: distance zones, 255 = none
    geo.bin          float32 [3, n, m]: latitude, longitude, incidence angle on the geolocation grid's window
    hh.b2, hv.b2     uint16 [H, W]: backscatter codes
    json             everything small
    lab.zst          uint8 [3, H, W]: SIC, SOD, FLOE; absent where the scene has no chart

Backscatter: dB = -60 + 0.05 (code - 1); code 0 = no data; lower values, zero power included, are code 1, higher ones
the code of +40 dB.
"""

from __future__ import annotations

import json
import struct
import threading
from collections.abc import Callable, Mapping
from typing import Any

import imagecodecs
import numpy as np
import orjson
import zstandard
from numpy.typing import DTypeLike, NDArray

from arcticseg.data.tile import Tile, row_type
from arcticseg.errors import ShardError
from arcticseg.ice.channels import COARSE
from arcticseg.ice.partials import PolygonRow
from arcticseg.ice.sigrid import CHARTS

SCHEMA_VERSION = 3

# What replaces shards of another version.
REBUILD = "build the shards again: arcticseg shards build SCENES --out NEW_FOLDER"

# The first of the members that hold SAR, metadata and labels, which are a single range: to the sample's end.
CORE = "hh.b2"

# It takes any buffer, which its annotations do not say.
_blosc2_decode: Callable[..., Any] = imagecodecs.blosc2_decode

# Of a tar header: name and size.
_HEADER = struct.Struct("100s24x12s")


class _PerThread(threading.local):
    """A decompressor for each thread: to make it costs as much as to decode a small member."""

    def __init__(self) -> None:
        self.zstd = zstandard.ZstdDecompressor()


_per_thread = _PerThread()
Bytes = bytes | memoryview


def split_members(data: bytes) -> tuple[str, dict[str, memoryview]]:
    """Key and members of one sample's range of a shard (ustar headers, as `webdataset.TarWriter` writes them).

    The members are views of the range.

    Raises:
        ShardError: the range is not that of a single whole sample.
    """
    members: dict[str, memoryview] = {}
    view = memoryview(data)
    keys: set[bytes] = set()
    place = 0
    while place < len(data):
        try:
            name, digits = _HEADER.unpack_from(data, place)
            size = int(digits.rstrip(b"\0 "), 8)
            if size < 0:
                raise ValueError(f"size {size}")
        except (struct.error, ValueError) as error:
            raise ShardError(f"no tar header at byte {place} of a sample; build the shards again") from error
        key, _, member = name.rstrip(b"\0").partition(b".")
        keys.add(key)
        place += 512
        members[member.decode("ascii", "replace")] = view[place : place + size]
        place += size + -size % 512
    if len(keys) != 1 or place != len(data):
        raise ShardError(
            f"a sample's range holds the keys {sorted(keys)} in {len(data)} bytes; expected a single key and whole "
            "members; build the shards again"
        )
    return keys.pop().decode("ascii", "replace"), members


def _pack(array: NDArray) -> bytes:
    """blosc2 (lz4, bit shuffle) of a C-ordered uint16 array."""
    raw = np.ascontiguousarray(array)
    if not raw.size:
        return b""
    import blosc2

    parameters = {
        "codec": blosc2.Codec.LZ4,
        "clevel": 5,
        "filters": [blosc2.Filter.BITSHUFFLE],
        "filters_meta": [0],
        "typesize": 2,
        # The block layout, and so the bytes, would otherwise depend on the number of cores.
        "nthreads": 1,
    }
    return bytes(blosc2.compress2(raw, **parameters))


def flat(array: NDArray[Any]) -> NDArray[np.uint8]:
    """The bytes of a C-ordered array, a view."""
    return array.reshape(-1).view(np.uint8)


def unpack(data: Bytes, out: NDArray[np.uint8]) -> None:
    """Decode a member `.b2` into the bytes of an array.

    Raises:
        ValueError: it holds another number of bytes.
        imagecodecs.Blosc2Error: it is damaged.
    """
    if not out.size and not data:
        return
    # A chunk's own header says how much it holds; the decoder fills a larger array in part.
    size = int.from_bytes(data[4:8], "little")
    if size != out.size:
        raise ValueError(f"{size} bytes where there is room for {out.size}")
    _blosc2_decode(data, out=out, numthreads=1)


def decompress(data: Bytes, out: NDArray[np.uint8]) -> None:
    """Decode a member `.zst` into the bytes of an array.

    Raises:
        ValueError: it holds another number of bytes.
        zstandard.ZstdError: it is damaged.
    """
    size = zstandard.frame_content_size(data)
    if size == out.size:
        size = _per_thread.zstd.stream_reader(data).readinto(out)
    if size != out.size:
        raise ValueError(f"{size} bytes where there is room for {out.size}")


def encode(tile: Tile) -> dict[str, bytes]:
    """Tar members by name; the bytes depend on the tile alone."""
    zstd = zstandard.ZstdCompressor(level=3)
    facts = {
        "schema": SCHEMA_VERSION,
        "scene": tile.scene,
        "factor": tile.factor,
        "row": tile.row,
        "col": tile.col,
        "size": list(tile.hh.shape),
        "pixel_spacing": tile.pixel_spacing,
        "time": tile.time,
        "ice_service": tile.ice_service,
        "simulated": tile.simulated,
        "aux_rows": tile.aux_rows.tolist(),
        "aux_cols": tile.aux_cols.tolist(),
        "geo_rows": tile.geo_rows.tolist(),
        "geo_cols": tile.geo_cols.tolist(),
        "valid": int(tile.valid.sum()),
        "counts": tile.class_counts(),
        "polygons": [row.to_json() for row in tile.polygons],
    }
    members = {
        "aux.b2": _pack(tile.aux),
        "dist.zst": zstd.compress(tile.dist.tobytes()),
        "geo.bin": tile.geo.astype("<f4").tobytes(),
        "hh.b2": _pack(tile.hh),
        "hv.b2": _pack(tile.hv),
        "json": json.dumps(facts, sort_keys=True).encode(),
    }
    if tile.lab is not None:
        members["lab.zst"] = zstd.compress(tile.lab.tobytes())
    if tile.poly is not None:
        members["aux_poly.zst"] = zstd.compress(tile.poly.tobytes())
    return members


class Sample:
    """A sample as it is stored: its members, checked as they are used.

    In a block `with sample:` whatever goes wrong becomes a ShardError that names the sample and the member used last.

    Args:
        key: unique in a shard set.
        members: name -> bytes.

    Attributes:
        key: as given.
        facts: the content of the member `json`.
        shape: rows and columns of the tile.

    Raises:
        ShardError: the member `json` is missing, damaged or of another schema version.
    """

    __slots__ = ("_member", "_members", "facts", "key", "shape")

    def __init__(self, key: str, members: Mapping[str, Bytes]) -> None:
        self.key, self._members = key, members
        with self:
            self.facts: dict[str, Any] = orjson.loads(self["json"])
            version = self.facts["schema"]
            if version != SCHEMA_VERSION:
                raise ShardError(
                    f"sample {key}: schema version {version}, this program reads {SCHEMA_VERSION}; {REBUILD}"
                )
            rows, columns = self.facts["size"]
            self.shape: tuple[int, int] = (rows, columns)

    def __enter__(self) -> Sample:
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        # Each codec has errors of its own; all mean the same here.
        if isinstance(error, Exception) and not isinstance(error, ShardError):
            raise ShardError(
                f"sample {self.key}: member {self._member} cannot be decoded ({error!r}); build the shards again"
            ) from error

    def __contains__(self, member: str) -> bool:
        return member in self._members

    def __getitem__(self, member: str) -> Bytes:
        """The bytes of a member."""
        self._member = member
        return self._members[member]

    def window(self, member: str) -> tuple[list[float], list[float]]:
        """Tile coordinates of the lines and of the columns of a coarse grid's window: of `aux.b2` or `geo.bin`."""
        self._member = "json"
        grid = member.partition(".")[0]
        axes = self.facts[f"{grid}_rows"], self.facts[f"{grid}_cols"]
        self._member = member
        return axes

    def decode(self, member: str, out: NDArray[Any]) -> None:
        """Decode a member `.b2` or `.zst` into a C-ordered array that it fills."""
        data = self[member]
        if member.endswith(".b2"):
            unpack(data, flat(out))
        else:
            decompress(data, flat(out))

    def array(self, member: str, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """A member `.b2` or `.zst` as an array of its own."""
        out = np.empty(shape, dtype)
        self.decode(member, out)
        return out

    def geo(self, shape: tuple[int, int]) -> NDArray[np.float32]:
        """The member `geo.bin`, float32 [3, n, m] for a window of n x m points; a view."""
        return np.frombuffer(self["geo.bin"], "<f4").reshape(3, *shape)


# The facts that a tile has as they are.
_FACTS = ("scene", "factor", "row", "col", "pixel_spacing", "time", "ice_service", "simulated")


def decode(key: str, members: Mapping[str, Bytes]) -> Tile:
    """The tile of a sample's members.

    Raises:
        ShardError: a member is missing, of another schema version or damaged; the message names key and member.
    """
    sample = Sample(key, members)
    with sample:
        facts = {name: sample.facts[name] for name in _FACTS}
        aux_rows, aux_cols = (np.array(axis, np.float64) for axis in sample.window("aux.b2"))
        geo_rows, geo_cols = (np.array(axis, np.float64) for axis in sample.window("geo.bin"))
        labels = (len(CHARTS), *sample.shape)
        polygons = tuple(map(PolygonRow.from_json, sample.facts["polygons"]))
        return Tile(
            key=key,
            **facts,
            hh=sample.array("hh.b2", sample.shape, np.uint16),
            hv=sample.array("hv.b2", sample.shape, np.uint16),
            dist=sample.array("dist.zst", sample.shape, np.uint8),
            aux=sample.array("aux.b2", (len(COARSE), len(aux_rows), len(aux_cols)), np.uint16),
            aux_rows=aux_rows,
            aux_cols=aux_cols,
            geo=sample.geo((len(geo_rows), len(geo_cols))),
            geo_rows=geo_rows,
            geo_cols=geo_cols,
            lab=sample.array("lab.zst", labels, np.uint8) if "lab.zst" in sample else None,
            poly=sample.array("aux_poly.zst", sample.shape, row_type(len(polygons)))
            if "aux_poly.zst" in sample
            else None,
            polygons=polygons,
        )
