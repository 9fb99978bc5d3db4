"""A small archive made by hand, and a build without processes, for the tests of `shards`."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from arcticseg.data.manifest import hash_file
from shards.part import BuildConfig
from shards.workers import Job, Outcome
from tests import scenes

# (time, absolute orbit, ice service): the first two scenes are of one pass.
PASSES = (
    ("20180721T120156", "022892", "cis"),
    ("20180721T120256", "022892", "cis"),
    ("20180801T100000", "023050", "dmi"),
    ("20181103T090000", "024420", "dmi"),
    ("20190212T080000", "025901", "cis"),
)


# What a manifest says of a scene that was read, and of its builder.
SCENE_FACTS: dict[str, Any] = {
    "simulated": False,
    "ice_service": "cis",
    "time": "2020-02-03T04:05:06+00:00",
    "has_chart": True,
    "shape": [100, 100],
    "tiles": {},
    "counts": {},
    "warnings": [],
}
BUILDER: dict[str, Any] = {"version": "0", "config": {}}


def tie(folder: Path) -> None:
    """Give a manifest the checksums that its indices have now, as the author of both can."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    for shards in manifest["splits"].values():
        for shard in shards:
            shard["index"] = hash_file((folder / shard["name"]).with_suffix(".json"))
    path.write_text(json.dumps(manifest))


def scene_name(time: str, orbit: str, service: str) -> str:
    """A name like those of the archive."""
    return f"S1A_EW_GRDM_1SDH_{time}_{time}_{orbit}_027B98_56D9_icechart_{service}_{time[:8]}_RIC"


# Of the builds that tests share; factors are sorted by the build itself.
CONFIG = BuildConfig(tile=32, factors=(4, 2), shard_bytes=100_000)

NAMES = tuple(scene_name(*facts) for facts in PASSES)


def write_archive(folder: Path, lines: int = 300, samples: int = 350) -> list[Path]:
    """Five raw scenes; the last has no chart."""
    return [
        scenes.write_raw(folder / f"{name}.nc", lines=lines, samples=samples + 10 * i, seed=i, chart=i < 4)
        for i, name in enumerate(NAMES)
    ]


class InThisProcess:
    """In the place of `Workers`: without processes, whose start is most of the time of a small build."""

    def __init__(self, *_: object) -> None:
        pass

    def __enter__(self) -> InThisProcess:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def map(self, function: Callable[..., object], jobs: Iterable[Job]) -> Iterator[tuple[Job, Outcome]]:
        for job in jobs:
            try:
                yield job, Outcome(function(*job.arguments))
            except Exception as error:
                yield job, Outcome(error=error)


def telling(function: Callable[[int, int], None], stage: str = "scenes") -> Callable[[str], object]:
    """A progress that tells a function of one stage."""
    return lambda name: contextlib.nullcontext(function if name == stage else lambda done, total: None)


def leaves(tree: Any, prefix: str = "") -> dict[str, Any]:
    """The single values in dicts and lists, by their path from the top, so that they can be compared approximately."""
    if not isinstance(tree, (dict, list)):
        return {prefix: tree}
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    return {path: leaf for key, value in items for path, leaf in leaves(value, f"{prefix}.{key}").items()}


def contents(folder: Path) -> dict[str, bytes]:
    """Path in the folder -> bytes of every file."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def quiet(text: str) -> None:
    """Report nothing."""
