"""Damaged scene files: each is a clean error, or gives what an independent reader gets from the same file."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import literal
import netCDF4
import numpy as np
import pytest

from arcticseg.data import sample
from arcticseg.data.manifest import Manifest, read_index
from shards.build import build
from shards.check import check
from shards.machines import Machine
from shards.part import BuildConfig
from shards.workers import Job, Workers
from tests import scenes

pytestmark = pytest.mark.slow

CONFIG = BuildConfig(tile=16, factors=(4, 10), shard_bytes=300_000)
Variables = dict[str, scenes.Variable]
Random = np.random.Generator


def write(path: Path, variables: Variables, attributes: dict[str, dict[str, Any]] | None = None) -> Path:
    """A file with many small chunks; `attributes`: variable, or "" for the file -> attributes."""
    attributes = attributes or {}
    with netCDF4.Dataset(path, "w") as file:
        file.setncatts({"title": "numbers drawn by a test", **attributes.get("", {})})
        for name, (dims, values) in variables.items():
            used = []
            for dim, length in zip(dims, values.shape, strict=True):
                own = dim if len(file.dimensions.get(dim, [0] * length)) == length else f"{dim}_of_{name}"
                if own not in file.dimensions:
                    file.createDimension(own, length)
                used.append(own)
            if values.dtype.kind in "OUS":
                variable = file.createVariable(name, str, used)
                variable[:] = values.astype(object)
            else:
                chunks = [min(n, 64) for n in values.shape] or None
                packed = {"zlib": True, "complevel": 1, "shuffle": len(name) % 2 == 0} if chunks else {}
                variable = file.createVariable(name, values.dtype, used, chunksizes=chunks, **packed)
                variable[...] = values
            for key, value in attributes.get(name, {}).items():
                variable.setncattr(key, value)
    return path


def variables_of(seed: int) -> Variables:
    """A small scene of coarse numbers, so that a large part of the file is not pixels."""
    variables = scenes.raw(160, 170, seed=seed)
    for name in ("nersc_sar_primary", "nersc_sar_secondary"):
        dims, values = variables[name]
        variables[name] = (dims, np.round(values / 4) * 4)
    return variables


@cache
def sound_file(seed: int) -> bytes:
    """The bytes of a scene file without damage."""
    with tempfile.TemporaryDirectory() as folder:
        return write(Path(folder) / "sound.nc", variables_of(seed)).read_bytes()


def flipped(path: Path, random: Random) -> None:
    """Bits flipped anywhere."""
    data = bytearray(sound_file(0))
    for place in random.integers(0, len(data), random.integers(1, 9)):
        data[place] ^= 1 << random.integers(8)
    path.write_bytes(data)


def overwritten(path: Path, random: Random) -> None:
    """A run of bytes set to zero, to one value or to noise."""
    data = bytearray(sound_file(1))
    place, length = random.integers(len(data)), random.integers(1, 600)
    kind = random.integers(3)
    run = random.integers(0, 256, length, np.uint8) if kind else np.zeros(length, np.uint8)
    data[place : place + length] = bytes(run if kind < 2 else np.full(length, 255, np.uint8))
    path.write_bytes(data)


def cut(path: Path, random: Random) -> None:
    """The end of the file is missing."""
    data = sound_file(2)
    path.write_bytes(data[: random.integers(0, len(data))])


def dropped(path: Path, random: Random) -> None:
    """Some variables are missing: any, or all of a kind that a scene may lack."""
    variables = variables_of(3)
    kinds = [scenes.AMSR2, scenes.ERA5, ("polygon_icechart", "polygon_codes"), ("distance_map",), ("sar_grid_height",)]
    names = [str(name) for name in random.choice(list(variables), random.integers(1, 4), replace=False)]
    if random.random() < 0.5:
        names = [name for i in random.choice(len(kinds), random.integers(1, 4), replace=False) for name in kinds[i]]
    for name in names:
        del variables[name]
    write(path, variables)


def reshaped(path: Path, random: Random) -> None:
    """A variable has other dimensions: cut, turned, with one more, flat, a single number."""
    variables = variables_of(4)
    name = str(random.choice([name for name, (_, values) in variables.items() if values.dtype != object]))
    dims, values = variables[name]
    shapes: list[scenes.Variable] = [
        (dims, values[: -random.integers(1, 9)]),
        (dims[::-1], values.T),
        (("time", *dims), values[None]),
        (("flat",), values.ravel()),
        ((), values.ravel()[0]),
        (dims, np.repeat(values, 2, axis=0)),
        (dims, values[:0]),
    ]
    variables[name] = shapes[random.integers(len(shapes))]
    write(path, variables)


def retyped(path: Path, random: Random) -> None:
    """A variable of another type, or with values that a writer cannot mean."""
    variables = variables_of(5)
    name = str(random.choice([name for name, (_, values) in variables.items() if values.dtype != object]))
    dims, values = variables[name]
    odd = values.copy().astype(np.float32)
    odd.ravel()[random.integers(0, odd.size, 40)] = random.choice([np.inf, -np.inf, np.nan, 1e36, 9.96921e36])
    kinds = [
        values.astype(np.float64),
        np.nan_to_num(values).astype(np.int16),
        np.nan_to_num(values).astype(np.int64),
        values.astype(">f4"),
        values.astype(str),
        odd,
        np.full_like(odd, np.nan),
    ]
    variables[name] = (dims, kinds[random.integers(len(kinds))])
    write(path, variables)


def attributed(path: Path, random: Random) -> None:
    """Attributes of types and meanings that nobody expects."""
    variables = variables_of(6)
    values = [
        3,
        "text",
        [1.5, 2.5],
        np.int8(-1),
        "",
        "1e9 m",
        [1, 2, 3],
        np.float32(np.nan),
        "simulated, but not by us",
    ]
    keys = ["scale_factor", "add_offset", "units", "missing_value", "valid_range", "calendar", "coordinates", "dtype"]
    attributes: dict[str, dict[str, Any]] = {
        str(name): {str(random.choice(keys)): values[random.integers(len(values))] for _ in range(2)}
        for name in random.choice(list(variables), 4, replace=False)
    }
    attributes[""] = {"simulated": values[random.integers(len(values))]}
    write(path, variables, attributes)


def garbled(path: Path, random: Random) -> None:
    """Cells, rows or the header of the code table that make no sense."""
    variables = variables_of(7)
    dims, rows = variables["polygon_codes"]
    rows = rows.copy()
    odd = ["", " ", "x", "1.5", "-9", "999", "-1", "1e3", "é", "0x1f", "9" * 20, "99", "91", "W", "07", "+5", "5 0"]
    for _ in range(int(random.integers(1, 4))):
        # Mostly codes of polygons, now and then ids and the header.
        i, j = int(random.integers(random.random() < 0.9, len(rows))), int(random.integers(random.random() < 0.9, 15))
        cells = str(rows[i]).split(";")
        kind = random.random()
        if kind < 0.8:
            cells[j % len(cells)] = str(random.choice(odd))
        elif kind < 0.87:
            cells = cells[:-1]
        elif kind < 0.94:
            cells = list(random.permutation(cells))
        else:
            cells = ["".join(cells)]
        rows[i] = ";".join(cells)
    if random.random() < 0.2:
        rows = rows[random.permutation(len(rows))[: random.integers(0, len(rows) + 1)]]
    variables["polygon_codes"] = (dims, rows)
    write(path, variables)


KINDS: dict[Callable[[Path, Random], None], int] = {
    flipped: 90, overwritten: 45, cut: 25, dropped: 30, reshaped: 35, retyped: 30, attributed: 15, garbled: 30,
}  # fmt: skip


def tiles_of(folder: Path, manifest: Manifest) -> dict[str, dict[tuple[int, int, int], bytes]]:
    """Scene -> (factor, row, column) -> bytes of the sample."""
    out: dict[str, dict[tuple[int, int, int], bytes]] = {}
    for shards in manifest.splits.values():
        for shard in shards:
            data = (folder / shard.name).read_bytes()
            for entry in read_index(folder / shard.name):
                place = tuple(int(part.removeprefix("k")) for part in entry.key.rsplit("_", 3)[1:])
                piece = data[entry.offset : entry.offset + entry.size]
                out.setdefault(entry.scene, {})[place] = piece  # type: ignore[index]
    return out


def compare(path: Path, samples: dict[tuple[int, int, int], bytes]) -> list[str]:
    """What of the samples of a scene is not as the independent reader says."""
    expected = literal.tiles_of(path, CONFIG.tile, CONFIG.factors)
    if set(samples) != set(expected):
        return [f"tiles {sorted(set(samples) ^ set(expected))} are in one of both only"]
    wrong = []
    for place, data in samples.items():
        tile = sample.decode(*sample.split_members(data))
        wrong += [f"{place}: {text}" for text in literal.differences(tile, expected[place])]
    return wrong


@pytest.mark.slow
def test_three_hundred_damaged_scenes(tmp_path: Path) -> None:
    folder, out = tmp_path / "scenes", tmp_path / "out"
    folder.mkdir()
    n = int(os.environ.get("ARCTICSEG_FUZZ_SCALE", "1"))
    random = np.random.default_rng(n)
    paths = [folder / f"{make.__name__}{i:03d}.nc" for make, count in KINDS.items() for i in range(n * count)]
    assert len(paths) == 300 * n
    # HDF5 itself runs into endless loops on some damaged files, one in a thousand of these.
    machine = Machine(workers=2, time_limit=20)
    for path, make in zip(paths, [make for make, count in KINDS.items() for _ in range(n * count)], strict=True):
        make(path, random)
    good = [write(folder / f"good{i}.nc", variables_of(i)) for i in range(3)]

    began = time.monotonic()
    every = [*good[:1], *paths[:150], *good[1:2], *paths[150:], *good[2:]]
    told: list[str] = []
    manifest = build({"train": every}, out, CONFIG, machine, on_error="skip", report=told.append)
    took = time.monotonic() - began

    assert set(manifest.scenes) == {path.stem for path in every}
    assert check(out) == []
    failed = {name: facts["error"] for name, facts in manifest.scenes.items() if "error" in facts}
    samples = tiles_of(out, manifest)
    assert set(failed) | set(samples) == set(manifest.scenes)
    assert not set(failed) & set(samples)
    wrong: dict[str, list[str]] = {}
    for name, reason in failed.items():
        # One line that names the file, says what is wrong and, behind a semicolon, what to do.
        is_clean = reason.startswith(f"{name}.nc: ") and len(reason.rpartition(";")[2].split()) >= 2
        if not is_clean or "the program failed" in reason or "\n" in reason:
            wrong[name] = [reason]

    # The reader of the test may break on a damaged file as well, so it works in other processes, too.
    with Workers(2) as pool:
        jobs = [Job((path, samples[path.stem]), time_limit=60) for path in every if path.stem in samples]
        for job, outcome in pool.map(compare, jobs):
            lines = outcome.value if outcome.error is None else [f"{outcome.error!r}"]
            if lines:
                wrong[job.arguments[0].name] = lines[:5]
    assert not wrong, json.dumps(wrong, indent=1)
    assert {path.stem for path in good} <= set(samples)
    sound = Counter(name.rstrip("0123456789") for name in samples)
    assert set(sound) >= {"good", "flipped", "dropped", "attributed", "retyped", "garbled"}, sound
    spoilt = Counter(name.rstrip("0123456789") for name in failed)
    assert set(spoilt) >= {make.__name__ for make in KINDS} - {"attributed"}, spoilt
    lost = [reason for reason in failed.values() if "could not be worked on" in reason]
    print(f"built in {took:.0f} s; sound {dict(sound)}; failed {dict(spoilt)}; crashed {len(lost)}")
