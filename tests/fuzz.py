"""Damaged files of eleven kinds, opened as the product does: a right result or an error of ours, and nothing else.

    python -m tests.fuzz --files 300 --seed 1
    python -m tests.fuzz --kind raw,safe --files 50

Each file follows from kind, seed and number. A process opens many, one after another, under a limit of memory; one that
hangs, crashes or takes too much is named, and another goes on. What is wrong is kept in `--keep`: the file, and a text
that says what happened and how to repeat it. Ends with status 1 if anything is wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import resource
import shutil
import sys
import tempfile
import time
import traceback
import warnings
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from arcticseg.errors import ArcticSegError
from tests.extremes import NUMBERS, Random, pick
from tests.fuzzed import KINDS, Kind

# How a file may end; the last four are wrong.
ENDS = ("accepted", "refused", "traceback", "hang", "memory", "crash")
WRONG = ENDS[2:]


@dataclass(frozen=True)
class Bounds:
    """What a file may cost: seconds, and bytes of its process."""

    seconds: float = 30.0
    memory: int = 2 << 30


_SPAWN = multiprocessing.get_context("spawn")


# How bytes are changed -----------------------------------------------------------------------------------------------


def flip(data: bytearray, random: Random) -> None:
    for _ in range(int(random.integers(1, 20))):
        data[int(random.integers(len(data)))] ^= 1 << int(random.integers(8))


def cut(data: bytearray, random: Random) -> None:
    del data[int(random.integers(len(data))) :]


def zero(data: bytearray, random: Random) -> None:
    start, end = sorted(int(place) for place in random.integers(0, len(data) + 1, 2))
    end = min(end, start + int(10 ** random.uniform(0, 5)))
    data[start:end] = bytes(end - start)


def splice(data: bytearray, random: Random) -> None:
    """A block of the file at another place of it, in place of what is there or between."""
    size = int(10 ** random.uniform(0, 4))
    source, target = (int(place) for place in random.integers(0, len(data), 2))
    block = data[source : source + size]
    data[target : target + (len(block) if random.random() < 0.5 else 0)] = block


def number(data: bytearray, random: Random) -> None:
    """An extreme number where some number may be; half of them near the beginning, where headers are."""
    kind = pick(random, ("<i4", ">i4", "<u4", "<f4", "<f8", ">f8", "<u2", "<i8"))
    with np.errstate(all="ignore"):
        value = np.float64(pick(random, NUMBERS)).astype(kind).tobytes()
    last = max(1, len(data) - len(value))
    place = int(random.integers(last if random.random() < 0.5 else min(last, 512)))
    data[place : place + len(value)] = value


BYTES = (flip, cut, zero, splice, number)


def damage(kind: Kind, path: Path, random: Random) -> None:
    """Change a file of a kind: what it says, or its bytes."""
    ways = len(BYTES) + 2 * len(kind.spoil)
    way = int(random.integers(ways))
    if way >= len(BYTES):
        # A change that the library which makes it does not allow leaves the file as it is.
        with contextlib.suppress(Exception), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pick(random, kind.spoil)(path, random)
        return
    folder = path if path.is_dir() else path.parent
    files = [file for file in sorted(folder.rglob(kind.only)) if file.is_file() and file.stat().st_size]
    chosen = pick(random, files)
    data = bytearray(chosen.read_bytes())
    for _ in range(int(pick(random, (1, 1, 2)))):
        if data:
            BYTES[way](data, random)
    chosen.write_bytes(data)


def make(kind: Kind, seed: Sequence[int], honest: Path, folder: Path) -> Path:
    """A damaged copy of an honest file: it follows from the seed."""
    shutil.copytree(honest.parent, folder)
    path = folder / honest.name
    damage(kind, path, np.random.default_rng(seed))
    return path


# A process that opens files ------------------------------------------------------------------------------------------


def work(kind: Kind, seed: Sequence[int], place: Path, bounds: Bounds, pipe: Connection) -> None:
    """Make and open the files whose numbers come, and say how each ended, with the peak of memory so far."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    warnings.simplefilter("ignore")
    (place / "honest").mkdir(parents=True)
    honest = kind.make(place / "honest")
    shutil.copytree(honest.parent, place / "whole")
    kind.open(place / "whole" / honest.name)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + 2 * bounds.memory, resource.RLIM_INFINITY))
    pipe.send(("ready", "", 0))
    while True:
        file = pipe.recv()
        path = make(kind, [*seed, file], honest, place / str(file))
        end, text = "accepted", ""
        try:
            kind.open(path)
        except ArcticSegError as error:
            end, text = "refused", str(error)
            if "\n" in text:
                end = "traceback"
        except BaseException as error:
            end, text = "traceback", "".join(traceback.format_exception(error))
        peak = peak_memory()
        if peak > bounds.memory:
            end, text = "memory", f"{peak >> 20} MB\n{text}"
        pipe.send((end, text, peak))
        if end in ("accepted", "refused"):
            shutil.rmtree(place / str(file), ignore_errors=True)


def peak_memory() -> int:
    """The most bytes that this process has held; `ru_maxrss` would be that of who started it, if more."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) << 10


class Worker:
    """A process that opens files of a kind."""

    def __init__(self, kind: Kind, seed: Sequence[int], place: Path, bounds: Bounds) -> None:
        self.pipe, theirs = _SPAWN.Pipe()
        self._seconds = bounds.seconds
        self.process = _SPAWN.Process(target=work, args=(kind, seed, place, bounds, theirs), daemon=True)
        self.process.start()
        theirs.close()
        if self._answer(300)[0] != "ready":
            raise RuntimeError("an honest file cannot be opened")

    def open(self, file: int) -> tuple[str, str, int]:
        """How a file ended, what was said of it, and the peak of memory in bytes."""
        self.pipe.send(file)
        return self._answer(self._seconds)

    def _answer(self, seconds: float) -> tuple[str, str, int]:
        try:
            if not self.pipe.poll(seconds):
                self.end()
                return "hang", f"still at work after {seconds:.0f} s", 0
            answer: tuple[str, str, int] = self.pipe.recv()
            return answer
        except (EOFError, OSError):
            self.process.join(5)
            return "crash", f"the process ended with status {self.process.exitcode}", 0

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()


@dataclass
class Result:
    """How the files of a kind ended.

    Attributes:
        ends: how -> how many.
        wrong: a line for each file that ended wrongly.
        peak: of memory, in bytes.
    """

    ends: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    peak: int = 0


def fuzz(
    name: str, files: Sequence[int], seed: int, keep: Path, kind: Kind | None = None, bounds: Bounds = Bounds()
) -> Result:
    """Open damaged files of a kind.

    Args:
        name: of the kind.
        files: their numbers.
        keep: folder for those that end wrongly.
        kind: None: that of the name.
    """
    chosen = kind or KINDS[name]
    result = Result()
    with tempfile.TemporaryDirectory(prefix="arcticseg-fuzz-") as folder:
        worker: Worker | None = None
        for count, file in enumerate(files):
            if worker is None:
                place = Path(folder) / f"{count}"
                worker = Worker(chosen, [seed, zlib.crc32(name.encode())], place, bounds)
            end, text, peak = worker.open(file)
            result.ends[end] += 1
            result.peak = max(result.peak, peak)
            if end in WRONG:
                kept = keep / f"{name}-{seed}-{file}"
                shutil.rmtree(kept, ignore_errors=True)
                with contextlib.suppress(OSError):
                    shutil.copytree(place / str(file), kept, ignore_dangling_symlinks=True)
                again = f"python -m tests.fuzz --kind {name} --seed {seed} --only {file}"
                kept.mkdir(parents=True, exist_ok=True)
                (kept / "said.txt").write_text(f"{end}; again: {again}\n{text}\n", errors="backslashreplace")
                last = text.strip().splitlines()[-1][:200] if text.strip() else ""
                result.wrong.append(f"{name} {file}: {end}: {last!r} ({kept})")
            if end in ("hang", "memory", "crash"):
                worker.end()
                worker = None
        if worker is not None:
            worker.end()
    return result


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", default=",".join(KINDS), help="kinds, by commas (default: all)")
    parser.add_argument("--files", type=int, default=300, help="of each kind (default 300)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int, help="this number alone")
    parser.add_argument("--keep", type=Path, default=Path("fuzz-failures"), help="folder for what is wrong")
    arguments: Any = parser.parse_args(argv)
    numbers = range(arguments.files) if arguments.only is None else [arguments.only]
    bad = False
    for name in arguments.kind.split(","):
        began = time.monotonic()
        result = fuzz(name, numbers, arguments.seed, arguments.keep)
        counts = ", ".join(f"{end} {result.ends[end]}" for end in ENDS)
        took = f"{time.monotonic() - began:.0f} s, at most {result.peak >> 20} MB"
        print(f"{name:11} {len(numbers):4} files: {counts}; {took}", flush=True)
        for line in result.wrong:
            print(f"    {line}", flush=True)
        bad = bad or bool(result.wrong)
    return int(bad)


if __name__ == "__main__":
    sys.exit(main())
