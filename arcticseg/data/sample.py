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
import re
import struct
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import imagecodecs
import numpy as np
import xxhash
import zstandard
from numpy.typing import NDArray

from arcticseg.errors import ShardError
from arcticseg.ice.channels import CHANNELS, COARSE, COARSE_SPACING
from arcticseg.ice.sigrid import CHARTS, IGNORE_INDEX, N_CLASSES

# Loader processes import this module, so that what only a builder needs is imported where it is used.
if TYPE_CHECKING:
    from arcticseg.ice.layers import Layers

SCHEMA_VERSION = 2

# The first of the members that hold SAR, metadata and labels: from it to its end a sample is one range.
CORE = "hh.b2"

# The planes of `geo.bin`.
GEO = ("sar_grid_latitude", "sar_grid_longitude", "sar_incidenceangle")

SAR_LOW, SAR_HIGH, SAR_STEP = -60.0, 40.0, 0.05
SAR_MAX_CODE = round((SAR_HIGH - SAR_LOW) / SAR_STEP) + 1

_COARSE_OFFSET = np.array([CHANNELS[name].offset for name in COARSE], np.float64)[:, None, None]
_COARSE_SCALE = np.array([CHANNELS[name].scale for name in COARSE], np.float64)[:, None, None]

# It takes any buffers, which its annotations do not say.
_blosc2_decode: Callable[..., Any] = imagecodecs.blosc2_decode


# Of a tar header: name and size.
_HEADER = struct.Struct("100s24x12s")


class _Decoders(threading.local):
    """Of each thread: making one costs as much as decoding a small member."""

    def __init__(self) -> None:
        self.zstd = zstandard.ZstdDecompressor()


_decoders = _Decoders()

UInt16 = NDArray[np.uint16]
Bytes = bytes | memoryview


@dataclass(frozen=True)
class Tile:
    """One tile, H x W pixels, as stored.

    Attributes:
        key: unique in a shard set: scene, factor, row and column.
        row, col: first pixel in the scene at `factor`.
        pixel_spacing: metres.
        time: start of acquisition, ISO 8601, or None.
        hh, hv: uint16 [H, W] codes; 0 = no data.
        dist: uint8 [H, W]; 255 = none.
        aux: uint16 [20, h, w] codes; 0 = no data; h = w = 0 where the scene has no 2 km grid.
        aux_rows, aux_cols: float64 [h], [w]: tile coordinates of the cells' centres.
        geo: float32 [3, n, m]: latitude, longitude, incidence angle, degrees.
        geo_rows, geo_cols: float64 [n], [m]: tile coordinates of the grid points.
        lab: uint8 [3, H, W] or None.
    """

    key: str
    scene: str
    factor: int
    row: int
    col: int
    pixel_spacing: float
    time: str | None
    ice_service: str | None
    simulated: bool
    hh: UInt16
    hv: UInt16
    dist: NDArray[np.uint8]
    aux: UInt16
    aux_rows: NDArray[np.float64]
    aux_cols: NDArray[np.float64]
    geo: NDArray[np.float32]
    geo_rows: NDArray[np.float64]
    geo_cols: NDArray[np.float64]
    lab: NDArray[np.uint8] | None

    @property
    def valid(self) -> NDArray[np.bool_]:
        """bool [H, W]: some polarisation has data."""
        return (self.hh > 0) | (self.hv > 0)

    def class_counts(self) -> dict[str, list[int]]:
        """Pixels of each class and, last, masked ones; no key where there is no chart."""
        if self.lab is None:
            return {}
        counts = {}
        for plane, chart in zip(self.lab, CHARTS, strict=True):
            histogram = np.bincount(plane.ravel(), minlength=256)
            counts[chart] = [*map(int, histogram[: N_CLASSES[chart]]), int(histogram[IGNORE_INDEX])]
        return counts


def encode_sar(decibels: NDArray[np.floating]) -> UInt16:
    """dB [...] -> codes; NaN -> 0; -inf (zero power) -> 1."""
    steps = np.clip(np.rint((decibels - SAR_LOW) / SAR_STEP), 0, SAR_MAX_CODE - 1)
    return np.where(np.isnan(decibels), 0, steps + 1).astype(np.uint16)


def decode_sar(codes: UInt16) -> NDArray[np.float32]:
    """Codes [...] -> dB; 0 -> NaN."""
    return np.where(codes == 0, np.nan, SAR_LOW + SAR_STEP * (codes.astype(np.float64) - 1)).astype(np.float32)


def encode_coarse(values: NDArray[np.floating]) -> UInt16:
    """[20, h, w] in the channels' units -> codes; NaN -> 0; values outside a channel's range saturate."""
    with np.errstate(invalid="ignore"):
        steps = np.clip(np.rint((values - _COARSE_OFFSET) / _COARSE_SCALE), 0, 65534)
        return np.where(np.isnan(values), 0, steps + 1).astype(np.uint16)


def decode_coarse(codes: UInt16) -> NDArray[np.float64]:
    """Codes [20, h, w] -> values in the channels' units; 0 -> NaN."""
    return np.where(codes == 0, np.nan, _COARSE_OFFSET + _COARSE_SCALE * (codes.astype(np.float64) - 1))


def _span(points: NDArray[np.float64], size: int) -> slice:
    """The points needed to interpolate linearly at 0 .. size - 1: those inside and one on either side."""
    first = int(np.searchsorted(points, 0, side="right")) - 1
    last = int(np.searchsorted(points, size - 1, side="left"))
    first, last = max(0, min(first, len(points) - 2)), min(len(points) - 1, max(last, 1))
    return slice(first, last + 1)


def _crop(plane: NDArray, row: int, col: int, size: int, fill: float) -> NDArray:
    """A size x size window of [..., H, W]; pixels outside are `fill`."""
    window = plane[..., row : row + size, col : col + size]
    lacking = [(0, 0)] * (plane.ndim - 2) + [(0, size - edge) for edge in window.shape[-2:]]
    if any(after for _, after in lacking):
        return np.pad(window, lacking, constant_values=fill)
    return np.ascontiguousarray(window)


def tile_key(scene: str, factor: int, row: int, col: int) -> str:
    """`PRODUCT_HHHHHH_kFF_RRRRR_CCCCC`: the scene's product name, a hash of its whole name, and the place.

    A tar header has room for 100 characters, so the chart's part of a scene name is only in the hash; dots, which end
    a key in a tar, and what is no ASCII letter or digit become hyphens.
    """
    product = re.sub(r"[^0-9A-Za-z_-]", "-", scene.split("_icechart_")[0])[:67]
    return f"{product}_{xxhash.xxh3_64_hexdigest(scene.encode())[:6]}_k{factor:02d}_{row:05d}_{col:05d}"


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


def cut(layers: Layers, row: int, col: int, size: int) -> Tile:
    """The tile whose first pixel is (row, col); beyond the scene's edge there is no data.

    The cell rule of the 2 km grid: with spacing s, tile pixel r lies at cell (row + r + 0.5) s / 2000 - 0.5.
    """
    spacing = layers.pixel_spacing
    cells = layers.coarse.shape[1:]
    aux_rows, aux_cols = (
        (np.arange(n) + 0.5) * COARSE_SPACING / spacing - 0.5 - first
        for n, first in zip(cells, (row, col), strict=True)
    )
    shift = (layers.step - 1) / 2
    geo = layers.geo
    geo_rows = (geo.lines - shift) / layers.step - row
    geo_cols = (geo.samples - shift) / layers.step - col
    aux_r, aux_c = (_span(points, size) if len(points) > 1 else slice(None) for points in (aux_rows, aux_cols))
    geo_r, geo_c = _span(geo_rows, size), _span(geo_cols, size)
    fields = np.stack([geo.latitude, geo.longitude, geo.incidence])[:, geo_r, geo_c]
    return Tile(
        key=tile_key(layers.scene, layers.factor, row, col),
        scene=layers.scene,
        factor=layers.factor,
        row=row,
        col=col,
        pixel_spacing=spacing,
        time=None if layers.time is None else layers.time.isoformat(),
        ice_service=layers.ice_service,
        simulated=layers.simulated,
        hh=encode_sar(_crop(layers.sar["hh"], row, col, size, np.nan)),
        hv=encode_sar(_crop(layers.sar["hv"], row, col, size, np.nan)),
        dist=_crop(layers.distance, row, col, size, IGNORE_INDEX),
        aux=encode_coarse(layers.coarse[:, aux_r, aux_c]),
        aux_rows=aux_rows[aux_r],
        aux_cols=aux_cols[aux_c],
        geo=fields.astype(np.float32),
        geo_rows=geo_rows[geo_r],
        geo_cols=geo_cols[geo_c],
        lab=None if layers.labels is None else _crop(layers.labels, row, col, size, IGNORE_INDEX),
    )


def interpolation_matrix(points: NDArray[np.float64], size: int, clamp: bool) -> NDArray[np.float32]:
    """Weights [size, n] that bring values at `points` [n] to 0 .. size - 1 by linear interpolation.

    Args:
        clamp: hold the edge values beyond the outermost points (2 km grid); else go on linearly (geolocation).
    """
    weights = np.zeros((size, len(points)), np.float64)
    if len(points) == 1:
        weights[:] = 1
    elif len(points) > 1:
        at = np.arange(size, dtype=np.float64)
        index = np.clip(np.searchsorted(points, at, side="right") - 1, 0, len(points) - 2)
        fraction = (at - points[index]) / (points[index + 1] - points[index])
        fraction = np.clip(fraction, 0, 1) if clamp else fraction
        weights[np.arange(size), index] = 1 - fraction
        weights[np.arange(size), index + 1] += fraction
    return weights.astype(np.float32)


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


def acquisition(tile: Tile) -> datetime | None:
    """Start of acquisition."""
    return None if tile.time is None else datetime.fromisoformat(tile.time)
