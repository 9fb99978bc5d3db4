"""Which scenes train, validate and test, by their names.

Scenes of one pass of a satellite overlap or abut, so they are never in two sets.
"""

from __future__ import annotations

import math
import re
import warnings
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import combinations

import xxhash

from arcticseg.data.manifest import SPLITS
from arcticseg.errors import ConfigError
from arcticseg.ice.scenes.names import Facts, facts_of

# The list of scenes that no split can hold without parting a pass.
LEFT_OUT = "left_out"
# Scenes of the archive: raw and ready-to-train.
_AI4ARCTIC = re.compile(r"_icechart_(dmi|cis)_|_(dmi|cis)_prep$")
# Without an orbit: the scenes of a pass follow each other within this time, and those of two passes never do.
_GAP = timedelta(minutes=10)
_NO_TIME = datetime.min.replace(tzinfo=UTC)


def is_ai4arctic(name: str) -> bool:
    """Whether a scene is called as those of the AI4Arctic archive are."""
    return bool(_AI4ARCTIC.search(name))


def passes_of(names: Iterable[str], known: Mapping[str, Facts] = {}) -> dict[str, str]:
    """Scene name -> pass.

    Scenes of the same satellite and absolute orbit are of one pass, however their names are written. A scene of which
    only the time is known, such as a ready-to-train file, is of the same pass as the scene before it, if that is at
    most ten minutes older and not known to be another satellite's; over the 532 scenes of AI4Arctic this gives the same
    passes as the orbits do. A scene of which neither is known is a pass of its own.

    Args:
        known: name -> what its file says of it, for names that say nothing themselves.
    """
    facts = {name: facts_of(name).completed(known.get(name, Facts())) for name in names}
    groups = _Groups({name: _orbit_of(own) for name, own in facts.items()})
    # The last scene of each satellite, and the last of them that has no orbit.
    last: dict[str | None, str] = {}
    last_loose: dict[str | None, str] = {}
    for name in sorted((name for name in facts if facts[name].time), key=lambda name: (facts[name].time, name)):
        own, has_orbit = facts[name], _orbit_of(facts[name]) is not None
        for satellite, before in (last_loose if has_orbit else last).items():
            near = (own.time or _NO_TIME) - (facts[before].time or _NO_TIME) <= _GAP
            if near and (satellite is None or own.satellite in (None, satellite)):
                groups.join(before, name)
        last[own.satellite] = name
        if not has_orbit:
            last_loose[own.satellite] = name
    return {name: groups.pass_of(name) for name in facts}


class _Groups:
    """Scenes in groups; scenes of one orbit are in one, those of two orbits never."""

    def __init__(self, orbit_of: Mapping[str, tuple[str, int] | None]) -> None:
        self._orbit_of = dict(orbit_of)
        first_of_orbit: dict[tuple[str, int], str] = {}
        self._before = {
            name: name if orbit is None else first_of_orbit.setdefault(orbit, name) for name, orbit in orbit_of.items()
        }

    def _first(self, name: str) -> str:
        while self._before[name] != name:
            self._before[name] = name = self._before[self._before[name]]
        return name

    def join(self, one: str, other: str) -> None:
        """Make one group of two, unless both have an orbit."""
        first, second = self._first(one), self._first(other)
        if first != second and None in (self._orbit_of[first], self._orbit_of[second]):
            self._before[second] = first
            self._orbit_of[first] = self._orbit_of[first] or self._orbit_of[second]

    def pass_of(self, name: str) -> str:
        """Satellite and orbit of a group, else its earliest scene."""
        orbit = self._orbit_of[self._first(name)]
        return f"{orbit[0]}-{orbit[1]:06d}" if orbit else self._first(name)


def _orbit_of(facts: Facts) -> tuple[str, int] | None:
    """Satellite and absolute orbit; None where one of them is not known."""
    return (facts.satellite, facts.orbit) if facts.satellite and facts.orbit else None


def untold(names: Iterable[str], known: Mapping[str, Facts] = {}) -> list[str]:
    """The scenes of which nothing tells the pass: neither satellite and orbit nor time is known."""
    facts = {name: facts_of(name).completed(known.get(name, Facts())) for name in names}
    return sorted(name for name, own in facts.items() if _orbit_of(own) is None and own.time is None)


def warn_of_untold(names: Iterable[str], known: Mapping[str, Facts] = {}) -> list[str]:
    """Warn of scenes of which nothing tells the pass, before they are divided; return them."""
    nameless = untold(names, known)
    if nameless:
        warnings.warn(
            f"neither name nor file of {len(nameless)} scenes, such as {nameless[0]}, tells orbit or time: scenes of "
            "one satellite pass may come into two lists; name the files as Sentinel-1 products are named",
            stacklevel=3,
        )
    return nameless


def split(
    names: Sequence[str], shares: Mapping[str, float], seed: int = 0, known: Mapping[str, Facts] = {}
) -> dict[str, list[str]]:
    """Scene names by split, whole passes at a time, drawn by seed; the rest trains.

    Args:
        names: scene names.
        shares: of `val` and `test`; each gets at least that share, and at least one scene if the share is above 0.
        known: see `passes_of`.

    Raises:
        ConfigError: a share out of range, or nothing left for training.
    """
    if any(not 0 <= share < 1 for share in shares.values()) or sum(shares.values()) >= 1:
        raise ConfigError(f"shares are {dict(shares)}; set shares of 0 or more that leave something for training")
    pass_of = passes_of(names, known)
    scenes_of: dict[str, list[str]] = defaultdict(list)
    for name in sorted(names):
        scenes_of[pass_of[name]].append(name)
    drawn = sorted(scenes_of, key=lambda orbit: xxhash.xxh3_64_intdigest(f"{seed} {orbit}".encode()))
    out: dict[str, list[str]] = {"train": []}
    for part in ("val", "test"):
        wanted = math.ceil(shares.get(part, 0.0) * len(names))
        out[part] = []
        while drawn and len(out[part]) < wanted:
            out[part].extend(scenes_of[drawn.pop(0)])
    out["train"] = [name for orbit in drawn for name in scenes_of[orbit]]
    if not out["train"]:
        raise ConfigError(f"{len(names)} scenes of {len(scenes_of)} passes leave none for training; give more scenes")
    return {part: sorted(chosen) for part, chosen in out.items() if chosen}


def shared_passes(lists: Mapping[str, Sequence[str]], known: Mapping[str, Facts] = {}) -> list[tuple[str, str]]:
    """Pairs of scenes of one pass in two of the lists, each as `LIST: NAME`."""
    pass_of = passes_of((name for names in lists.values() for name in names), known)
    members_of: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for part, names in lists.items():
        for name in sorted(names):
            members_of[pass_of[name]].append((part, name))
    return [
        (f"{part}: {name}", f"{other_part}: {other}")
        for members in members_of.values()
        for (part, name), (other_part, other) in combinations(members, 2)
        if part != other_part
    ]


def warn_of_shared_passes(lists: Mapping[str, Sequence[str]], known: Mapping[str, Facts] = {}) -> None:
    """Warn of scenes of one pass in two of the splits among lists that are taken as given."""
    pairs = shared_passes({part: names for part, names in lists.items() if part in SPLITS}, known)
    if pairs:
        text = "; ".join(f"{first} and {second}" for first, second in pairs)
        warnings.warn(f"lists taken as given share {len(pairs)} pairs of one pass: {text}", stacklevel=3)


def plan(
    names: Sequence[str],
    given: Mapping[str, Sequence[str]],
    shares: Mapping[str, float],
    seed: int = 0,
    known: Mapping[str, Facts] = {},
) -> dict[str, list[str]]:
    """Scene names by split, where some lists are given, such as the official ones, and the others are drawn.

    A given list is taken as it is, except that the scenes of a given validation list leave the training list. The other
    lists are drawn from the given training list, or else from all scenes on no list, in whole passes that no given list
    touches.

    Args:
        names: all scenes.
        given: `train`, `val`, `test` -> names, as far as given.
        shares: of `val` and `test` where they are drawn.
        seed: of the draw.
        known: see `passes_of`.

    Returns:
        `train`, `val`, `test` and `left_out`, the scenes that none of these can hold; an empty list has no key.

    Raises:
        ConfigError: a given name is not a scene, or stands on two lists; shares that cannot be.

    Warns:
        of pairs of scenes of one pass in two splits, which given lists may hold.
    """
    for part, listed in given.items():
        lacking = sorted(set(listed) - set(names))
        if lacking:
            raise ConfigError(
                f"the {part} list names {len(lacking)} scenes that are not there, such as {lacking[0]}; "
                "add them or repair the list"
            )
    val, test = set(given.get("val", ())), set(given.get("test", ()))
    both = sorted(test & (val | set(given.get("train", ()))))
    if both:
        raise ConfigError(f"the test list holds {both[0]}, which is on another list, too; repair the lists")
    pass_of = passes_of(names, known)
    touched = {pass_of[name] for name in val | test}
    pool = [name for name in given.get("train", names) if name not in val | test]
    free = [name for name in pool if pass_of[name] not in touched]
    kept = sorted(set(pool) - set(free)) if "train" in given else []
    out: dict[str, list[str]] = {"train": []}
    if free or not kept:
        out = split(free, {part: share for part, share in shares.items() if part not in given}, seed, known)
    out["train"] += kept
    out |= {"val": sorted(val)} if val else {}
    out |= {"test": sorted(test)} if test else {}
    out[LEFT_OUT] = sorted(set(names) - {name for part in out.values() for name in part})
    warn_of_shared_passes(out, known)
    return {part: sorted(out[part]) for part in (*SPLITS, LEFT_OUT) if out.get(part)}


def default(names: Sequence[str], seed: int = 0, known: Mapping[str, Facts] = {}) -> dict[str, list[str]]:
    """80 % training, 10 % validation, 10 % test; all training where there are fewer than three passes.

    Warns:
        of scenes of which nothing tells the pass.
    """
    few = len(set(passes_of(names, known).values())) < 3
    if not few:
        warn_of_untold(names, known)
    return split(names, {"val": 0.0, "test": 0.0} if few else {"val": 0.1, "test": 0.1}, seed, known)
