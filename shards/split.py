"""Which scenes train, validate and test: lists of scene names, one a line, that a person can read.

Scenes of one pass of a satellite overlap or abut, so they are never in two sets.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import xxhash

from arcticseg.data.manifest import SPLITS
from arcticseg.errors import ConfigError
from arcticseg.files import make_folder, write_text
from arcticseg.ice.scene import time_of

# Sentinel-1 product names: mission, mode, ..., absolute orbit, data take, product id.
_ORBIT = re.compile(r"^(S1[A-D])_.*?_\d{8}T\d{6}_\d{8}T\d{6}_(\d{6})_")

# Without an orbit: the scenes of a pass follow each other within this time, and those of two passes never do.
_GAP = timedelta(minutes=10)
_NO_TIME = datetime.min.replace(tzinfo=UTC)


def passes_of(names: Iterable[str]) -> dict[str, str]:
    """Scene name -> pass.

    A Sentinel-1 product name says satellite and absolute orbit. Where a name has a time only, as those of
    ready-to-train files, a scene is of the pass of the one before it, if that is at most ten minutes older; over the
    532 scenes of AI4Arctic this gives the same passes as the orbits do. A name with neither is a pass of its own.
    """
    out: dict[str, str] = {}
    last: tuple[datetime, str] | None = None
    for name in sorted(names, key=lambda name: (time_of(name) or _NO_TIME, name)):
        orbit, time = _ORBIT.match(name), time_of(name)
        if orbit:
            out[name] = f"{orbit.group(1)}-{orbit.group(2)}"
        elif time is None:
            out[name] = name
        else:
            out[name] = last[1] if last is not None and time - last[0] <= _GAP else name
            last = time, out[name]
    return out


def split(names: Sequence[str], shares: Mapping[str, float], seed: int = 0) -> dict[str, list[str]]:
    """Scene names by split, whole passes at a time, drawn by seed; the rest trains.

    Args:
        names: scene names.
        shares: of `val` and `test`; each gets at least that share, and at least one scene if the share is above 0.

    Raises:
        ConfigError: a share out of range, or nothing left for training.
    """
    if any(not 0 <= share < 1 for share in shares.values()) or sum(shares.values()) >= 1:
        raise ConfigError(f"shares are {dict(shares)}; set shares of 0 or more that leave something for training")
    found = passes_of(names)
    passes: dict[str, list[str]] = defaultdict(list)
    for name in sorted(names):
        passes[found[name]].append(name)
    drawn = sorted(passes, key=lambda orbit: xxhash.xxh3_64_intdigest(f"{seed} {orbit}".encode()))
    out: dict[str, list[str]] = {"train": []}
    for part in ("val", "test"):
        wanted = math.ceil(shares.get(part, 0.0) * len(names))
        out[part] = []
        while drawn and len(out[part]) < wanted:
            out[part].extend(passes[drawn.pop(0)])
    out["train"] = [name for orbit in drawn for name in passes[orbit]]
    if not out["train"]:
        raise ConfigError(f"{len(names)} scenes of {len(passes)} passes leave none for training; give more scenes")
    return {part: sorted(chosen) for part, chosen in out.items() if chosen}


def write_lists(splits: Mapping[str, Sequence[str]], folder: Path) -> list[Path]:
    """Write `train.txt`, `val.txt`, `test.txt`."""
    make_folder(folder)
    written = []
    for part, names in splits.items():
        write_text(folder / f"{part}.txt", "".join(f"{name}\n" for name in names))
        written.append(folder / f"{part}.txt")
    return written


def read_lists(folder: Path) -> dict[str, list[str]]:
    """The splits of a folder of lists.

    Raises:
        ConfigError: no list there, or a scene (or a pass) in two of them.
    """
    out = {}
    for part in SPLITS:
        path = folder / f"{part}.txt"
        if path.is_file():
            out[part] = [line.strip().removesuffix(".nc") for line in path.read_text().splitlines() if line.strip()]
    if "train" not in out:
        raise ConfigError(f"{folder}: holds no train.txt; make the lists with `arcticseg shards split`")
    found = passes_of(name for names in out.values() for name in names)
    seen: dict[str, str] = {}
    for part, names in out.items():
        for orbit in sorted({found[name] for name in names}):
            if orbit in seen:
                raise ConfigError(
                    f"{folder}: the pass {orbit} is in both {seen[orbit]}.txt and {part}.txt; move its scenes"
                )
            seen[orbit] = part
    return out


def assign(paths: Sequence[Path], lists: Mapping[str, Sequence[str]]) -> dict[str, list[Path]]:
    """Scene files by split.

    Raises:
        ConfigError: a listed scene has no file, or a file is on no list.
    """
    by_name = {path.stem: path for path in paths}
    listed = {name: part for part, names in lists.items() for name in names}
    missing, loose = sorted(set(listed) - set(by_name)), sorted(set(by_name) - set(listed))
    if missing:
        raise ConfigError(
            f"{len(missing)} listed scenes have no file, such as {missing[0]}; add them or mend the lists"
        )
    if loose:
        raise ConfigError(
            f"{len(loose)} scenes are on no list, such as {loose[0]}; add them to a list or move them away"
        )
    return {part: [by_name[name] for name in sorted(names)] for part, names in lists.items()}


def default(names: Sequence[str], seed: int = 0) -> dict[str, list[str]]:
    """80 % training, 10 % validation, 10 % test; all training where there are fewer than three passes."""
    few = len(set(passes_of(names).values())) < 3
    return split(names, {"val": 0.0, "test": 0.0} if few else {"val": 0.1, "test": 0.1}, seed)
