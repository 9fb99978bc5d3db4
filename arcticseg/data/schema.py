"""What a manifest and an index may hold: those of other people are checked before anything is done with them."""

from __future__ import annotations

from itertools import chain
from typing import Any

from arcticseg.documents import (
    LARGEST,
    Check,
    DocumentError,
    counts,
    each,
    flag,
    hexadecimal,
    mapping,
    misfit,
    number,
    optional,
    plain,
    record,
    text,
    whole,
)
from arcticseg.ice.channels import CHANNELS
from arcticseg.ice.sigrid import CHARTS, N_CLASSES
from arcticseg.ice.tiling import LARGEST_FACTOR, LARGEST_TILE
from arcticseg.shown import brief

# Bytes of a manifest that are read, and objects and arrays in it: those of some 30,000 scenes at 9 factors.
MANIFEST_BYTES, MANIFEST_CONTAINERS = 64 << 20, 2 << 20
# Bytes of an index that are read for each sample, and for all together.
SAMPLE_BYTES, INDEX_BYTES = 8192, 256 << 20
# Larger than any shard, and small enough for the system to seek to.
_SHARD_BYTES = 1 << 48
# The least that a sample takes in a tar: headers and data of its six members.
_LEAST_SAMPLE = 6 * 512

_SPLIT = text("train|val|test", "train, val or test")
# Of a plain file: no folder, no address, nothing hidden, nothing that a shell or a server reads otherwise.
_SHARD_NAME = text(r"[A-Za-z0-9](?:\.?[A-Za-z0-9_-])*\.tar", "the plain name of a .tar file", 255)
SCENE_NAME = text(r"(?!\.\.?$)[^\x00-\x1f\x7f/]+", "the name of a scene", 255)
_FACTOR = text(r"[1-9]\d{0,3}", "a factor")
_CLASS_COUNTS = record({chart: counts(N_CLASSES[chart] + 1) for chart in CHARTS})
_TIME = text(
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,6})?(?:\+\d\d:\d\d)?", "a time such as 2020-01-23T12:06:18+00:00"
)

_SHARD = record(
    {
        "name": _SHARD_NAME,
        "bytes": whole(_LEAST_SAMPLE, _SHARD_BYTES),
        "xxh3": hexadecimal(16),
        "samples": whole(1, _SHARD_BYTES),
        "index": hexadecimal(16),
    }
)
_READ_SCENE = record(
    {
        "split": _SPLIT,
        "simulated": flag,
        "ice_service": optional(text(longest=64)),
        "time": optional(_TIME),
        "has_chart": flag,
        "shape": each(whole(1, 1 << 24), 2, 2),
        "tiles": mapping(_FACTOR, whole()),
        "counts": mapping(_FACTOR, _CLASS_COUNTS),
        "warnings": each(text()),
    },
    plain,
)
_FAILED_SCENE = record({"split": _SPLIT, "error": text()})
_VALUES = {
    "mean": number(),
    "std": number(0, 1e300),
    "count": whole(1),
    "histogram": record({"width": number(1e-12, 1e12), "first": whole(-LARGEST), "counts": counts()}),
}
_OF_FACTOR = record(_VALUES)


def _scene(value: Any) -> None:
    (_FAILED_SCENE if type(value) is dict and "error" in value else _READ_SCENE)(value)


def _statistics(value: Any) -> None:
    record(_VALUES, mapping(_FACTOR, _OF_FACTOR))(value)
    if surplus := value.keys() - _VALUES.keys() - {"factors"}:
        raise DocumentError(f"holds statistics called {brief(min(surplus))}")


def _channel(value: Any) -> None:
    if value not in CHANNELS:
        raise misfit(value, "a channel")


CHECK_MANIFEST: Check = record(
    {
        "schema": whole(),
        "tile": whole(1, LARGEST_TILE),
        "factors": each(whole(1, LARGEST_FACTOR), 1, 64),
        "splits": mapping(_SPLIT, each(_SHARD)),
        "scenes": mapping(SCENE_NAME, _scene),
        "statistics": mapping(_channel, _statistics),
        "builder": record({"version": text(longest=64), "config": plain}),
        "simulated": flag,
        "fingerprint": hexadecimal(32),
        "channels": plain,
        "classes": plain,
    }
)


def check_manifest(content: Any) -> None:
    """Check a manifest's content.

    Raises:
        DocumentError: a key or value that no build writes.
    """
    CHECK_MANIFEST(content)
    names = [shard["name"] for shards in content["splits"].values() for shard in shards]
    if len(set(names)) != len(names):
        raise DocumentError(f"shard {max(names, key=names.count)} stands twice")
    for shards in content["splits"].values():
        for shard in shards:
            if shard["samples"] * _LEAST_SAMPLE > shard["bytes"]:
                raise DocumentError(f"{shard['name']} cannot hold {shard['samples']} samples in {shard['bytes']} bytes")
    known = {str(factor) for factor in content["factors"]}
    for name, facts in content["scenes"].items():
        if other := (facts.get("tiles", {}).keys() | facts.get("counts", {}).keys()) - known:
            raise DocumentError(f"scene {brief(name)} has factor {min(other)}, which is not among the factors")


_NO_COUNTS = record({})
_LENGTHS = {chart: N_CLASSES[chart] + 1 for chart in CHARTS}


def _sample_counts(value: Any) -> None:
    """Class counts of a chart, or none; the good case at once, since an index may have a million."""
    if type(value) is dict and value.keys() == _LENGTHS.keys():
        lists = list(value.values())
        if set(map(type, lists)) == {list} and [len(value[chart]) for chart in CHARTS] == [*_LENGTHS.values()]:
            numbers = list(chain.from_iterable(lists))
            if set(map(type, numbers)) == {int} and min(numbers) >= 0 and max(numbers) <= LARGEST:
                return
    (_CLASS_COUNTS if value else _NO_COUNTS)(value)


_SAMPLE = record(
    {
        "key": text(r"[^\x00-\x20\x7f/]+", "the key of a sample", 255),
        "scene": SCENE_NAME,
        "factor": whole(1, LARGEST_FACTOR),
        "offset": whole(0, _SHARD_BYTES),
        "size": whole(512, _SHARD_BYTES),
        "xxh3": hexadecimal(16),
        "core": whole(0, _SHARD_BYTES),
        "core_xxh3": hexadecimal(16),
        "labelled": flag,
        "counts": _sample_counts,
    }
)


def check_samples(samples: Any, shard_bytes: int | None = None) -> None:
    """Check the samples of an index.

    Args:
        shard_bytes: of the shard, which they must not exceed; None: as many as any shard may have.

    Raises:
        DocumentError: a key or value that no build writes, or a sample beyond the shard's end.
    """
    end = _SHARD_BYTES if shard_bytes is None else shard_bytes
    each(_SAMPLE, 1)(samples)
    for place, sample in enumerate(samples):
        if sample["core"] >= sample["size"] or sample["offset"] + sample["size"] > end:
            raise DocumentError(
                f"sample {place} of {sample['size']} bytes from byte {sample['offset']} on, its core from "
                f"{sample['core']} on, cannot lie in {end} bytes"
            )


def index_limit(samples: int) -> int:
    """Bytes that an index of so many samples may have."""
    return min(INDEX_BYTES, SAMPLE_BYTES * (samples + 1))
