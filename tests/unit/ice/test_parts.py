"""Scenes divided into parts that are alike."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arcticseg.ice.strata import Counts, parts
from shards import strata
from tests.archive import scene_name

SIZES = {"SIC": 11, "SOD": 6, "FLOE": 7}


def made(passes: int, seed: int) -> tuple[list[str], dict[str, Counts]]:
    """Scenes of one to three frames a pass, some without a chart."""
    draw = random.Random(seed)
    names: list[str] = []
    counts: dict[str, Counts] = {}
    for orbit in range(1, passes + 1):
        day = f"2020{draw.randrange(1, 13):02d}{draw.randrange(1, 29):02d}"
        for frame in range(draw.choice([1, 1, 2, 3])):
            name = scene_name(f"{day}T10{frame:02d}00", f"{orbit:06d}", draw.choice(["dmi", "cis"]))
            names.append(name)
            if draw.random() < 0.9:
                counts[name] = {chart: [draw.randrange(1, 1000) for _ in range(n + 1)] for chart, n in SIZES.items()}
    return names, counts


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 7), st.integers(0, 99))
def test_parts_hold_each_scene_once_and_each_pass_whole(passes: int, count: int, seed: int) -> None:
    names, counts = made(passes, seed)
    divided = parts(names, count, counts)
    assert len(divided) == count
    assert sorted(name for part in divided for name in part) == sorted(names)
    parts_of = {}
    for number, part in enumerate(divided):
        for name in part:
            # The orbit stands in the name.
            assert parts_of.setdefault(name[49:55], number) == number
    shuffled = names[:]
    random.Random(seed).shuffle(shuffled)
    assert parts(shuffled, count, dict(reversed(counts.items()))) == divided
    if passes >= count:
        assert all(divided)


def test_parts_are_equally_large() -> None:
    names, counts = made(60, 1)
    largest = max(Counter(name[49:55] for name in names).values())
    sizes = [len(part) for part in parts(names, 5, counts)]
    assert max(sizes) - min(sizes) <= largest
    assert parts([], 3) == [[], [], []]


def test_parts_of_the_official_scenes_are_more_alike_than_draws(real_data: Path) -> None:
    train = [name.removesuffix(".nc") for name in json.loads((real_data / "lists" / "train_scenes.json").read_text())]
    counts = strata.read_counts(real_data / "stats" / "scene_class_counts.csv", train)
    for count, bound in ((5, 0.015), (10, 0.03)):
        divided = parts(train, count, counts)
        assert max(map(len, divided)) - min(map(len, divided)) <= 2
        worst = max(max(strata.imbalance(part, train, counts).values()) for part in divided)
        draws = [random.Random(i).sample(train, len(train) // count) for i in range(15)]
        assert worst < bound
        assert np.median([max(strata.imbalance(draw, train, counts).values()) for draw in draws]) > 2 * bound


@pytest.mark.parametrize("count", [2, 4])
def test_a_rare_class_is_in_each_part(count: int) -> None:
    names, counts = made(24, 3)
    for name in names:
        counts[name] = {"SOD": [1000, 0, 0, 0, 0, 0, 0]}
    # A fifth of the passes hold old ice.
    for orbit in range(1, 2 * count + 1):
        for name in names:
            if name[49:55] == f"{orbit:06d}":
                counts[name] = {"SOD": [500, 0, 0, 0, 0, 500, 0]}
    for part in parts(names, count, counts):
        assert sum(counts[name]["SOD"][5] > 0 for name in part) > 0
