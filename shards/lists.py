"""Lists of scenes: files of one name a line, that a person can read; `arcticseg shards split` makes them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from arcticseg.data.manifest import SPLITS
from arcticseg.data.select import read_scene_list
from arcticseg.errors import ConfigError
from arcticseg.files import make_folder, write_text
from arcticseg.ice.scenes.names import Facts
from arcticseg.ice.scenes.open import list_scenes, open_scene
from shards import strata
from shards.progress import ShowStage, silent
from shards.split import LEFT_OUT, plan, shared_passes, untold, warn_of_shared_passes, warn_of_untold
from shards.workers import Job, Workers

# A list with this comment may share passes with other lists.
GIVEN = "taken as given"

# Seconds to open a scene.
_OPENING = 60.0

_LIST_SUFFIXES = {".txt", ".json"}


@dataclass(frozen=True)
class WrittenList:
    """A list that was written: its name, its scenes, its file; and how its shares differ from those of the whole.

    differences: group (ice service, season, chart) -> largest difference of shares, 0 to 1; label fractions only.
    """

    name: str
    scenes: tuple[str, ...]
    path: Path
    differences: Mapping[str, float]


@dataclass(frozen=True)
class Fractions:
    """Label fractions to make of the training scenes.

    Attributes:
        percents: of the scenes with charts.
        counts: where class counts stand, see `strata.read_counts`; None: fractions do not follow class content.
        workers: scenes read at a time for the counts.
    """

    percents: Sequence[int]
    counts: Path | None = None
    workers: int = 1


def pick_scenes(place: Path, names: Path | None) -> list[Path]:
    """The scene files of a folder (or the file given itself); with a list of names those on it, in its order.

    Raises:
        ConfigError: the list names a scene that is not there.
        SceneError: no scene there.
    """
    scenes = list_scenes(place)
    if names is None:
        return scenes
    by_name = {path.stem: path for path in scenes}
    wanted = read_scene_list(names)
    missing = [name for name in wanted if name not in by_name]
    if missing:
        raise ConfigError(f"{names}: lists {missing[0]}, which {place} does not hold; add it or repair the list")
    return [by_name[name] for name in wanted]


def make_lists(
    scenes: Path,
    out: Path,
    given: Mapping[str, Path],
    shares: Mapping[str, float],
    fractions: Fractions | None = None,
    seed: int = 0,
    progress: ShowStage = silent,
) -> list[WrittenList]:
    """Divide scenes into splits and label fractions, and write the lists; lists of an earlier split are removed.

    Args:
        scenes: a folder of scenes, or a list of their names (.txt or .json).
        given: `train`, `val`, `test` -> a list that is taken as it is.
        shares: of `val` and `test` where no list is given.
        seed: of the draw.
        progress: shows the reading of class counts.

    Raises:
        ConfigError: lists or shares that cannot be.
        SceneError: no scene there, or a scene that cannot be read.

    Warns:
        of scenes of which nothing tells the pass; then no list claims to hold whole passes.
    """
    is_list = scenes.suffix in _LIST_SUFFIXES
    paths = {} if is_list else {path.stem: path for path in list_scenes(scenes)}
    names = read_scene_list(scenes) if is_list else list(paths)
    known = facts_in_files(paths.values())
    passes = _how_passes(len(warn_of_untold(names, known)), len(names))
    lists = plan(names, {part: read_scene_list(file) for part, file in given.items()}, shares, seed, known)
    notes = {part: _how_split(part, given, len(listed), passes) for part, listed in lists.items()}
    differences: dict[str, dict[str, float]] = {}
    if fractions is not None:
        every = lists.get("train", [])
        unlabelled = _without_chart(paths, every)
        train = [name for name in every if name not in unlabelled]
        counts = _counts(fractions, train, progress)
        by_fraction = strata.fractions(every, fractions.percents, counts, seed, unlabelled, known)
        for part, listed in by_fraction.items():
            notes[part] = f"{_how_drawn(part, listed, train, passes)}, {_stratified_by(counts, train)}."
            if part.startswith("labels"):
                differences[part] = strata.imbalance(listed, train, counts)
        lists |= by_fraction
    made = f"Made by `arcticseg shards split` (arcticseg {version('arcticseg')}), seed {seed}."
    make_folder(out)
    for part in {*SPLITS, LEFT_OUT} - set(lists):
        # Of an earlier split; the build would read it beside the new lists.
        (out / f"{part}.txt").unlink(missing_ok=True)
    written = write_lists(lists, out, {part: f"{note}\n{made}" for part, note in notes.items()})
    return [
        WrittenList(part, tuple(listed), path, differences.get(part, {}))
        for path, (part, listed) in zip(written, lists.items(), strict=True)
    ]


def facts_in_files(paths: Iterable[Path]) -> dict[str, Facts]:
    """What files say of time, satellite and orbit, by scene, where the names do not tell the pass.

    A file that cannot be read says nothing; what it is read for then names it.
    """
    path_of = {path.stem: path for path in paths}
    known: dict[str, Facts] = {}
    nameless = untold(path_of)
    if nameless:
        # In another process, since a damaged file may crash or hang the library that reads it.
        with Workers(1) as pool:
            for job, outcome in pool.map(_facts_in, [Job((path_of[name],), time_limit=_OPENING) for name in nameless]):
                if outcome.error is None:
                    known[job.arguments[0].stem] = outcome.value
    return known


def _facts_in(path: Path) -> Facts:
    with open_scene(path) as scene:
        return Facts(scene.time, scene.satellite, scene.orbit)


def _how_passes(n_untold: int, number: int) -> str:
    """What a list may claim of passes."""
    if n_untold:
        return f"scene by scene: nothing tells the satellite pass of {n_untold} of {number} scenes"
    return "in whole satellite passes"


def _how_split(part: str, given: Mapping[str, Path], number: int, passes: str) -> str:
    if part in given:
        return f"{number} {part} scenes, {GIVEN} from {given[part].name}: passes may be shared with other lists."
    if part == LEFT_OUT:
        return f"{number} scenes in no split: they share a pass with a given list, or a given training list lacks them."
    return f"{number} {part} scenes, {passes}."


def _how_drawn(part: str, listed: Sequence[str], train: Sequence[str], passes: str) -> str:
    kind, _, percent = part.partition("_")
    if kind == "labels":
        return (
            f"{len(listed)} of {len(train)} training scenes with charts ({percent} %), {passes}; "
            "smaller fractions are subsets of larger ones"
        )
    return f"{len(listed)} training scenes, the complement of labels_{100 - int(percent)}.txt, {passes}"


def _stratified_by(counts: Mapping[str, strata.Counts], train: Sequence[str]) -> str:
    if not counts:
        return "stratified by ice service and season"
    return f"stratified by ice service, season and class content (that of {len(counts)} of {len(train)} scenes)"


def _without_chart(paths: Mapping[str, Path], names: Sequence[str]) -> set[str]:
    """Scenes that have a file without chart; of scenes known by name only, none."""
    unlabelled = set()
    for name in names:
        if name in paths:
            with open_scene(paths[name]) as scene:
                if not scene.has_chart:
                    unlabelled.add(name)
    return unlabelled


def _counts(fractions: Fractions, names: Sequence[str], progress: ShowStage) -> dict[str, strata.Counts]:
    if fractions.counts is None:
        return {}
    with progress("class counts") as on_progress:
        return strata.read_counts(fractions.counts, names, fractions.workers, on_progress)


def write_lists(lists: Mapping[str, Sequence[str]], folder: Path, notes: Mapping[str, str] = {}) -> list[Path]:
    """Write each list as `NAME.txt`, one scene a line under its note as a comment."""
    make_folder(folder)
    written = []
    for part, names in lists.items():
        comment = "".join(f"# {line}\n" for line in notes.get(part, "").splitlines())
        write_text(folder / f"{part}.txt", comment + "".join(f"{name}\n" for name in names))
        written.append(folder / f"{part}.txt")
    return written


def read_lists(folder: Path) -> dict[str, list[str]]:
    """The splits of a folder of lists, and what is left out.

    Raises:
        ConfigError: no list there, a scene in two of them, or a pass in two of them of which neither is marked as
            given.

    Warns:
        of passes that lists marked as given share.
    """
    parts = [part for part in (*SPLITS, LEFT_OUT) if (folder / f"{part}.txt").is_file()]
    if "train" not in parts:
        raise ConfigError(f"{folder}: holds no train.txt; make the lists with `arcticseg shards split`")
    lists = {part: read_scene_list(folder / f"{part}.txt") for part in parts}
    part_of: dict[str, str] = {}
    for part, names in lists.items():
        for name in names:
            if part_of.setdefault(name, part) != part:
                raise ConfigError(
                    f"{folder}: {name} is in both {part_of[name]}.txt and {part}.txt; remove it from one of them"
                )
    given = {part for part in parts if _is_given(folder / f"{part}.txt")}
    for first, second in shared_passes({part: lists[part] for part in parts if part in SPLITS}):
        if not given & {first.partition(":")[0], second.partition(":")[0]}:
            raise ConfigError(
                f"{folder}: one pass is in two lists, {first} and {second}; move one of the scenes, or mark a list "
                f"that must stay with the line '# {GIVEN}'"
            )
    warn_of_shared_passes(lists)
    return lists


def _is_given(path: Path) -> bool:
    return any(GIVEN in line.partition("#")[2] for line in path.read_text(encoding="utf-8").splitlines())


def assign(paths: Sequence[Path], lists: Mapping[str, Sequence[str]]) -> dict[str, list[Path]]:
    """Scene files by split; those that are left out are not among them.

    Raises:
        ConfigError: a listed scene has no file, or a file is on no list.
    """
    by_name = {path.stem: path for path in paths}
    listed = {name: part for part, names in lists.items() for name in names}
    missing = sorted(name for name in set(listed) - set(by_name) if listed[name] != LEFT_OUT)
    loose = sorted(set(by_name) - set(listed))
    if missing:
        raise ConfigError(
            f"{len(missing)} listed scenes have no file, such as {missing[0]}; add them or repair the lists"
        )
    if loose:
        raise ConfigError(
            f"{len(loose)} scenes are on no list, such as {loose[0]}; add them to a list or move them away"
        )
    return {part: [by_name[name] for name in sorted(names)] for part, names in lists.items() if part != LEFT_OUT}
