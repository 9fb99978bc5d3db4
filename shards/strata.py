"""Label fractions: nested subsets of the training scenes that resemble the whole, and their complements.

Satellite passes are put in an order of which every beginning resembles the whole in ice service, season and class
content; a fraction is a beginning of that order, its complement the rest, for pretraining. So fractions are nested, and
no pass is both fine-tuned and pretrained on.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from arcticseg.data.folds import counts_of
from arcticseg.data.manifest import MANIFEST, read_manifest
from arcticseg.errors import ConfigError
from arcticseg.ice.passes import passes_of
from arcticseg.ice.reference import short_name
from arcticseg.ice.scenes.names import Facts
from arcticseg.ice.scenes.open import list_scenes, open_scene
from arcticseg.ice.sigrid import CHARTS, IGNORE_INDEX, N_CLASSES
from arcticseg.ice.strata import Counts, features, order
from shards.progress import OnProgress, ignore
from shards.workers import Job, Workers


def fractions(
    train: Sequence[str],
    percents: Iterable[int],
    counts: Mapping[str, Counts] = {},
    seed: int = 0,
    unlabelled: Iterable[str] = (),
    known: Mapping[str, Facts] = {},
) -> dict[str, list[str]]:
    """Nested label lists and their complements: `labels_20`, `pretrain_80` and so on.

    Args:
        train: names of all training scenes.
        percents: shares of the labelled scenes, 1 to 100; each fraction comes as near as whole passes allow.
        counts: scene -> class counts, where known.
        seed: of the draw.
        unlabelled: training scenes without a chart; they are in each pretraining list, unless their pass is in the
            label list that it completes.
        known: see `passes_of`.

    Raises:
        ConfigError: a share out of range, or no labelled scene.
    """
    percents = sorted(set(percents))
    if not percents or percents[0] < 1 or percents[-1] > 100:
        raise ConfigError(f"fractions are {percents}; set percentages of 1 to 100, such as 20,40,60,80")
    without = set(unlabelled)
    names = sorted(set(train) - without)
    if not names:
        raise ConfigError("no training scene has a chart; give scenes with charts, or leave the fractions out")
    pass_of = passes_of(train, known)
    members: dict[str, list[int]] = defaultdict(list)
    for i, name in enumerate(names):
        members[pass_of[name]].append(i)
    by = np.concatenate(list(features(names, counts).values()), axis=1)
    passes = list(members)
    ordered = [passes[i] for i in order(list(members.values()), by, seed)]
    scenes_until = np.cumsum([len(members[name]) for name in ordered])
    out: dict[str, list[str]] = {}
    for percent in percents:
        last = int(np.abs(scenes_until - percent / 100 * len(names)).argmin())
        chosen = set(ordered[: last + 1])
        out[f"labels_{percent}"] = [name for name in names if pass_of[name] in chosen]
        if percent < 100:
            out[f"pretrain_{100 - percent}"] = sorted(name for name in train if pass_of[name] not in chosen)
    return out


def imbalance(chosen: Sequence[str], names: Sequence[str], counts: Mapping[str, Counts] = {}) -> dict[str, float]:
    """Group -> largest difference, over its categories, of the share among `chosen` and among all `names`."""
    among = np.isin(np.asarray(names), np.asarray(chosen))
    out = {}
    for group, by in features(names, counts).items():
        part, whole = by[among].sum(axis=0), by.sum(axis=0)
        out[group] = float(np.abs(part / max(part.sum(), 1e-12) - whole / whole.sum()).max())
    return out


# Class counts -------------------------------------------------------------------------------------------------------


def read_counts(
    place: Path,
    names: Sequence[str],
    workers: int = 1,
    progress: OnProgress = ignore,
) -> dict[str, Counts]:
    """Class counts of scenes, as far as `place` knows them.

    Args:
        place: a folder of shards; a folder of scenes, of which each chart is read; or a CSV file with the columns
            `scene` (name, or time and ice service) and `SIC_0`, ... `SIC_10`, `SIC_255`, `SOD_0` and so on.

    Raises:
        ConfigError: the place does not exist, or is a file without these columns.
        SceneError, ShardError: a scene or manifest that cannot be read.
    """
    if place.is_dir() and (place / MANIFEST).exists():
        scenes = read_manifest(place).scenes
        return counts_of({name: scenes[name] for name in names if name in scenes})
    if place.is_dir():
        wanted = set(names)
        paths = [path for path in list_scenes(place) if path.stem in wanted]
        by_scene: dict[str, Counts] = {}
        with Workers(workers) as pool:
            counted = pool.map(_counts_of, [Job((path,)) for path in paths])
            for done, (job, outcome) in enumerate(counted, start=1):
                counts = outcome.result()
                if counts:
                    by_scene[job.arguments[0].stem] = counts
                progress(done, len(paths))
        return by_scene
    if not place.is_file():
        raise ConfigError(f"{place}: is not there; give a folder of shards or scenes, or a CSV file")
    return _from_table(place, names)


def _counts_of(path: Path) -> dict[str, list[int]]:
    """Class counts of a scene's chart, at the file's own pixels; empty without chart."""
    with open_scene(path) as scene:
        labels = scene.chart()
    if labels is None:
        return {}
    pixels = {chart: np.bincount(plane.ravel(), minlength=256) for chart, plane in zip(CHARTS, labels, strict=True)}
    return {chart: [*map(int, n[: N_CLASSES[chart]]), int(n[IGNORE_INDEX])] for chart, n in pixels.items()}


def _from_table(path: Path, names: Sequence[str]) -> dict[str, Counts]:
    columns = {chart: [f"{chart}_{i}" for i in (*range(N_CLASSES[chart]), IGNORE_INDEX)] for chart in CHARTS}
    try:
        with open(path, newline="", encoding="utf-8") as file:
            table = {
                row["scene"].removesuffix(".nc"): {
                    chart: [int(row[column]) for column in wanted] for chart, wanted in columns.items()
                }
                for row in csv.DictReader(file)
            }
    except (KeyError, TypeError, ValueError, AttributeError, csv.Error) as error:
        raise ConfigError(
            f"{path}: is not a table of class counts ({error!r}); give the columns scene, SIC_0, ... FLOE_255"
        ) from error
    known = {name: table.get(name, table.get(short_name(name) or "")) for name in names}
    return {name: counts for name, counts in known.items() if counts is not None}
