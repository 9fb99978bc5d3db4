"""One tile and its tar members: the sample format, shared by the shard builder, the loader and prediction.

Members, in tar order, so that a sample is one contiguous range of its shard:

    aux.b2           uint16 [20, h, w]: the 2 km channels on their own window, codes of `channels.Channel`
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
import zstandard
from numpy.typing import NDArray

from arcticseg.data.tile import Tile
from arcticseg.errors import ShardError
from arcticseg.ice.channels import COARSE
from arcticseg.ice.sigrid import CHARTS

SCHEMA_VERSION = 2

# The first of the members that hold SAR, metadata and labels: from it to its end a sample is one range.
CORE = "hh.b2"

# It takes any buffers, which its annotations do not say.
_blosc2_decode: Callable[..., Any] = imagecodecs.blosc2_decode


# Of a tar header: name and size.
_HEADER = struct.Struct("100s24x12s")


class _Decoders(threading.local):
    """Of each thread: making one costs as much as decoding a small member."""

    def __init__(self) -> None:
        self.zstd = zstandard.ZstdDecompressor()


_decoders = _Decoders()
Bytes = bytes | memoryview


def split_members(data: bytes) -> tuple[str, dict[str, memoryview]]:
    """Key and members of one sample's range of a shard (ustar headers, as `webdataset.TarWriter` writes them).

    The members are views of the range.

    Raises:
        ShardError: the range is no such sample.
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
            raise ShardError(f"no tar header at byte {place} of a sample; build the shards anew") from error
        key, _, member = name.rstrip(b"\0").partition(b".")
        keys.add(key)
        place += 512
        members[member.decode("ascii", "replace")] = view[place : place + size]
        place += size + -size % 512
    if len(keys) != 1 or place != len(data):
        raise ShardError(f"a sample's range holds the keys {sorted(keys)}; expected one; build the shards anew")
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
        ValueError: it holds another number of bytes, or is damaged.
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
        size = _decoders.zstd.stream_reader(data).readinto(out)
    if size != out.size:
        raise ValueError(f"{size} bytes where there is room for {out.size}")


def encode(tile: Tile) -> dict[str, bytes]:
    """Tar members by name; the bytes depend on the tile alone."""
    zstd = zstandard.ZstdCompressor(level=3)
    meta = {
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
    }
    members = {
        "aux.b2": _pack(tile.aux),
        "dist.zst": zstd.compress(tile.dist.tobytes()),
        "geo.bin": tile.geo.astype("<f4").tobytes(),
        "hh.b2": _pack(tile.hh),
        "hv.b2": _pack(tile.hv),
        "json": json.dumps(meta, sort_keys=True).encode(),
    }
    if tile.lab is not None:
        members["lab.zst"] = zstd.compress(tile.lab.tobytes())
    return members


def decode(key: str, members: Mapping[str, Bytes]) -> Tile:
    """The tile of a sample's members.

    Raises:
        ShardError: a member is missing, of another schema version or damaged; the message names key and member.
    """
    name = "json"
    try:
        meta: dict[str, Any] = json.loads(bytes(members["json"]))
        if meta["schema"] != SCHEMA_VERSION:
            raise ShardError(
                f"sample {key}: schema version {meta['schema']}, this program reads {SCHEMA_VERSION}; "
                "build the shards anew"
            )
        rows, cols = meta["size"]
        axes = {axis: np.array(meta[axis], np.float64) for axis in ("aux_rows", "aux_cols", "geo_rows", "geo_cols")}
        cells = (len(axes["aux_rows"]), len(axes["aux_cols"]))
        found: dict[str, Any] = {}
        for name, shape in (("hh.b2", (rows, cols)), ("hv.b2", (rows, cols)), ("aux.b2", (len(COARSE), *cells))):
            found[name] = np.empty(shape, np.uint16)
            unpack(members[name], flat(found[name]))
        for name, shape in (("dist.zst", (rows, cols)), ("lab.zst", (len(CHARTS), rows, cols))):
            if name in members or name != "lab.zst":
                found[name] = np.empty(shape, np.uint8)
                decompress(members[name], flat(found[name]))
        name = "geo.bin"
        points = (3, len(axes["geo_rows"]), len(axes["geo_cols"]))
        found[name] = np.frombuffer(members[name], "<f4").reshape(points)
        return Tile(
            key=key,
            scene=meta["scene"],
            factor=meta["factor"],
            row=meta["row"],
            col=meta["col"],
            pixel_spacing=meta["pixel_spacing"],
            time=meta["time"],
            ice_service=meta["ice_service"],
            simulated=meta["simulated"],
            hh=found["hh.b2"],
            hv=found["hv.b2"],
            dist=found["dist.zst"],
            aux=found["aux.b2"],
            aux_rows=axes["aux_rows"],
            aux_cols=axes["aux_cols"],
            geo=found["geo.bin"],
            geo_rows=axes["geo_rows"],
            geo_cols=axes["geo_cols"],
            lab=found.get("lab.zst"),
        )
    except ShardError:
        raise
    except Exception as error:  # each codec has errors of its own; all mean the same here
        raise ShardError(f"sample {key}: member {name} cannot be decoded ({error!r}); build the shards anew") from error
