"""Kills a training at random times, damages its files between restarts, and compares what it learns in the end.

    python -m tests.chaos --kills 30 --terms 10 --seed 0

A supervisor starts `launchers.local` with two ranks under the guard of a parent, as a sweep does, and starts it again
with --resume after each round. A round ends by SIGKILL to a rank, to all processes, to the launcher, to its parent or
to the guard, or by SIGTERM to the launcher, a rank or all ranks. Before every third restart, when at least two whole
checkpoints exist, a random file of the run folder is flipped, cut, deleted or emptied. What must hold:

- each training begins behind the last whole checkpoint, and after SIGTERM that is the last step done;
- no process is left, by a marker in the environment of all;
- the final weights, and the metrics of all steps, are those of a run that nobody disturbs, bit for bit.

A line a round; status 1 and the folder kept where something does not hold.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from arcticseg.run.folder import CHECKPOINTS, METRICS, last_weights
from launchers.command import command
from launchers.guard import Guarded
from launchers.status import DONE, STOPPED
from tests.training import COMMON, UNET, empty_config

MARKER = "ARCTICSEG_CHAOS"
RANKS = 2
WITNESS = Path(__file__).parent / "witness.py"
KILLED = ("rank", "all", "launcher", "parent", "guard")
TERMED = ("launcher", "rank", "ranks")
# Seconds within which all processes have ended; the guard's own patience is less.
_END, _GRACE = 40.0, 20.0
# Steps that a round does at most before it ends.
_STEPS = 5
_START = 240.0


class DefectError(Exception):
    """Something that must hold does not."""


def shards_in(folder: Path) -> Path:
    """Shards of three simulated scenes: two train, one validates."""
    from arcticseg.ice.scenes.open import list_scenes
    from shards import lists, split
    from shards.build import build
    from shards.part import BuildConfig
    from shards.simulate import simulate_archive

    simulate_archive(folder / "scenes", 3, 0, (500, 500))
    paths = list_scenes(folder / "scenes")
    parts = split.split([path.stem for path in paths], {"val": 0.34})
    config = BuildConfig(tile=32, factors=(4,), shard_bytes=1 << 20)
    build(lists.assign(paths, parts), folder / "shards", config, report=lambda text: None)
    return folder / "shards"


class Run:
    """A run folder, what its ranks witness, and the processes that work in it.

    Args:
        folder: of all that belongs to it.
        steps: optimiser steps.
    """

    def __init__(self, folder: Path, shards: Path, steps: int) -> None:
        self.folder, self.out = folder, folder / "run"
        (folder / "witness").mkdir(parents=True)
        settings = COMMON | UNET | {
            "data.shards": shards,
            "out": self.out,
            "steps": steps,
            "checkpoint_every": 3,
            "validate_every": 7,
            "data.workers": 1,
            "hooks": f"[{{name: witness, folder: {folder / 'witness'}}}]",
        }  # fmt: skip
        overrides = [f"{key}={value}" for key, value in settings.items()]
        self._command = command(empty_config(folder), overrides, True, RANKS, [str(WITNESS)])
        self._marked = f"{folder.name}-{os.getpid()}"
        # Steps of checkpoints that were damaged -> the inode of their folder then.
        self.damaged: dict[int, int] = {}

    def start(self) -> subprocess.Popen[str]:
        """Start the parent of the launcher."""
        environment = {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", **os.environ, MARKER: self._marked}
        place = [str(self.folder / name) for name in ("log", "lock")]
        return subprocess.Popen(
            [sys.executable, "-m", "tests.chaos", "--parent", *place, *self._command],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def finish(self) -> None:
        """Train to the end."""
        process = self.start()
        printed, _ = process.communicate(timeout=1200)
        if printed.strip() != str(DONE):
            raise DefectError(f"the training ends with status {printed.strip()}:\n{self.tail()}")

    def tail(self) -> str:
        """The end of what it has printed."""
        log = self.folder / "log"
        return "\n".join(log.read_text(errors="replace").splitlines()[-25:]) if log.exists() else ""

    def processes(self) -> dict[int, str]:
        """All that live and bear the marker -> the role of each."""
        found = {}
        for place in Path("/proc").glob("[0-9]*"):
            try:
                environment = (place / "environ").read_bytes().split(b"\0")
                words = (place / "cmdline").read_bytes().decode(errors="replace").split("\0")
            except OSError:
                continue
            if f"{MARKER}={self._marked}".encode() in environment:
                found[int(place.name)] = _role(words, environment)
        return found

    def of_role(self, role: str) -> list[int]:
        """The processes of a role, the eldest first."""
        return sorted(pid for pid, its in self.processes().items() if its == role)

    def sessions(self) -> list[list[str]]:
        """The lines of each rank's witness."""
        return [
            path.read_text().splitlines() if (path := self.folder / "witness" / f"rank{rank}").exists() else []
            for rank in range(RANKS)
        ]

    def checkpoints(self) -> dict[int, Path]:
        """Step -> folder, whole or not."""
        return {int(path.name[5:]): path for path in (self.out / CHECKPOINTS).glob("step-????????")}

    def whole(self) -> list[int]:
        """Steps of whole checkpoints: each that has its name, less those that were damaged here."""
        there = {step: path.stat().st_ino for step, path in self.checkpoints().items()}
        self.damaged = {step: inode for step, inode in self.damaged.items() if there.get(step) == inode}
        return sorted(there.keys() - self.damaged.keys())


def _role(words: Sequence[str], environment: Sequence[bytes]) -> str:
    if "tests.chaos" in words:
        return "parent"
    if any(word.endswith("guard.py") for word in words):
        return "guard"
    if "launchers.local" in words:
        return "launcher"
    is_rank = "launchers.train" in words and any(entry.startswith(b"RANK=") for entry in environment)
    return "rank" if is_rank else "other"


def damage(run: Run, draw: random.Random) -> str:
    """Damage a file of the run folder, one of a checkpoint every second time; what was done."""
    files = sorted(path for path in run.out.rglob("*") if path.is_file())
    saved = [path for path in files if path.parent != run.out and path.relative_to(run.out).parts[0] == CHECKPOINTS]
    others = [path for path in files if path not in saved]
    path = draw.choice(saved if draw.random() < 0.5 or not others else others)
    how = draw.choice(("flipped", "cut", "deleted", "emptied"))
    data = bytearray(path.read_bytes())
    if how == "deleted" or not data:
        how = "deleted"
        path.unlink()
    elif how == "flipped":
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        path.write_bytes(data)
    else:
        path.write_bytes(data[: draw.randrange(len(data))] if how == "cut" else b"")
    step = next((step for step, folder in run.checkpoints().items() if folder in path.parents), None)
    if step is not None:
        run.damaged[step] = run.checkpoints()[step].stat().st_ino
    return f"{path.relative_to(run.out)} {how}"


def _wait(until: Callable[[], bool], seconds: float, process: subprocess.Popen[str] | None = None) -> bool:
    """Wait until something holds, or a process ends; whether it holds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if until():
            return True
        if process is not None and process.poll() is not None:
            return until()
        time.sleep(0.01)
    return False


def _steps_of(session: Sequence[str]) -> list[int]:
    return [int(line.split()[1]) for line in session if line.startswith("step")]


def round_of(run: Run, number: signal.Signals, target: str, draw: random.Random) -> str:
    """Start the training, end it, and see what it has left; what happened."""
    expected = max(run.whole(), default=0)
    before = [len(lines) for lines in run.sessions()]
    early, steps, delay = draw.random() < 0.15, draw.randrange(1, _STEPS), draw.uniform(0, 0.15)

    def new() -> list[list[str]]:
        return [lines[begun:] for lines, begun in zip(run.sessions(), before, strict=True)]

    process = run.start()
    reached = True
    if early:
        time.sleep(draw.uniform(0, 8))
    else:
        reached = _wait(lambda: len(new()[0]) > steps, _START, process)
        time.sleep(delay)
    if process.poll() is not None or not reached:
        raise DefectError(f"the training has ended by itself, or does not begin:\n{run.tail()}")
    _send(run, number, target, draw)
    began = time.monotonic()
    orphans_gone = _wait(lambda: not run.processes(), _END)
    seconds = time.monotonic() - began
    if not orphans_gone:
        raise DefectError(f"after {_END:.0f} s there still live {run.processes()}:\n{run.tail()}")
    printed, _ = process.communicate(timeout=10)
    done = [_steps_of(session) for session in new()]
    _check_begins(new(), expected, run)
    soft = number == signal.SIGTERM or target in ("parent", "guard")
    if soft and done[0]:
        last = max(max(steps) for steps in done if steps)
        if max(run.whole(), default=0) != last:
            raise DefectError(
                f"the last step is {last}, the last checkpoint {max(run.whole(), default=0)}:\n{run.tail()}"
            )
        if number == signal.SIGTERM and printed.strip() != str(STOPPED):
            raise DefectError(f"status {printed.strip()} instead of {STOPPED}:\n{run.tail()}")
    if printed.strip() == str(DONE):
        raise DefectError(f"a training that was ended says that it is done:\n{run.tail()}")
    at = f"steps {done[0][0]}-{done[0][-1]}" if done[0] else "before the first step"
    return f"{number.name} to {target}, {at}, begun behind {expected}, all gone in {seconds:.1f} s"


def _check_begins(sessions: Sequence[Sequence[str]], expected: int, run: Run) -> None:
    for rank, session in enumerate(sessions):
        if session and session[0] != f"begin {expected}":
            raise DefectError(f"rank {rank} has '{session[0]}', the last whole checkpoint is {expected}:\n{run.tail()}")
        if (steps := _steps_of(session)) != list(range(expected + 1, expected + 1 + len(steps))):
            raise DefectError(f"rank {rank} does steps {steps} after {expected}:\n{run.tail()}")


def _send(run: Run, number: signal.Signals, target: str, draw: random.Random) -> None:
    """Signal what a target stands for; where that has not started, all."""
    ranks = run.of_role("rank")
    chosen = {
        "rank": [draw.choice(ranks)] if ranks else [],
        "ranks": ranks,
        "guard": run.of_role("guard")[:1],
    }.get(target, run.of_role(target))
    everything = list(run.processes())
    draw.shuffle(everything)
    for pid in chosen or everything:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


def chaos(folder: Path, kills: int, terms: int, seed: int, report: Callable[[str], None] = print) -> None:
    """Run all rounds.

    Raises:
        DefectError: something that must hold does not.
    """
    draw = random.Random(seed)
    shards = shards_in(folder)
    rounds = [(signal.SIGKILL, draw.choice(KILLED)) for _ in range(kills)]
    rounds += [(signal.SIGTERM, draw.choice(TERMED)) for _ in range(terms)]
    draw.shuffle(rounds)
    steps = _STEPS * len(rounds) + 10
    calm, run = (Run(folder / name, shards, steps) for name in ("calm", "chaos"))
    calm.finish()
    report(f"undisturbed: {steps} steps on {RANKS} ranks; seed {seed}")
    damages = 0
    for number, (sent, target) in enumerate(rounds, start=1):
        told = ""
        if number > 1 and number % 3 == 0 and len(run.whole()) >= 2:
            told, damages = f"; before: {damage(run, draw)}", damages + 1
        report(f"round {number:2d}: {round_of(run, sent, target, draw)}{told}")
    run.finish()
    _compare(calm, run, steps)
    report(f"{len(rounds)} rounds, {damages} damaged files: weights and metrics of the undisturbed run; no orphan")


def _compare(calm: Run, run: Run, steps: int) -> None:
    from safetensors.numpy import load_file

    if run.processes():
        raise DefectError(f"at the end there still live {run.processes()}")
    wanted, weights = (load_file(last_weights(part.out)) for part in (calm, run))
    if wanted.keys() != weights.keys() or not all(np.array_equal(weights[name], wanted[name]) for name in wanted):
        raise DefectError("the final weights are not those of the undisturbed run")
    losses = [_losses(part.out) for part in (calm, run)]
    if losses[0] != losses[1] or len(losses[0]) != steps:
        raise DefectError(f"{run.out / METRICS} is not that of the undisturbed run")


def _losses(out: Path) -> list[tuple[int, float]]:
    records = [json.loads(line) for line in (out / METRICS).read_text().splitlines()]
    return [(record["step"], record["loss"]) for record in records if record["kind"] == "train"]


def _parent(log: str, lock: str, command_line: Sequence[str]) -> int:
    """What the launcher's parent does: guard it, and print its status."""
    guarded = Guarded(command_line, Path(log), Path(lock), os.environ, _GRACE)
    status = None
    while status is None:
        status = guarded.wait(1.0)
    print(status, flush=True)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """The rounds; or, started by them, the parent of a launcher."""
    argv = sys.argv[1:] if argv is None else argv
    if argv and argv[0] == "--parent":
        return _parent(argv[1], argv[2], argv[3:])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30, help="rounds that end by SIGKILL (default %(default)s)")
    parser.add_argument("--terms", type=int, default=10, help="rounds that end by SIGTERM (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn")
    parser.add_argument("--folder", type=Path, help="empty or new folder to work in (default: a temporary one)")
    arguments = parser.parse_args(argv)
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="chaos-"))
    try:
        chaos(folder, arguments.kills, arguments.terms, arguments.seed, lambda text: print(text, flush=True))
    except DefectError as defect:
        print(f"defect: {defect}\nkept: {folder}", file=sys.stderr)
        return 1
    if arguments.folder is None:
        shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
