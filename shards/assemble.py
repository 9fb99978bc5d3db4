"""From parts to shards: the second stage of a build.

The samples of each split, in an order drawn from the seed, are copied from the parts of its scenes into shards, so
that the tiles of a scene are scattered. Shards that are there already are left as they are; new shards get the next
numbers. The manifest is written last, in one step: until then the folder counts as what it was.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
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
from shards.progress import OnProgress

# What a build writes to its folder besides manifest, parts and lock, finished or half done.
_SHARD = re.compile(r"(train|val|test)-\d{6}\.(tar|json)")
_TEMPORARY = re.compile(r"\.((train|val|test)-\d{6}|manifest)\.\d+\.tmp\.(tar|json)")


@dataclass(frozen=True)
class Part:
    """The tiles of a scene: the tar, and the facts that `build_part` wrote beside it."""

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
    """A shard to write: its name, and for each sample the part that holds it and its entry in that part's index."""

    name: str
    samples: list[tuple[Path, SampleEntry]] = field(default_factory=list)


def is_part(tar: Path) -> bool:
    """Whether the part is there, and whole."""
    return tar.is_file() and tar.with_suffix(".json").is_file()


def stray_shards(folder: Path, manifest: Manifest | None) -> list[Path]:
    """Shards and indices that the manifest does not name."""
    known = {shard.name for shards in manifest.splits.values() for shard in shards} if manifest else set()
    return sorted(
        path for path in folder.iterdir() if _SHARD.fullmatch(path.name) and path.with_suffix(".tar").name not in known
    )


def remove_debris(folder: Path, parts: Path, manifest: Manifest | None) -> None:
    """Delete what an interrupted build left: shards that no manifest names, and temporary files."""
    temporary = [path for path in folder.iterdir() if _TEMPORARY.fullmatch(path.name)]
    for path in [*stray_shards(folder, manifest), *temporary, *parts.glob(".*.tmp*")]:
        path.unlink()


def assemble(
    splits: Mapping[str, Sequence[Part]],
    failed: Mapping[str, Mapping[str, str]],
    old: Manifest | None,
    out: Path,
    config: BuildConfig,
    progress: OnProgress,
) -> Manifest:
    """Write shards, indices and, last, the manifest.

    Args:
        splits: split -> parts of the scenes to add.
        failed: scene that could not be read -> its entry in the manifest.
        old: the manifest of the shards that are there; None: there are none.
        progress: is told (shards written, shards in all).

    Raises:
        OutputError: the disk is full, or a part has changed.
    """
    # Sorted, so that the output depends neither on the order in which scenes are given nor on that in which they end.
    splits = {split: sorted(parts, key=lambda part: part.facts["scene"]) for split, parts in splits.items()}
    before = old.splits if old else {}
    plans = {split: _plan(split, len(before.get(split, ())), parts, config) for split, parts in splits.items()}
    total, done = sum(map(len, plans.values())), 0
    shards: dict[str, tuple[ShardEntry, ...]] = {}
    entries: list[SampleEntry] = []
    for split in manifests.SPLITS:
        kept = before.get(split, ())
        entries += [entry for shard in kept for entry in manifests.read_index(out / shard.name, shard)]
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
    all_scenes = {**(old.scenes if old else {}), **failed, **scenes}
    tallies = [part.facts["statistics"] for part in splits.get("train", ())]
    manifest = Manifest(
        tile=config.tile,
        factors=config.factors,
        splits=shards,
        scenes={name: all_scenes[name] for name in sorted(all_scenes)},
        statistics=stats.merge([*([stats.unmerge(old.statistics)] if old else []), *tallies]),
        builder={"version": version("arcticseg"), "config": to_dict(config)},
        simulated=any(facts.get("simulated") for facts in all_scenes.values()),
        fingerprint=manifests.fingerprint(entries),
    )
    manifests.write_manifest(out, manifest)
    return manifest


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
    index = manifests.write_index(path, written)
    return ShardEntry(path.name, size, digest.hexdigest(), len(written), index), written


def _summary(part: Part) -> dict[str, Any]:
    """A scene's entry in the manifest, without its split."""
    kept = (
        "simulated",
        "ice_service",
        "time",
        "satellite",
        "orbit",
        "denoising",
        "has_chart",
        "shape",
        "notes",
        "warnings",
    )
    tiles, counts = manifests.totals(part.samples)
    name = part.facts["scene"]
    return {key: part.facts[key] for key in kept} | {"tiles": tiles[name], "counts": counts.get(name, {})}
