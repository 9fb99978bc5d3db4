"""Scenes in, shards out: `arcticseg shards build`.

Two stages. First each scene becomes a part, a tar of its tiles with an index, written whole or not at all, so an
interrupted build goes on where it stopped. Then the samples of each split, in an order drawn from the seed, are copied
from the parts into shards. The output depends neither on the number of workers nor on interruptions.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import xxhash

from arcticseg.config import to_dict
from arcticseg.data import manifest as manifests
from arcticseg.data import sample
from arcticseg.data.manifest import Manifest
from arcticseg.errors import ConfigError, OutputError, SceneError
from arcticseg.files import make_folder
from arcticseg.ice import denoising
from arcticseg.ice.scenes.open import open_scene, state_of
from arcticseg.system import free_bytes
from shards import extend as extension
from shards.assemble import Part, assemble, is_part, remove_debris, stray_shards
from shards.lock import folder_lock
from shards.part import BuildConfig, build_part
from shards.progress import OnProgress, ShowStage, silent
from shards.resources import cores, machine_memory, part_bytes, scene_memory, show_size
from shards.workers import Job, LostError, Workers

PARTS = ".parts"

# Seconds to open a scene, for which all work waits; damaged HDF5 files can keep the library busy for ever.
_OPENING = 600.0

Report = Callable[[str], None]
# Of a scene: lines, samples, pixel spacing in metres, pixels of its file where that is resampled (else 0).
Extent = tuple[int, int, float, int]
# Bytes for a pixel of a file that is resampled: its number, and what it is while it is read.
_FILE_PIXEL = 8


@dataclass(frozen=True)
class Machine:
    """How much of the machine a build takes; the output does not depend on it.

    Attributes:
        workers: scenes in work at a time, each in a process of its own.
        memory: bytes that the scenes in work may take by `scene_memory`; a scene that takes more is worked on alone;
            None: what is free.
        time_limit: seconds after which a scene counts as unreadable.
    """

    workers: int = 1
    memory: int | None = None
    time_limit: float = 3600

    def check(self) -> None:
        """Raise ConfigError, naming key, value and remedy, where the values cannot work."""
        for key in ("workers", "time_limit"):
            if not getattr(self, key) > 0:
                raise ConfigError(f"key '{key}' is {getattr(self, key)!r}; set more than 0")


def build(
    splits: Mapping[str, Sequence[Path]],
    out: Path,
    config: BuildConfig = BuildConfig(),
    machine: Machine = Machine(),
    on_error: str = "stop",
    extend: bool = False,
    report: Report = print,
    progress: ShowStage = silent,
) -> Manifest:
    """Build a folder of shards; an interrupted build goes on; a finished build of the same scenes is left as it is.

    Args:
        splits: `train`, `val`, `test` -> scene files; no file may stand in two.
        out: folder to write to.
        on_error: `stop` at a scene that cannot be read, or `skip` it and say so in the manifest.
        extend: add the scenes that finished shards in `out` do not hold, in shards of their own.
        report: is told warnings.
        progress: shows the stages.

    Raises:
        ConfigError: options, scenes or splits that cannot be.
        SceneError: a scene that cannot be read under `stop`, or none that can be read.
        OutputError: the folder holds other shards or another build, or cannot be written to.
        ShardError: the manifest of finished shards cannot be read.
    """
    config = replace(config, factors=tuple(sorted(set(config.factors))))
    config.check()
    machine.check()
    _check_names([path for split in splits.values() for path in split])
    is_new = not out.exists()
    out = make_folder(out)
    parts = out / PARTS
    try:
        with folder_lock(out, report):
            old = manifests.read_manifest(out) if (out / manifests.MANIFEST).exists() else None
            if old is not None:
                splits = _left_to_do(old, splits, out, config, extend)
            if old is None or any(splits.values()):
                old = _build(splits, out, parts, config, machine, on_error, old, report, progress)
                if mixed := denoising.mix(facts.get("denoising") for facts in old.scenes.values()):
                    report(f"warning: {mixed}")
            shutil.rmtree(parts, ignore_errors=True)
            return old
    finally:
        if is_new:
            with contextlib.suppress(OSError):
                out.rmdir()


def _check_names(paths: Sequence[Path]) -> None:
    if not paths:
        raise ConfigError("no scenes to build shards from; give a folder of scenes")
    seen: set[str] = set()
    for path in paths:
        if path.stem in seen:
            raise ConfigError(f"scene {path.stem} stands twice, or in two splits; name each scene once")
        seen.add(path.stem)


def _left_to_do(
    old: Manifest, splits: extension.Splits, out: Path, config: BuildConfig, extend: bool
) -> extension.Splits:
    """The scenes to add to finished shards; none unless these are to be extended."""
    if extend:
        return extension.to_add(old, splits, config, out)
    if not extension.is_same(old, splits, config):
        raise OutputError(
            f"{out}: holds finished shards of other scenes or options; add scenes with --extend, or build elsewhere"
        )
    return {}


def _build(
    splits: extension.Splits,
    out: Path,
    parts: Path,
    config: BuildConfig,
    machine: Machine,
    on_error: str,
    old: Manifest | None,
    report: Report,
    progress: ShowStage,
) -> Manifest:
    """Parts, then shards."""
    # Parts are removed last, so shards that no manifest names belong to an unfinished build only where there are parts.
    if not parts.exists() and (stray := stray_shards(out, old)):
        raise OutputError(f"{stray[0]}: belongs to no build in this folder; move it away, or choose another folder")
    make_folder(parts)
    remove_debris(out, parts, old)
    part_of = {path: parts / _part_name(path, config) for paths in splits.values() for path in paths}
    try:
        failed = _build_parts(part_of, out, config, machine, on_error, report, progress)
        parts_of = {
            split: [Part.read(part_of[path]) for path in paths if path not in failed] for split, paths in splits.items()
        }
        split_of = {path: split for split, paths in splits.items() for path in paths}
        entries = {path.stem: {"split": split_of[path], "error": reason} for path, reason in failed.items()}
        with progress("shards") as on_progress:
            return assemble(parts_of, entries, old, out, config, on_progress)
    except BaseException:
        # Whole parts, and only these, stay for the next attempt.
        remove_debris(out, parts, old)
        with contextlib.suppress(OSError):
            parts.rmdir()
        raise


def _part_name(scene_path: Path, config: BuildConfig) -> str:
    """Name of a scene's part: it changes with the scene file and with everything that its tiles depend on."""
    try:
        size, changed = state_of(scene_path)
    except OSError as error:
        raise SceneError(f"{scene_path}: cannot be read ({error.strerror}); give a folder of scenes") from error
    settings = {key: value for key, value in to_dict(config).items() if key not in ("seed", "shard_bytes")}
    text = f"{scene_path.name} {size} {changed} {json.dumps(settings)} {sample.SCHEMA_VERSION}"
    return f"{scene_path.stem}-{xxhash.xxh3_64_hexdigest(text.encode())}.tar"


class _Failures:
    """The scenes that could not be read, and why; under `stop` the first of them ends the build."""

    def __init__(self, on_error: str, report: Report) -> None:
        self.reasons: dict[Path, str] = {}
        self._on_error, self._report = on_error, report

    def add(self, path: Path, error: Exception) -> None:
        """Take in what went wrong with a scene; raise it where it ends the build."""
        reason = _scene_error(path, error)
        if self._on_error == "stop" or isinstance(error, (ConfigError, OutputError)):
            raise reason or error
        if reason is None:
            # A fault of the program, whose trace `stop` shows; a single scene must not cost the others.
            reason = SceneError(f"{path}: the program failed on it ({error!r}); report this fault")
        self._report(f"skipped: {reason}")
        # The manifest is the same wherever the scenes lie.
        self.reasons[path] = str(reason).replace(str(path.absolute()), path.name).replace(str(path), path.name)


def _build_parts(
    part_of: Mapping[Path, Path],
    out: Path,
    config: BuildConfig,
    machine: Machine,
    on_error: str,
    report: Report,
    progress: ShowStage,
) -> dict[Path, str]:
    """Write the parts that are not there yet; return scene -> reason of the scenes that were skipped."""
    failures = _Failures(on_error, report)
    free, total = machine_memory()
    budget = free if machine.memory is None else machine.memory
    waiting = [path for path in part_of if not is_part(part_of[path])]
    # Scenes are opened in other processes only: a damaged file may crash or hang the library that reads it.
    with Workers(machine.workers, budget) as pool:
        with progress("opening scenes") as on_progress:
            extents = _measure_all(pool, waiting, min(machine.time_limit, _OPENING), failures, on_progress)
        _check_space(out, part_of, extents, config)
        costs = _costs(extents, config, budget, total, failures, report)
        # Cores without a scene of their own help with the scenes of others.
        at_once = min(machine.workers, len(costs), budget // max(costs.values(), default=1))
        n_threads = max(1, cores() // max(1, at_once))
        jobs = [Job((path, part_of[path], config, n_threads), cost, machine.time_limit) for path, cost in costs.items()]
        done = len(part_of) - len(jobs)
        with progress("scenes") as on_progress:
            on_progress(done, len(part_of))
            for job, outcome in pool.map(build_part, jobs):
                for text in outcome.value or ():
                    report(f"warning: {text}")
                if outcome.error is not None:
                    failures.add(job.arguments[0], outcome.error)
                done += 1
                on_progress(done, len(part_of))
    reasons = failures.reasons
    if len(reasons) == len(part_of):
        raise SceneError(f"none of {len(part_of)} scenes could be read; the first: {next(iter(reasons.values()))}")
    return reasons


def _measure_all(
    pool: Workers, paths: Sequence[Path], time_limit: float, failures: _Failures, on_progress: OnProgress
) -> dict[Path, Extent]:
    """Scene -> extent, of the scenes that can be opened."""
    extents: dict[Path, Extent] = {}
    jobs = [Job((path,), time_limit=time_limit) for path in paths]
    for done, (job, outcome) in enumerate(pool.map(_measure, jobs)):
        on_progress(done, len(paths))
        if outcome.error is None:
            extents[job.arguments[0]] = outcome.value
        else:
            failures.add(job.arguments[0], outcome.error)
    on_progress(len(paths), len(paths))
    return extents


def _measure(path: Path) -> Extent:
    """Lines, samples, pixel spacing and pixels of the file; what it warns of is said when it is worked on."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scene = open_scene(path)
    with scene:
        return *scene.shape, scene.pixel_spacing, scene.file_pixels


def _costs(
    extents: Mapping[Path, Extent],
    config: BuildConfig,
    budget: int,
    total: int,
    failures: _Failures,
    report: Report,
) -> dict[Path, int]:
    """Scene -> bytes of memory that it takes; a scene larger than the machine, as damage makes it, fails."""
    costs: dict[Path, int] = {}
    for path, extent in extents.items():
        cost = scene_memory(*extent[:3], config) + _FILE_PIXEL * extent[3]
        text = f"{path}: {extent[0]} x {extent[1]} pixels take about {show_size(cost)} of memory"
        if cost > total:
            failures.add(path, SceneError(f"{text}, this machine has {show_size(total)}; use a larger machine"))
            continue
        if cost > budget:
            report(f"warning: {text}, more than the {show_size(budget)} that may be used; it is worked on alone")
        costs[path] = cost
    return costs


def _scene_error(path: Path, error: Exception) -> SceneError | None:
    """What is wrong with a scene; None where the error is of the program or the output."""
    if isinstance(error, SceneError):
        return error
    if isinstance(error, LostError):
        remedy = "lower --workers or --max-memory" if error.killed else "get the file again, or leave it out"
        return SceneError(f"{path}: could not be worked on: {error}; {remedy}")
    if isinstance(error, MemoryError):
        return SceneError(f"{path}: too large for the memory of this machine; use a larger machine")
    return None


def _check_space(out: Path, part_of: Mapping[Path, Path], extents: Mapping[Path, Extent], config: BuildConfig) -> None:
    """Raise OutputError where parts to come and shards of all parts have no room on the disk."""
    coming = sum(part_bytes(*extent[:3], config) for extent in extents.values())
    there = sum(part.stat().st_size for part in part_of.values() if is_part(part))
    need, free = 2 * coming + there, free_bytes(out)
    if need > free:
        raise OutputError(
            f"{out}: about {show_size(need)} are needed for parts and shards, {show_size(free)} are free; "
            "free some space or choose another output folder"
        )
