"""Values that no honest file has, and JSON that holds them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

Random = np.random.Generator

TEXTS = (
    *("", " ", "x" * 100_000, "\0", "a\0b", "\x1b[2J\x1b]0;x\x07", "../../etc/passwd", "/etc/passwd", "a/b", ".."),
    *("http://127.0.0.1:9/x", "/vsicurl/http://127.0.0.1:9/x", "nan", "inf", "-9", "1e999", "9" * 400, "0x", "1,5"),
    *("ø" * 300, "2020-99-99T99:99:99", "\u202e\u2028", "%s%n", "{}", "null", "\N{ARABIC-INDIC DIGIT FIVE}", "-.", "𝟙"),
)
NUMBERS = (
    *(0, -1, 1, 2, 255, 65_535, 2**31 - 1, -(2**31), 2**32, 2**53 + 1, 2**63 - 1, -(2**63), 2**64, 10**30, 0.5),
    *(-0.0, 1e-300, 1e29, 1e308, -1e308, float("nan"), float("inf"), float("-inf")),
)


def pick(random: Random, values: Sequence[Any]) -> Any:
    return values[int(random.integers(len(values)))]


def extreme(random: Random) -> Any:
    """A value that no file of ours has."""
    kind = random.integers(4)
    if kind == 0:
        return pick(random, NUMBERS)
    if kind == 1:
        return pick(random, TEXTS)
    deep: Any = []
    for _ in range(200):
        deep = [deep]
    return pick(random, (None, True, [], {}, [[]] * 1000, {"a": {"b": 1}}, ["x"], deep))


def alter(value: Any, random: Random) -> Any:
    """JSON with one of its values another, missing, twice, or under another name."""
    if isinstance(value, dict) and value and random.random() < 0.9:
        key = pick(random, list(value))
        kind = random.random()
        if kind < 0.06:
            return {name: item for name, item in value.items() if name != key}
        if kind < 0.12:
            return {(pick(random, TEXTS) if name == key else name): item for name, item in value.items()}
        return value | {key: alter(value[key], random)}
    if isinstance(value, list) and value and random.random() < 0.9:
        place = int(random.integers(len(value)))
        if random.random() < 0.1:
            return value[:place] + value[place : place + 1] * 2 + value[place + 1 :]
        return [*value[:place], alter(value[place], random), *value[place + 1 :]]
    return extreme(random)


def spoil_json(path: Path, random: Random) -> None:
    content = json.loads(path.read_text())
    for _ in range(int(random.integers(1, 3))):
        content = alter(content, random)
    path.write_text(json.dumps(content))
