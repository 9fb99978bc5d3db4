"""Verify a folder of shards: every byte against its checksum, every sample against its format."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import xxhash

from arcticseg.data import manifest as manifests
from arcticseg.data import sample
from arcticseg.errors import ShardError


def check(folder: Path, progress: Callable[[int, int], None] = lambda done, total: None) -> list[str]:
    """What is wrong with a folder of shards, a line each; empty: nothing.

    Raises:
        ShardError: the manifest cannot be read.
    """
    found = manifests.read_manifest(folder)
    problems: list[str] = []
    entries: list[manifests.SampleEntry] = []
    shards = [(split, shard) for split in manifests.SPLITS for shard in found.splits.get(split, ())]
    for done, (split, shard) in enumerate(shards):
        progress(done, len(shards))
        path = folder / shard.name
        if not path.is_file():
            problems.append(f"{path}: shard is missing")
            continue
        if path.stat().st_size != shard.bytes:
            problems.append(f"{path}: {path.stat().st_size} bytes, the manifest says {shard.bytes}")
        elif manifests.hash_file(path) != shard.xxh3:
            problems.append(f"{path}: differs from the checksum in the manifest")
        try:
            index = manifests.read_index(path)
        except ShardError as error:
            problems.append(str(error))
            continue
        entries += index
        if len(index) != shard.samples:
            problems.append(f"{path}: {len(index)} samples in the index, the manifest says {shard.samples}")
        with open(path, "rb") as file:
            for entry in index:
                if problem := _check_sample(os.pread(file.fileno(), entry.size, entry.offset), entry):
                    problems.append(f"{path}: at byte {entry.offset}: {problem}")
                if found.scenes.get(entry.scene, {}).get("split") != split:
                    problems.append(f"{path}: sample {entry.key} is of a scene that is not in split {split}")
    progress(len(shards), len(shards))
    if not problems and manifests.fingerprint(entries) != found.fingerprint:
        problems.append(f"{folder}: the indices do not give the manifest's fingerprint")
    return problems


def _check_sample(data: bytes, entry: manifests.SampleEntry) -> str | None:
    if len(data) != entry.size:
        return f"sample {entry.key} is cut: {len(data)} of {entry.size} bytes"
    if xxhash.xxh3_64_hexdigest(data) != entry.xxh3:
        return f"sample {entry.key} differs from its checksum"
    try:
        key, members = sample.split_members(data)
        tile = sample.decode(key, members)
    except ShardError as error:
        return str(error)
    if key != entry.key or tile.class_counts() != {name: list(counts) for name, counts in entry.counts.items()}:
        return f"sample {entry.key} holds {key}, or other class counts than the index"
    return None
