"""From parts to shards: the second stage of a build, and the first shards' neighbours in an extension.

The samples of each split, in an order drawn from the seed, are copied from the parts of its scenes into shards, so
that the tiles of a scene are scattered. Shards that are there already are left as they are; the new ones get the next
numbers. The manifest is written last, and at once: until then the folder is what it was.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from arcticseg.config import to_dict
from arcticseg.data import manifest as manifests
from arcticseg.data.manifest import Manifest, SampleEntry, ShardEntry
from arcticseg.errors import OutputError
from arcticseg.files import atomic_path
from shards import stats
from shards.part import END_OF_TAR, BuildConfig

# What a build writes to its folder besides manifest, parts and lock, finished or half done.
_SHARD = re.compile(r"(train|val|test)-\d{6}\.(tar|json)")
_TEMPORARY = re.compile(r"\.((train|val|test)-\d{6}|manifest)\.\d+\.tmp\.(tar|json)")


@dataclass(frozen=True)
class Part:
    """One scene's tiles: the tar, and the facts that `build_part` wrote beside it."""

    tar: Path
    facts: Mapping[str, Any]

    @classmethod
    def read(cls, tar: Path) -> Part:
        """The part at a path; its facts are written last."""
        return cls(tar, json.loads(tar.with_suffix(".json").read_text()))

    @property
    def samples(self) -> list[SampleEntry]:
        """The samples in the order of the tar."""
        return [SampleEntry(**entry) for entry in self.facts["samples"]]


@dataclass
class _Plan:
    """A shard to write: its name, and for each sample the part that it comes from and where it lies there."""

    name: str
    samples: list[tuple[Path, SampleEntry]] = field(default_factory=list)


def is_part(tar: Path) -> bool:
    """The part is there, and whole."""
    return tar.is_file() and tar.with_suffix(".json").is_file()


def stray_shards(folder: Path, found: Manifest | None) -> list[Path]:
    """Shards and indices that the manifest does not name."""
    known = {shard.name for shards in found.splits.values() for shard in shards} if found else set()
    return sorted(
        path for path in folder.iterdir() if _SHARD.fullmatch(path.name) and path.with_suffix(".tar").name not in known
    )


def remove_debris(folder: Path, parts: Path, found: Manifest | None) -> None:
    """Delete what a build left half done: shards that no manifest names, and temporary files."""
    temporary = [path for path in folder.iterdir() if _TEMPORARY.fullmatch(path.name)]
    for path in [*stray_shards(folder, found), *temporary, *parts.glob(".*.tmp*")]:
        path.unlink()


def assemble(
    splits: Mapping[str, Sequence[Part]],
    failed: Mapping[str, Mapping[str, str]],
    old: Manifest | None,
    out: Path,
    config: BuildConfig,
    progress: Callable[[int, int], None],
) -> Manifest:
    """Write shards, indices and, last, the manifest.

    Args:
        splits: split -> parts of the scenes to add.
        failed: scene -> its entry in the manifest, of scenes that could not be read.
        old: the manifest of the shards that are there.
        progress: is told (shards written, shards in all).

    Raises:
        OutputError: the disk is full, or a part has changed.
    """
    # So neither the order in which scenes are given nor that in which they were done makes a difference.
    splits = {split: sorted(parts, key=lambda part: part.facts["scene"]) for split, parts in splits.items()}
    before = old.splits if old else {}
    plans = {split: _plan(split, len(before.get(split, ())), parts, config) for split, parts in splits.items()}
    total, done = sum(map(len, plans.values())), 0
    shards: dict[str, tuple[ShardEntry, ...]] = {}
    entries: list[SampleEntry] = []
    for split in manifests.SPLITS:
        kept = before.get(split, ())
        entries += [entry for shard in kept for entry in manifests.read_index(out / shard.name)]
        added = []
        for plan in plans.get(split, ()):
            progress(done, total)
            shard, written = _write_shard(out, plan)
            added.append(shard)
            entries += written
            done += 1
        if kept or added:
            shards[split] = (*kept, *added)
    progress(done, total)
    scenes = {
        part.facts["scene"]: {"split": split, **_summary(part)} for split, parts in splits.items() for part in parts
    }
    every = {**(old.scenes if old else {}), **failed, **scenes}
    tallies = [part.facts["statistics"] for part in splits.get("train", ())]
    result = Manifest(
        tile=config.tile,
        factors=config.factors,
        splits=shards,
        scenes={name: every[name] for name in sorted(every)},
        statistics=stats.merge([*([stats.unmerge(old.statistics)] if old else []), *tallies]),
        builder={"version": version("arcticseg"), "config": to_dict(config)},
        simulated=any(facts.get("simulated") for facts in every.values()),
        fingerprint=manifests.fingerprint(entries),
    )
    manifests.write_manifest(out, result)
    return result


def _plan(split: str, first: int, parts: Sequence[Part], config: BuildConfig) -> list[_Plan]:
    """The samples of a split in an order drawn from the seed, cut into shards numbered from `first` on."""
    samples = [(part.tar, entry) for part in parts for entry in part.samples]
    key = xxhash.xxh3_64_intdigest(f"{split} {config.seed}".encode())
    order = np.random.Generator(np.random.Philox(key=key)).permutation(len(samples))
    plans: list[_Plan] = []
    size = config.shard_bytes
    for place in order:
        if size >= config.shard_bytes:
            plans.append(_Plan(f"{split}-{first + len(plans):06d}.tar"))
            size = 0
        plans[-1].samples.append(samples[place])
        size += samples[place][1].size
    return plans


def _write_shard(out: Path, plan: _Plan) -> tuple[ShardEntry, list[SampleEntry]]:
    """Copy samples from their parts, each verified, and write the index."""
    path = out / plan.name
    digest = xxhash.xxh3_64()
    written: list[SampleEntry] = []
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        for part, entry in plan.samples:
            with open(part, "rb") as source:
                data = os.pread(source.fileno(), entry.size, entry.offset)
            if xxhash.xxh3_64_hexdigest(data) != entry.xxh3:
                raise OutputError(f"{part}: changed since it was written; remove {part.parent} and build again")
            written.append(replace(entry, offset=file.tell()))
            file.write(data)
            digest.update(data)
        file.write(END_OF_TAR)
        digest.update(END_OF_TAR)
        size = file.tell()
    manifests.write_index(path, written)
    return ShardEntry(path.name, size, digest.hexdigest(), len(written)), written


def _summary(part: Part) -> dict[str, Any]:
    """What the manifest says of a scene."""
    kept = ("simulated", "ice_service", "time", "has_chart", "shape", "warnings")
    tiles, counts = manifests.totals(part.samples)
    name = part.facts["scene"]
    return {key: part.facts[key] for key in kept} | {"tiles": tiles[name], "counts": counts.get(name, {})}
