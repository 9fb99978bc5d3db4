"""Cross-validation: the training scenes of shards divided into folds, of which one is held out for validation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from arcticseg.data.select import ShardSet, check_listed
from arcticseg.errors import ConfigError
from arcticseg.ice import strata
from arcticseg.ice.passes import known_of, passes_of


def folds(sets: Sequence[ShardSet], count: int, listed: Sequence[str] | None = None) -> list[list[str]]:
    """The training scenes divided into folds of nearly equal size, whole satellite passes at a time.

    Each fold resembles the whole in ice service, season and class content. A pure function of the manifests, the same
    on all machines and for all networks; scenes without a chart are divided, too.

    Args:
        count: of folds, 2 or more.
        listed: names of the scenes to divide; None: all.

    Raises:
        ConfigError: there are fewer passes than folds.
    """
    if listed is not None:
        check_listed(sets, listed)
    wanted = None if listed is None else set(listed)
    scenes: dict[str, Mapping[str, Any]] = {}
    for part in sets:
        for name, facts in part.manifest.scenes.items():
            train = facts["split"] == "train" and "error" not in facts and (wanted is None or name in wanted)
            # Of a scene in two sets, what that says which knows its classes.
            if train and (name not in scenes or not scenes[name].get("counts")):
                scenes[name] = facts
    known = known_of(scenes)
    passes = len(set(passes_of(scenes, known).values()))
    if passes < count:
        where = ", ".join(part.source.address for part in sets)
        raise ConfigError(f"key 'data.fold' asks for {count} folds; {where} has training scenes of {passes} passes")
    return strata.parts(list(scenes), count, counts_of(scenes), known)


def counts_of(scenes: Mapping[str, Mapping[str, Any]]) -> dict[str, strata.Counts]:
    """Class counts of the scenes of a manifest that has them, at the finest factor, as of a scene file."""
    by_factor = {name: facts["counts"] for name, facts in scenes.items() if facts.get("counts")}
    return {name: counts[min(counts, key=int)] for name, counts in by_factor.items()}
