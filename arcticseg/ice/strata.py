"""Scenes divided such that each part resembles the whole in ice service, season and class content."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
import xxhash
from numpy.typing import NDArray

from arcticseg.ice.passes import passes_of
from arcticseg.ice.scenes.names import Facts, service_of, time_of
from arcticseg.ice.sigrid import CHARTS, N_CLASSES

SEASONS = ("winter", "spring", "summer", "autumn")

# Chart -> pixels of each class and, last, masked ones.
Counts = Mapping[str, Sequence[int]]

# Of the passes left, the share looked at for the next place: less than all, so that seeds differ.
_LOOKED_AT = 0.5
# Times that all passes are looked at to be moved.
_ROUNDS = 100


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


def parts(
    names: Sequence[str],
    count: int,
    counts: Mapping[str, Counts] = {},
    known: Mapping[str, Facts] = {},
    seed: int = 0,
) -> list[list[str]]:
    """Scenes divided into parts of nearly equal size and content, whole passes at a time.

    Passes go, the most unusual first, to the part that lacks most of what they hold; then each is moved while that
    brings the parts nearer to each other, in the sense of chi square. A pure function of its arguments, which does not
    depend on the order of names.

    Args:
        count: of parts; those without a pass are empty.
        counts: scene -> class counts, where known.
        known: see `passes_of`.
        seed: decides between passes that are alike.
    """
    names = sorted(names)
    if not names:
        return [[] for _ in range(count)]
    pass_of = passes_of(names, known)
    members: dict[str, list[int]] = defaultdict(list)
    for i, name in enumerate(names):
        members[pass_of[name]].append(i)
    # The number of scenes counts as a group of a single category does.
    by = np.concatenate([*features(names, counts).values(), np.ones((len(names), 1))], axis=1)
    by = by[:, by.sum(axis=0) > 0]
    content = {own: by[scenes].sum(axis=0) / np.sqrt(by.mean(axis=0)) for own, scenes in members.items()}
    target = np.sum(list(content.values()), axis=0) / count
    drawn = sorted(content, key=lambda own: xxhash.xxh3_64_intdigest(f"{seed} {own}".encode()))
    drawn.sort(key=lambda own: -float(content[own] @ content[own]))
    held = np.zeros((count, len(target)))
    part_of: dict[str, int] = {}
    for _ in range(_ROUNDS):
        before = dict(part_of)
        for own in drawn:
            if own in part_of:
                held[part_of[own]] -= content[own]
            lacks = (target - held) @ content[own]
            # Stays where it is, unless another part lacks more than rounding can tell.
            at = part_of.get(own, 0)
            best = int(lacks.argmax())
            part_of[own] = best if own not in part_of or lacks[best] > lacks[at] + 1e-9 else at
            held[part_of[own]] += content[own]
        if part_of == before:
            break
    return [[name for name in names if part_of[pass_of[name]] == part] for part in range(count)]
