"""The files that describe a folder of shards: the manifest, and beside each shard the index of its samples.

    manifest.json        schema, channels with their codes, classes, splits -> shards, scenes, statistics, builder
    train-000000.tar     a shard
    train-000000.json    its index: for each sample key, offset, size, xxh3 and the facts that selections need

A sample's range in the tar holds the headers and data of all its members; its checksum is xxh3-64 of that range. The
end of the range, from the member `hh.b2` on, has a checksum of its own, for readers that need no other channels.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import orjson
import xxhash

from arcticseg.data import schema
from arcticseg.data.sample import REBUILD, SCHEMA_VERSION
from arcticseg.data.tile import GEO, SAR_LOW, SAR_STEP
from arcticseg.documents import DocumentError, parse_json, read_bytes
from arcticseg.errors import ShardError
from arcticseg.files import write_text
from arcticseg.ice.channels import CHANNELS, COARSE, SAR
from arcticseg.ice.sigrid import CLASS_NAMES, IGNORE_INDEX
from arcticseg.shown import brief
from arcticseg.system import why_unread

MANIFEST = "manifest.json"
SPLITS = ("train", "val", "test")

# How many levels of the manifest's parts have a line for each entry: each shard, scene and channel has a line.
_DEPTHS = {"splits": 2, "scenes": 1, "channels": 1, "statistics": 1}


@dataclass(frozen=True)
class SampleEntry:
    """A sample of a shard.

    Attributes:
        key: unique in a shard set.
        scene, factor: what it was cut from.
        offset, size: of its range in the shard, in bytes.
        xxh3: xxh3-64 of the range, in hex.
        core: where in the range the part begins that holds SAR, metadata and labels only, to the end of the range.
        core_xxh3: xxh3-64 of that part, in hex.
        labelled: whether it has a chart.
        counts: chart -> pixels of each class and, last, masked ones.
    """

    key: str
    scene: str
    factor: int
    offset: int
    size: int
    xxh3: str
    core: int
    core_xxh3: str
    labelled: bool
    counts: Mapping[str, list[int]] = field(default_factory=dict)


@dataclass(frozen=True)
class ShardEntry:
    """A shard of a split: file name, bytes, xxh3-64 of the file in hex, number of samples, xxh3-64 of its index."""

    name: str
    bytes: int
    xxh3: str
    samples: int
    index: str


def describe_channels() -> dict[str, dict[str, Any]]:
    """Channel -> its group, unit, grid and member, and what its numbers mean.

    Where there are `offset` and `scale`, value = offset + scale x (code - 1); `no_data` is the code of no data, `nan`
    where members hold plain floats; `plane` is the channel's place in a member of several.
    """
    members = {name: f"{polarisation}.b2" for polarisation, name in SAR.items()} | {"distance_map": "dist.zst"}
    by_grid = {"2km": "aux.b2", "geo": "geo.bin", "scene": "json"}
    planes = {name: plane for plane, name in enumerate(COARSE)} | {name: plane for plane, name in enumerate(GEO)}
    described: dict[str, dict[str, Any]] = {}
    for name, channel in CHANNELS.items():
        member = members.get(name) or by_grid[channel.grid]
        facts: dict[str, Any] = {"group": channel.group, "unit": channel.unit, "grid": channel.grid, "member": member}
        if name in planes:
            facts |= {"plane": planes[name]}
        if member.endswith(".b2"):
            offset, scale = (channel.offset, channel.scale) if member == "aux.b2" else (SAR_LOW, SAR_STEP)
            facts |= {"dtype": "uint16", "no_data": 0, "offset": offset, "scale": scale}
        elif member == "dist.zst":
            facts |= {"dtype": "uint8", "no_data": IGNORE_INDEX}
        elif member == "geo.bin":
            facts |= {"dtype": "float32", "no_data": "nan"}
        described[name] = facts
    return described


def describe_classes() -> dict[str, list[str]]:
    """Chart -> names of its classes, in the order of their numbers."""
    return {chart: list(names) for chart, names in CLASS_NAMES.items()}


@dataclass(frozen=True)
class Manifest:
    """The manifest of a folder of shards.

    Attributes:
        tile: edge of a tile in pixels.
        factors: downsampling factors.
        splits: split -> its shards.
        scenes: scene -> its split and facts, or its split and why it could not be read.
        statistics: channel -> {mean, std, count, histogram, factors} over training scenes, see `shards.stats.merge`.
        builder: program version and all options.
        simulated: whether any scene is simulated.
        fingerprint: changes when any sample does.
        schema: version of the sample format.
        channels, classes: what the samples hold, for other programs.
    """

    tile: int
    factors: tuple[int, ...]
    splits: Mapping[str, tuple[ShardEntry, ...]]
    scenes: Mapping[str, Mapping[str, Any]]
    statistics: Mapping[str, Mapping[str, Any]]
    builder: Mapping[str, Any]
    simulated: bool
    fingerprint: str
    schema: int = SCHEMA_VERSION
    channels: Mapping[str, Mapping[str, Any]] = field(default_factory=describe_channels)
    classes: Mapping[str, list[str]] = field(default_factory=describe_classes)


def hash_file(path: Path) -> str:
    """xxh3-64 of a file, in hex."""
    digest = xxhash.xxh3_64()
    with open(path, "rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def fingerprint(samples: Iterable[SampleEntry]) -> str:
    """xxh3-128 over key and checksum of each sample, in order: changes when any sample does."""
    return fingerprint_of((sample.key, sample.xxh3) for sample in samples)


def fingerprint_of(samples: Iterable[tuple[str, str]]) -> str:
    """`fingerprint` of (key, checksum) of each sample."""
    digest = xxhash.xxh3_128()
    for key, checksum in samples:
        digest.update(f"{key} {checksum}\n".encode())
    return digest.hexdigest()


def totals(samples: Iterable[SampleEntry]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Scene -> factor -> number of tiles; scene -> factor -> chart -> pixels of each class and, last, masked ones."""
    tiles: dict[str, Any] = {}
    counts: dict[str, Any] = {}
    for sample in samples:
        factor = str(sample.factor)
        of_scene = tiles.setdefault(sample.scene, {})
        of_scene[factor] = of_scene.get(factor, 0) + 1
        for chart, numbers in sample.counts.items():
            charts = counts.setdefault(sample.scene, {}).setdefault(factor, {})
            charts[chart] = [a + b for a, b in zip(charts.get(chart, [0] * len(numbers)), numbers, strict=True)]
    return tiles, counts


def index_path(shard: Path) -> Path:
    """The index beside a shard."""
    return shard.with_suffix(".json")


def write_index(shard: Path, samples: Iterable[SampleEntry]) -> str:
    """Write the index of a shard, a line for each sample; its xxh3-64, in hex, is for the manifest.

    Raises:
        OutputError: it cannot be written.
    """
    lines = ",\n".join(json.dumps(asdict(sample), sort_keys=True) for sample in samples)
    text = f'{{"schema": {SCHEMA_VERSION}, "shard": "{shard.name}", "samples": [\n{lines}\n]}}\n'
    write_text(index_path(shard), text)
    return xxhash.xxh3_64_hexdigest(text.encode())


def _read(path: Path, what: str, most: int) -> bytes:
    try:
        return read_bytes(path, most)
    except OSError as error:
        raise ShardError(f"{path}: {what} {why_unread(error, 'build the shards again')}") from error
    except DocumentError as error:
        raise _damaged(str(path), what, error) from error


def _damaged(where: str, what: str, reason: object) -> ShardError:
    return ShardError(f"{where}: {what} is damaged ({reason}); build the shards again")


def _check_version(content: Any, where: str) -> None:
    version = content.get("schema") if isinstance(content, dict) else None
    if version != SCHEMA_VERSION:
        raise ShardError(f"{where}: schema version {brief(version)}, this program reads {SCHEMA_VERSION}; {REBUILD}")


def read_index(path: Path, shard: ShardEntry | None = None) -> list[SampleEntry]:
    """The samples of a shard, in tar order.

    Args:
        path: of the shard.
        shard: its entry in a manifest, which the index must fit; None: the index is taken as it is.

    Raises:
        ShardError: the index is missing, damaged or of another version, or is not that of the manifest.
    """
    limit = schema.INDEX_BYTES if shard is None else schema.index_limit(shard.samples)
    where = index_path(path)
    return parse_index(_read(where, "index", limit), path.name, str(where), shard)


def parse_index(data: bytes, name: str, where: str, shard: ShardEntry | None = None) -> list[SampleEntry]:
    """The samples of a shard, from the bytes of its index.

    Args:
        name: the shard's file name.
        where: names the index in errors.
        shard: its entry in a manifest, which the index must fit.

    Raises:
        ShardError: see `read_index`.
    """
    # What the manifest's hash ties to it is as it was written, without keys that stand twice; orjson is faster.
    try:
        content = orjson.loads(data)
    except ValueError as error:
        raise _damaged(where, "index", error) from error
    _check_version(content, where)
    if content.get("shard") != name:
        raise ShardError(
            f"{where}: is the index of {brief(content.get('shard'))}, not of {name}; build the shards again"
        )
    if shard is not None and xxhash.xxh3_64_hexdigest(data) != shard.index:
        raise _damaged(where, "index", "it differs from its checksum in the manifest")
    try:
        schema.check_samples(content.get("samples"), None if shard is None else shard.bytes)
    except DocumentError as error:
        raise _damaged(where, "index", error) from error
    samples = [SampleEntry(**sample) for sample in content["samples"]]
    if shard is not None and len(samples) != shard.samples:
        raise ShardError(f"{where}: lists {len(samples)} samples, the manifest {shard.samples}; build the shards again")
    return samples


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `manifest.json`, the last file of a build.

    Raises:
        OutputError: it cannot be written.
    """
    lines = [f'"{key}": {_json(value, _DEPTHS.get(key, 0))}' for key, value in sorted(asdict(manifest).items())]
    write_text(folder / MANIFEST, "{\n" + ",\n".join(lines) + "\n}\n")


def _json(value: Any, depth: int, indent: str = " ") -> str:
    """JSON with a line for each entry, `depth` levels deep."""
    if not depth or not value:
        return json.dumps(value, sort_keys=True)
    if isinstance(value, dict):
        ends, lines = (
            "{}",
            [f"{json.dumps(key)}: {_json(value[key], depth - 1, indent + ' ')}" for key in sorted(value)],
        )
    else:
        ends, lines = "[]", [_json(entry, depth - 1, indent + " ") for entry in value]
    return f"{ends[0]}\n{indent}" + f",\n{indent}".join(lines) + f"\n{indent[1:]}{ends[1]}"


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a folder of shards.

    Raises:
        ShardError: the folder or its manifest is missing, damaged or of another version.
    """
    path = folder / MANIFEST
    if not path.exists():
        raise ShardError(f"{folder}: holds no {MANIFEST}; give a folder that `arcticseg shards build` has finished")
    return parse_manifest(_read(path, "manifest", schema.MANIFEST_BYTES), str(path))


def parse_manifest(data: bytes, where: str) -> Manifest:
    """A manifest from its bytes.

    Args:
        where: names the manifest in errors.

    Raises:
        ShardError: see `read_manifest`.
    """
    try:
        content = parse_json(data, schema.MANIFEST_CONTAINERS)
        _check_version(content, where)
        schema.check_manifest(content)
    except DocumentError as error:
        raise _damaged(where, "manifest", error) from error
    content["splits"] = {
        name: tuple(ShardEntry(**shard) for shard in shards) for name, shards in content["splits"].items()
    }
    content["factors"] = tuple(content["factors"])
    manifest = Manifest(**content)
    if manifest.channels != describe_channels() or manifest.classes != describe_classes():
        raise ShardError(f"{where}: its channels or classes are not those of this program; build the shards again")
    return manifest
