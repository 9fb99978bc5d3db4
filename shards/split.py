"""Which scenes train, validate and test, by their names.

Scenes of one pass of a satellite overlap or abut, so they are never in two sets.
"""

from __future__ import annotations

import math
import re
import warnings
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations

import xxhash

from arcticseg.data.manifest import SPLITS
from arcticseg.errors import ConfigError
from arcticseg.ice.passes import passes_of, untold
from arcticseg.ice.scenes.names import Facts

# The list of scenes that no split can hold without parting a pass.
LEFT_OUT = "left_out"
# Scenes of the archive: raw and ready-to-train.
_AI4ARCTIC = re.compile(r"_icechart_(dmi|cis)_|_(dmi|cis)_prep$")


def is_ai4arctic(name: str) -> bool:
    """Whether a scene is called as those of the AI4Arctic archive are."""
    return bool(_AI4ARCTIC.search(name))


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
