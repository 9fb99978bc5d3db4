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
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from shards.failures import Failures, keep, kept
from shards.lock import folder_lock
from shards.machines import Machine, Machines
from shards.part import BuildConfig, build_part
from shards.progress import OnProgress, ShowStage, silent
from shards.resources import part_bytes, scene_memory, show_size
from shards.share import Share, share_of
from shards.workers import Job, Pool

PARTS = ".parts"

# Seconds to open a scene, for which all work waits; damaged HDF5 files can keep the library busy for ever.
_OPENING = 600.0

Report = Callable[[str], None]
# Of a scene: lines, samples, pixel spacing in metres, pixels of its file where that is resampled (else 0).
Extent = tuple[int, int, float, int]
# Bytes for a pixel of a file that is resampled: its number, and what it is while it is read.
_FILE_PIXEL = 8


@dataclass(frozen=True)
class Left:
    """How far a build by parts is, when one of these ends.

    Attributes:
        share: scenes of this part; those of them that are ready, those that could not be read.
        total: scenes of the whole build, and those of them that are neither ready nor known to be unreadable.
    """

    share: int
    ready: int
    failed: int
    total: int
    left: int


def build(
    splits: Mapping[str, Sequence[Path]],
    out: Path,
    config: BuildConfig = BuildConfig(),
    machines: Machines = Machine(),
    on_error: str = "stop",
    extend: bool = False,
    report: Report = print,
    progress: ShowStage = silent,
) -> Manifest:
    """Build a folder of shards; an interrupted build goes on; a finished build of the same scenes is left as it is.

    Args:
        splits: `train`, `val`, `test` -> scene files; no file may stand in two.
        out: folder to write to.
        machines: where scenes are worked on; the output does not depend on it.
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
    config = _checked(splits, config, machines)
    with _opened(out, report) as out:
        old, splits = _to_do(splits, out, config, extend)
        if old is None or any(splits.values()):
            old = _build(splits, out, config, machines, on_error, old, report, progress)
            if mixed := denoising.mix(facts.get("denoising") for facts in old.scenes.values()):
                report(f"warning: {mixed}")
        shutil.rmtree(out / PARTS, ignore_errors=True)
        return old


def build_share(
    splits: Mapping[str, Sequence[Path]],
    out: Path,
    share: Share,
    config: BuildConfig = BuildConfig(),
    machines: Machines = Machine(),
    on_error: str = "stop",
    extend: bool = False,
    report: Report = print,
    progress: ShowStage = silent,
) -> Left:
    """Do the first stage of a build for a share of its scenes; `build`, given the same, does what then is left.

    Shares can be worked on at the same time on several machines, which see the same files. Under `skip` the build takes
    from its shares which scenes cannot be read, and does not try them again.

    Args:
        share: of the scenes.

    Raises:
        ConfigError, SceneError, OutputError, ShardError: as `build`; but it is no error that no scene of a share can be
            read.
    """
    config = _checked(splits, config, machines)
    with _opened(out, report, share) as out:
        old, splits = _to_do(splits, out, config, extend)
        part_of = _parts(splits, out, config, old) if old is None or any(splits.values()) else {}
        mine = {path: part_of[path] for path in share_of(part_of, share)}
        failures = Failures(on_error, report, lambda path, reason: keep(part_of[path], reason))
        _build_parts(mine, out, config, machines, failures, report, progress, beside=True)
        ready = sum(map(is_part, mine.values()))
        left = [part for part in part_of.values() if not is_part(part)]
        return Left(len(mine), ready, len(failures.reasons), len(part_of), len(left) - len(kept(left)))


def _checked(splits: extension.Splits, config: BuildConfig, machines: Machines) -> BuildConfig:
    config = replace(config, factors=tuple(sorted(set(config.factors))))
    config.check()
    machines.check()
    _check_names([path for split in splits.values() for path in split])
    return config


@contextlib.contextmanager
def _opened(out: Path, report: Report, share: Share | None = None) -> Iterator[Path]:
    """The output folder, locked; one that was not there before and stays empty is removed."""
    is_new = not out.exists()
    out = make_folder(out)
    try:
        with folder_lock(out, report, share):
            yield out
    finally:
        if is_new:
            with contextlib.suppress(OSError):
                out.rmdir()


def _to_do(
    splits: extension.Splits, out: Path, config: BuildConfig, extend: bool
) -> tuple[Manifest | None, extension.Splits]:
    """The manifest of finished shards, if there are any, and the scenes that are to be built."""
    if not (out / manifests.MANIFEST).exists():
        return None, splits
    old = manifests.read_manifest(out)
    return old, _left_to_do(old, splits, out, config, extend)


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


def _parts(splits: extension.Splits, out: Path, config: BuildConfig, old: Manifest | None) -> dict[Path, Path]:
    """Scene -> its part, in a folder that is there now."""
    parts = out / PARTS
    # Parts are removed last, so shards that no manifest names belong to an unfinished build only where there are parts.
    if not parts.exists() and (stray := stray_shards(out, old)):
        raise OutputError(f"{stray[0]}: belongs to no build in this folder; move it away, or choose another folder")
    make_folder(parts)
    return {path: parts / _part_name(path, config) for paths in splits.values() for path in paths}


def _build(
    splits: extension.Splits,
    out: Path,
    config: BuildConfig,
    machines: Machines,
    on_error: str,
    old: Manifest | None,
    report: Report,
    progress: ShowStage,
) -> Manifest:
    """Parts, then shards."""
    part_of, parts = _parts(splits, out, config, old), out / PARTS
    remove_debris(out, parts, old)
    if others := sorted({*parts.glob("*.tar")} - set(part_of.values())):
        report(f"warning: {others[0]}: is of other options or another scene file, and not used; so are {len(others)}")
    failures = Failures(on_error, report)
    if on_error == "skip":
        known = kept(part for part in part_of.values() if not is_part(part))
        failures.take({path: known[part] for path, part in part_of.items() if part in known})
    try:
        _build_parts(part_of, out, config, machines, failures, report, progress)
        failed = failures.reasons
        if len(failed) == len(part_of):
            raise SceneError(f"none of {len(part_of)} scenes could be read; the first: {next(iter(failed.values()))}")
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


def _build_parts(
    part_of: Mapping[Path, Path],
    out: Path,
    config: BuildConfig,
    machines: Machines,
    failures: Failures,
    report: Report,
    progress: ShowStage,
    beside: bool = False,
) -> None:
    """Write the parts that are not there yet, and not known to be impossible.

    Args:
        beside: others write parts to the folder at the same time, and shards come later.
    """
    memory, total = machines.room()
    waiting = [path for path in part_of if path not in failures.reasons and not is_part(part_of[path])]
    # Scenes are opened in other processes only: a damaged file may crash or hang the library that reads it.
    with machines.pool(memory) as pool:
        with progress("opening scenes") as on_progress:
            extents = _measure_all(pool, waiting, min(machines.time_limit, _OPENING), failures, on_progress)
        _check_space(out, {} if beside else part_of, extents, config, 1 if beside else 2)
        costs = _costs(extents, config, memory, total, failures, report)
        n_threads = machines.threads(costs.values(), memory)
        jobs = [
            Job((path, part_of[path], config, n_threads), cost, machines.time_limit, n_threads)
            for path, cost in costs.items()
        ]
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


def _measure_all(
    pool: Pool, paths: Sequence[Path], time_limit: float, failures: Failures, on_progress: OnProgress
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
    failures: Failures,
    report: Report,
) -> dict[Path, int]:
    """Scene -> bytes of memory that it takes; a scene larger than the machine, as damage makes it, fails."""
    costs: dict[Path, int] = {}
    for path, extent in extents.items():
        cost = scene_memory(*extent[:3], config) + _FILE_PIXEL * extent[3]
        text = f"{path}: {extent[0]} x {extent[1]} pixels take about {show_size(cost)} of memory"
        if cost > total:
            failures.add(path, SceneError(f"{text}, this machine has {show_size(total)}; use a larger machine"), True)
            continue
        if cost > budget:
            report(f"warning: {text}, more than the {show_size(budget)} that may be used; it is worked on alone")
        costs[path] = cost
    return costs


def _check_space(
    out: Path, part_of: Mapping[Path, Path], extents: Mapping[Path, Extent], config: BuildConfig, times: int
) -> None:
    """Raise OutputError where parts to come and shards of all parts have no room on the disk.

    Args:
        times: how often the bytes to come are written: as parts, and as shards.
    """
    coming = sum(part_bytes(*extent[:3], config) for extent in extents.values())
    there = sum(part.stat().st_size for part in part_of.values() if is_part(part))
    need, free = times * coming + there, free_bytes(out)
    if need > free:
        raise OutputError(
            f"{out}: about {show_size(need)} are needed for parts and shards, {show_size(free)} are free; "
            "free some space or choose another output folder"
        )
