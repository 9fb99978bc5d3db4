"""Which scenes are of one pass of a satellite: they overlap or abut, so they never stand on two sides of a division."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from arcticseg.ice.scenes.names import Facts, facts_of

# Without an orbit: the scenes of a pass follow each other within this time, and those of two passes never do.
_GAP = timedelta(minutes=10)
_NO_TIME = datetime.min.replace(tzinfo=UTC)


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


def known_of(scenes: Mapping[str, Mapping[str, Any]]) -> dict[str, Facts]:
    """What a manifest of shards remembers of the passes of its scenes, given its `scenes`."""
    return {name: facts_of("", {"start_time": facts.get("time"), **facts}) for name, facts in scenes.items()}
