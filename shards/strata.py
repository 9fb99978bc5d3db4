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
import xxhash
from numpy.typing import NDArray

from arcticseg.data.manifest import MANIFEST, read_manifest
from arcticseg.errors import ConfigError
from arcticseg.ice.reference import short_name
from arcticseg.ice.scenes.names import Facts, service_of, time_of
from arcticseg.ice.scenes.open import list_scenes, open_scene
from arcticseg.ice.sigrid import CHARTS, IGNORE_INDEX, N_CLASSES
from shards.progress import OnProgress, ignore
from shards.split import passes_of
from shards.workers import Job, Workers

SEASONS = ("winter", "spring", "summer", "autumn")

# Chart -> pixels of each class and, last, masked ones.
Counts = Mapping[str, Sequence[int]]

# Of the passes left, the share looked at for the next place: less than all, so that seeds differ.
_LOOKED_AT = 0.5


def season_of(name: str) -> str:
    """Season of a scene by its name: December to February is winter."""
    time = time_of(name)
    return "unknown" if time is None else SEASONS[time.month % 12 // 3]


def features(names: Sequence[str], counts: Mapping[str, Counts]) -> dict[str, NDArray[np.float64]]:
    """What scenes are stratified by: group -> [N, categories], on average 1 a scene over the categories of a group.

    Groups are ice service and season (1 in the category of the scene), and SIC, SOD and FLOE (labelled pixels of each
    class). A scene of unknown counts is taken for an average scene; a chart that no scene has counts of is left out.
    """
    out: dict[str, NDArray[np.float64]] = {}
    for group, category_of in (("service", lambda name: service_of(name) or "unknown"), ("season", season_of)):
        own = [category_of(name) for name in names]
        every = sorted(set(own))
        out[group] = np.array([[category == other for other in every] for category in own], np.float64)
    for chart in CHARTS:
        known = np.array([bool(counts.get(name, {}).get(chart)) for name in names])
        pixels = np.array(
            [counts[name][chart][: N_CLASSES[chart]] for name, there in zip(names, known, strict=True) if there],
            np.float64,
        )
        if pixels.sum() > 0:
            share = np.empty((len(names), N_CLASSES[chart]))
            share[known] = pixels / pixels.sum(axis=1).mean()
            share[~known] = share[known].mean(axis=0)
            out[chart] = share
    return out


def order(members: Sequence[Sequence[int]], by: NDArray[np.float64], seed: int) -> list[int]:
    """An order of passes of which every beginning resembles the whole.

    Pass after pass is chosen so that the sum of the features chosen comes nearest to that of as many average scenes, in
    the sense of chi square.

    Args:
        members: scenes of each pass.
        by: [N, categories] features of the scenes.
        seed: at each place, half of the passes that are left are drawn by it to choose from.
    """
    mean = by.mean(axis=0)
    there = mean > 0
    excess = np.stack([(by[list(scenes)] - mean)[:, there].sum(axis=0) for scenes in members]) / np.sqrt(mean[there])
    random = np.random.Generator(np.random.Philox(key=xxhash.xxh3_64_intdigest(f"strata {seed}".encode())))
    left, chosen = np.arange(len(members)), []
    total = np.zeros(there.sum())
    while left.size:
        looked_at = random.permutation(left)[: max(1, int(np.ceil(_LOOKED_AT * left.size)))]
        best = looked_at[((total + excess[looked_at]) ** 2).sum(axis=1).argmin()]
        total += excess[best]
        chosen.append(int(best))
        left = left[left != best]
    return chosen


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
        by_factor = {name: scenes[name]["counts"] for name in names if scenes.get(name, {}).get("counts")}
        # At the finest factor, as of a scene file.
        return {name: counts[min(counts, key=int)] for name, counts in by_factor.items()}
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
