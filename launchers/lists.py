"""Lists of scenes: those that commands take, and those that `arcticseg shards split` makes."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

from arcticseg.data.manifest import SPLITS
from arcticseg.data.select import read_scene_list
from arcticseg.errors import ConfigError
from arcticseg.files import make_folder
from arcticseg.ice.scenes.open import list_scenes, open_scene
from launchers.terminal import progress
from shards import split, strata

_LISTS = {".txt", ".json"}


def pick_scenes(place: Path, names: Path | None) -> list[Path]:
    """The scene files of a folder (or the one file given); with a list of names those on it, in its order.

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
        raise ConfigError(f"{names}: lists {missing[0]}, which {place} does not hold; add it or mend the list")
    return [by_name[name] for name in wanted]


def make_lists(arguments: argparse.Namespace) -> None:
    """Write the lists that the arguments ask for, and print a line on each.

    Raises:
        ConfigError: lists or shares that cannot be.
        SceneError: no scene there, or one that cannot be read.
    """
    is_list = arguments.scenes.suffix in _LISTS
    paths = {} if is_list else {path.stem: path for path in list_scenes(arguments.scenes)}
    names = read_scene_list(arguments.scenes) if is_list else list(paths)
    files = {part: getattr(arguments, f"{part}_list") for part in ("train", "val", "test")}
    given = {part: read_scene_list(file) for part, file in files.items() if file is not None}
    lists = split.plan(names, given, {"val": arguments.val, "test": arguments.test}, arguments.seed)
    made = f"Made by `arcticseg shards split` (arcticseg {version('arcticseg')}), seed {arguments.seed}."
    notes = {part: f"{_how(part, files, len(listed))}\n{made}" for part, listed in lists.items()}
    shown = dict.fromkeys(lists, "")
    if arguments.fractions:
        percents = _percents(arguments.fractions)
        unlabelled = _without_chart(paths, lists["train"])
        train = [name for name in lists["train"] if name not in unlabelled]
        counts = _counts(arguments.counts, train, arguments.workers)
        found = strata.fractions(lists["train"], percents, counts, arguments.seed, unlabelled)
        by = "stratified by ice service and season"
        if counts:
            by = f"stratified by ice service, season and class content (that of {len(counts)} of {len(train)} scenes)"
        for part, listed in found.items():
            lists[part] = listed
            shown[part] = _differences(part, listed, train, counts)
            notes[part] = f"{_what(part, listed, train)}, {by}.\n{made}"
    make_folder(arguments.out)
    for part in {*SPLITS, split.LEFT_OUT} - set(lists):
        # Of an earlier split; the build would read it beside the new ones.
        (arguments.out / f"{part}.txt").unlink(missing_ok=True)
    for path, (part, listed) in zip(split.write_lists(lists, arguments.out, notes), lists.items(), strict=True):
        print(f"{part:11} {len(listed):5} scenes  {path}{shown[part]}")


def _percents(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise ConfigError(f"--fractions is '{text}'; set percentages of 1 to 100, such as 20,40,60,80") from error


def _how(part: str, files: Mapping[str, Path | None], number: int) -> str:
    file = files.get(part)
    if file is not None:
        return f"{number} {part} scenes, {split.GIVEN} from {file.name}: passes may be shared with other lists."
    if part == split.LEFT_OUT:
        return f"{number} scenes in no split: they share a pass with a given list, or a given training list lacks them."
    return f"{number} {part} scenes, in whole satellite passes."


def _what(part: str, listed: Sequence[str], train: Sequence[str]) -> str:
    kind, _, percent = part.partition("_")
    if kind == "labels":
        return (
            f"{len(listed)} of {len(train)} training scenes with charts ({percent} %), in whole satellite passes; "
            "smaller fractions are subsets of larger ones"
        )
    return f"{len(listed)} training scenes, the complement of labels_{100 - int(percent)}.txt, no pass in both"


def _differences(part: str, listed: Sequence[str], train: Sequence[str], counts: Mapping[str, strata.Counts]) -> str:
    """How far the shares of a label list are from those of all training scenes."""
    if not part.startswith("labels"):
        return ""
    found = strata.imbalance(listed, train, counts)
    return "  largest difference of shares, points: " + ", ".join(f"{key} {100 * v:.1f}" for key, v in found.items())


def _without_chart(paths: Mapping[str, Path], names: Sequence[str]) -> set[str]:
    """Scenes that have a file without chart; of scenes known by name only, none."""
    found = set()
    for name in names:
        if name in paths:
            with open_scene(paths[name]) as scene:
                if not scene.has_chart:
                    found.add(name)
    return found


def _counts(place: Path | None, names: Sequence[str], workers: int) -> dict[str, strata.Counts]:
    if place is None:
        return {}
    with progress("class counts") as bar:
        return strata.read_counts(place, names, workers, bar)
