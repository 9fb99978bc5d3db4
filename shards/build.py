"""Scenes in, shards out: `arcticseg shards build`.

Two stages. First each scene becomes a part, a tar of its tiles with an index, written whole or not at all, so an
interrupted build goes on where it stopped. Then the samples of each split, in an order drawn from the seed, are copied
from the parts into shards. The output depends neither on the number of workers nor on what was interrupted.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from arcticseg.config import to_dict
from arcticseg.data import manifest as manifests
from arcticseg.data import sample
from arcticseg.data.manifest import SampleEntry, ShardEntry
from arcticseg.errors import ConfigError, OutputError, SceneError
from arcticseg.files import atomic_path, make_folder
from shards import stats
from shards.part import BuildConfig, build_part
from shards.workers import process_pool

_PARTS = ".parts"
_END_OF_TAR = bytes(1024)
# What a build writes to its folder, finished or half done, besides the manifest and the parts.
_OWN = re.compile(r"(train|val|test)-\d{6}\.(tar|json)|\.((train|val|test)-\d{6}|manifest)\.\d+\.tmp\.(tar|json)")


def _guarded(scene_path: Path, part: Path, config: BuildConfig) -> tuple[list[str], str | None]:
    """`build_part` in a worker process: an error about the scene becomes a value."""
    try:
        return build_part(scene_path, part, config), None
    except SceneError as error:
        return [], str(error)


def _part_name(scene_path: Path, config: BuildConfig) -> str:
    """A name that changes with the scene file and with everything that its tiles depend on."""
    status = scene_path.stat()
    settings = {key: value for key, value in to_dict(config).items() if key not in ("seed", "shard_bytes")}
    text = f"{scene_path.name} {status.st_size} {status.st_mtime_ns} {json.dumps(settings)} {sample.SCHEMA_VERSION}"
    return f"{scene_path.stem}-{xxhash.xxh3_64_hexdigest(text.encode())}.tar"


def build(
    splits: Mapping[str, Sequence[Path]],
    out: Path,
    config: BuildConfig = BuildConfig(),
    workers: int = 1,
    on_error: str = "stop",
    report: Callable[[str], None] = print,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> manifests.Manifest:
    """Build a folder of shards.

    Args:
        splits: `train`, `val`, `test` -> scene files; no file may stand in two.
        out: folder to write to; a finished build there is an error, an interrupted one goes on.
        workers: scenes read at a time, each in a process of its own.
        on_error: `stop` at a scene that cannot be read, or `skip` it and say so in the manifest.
        report: is told warnings.
        progress: is told (scenes done, scenes in all).

    Raises:
        ConfigError, SceneError, OutputError: see their messages.
    """
    config.check()
    paths = [path for split in splits.values() for path in split]
    if not paths:
        raise ConfigError("no scenes to build shards from; give a folder of scenes")
    names = [path.stem for path in paths]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ConfigError(f"scene {twice} stands twice, or in two splits; name each scene once")
    is_new = not out.exists()
    out = make_folder(out)
    if (out / manifests.MANIFEST).exists():
        raise OutputError(f"{out}: holds finished shards; choose another folder or remove this one")
    parts = make_folder(out / _PARTS)
    _remove_debris(out)
    where = {path: parts / _part_name(path, config) for path in paths}
    try:
        failed = _build_parts(paths, where, config, workers, on_error, report, progress)
        result = _assemble(splits, where, failed, out, config)
    except BaseException:
        # Whole parts stay for the next attempt; nothing else does.
        _remove_debris(out)
        with contextlib.suppress(OSError):
            parts.rmdir()
            if is_new:
                out.rmdir()
        raise
    shutil.rmtree(parts)
    return result


def _build_parts(
    paths: Sequence[Path],
    where: Mapping[Path, Path],
    config: BuildConfig,
    workers: int,
    on_error: str,
    report: Callable[[str], None],
    progress: Callable[[int, int], None],
) -> dict[str, str]:
    """Write the parts that are not there yet; scene -> error of the scenes that were skipped."""
    failed: dict[str, str] = {}
    waiting = [path for path in paths if not where[path].with_suffix(".json").exists()]
    progress(len(paths) - len(waiting), len(paths))
    with process_pool(workers) as pool:
        running = {pool.submit(_guarded, path, where[path], config): path for path in waiting}
        try:
            for done, future in enumerate(as_completed(running), start=len(paths) - len(waiting) + 1):
                warned, error = future.result()
                for text in warned:
                    report(f"warning: {text}")
                if error is not None:
                    if on_error == "stop":
                        raise SceneError(error)
                    report(f"skipped: {error}")
                    failed[running[future].stem] = error
                progress(done, len(paths))
        except BrokenProcessPool as error:
            raise SceneError(
                "a process that reads scenes was killed, most likely for want of memory; lower --workers, start again"
            ) from error
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    if len(failed) == len(paths):
        raise SceneError(f"none of {len(paths)} scenes could be read; the first: {next(iter(failed.values()))}")
    return failed


def _assemble(
    splits: Mapping[str, Sequence[Path]],
    where: Mapping[Path, Path],
    failed: Mapping[str, str],
    out: Path,
    config: BuildConfig,
) -> manifests.Manifest:
    """Write shards, indices and, last, the manifest from the parts."""
    facts = {
        path.stem: json.loads(where[path].with_suffix(".json").read_text()) for path in where if path.stem not in failed
    }
    found = {
        split: _write_shards(split, [p for p in members if p.stem in facts], where, facts, out, config)
        for split, members in splits.items()
        if any(path.stem in facts for path in members)
    }
    train = [facts[path.stem]["statistics"] for path in splits.get("train", ()) if path.stem in facts]
    every = [entry for split in manifests.SPLITS if split in found for entry in found[split][1]]
    split_of = {path.stem: split for split, members in splits.items() for path in members}
    result = manifests.Manifest(
        tile=config.tile,
        factors=tuple(sorted(set(config.factors))),
        splits={split: shards for split, (shards, _) in found.items()},
        scenes={
            name: {"split": split_of[name]} | ({"error": failed[name]} if name in failed else _summary(facts[name]))
            for name in sorted(split_of)
        },
        statistics=stats.merge(train),
        builder={"version": version("arcticseg"), "config": to_dict(config)},
        simulated=any(fact["simulated"] for fact in facts.values()),
        fingerprint=manifests.fingerprint(every),
    )
    manifests.write_manifest(out, result)
    return result


def _summary(facts: Mapping[str, Any]) -> dict[str, Any]:
    kept = {key: facts[key] for key in ("simulated", "ice_service", "time", "has_chart", "shape", "tiles", "warnings")}
    totals: dict[str, list[int]] = {}
    for entry in facts["samples"]:
        for chart, counts in entry["counts"].items():
            totals[chart] = [a + b for a, b in zip(totals.get(chart, [0] * len(counts)), counts, strict=True)]
    return kept | {"counts": totals}


def _remove_debris(out: Path) -> None:
    """Delete what a build left half done: temporary files, and shards, which are written last and quickly."""
    own = [path for path in out.iterdir() if _OWN.fullmatch(path.name)]
    for path in [*own, *(out / _PARTS).glob(".*.tmp*")]:
        path.unlink()


def _write_shards(
    split: str,
    paths: Sequence[Path],
    where: Mapping[Path, Path],
    facts: Mapping[str, Mapping[str, Any]],
    out: Path,
    config: BuildConfig,
) -> tuple[tuple[ShardEntry, ...], list[SampleEntry]]:
    """Copy the samples of a split from their parts into shards, in an order drawn from the seed."""
    sources = [
        (where[path], SampleEntry(**entry))
        for path in sorted(paths, key=lambda path: path.stem)
        for entry in facts[path.stem]["samples"]
    ]
    key = xxhash.xxh3_64_intdigest(f"{split} {config.seed}".encode())
    order = np.random.Generator(np.random.Philox(key=key)).permutation(len(sources))
    cuts: dict[int, list[int]] = defaultdict(list)
    size, shard = 0, 0
    for place in order:
        cuts[shard].append(int(place))
        size += sources[place][1].size
        if size >= config.shard_bytes:
            size, shard = 0, shard + 1
    shards, entries = [], []
    for shard, places in cuts.items():
        path = out / f"{split}-{shard:06d}.tar"
        written = []
        with atomic_path(path) as temporary, open(temporary, "wb") as file:
            offset = 0
            for place in places:
                part, entry = sources[place]
                with open(part, "rb") as source:
                    data = os.pread(source.fileno(), entry.size, entry.offset)
                if xxhash.xxh3_64_hexdigest(data) != entry.xxh3:
                    raise OutputError(f"{part}: changed since it was written; remove {part.parent} and build again")
                file.write(data)
                written.append(SampleEntry(**{**asdict(entry), "offset": offset}))
                offset += entry.size
            file.write(_END_OF_TAR)
        manifests.write_index(path, written)
        shards.append(ShardEntry(path.name, path.stat().st_size, manifests.hash_file(path), len(written)))
        entries.extend(written)
    return tuple(shards), entries
