"""Verify a folder of shards: bytes against checksums, samples against their format, the manifest against them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import xxhash

from arcticseg.data import manifest as manifests
from arcticseg.data import sample
from arcticseg.data.manifest import Manifest, SampleEntry, ShardEntry
from arcticseg.data.tile import SAR_MAX_CODE, Tile, tile_key
from arcticseg.errors import ShardError
from arcticseg.ice.partials import row_labels
from arcticseg.ice.scenes.netcdf import LAST_ZONE
from arcticseg.ice.sigrid import CHARTS, IGNORE_INDEX, N_CLASSES
from shards.assemble import stray_shards
from shards.part import END_OF_TAR
from shards.progress import OnProgress, ignore
from shards.workers import Job, Workers


def check(folder: Path, workers: int = 0, progress: OnProgress = ignore) -> list[str]:
    """What is wrong with a folder of shards, one line for each problem.

    Args:
        workers: processes that share the shards; 0: this process checks them.
        progress: is told (shards done, shards in all).

    Raises:
        ShardError: the manifest cannot be read.
    """
    manifest = manifests.read_manifest(folder)
    shards = [(split, shard) for split in manifests.SPLITS for shard in manifest.splits.get(split, ())]
    jobs = [(folder / shard.name, shard, split, manifest) for split, shard in shards]
    problems: dict[Path, list[str]] = {}
    for done, (path, lines) in enumerate(_each(jobs, workers)):
        problems[path] = lines
        progress(done, len(jobs))
    progress(len(jobs), len(jobs))
    ordered = [line for path, *_ in jobs for line in problems[path]]
    ordered += [
        f"{path}: is not in the manifest, as an interrupted build leaves it; finish that build, or remove the file"
        for path in stray_shards(folder, manifest)
    ]
    # Sums over shards are compared only where each shard is sound: otherwise they differ for that reason.
    return ordered or list(_check_sums(folder, manifest))


_ShardJob = tuple[Path, ShardEntry, str, Manifest]


def _each(jobs: list[_ShardJob], workers: int) -> Iterator[tuple[Path, list[str]]]:
    if not workers:
        yield from ((arguments[0], check_shard(*arguments)) for arguments in jobs)
        return
    with Workers(workers) as pool:
        for job, outcome in pool.map(check_shard, map(Job, jobs)):
            path = job.arguments[0]
            # A checksum that is right, and a decoder that ends its process all the same: the shard was written so.
            yield path, [f"{path}: {outcome.error}"] if outcome.error is not None else outcome.value


def check_shard(path: Path, shard: ShardEntry, split: str, manifest: Manifest) -> list[str]:
    """What is wrong with a shard and its index."""
    if not path.is_file():
        return [f"{path}: shard is missing"]
    problems = []
    if path.stat().st_size != shard.bytes:
        problems.append(f"{path}: {path.stat().st_size} bytes, the manifest says {shard.bytes}")
    elif manifests.hash_file(path) != shard.xxh3:
        problems.append(f"{path}: differs from the checksum in the manifest")
    try:
        index = manifests.read_index(path, shard)
    except ShardError as error:
        return [*problems, str(error)]
    with open(path, "rb") as file:
        for entry in index:
            data = os.pread(file.fileno(), entry.size, entry.offset)
            problems += [f"{path}: at byte {entry.offset}: {line}" for line in check_sample(data, entry, manifest)]
            if manifest.scenes.get(entry.scene, {}).get("split") != split:
                problems.append(f"{path}: sample {entry.key} is of a scene that is not in split {split}")
        end = sum(entry.size for entry in index)
        if not problems and (
            [entry.offset for entry in index] != [0, *np.cumsum([entry.size for entry in index])[:-1]]
            or os.pread(file.fileno(), shard.bytes, end) != END_OF_TAR
        ):
            problems.append(
                f"{path}: the samples in the index do not lie one behind the other up to the end of the tar"
            )
    return problems


def check_sample(data: bytes, entry: SampleEntry, manifest: Manifest) -> Iterator[str]:
    """What is wrong with the bytes of a sample."""
    name = f"sample {entry.key}"
    if len(data) != entry.size:
        yield f"{name} is cut: {len(data)} of {entry.size} bytes"
        return
    if xxhash.xxh3_64_hexdigest(data) != entry.xxh3:
        yield f"{name} differs from its checksum"
        return
    if xxhash.xxh3_64_hexdigest(data[entry.core :]) != entry.core_xxh3:
        yield f"{name}: the part from {sample.CORE} on differs from its checksum"
    if not data[entry.core :].startswith(f"{entry.key}.{sample.CORE}\0".encode()):
        yield f"{name}: {sample.CORE} does not begin where the index says"
    try:
        key, members = sample.split_members(data)
        tile = sample.decode(key, members)
    except ShardError as error:
        yield str(error)
        return
    place = tile_key(tile.scene, tile.factor, tile.row, tile.col)
    if not key == entry.key == place:
        yield f"{name} holds {key}, of {place}"
    meta = json.loads(bytes(members["json"]))
    counts = tile.class_counts()
    for what, inside, outside in (
        ("scene", tile.scene, entry.scene),
        ("factor", tile.factor, entry.factor),
        ("labels", tile.lab is not None, entry.labelled),
        ("class counts", counts, {chart: list(numbers) for chart, numbers in entry.counts.items()}),
        ("class counts", counts, meta["counts"]),
        ("valid pixels", int(tile.valid.sum()), meta["valid"]),
        ("edges", tile.hh.shape, (manifest.tile, manifest.tile)),
    ):
        if inside != outside:
            yield f"{name}: its {what} are {inside}, the index or manifest says {outside}"
    yield from (f"{name}: {text}" for text in _check_values(tile))


def _check_values(tile: Tile) -> Iterator[str]:
    """Numbers that no builder writes."""
    for name, codes in (("hh", tile.hh), ("hv", tile.hv)):
        if codes.max(initial=0) > SAR_MAX_CODE:
            yield f"{name} holds code {codes.max()}, the last is {SAR_MAX_CODE}"
    if ((tile.dist > LAST_ZONE) & (tile.dist != IGNORE_INDEX)).any():
        yield f"dist holds a zone above {LAST_ZONE}"
    latitude, longitude = tile.geo[:2].astype(np.float64)
    if not ((np.abs(latitude) <= 90) & (np.abs(longitude) <= 360)).all():
        yield "geo holds latitudes or longitudes out of range"
    for chart, plane in zip(CHARTS, tile.lab if tile.lab is not None else (), strict=False):
        if ((plane >= N_CLASSES[chart]) & (plane != IGNORE_INDEX)).any():
            yield f"lab holds a class that {chart} does not have"
    yield from _check_polygons(tile)


def _check_polygons(tile: Tile) -> Iterator[str]:
    """Labels where there is no SAR data, and labels that are not those of their polygons."""
    if tile.lab is not None and ((tile.lab != IGNORE_INDEX).any(axis=0) & ~tile.valid).any():
        yield "lab holds labels where there is no SAR data"
    if tile.poly is None:
        return
    rows = row_labels(tile.polygons)
    none = np.iinfo(tile.poly.dtype).max
    if ((tile.poly >= len(rows)) & (tile.poly != none)).any():
        yield f"aux_poly holds a row above {len(rows) - 1}, the last"
        return
    labels = np.full((int(none) + 1, len(CHARTS)), IGNORE_INDEX, np.uint8)
    labels[: len(rows)] = rows
    if tile.lab is None or (np.moveaxis(labels[tile.poly], -1, 0) != tile.lab).any():
        yield "lab holds other labels than the polygons of aux_poly have"


def _check_sums(folder: Path, manifest: Manifest) -> Iterator[str]:
    """What the manifest says of all samples together, against the indices."""
    entries = [
        entry
        for split in manifests.SPLITS
        for shard in manifest.splits.get(split, ())
        for entry in manifests.read_index(folder / shard.name, shard)
    ]
    if len({entry.key for entry in entries}) != len(entries):
        yield f"{folder}: a sample stands twice"
    if manifests.fingerprint(entries) != manifest.fingerprint:
        yield f"{folder}: the indices do not give the manifest's fingerprint"
    tiles, counts = manifests.totals(entries)
    for name, facts in manifest.scenes.items():
        listed = {"tiles": facts.get("tiles", {}), "counts": facts.get("counts", {})}
        if listed != {"tiles": tiles.pop(name, {}), "counts": counts.get(name, {})}:
            yield f"{folder}: the indices do not give the numbers of tiles and pixels that the manifest says of {name}"
    for name in tiles:
        yield f"{folder}: holds samples of {name}, which the manifest does not name"
    if not {str(entry.factor) for entry in entries} <= {str(factor) for factor in manifest.factors}:
        yield f"{folder}: holds factors besides those of the manifest"
    if any(facts.get("simulated") for facts in manifest.scenes.values()) != manifest.simulated:
        yield f"{folder}: the manifest and its scenes disagree on whether they are simulated"
