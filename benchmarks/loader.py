"""ArcticSeg's loader beside its peers, on the same samples, in turns.

    python benchmarks/loader.py --folder /tmp/loader --peers /tmp/peers/bin/python

makes simulated scenes and shards of them in the folder (once), each peer's own files beside them, and prints two
tables: `codes`, what is ready to be sent to the device, as each library can give it; `floats`, normalised
full-resolution tensors on the CPU. A number is samples a second, the median over the rounds; a ratio is the median of
the rounds' own ratios, each against the round of ArcticSeg just before. Then the shards are read cold.

`--peers` names the Python of an environment with the peers, some of which bring another torch:
`benchmarks/README.md` says how to make it. The last line is a summary; the status is 1 where a goal is missed.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

OURS = "arcticseg"
PEERS = ("joblib", "webdataset", "litdata", "mosaicml", "grain", "spdl")
FLOORS = ("copy, reused memory", "copy, fresh memory")
WORKERS = (0, 2)
# How many times as fast as each peer ArcticSeg must be.
GOALS = {
    "codes": {"joblib": 40.0, "webdataset": 3.0} | dict.fromkeys(("litdata", "mosaicml", "grain", "spdl"), 1.0),
    "floats": dict.fromkeys(PEERS, 2.5),
}
COLD_SHARE = 0.7


class Process:
    """A contestant that measures when it is told to."""

    def __init__(self, python: str, name: str, folder: Path) -> None:
        self.name, self._log = name, folder / f"{name}.log"
        self._process = subprocess.Popen(
            [python, str(Path(__file__).with_name("contestants.py")), name, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=open(self._log, "w"),  # noqa: SIM115
            text=True,
        )

    def round(self, **asked: Any) -> float:
        """Samples a second."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        for line in self._process.stdout:
            # Libraries print, too.
            if line.startswith('{"samples"'):
                measured = json.loads(line)
                return float(measured["samples"] / measured["seconds"])
        raise RuntimeError(f"{self.name} ended with status {self._process.wait()}; see {self._log}")

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


@contextmanager
def contestants(python: str, names: tuple[str, ...], folder: Path) -> Iterator[dict[str, Process]]:
    """One process each, ended at the end."""
    processes = {name: Process(python, name, folder) for name in names}
    try:
        yield processes
    finally:
        for process in processes.values():
            process.close()


def prepare(python: str, folder: Path, scenes: int, size: int) -> None:
    """Scenes, shards and the peers' files, what of them is not there."""
    from arcticseg.ice.scenes.open import list_scenes
    from shards.build import build
    from shards.part import BuildConfig
    from shards.simulate import simulate_archive

    if not (folder / "shards" / "manifest.json").exists():
        simulate_archive(folder / "scenes", scenes, 0, (size, size))
        config = BuildConfig(tile=384, factors=(2, 4, 10), shard_bytes=64 << 20)
        build({"train": list_scenes(folder / "scenes")}, folder / "shards", config)
    for name, place in (("joblib", "pickles"), ("litdata",) * 2, ("mosaicml", "mds"), ("grain",) * 2, ("spdl",) * 2):
        if not (folder / f"{place}.done").exists():
            print(f"writing the files of {name}", flush=True)
            shutil.rmtree(folder / place, ignore_errors=True)
            program = Path(__file__).with_name("contestants.py")
            subprocess.run([python, str(program), name, str(folder), "--prepare"], check=True, capture_output=True)
            (folder / f"{place}.done").touch()


def compare(processes: dict[str, Process], table: str, workers: int, rounds: int, seconds: float) -> list[str]:
    """Measure and print one half of a table; the goals that are missed."""
    speeds: dict[str, list[float]] = {name: [] for name in processes}
    ratios: dict[str, list[float]] = {name: [] for name in processes}
    for _ in range(rounds):
        for name, process in processes.items():
            if name == OURS:
                continue
            ours = processes[OURS].round(table=table, workers=workers, seconds=seconds)
            theirs = process.round(table=table, workers=workers, seconds=seconds)
            speeds[OURS].append(ours)
            speeds[name].append(theirs)
            ratios[name].append(ours / theirs)
    missed = []
    print(f"\n{table}, {workers} workers\n\n| loader | samples/s | {OURS} is so many times as fast | goal | |")
    print("|---|---|---|---|---|")
    print(f"| {OURS} | {statistics.median(speeds[OURS]):.1f} | | | |")
    for name, values in ratios.items():
        if name == OURS:
            continue
        ratio, goal = statistics.median(values), GOALS[table].get(name)
        verdict = "" if goal is None else "holds" if ratio >= goal else "MISSED"
        aim = "" if goal is None else f"{goal:g}"
        print(f"| {name} | {statistics.median(speeds[name]):.1f} | {ratio:.2f} | {aim} | {verdict} |", flush=True)
        if verdict == "MISSED":
            missed.append(f"{table}, {workers} workers, {name}: {ratio:.2f} of {goal:g}")
    return missed


def evict(folder: Path) -> None:
    """Put the shards out of the page cache."""
    for path in folder.glob("*.tar"):
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def sequential(folder: Path) -> float:
    """Bytes a second of reading the shards from end to end."""
    evict(folder)
    buffer, total = bytearray(4 << 20), 0
    began = time.perf_counter()
    for path in sorted(folder.glob("*.tar")):
        with open(path, "rb", buffering=0) as file:
            while count := file.readinto(buffer):
                total += count
    return total / (time.perf_counter() - began)


def cold(folder: Path, workers: int) -> float:
    """Bytes a second of one pass of the loader over shards that are not in memory; its start is not counted."""
    from contestants import BATCH, NAMES

    from arcticseg.data.config import DataConfig
    from arcticseg.data.decode import Layout
    from arcticseg.data.loader import Loader, make_order
    from arcticseg.data.manifest import read_manifest
    from arcticseg.data.reader import SampleReader
    from arcticseg.data.select import select
    from arcticseg.data.share import Share

    manifest = read_manifest(folder)
    chosen = select(folder, manifest, "train")
    layout = Layout.of(manifest.tile, manifest.factors, NAMES)
    order = make_order(chosen, DataConfig(), "none", seed=int(time.time()))
    loader = Loader(SampleReader(chosen), layout, order, Share(0, 1, BATCH, BATCH), workers=workers)
    try:
        loader.step()
        loader.stepped()
        evict(folder)
        steps = len(chosen) // BATCH - 1
        began = time.perf_counter()
        for _ in range(steps):
            loader.step()
            loader.stepped()
        took = time.perf_counter() - began
    finally:
        loader.close()
    return float(chosen.size.mean()) * steps * BATCH / took


def enlarge(folder: Path, copies: int) -> Path:
    """Shards in so many copies under names of their own: enough to take a while to read."""
    from arcticseg.data import manifest as manifests
    from arcticseg.data.manifest import ShardEntry

    out = folder / "cold"
    manifest = manifests.read_manifest(folder / "shards")
    shards = []
    out.mkdir(exist_ok=True)
    for _ in range(copies):
        for shard in manifest.splits["train"]:
            path = out / f"train-{len(shards):06d}.tar"
            entries = manifests.read_index(folder / "shards" / shard.name)
            if not path.exists() or path.stat().st_size != shard.bytes:
                shutil.copyfile(folder / "shards" / shard.name, path)
            index = manifests.write_index(path, entries)
            shards.append(ShardEntry(path.name, shard.bytes, shard.xxh3, shard.samples, index))
    manifests.write_manifest(out, dataclasses.replace(manifest, splits={"train": tuple(shards)}))
    return out


def read_cold(folder: Path, rounds: int, copies: int) -> list[str]:
    """Measure and print reading from the disk; the goal if it is missed."""
    place = enlarge(folder, copies)
    pairs = [(sequential(place), cold(place, 2)) for _ in range(rounds)]
    share = statistics.median(ours / disk for disk, ours in pairs)
    disk, ours = (statistics.median(values) / 1e6 for values in zip(*pairs, strict=True))
    print(
        f"\ncold, 2 workers: {ours:.0f} MB/s in a global shuffle; the disk from end to end {disk:.0f} MB/s: {share:.2f}"
    )
    return [] if share >= COLD_SHARE else [f"cold: {share:.2f} of {COLD_SHARE:g}"]


def main() -> int:
    """Measure everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="for scenes, shards and the peers' files")
    parser.add_argument("--peers", default=sys.executable, help="Python that has the peers")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="of one measurement, at least")
    parser.add_argument("--scenes", type=int, default=2)
    parser.add_argument("--size", type=int, default=8000, help="pixels of 40 m along an edge of a scene")
    # A virtual disk's host keeps in its own memory what is read again and again, if it is little.
    parser.add_argument("--copies", type=int, default=40, help="of the shards, for the cold read (default 40: 4.4 GB)")
    parser.add_argument("--only", choices=["codes", "floats", "cold"], help="one part")
    options = parser.parse_args()
    prepare(options.peers, options.folder, options.scenes, options.size)
    print(f"{platform.processor() or platform.machine()}, {len(os.sched_getaffinity(0))} cores, load {os.getloadavg()}")
    missed = []
    for table in ("codes", "floats"):
        if options.only in (None, table):
            with contestants(options.peers, (OURS, *PEERS, *FLOORS), options.folder) as processes:
                for workers in WORKERS:
                    missed += compare(processes, table, workers, options.rounds, options.seconds)
    if options.only in (None, "cold"):
        missed += read_cold(options.folder, options.rounds, options.copies)
    print("\nall goals hold" if not missed else "\nmissed: " + "; ".join(missed))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
