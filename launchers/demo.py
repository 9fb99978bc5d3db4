"""The whole chain on simulated scenes, each step the command that a person would type."""

from __future__ import annotations

import os
import resource
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from arcticseg.errors import ArcticSegError
from arcticseg.files import make_folder
from arcticseg.ice.simulated import marked
from arcticseg.run.folder import last_weights
from launchers.status import DONE
from launchers.terminal import note, show


@dataclass(frozen=True)
class Size:
    """How much of everything: scenes, their pixels, optimiser steps of each training; None: as its config says."""

    scenes: int = 128
    pixels: int = 1000
    steps: int | None = None


TINY = Size(scenes=8, pixels=600, steps=3)


@dataclass(frozen=True)
class Step:
    """A command, and the file that shows that it has run."""

    title: str
    arguments: tuple[str, ...]
    done: Path


def demo_steps(out: Path, seed: int, size: Size) -> list[Step]:
    """The commands of the demo, in order."""
    scenes, shards, lists, runs = out / "scenes", out / "shards", out / "lists", out / "runs"
    workers = ("--workers", str(len(os.sched_getaffinity(0))))
    seeded = ("--seed", str(seed))
    training = [f"data.shards={shards}", f"seed={seed}"]
    divide = ("shards", "split", str(scenes), "--out", str(lists))
    cut = ("shards", "build", str(scenes), "--out", str(shards))
    steps = [
        Step(
            f"simulate {size.scenes} scenes",
            ("simulate", str(scenes), "--n", str(size.scenes), "--size", str(size.pixels), *seeded, *workers),
            scenes / ".complete",
        ),
        Step(
            "divide them into training, validation and test",
            (*divide, "--val", "0.1", "--test", "0.12", *seeded),
            lists / "train.txt",
        ),
        Step(
            "cut them into tar shards",
            (*cut, "--lists", str(lists), "--factors", "8", "--tile", "64", *workers),
            shards / "manifest.json",
        ),
    ]
    networks: tuple[tuple[str, str, tuple[str, ...]], ...] = (
        ("pretrain a small ViT without labels", "pretrain", ()),
        ("fine-tune it", "vit", (f"model.init_from={runs / 'pretrain'}",)),
        ("train a UNet from scratch", "unet", ()),
    )
    length = () if size.steps is None else (f"steps={size.steps}",)
    for title, name, more in networks:
        overrides = (*training, f"out={runs / name}", *length, *more)
        command = ("train", "--config", f"demo_{name}", "--resume", *overrides)
        steps.append(Step(title, command, last_weights(runs / name)))
    # The baseline is the same for both: the first computes it.
    scored: tuple[tuple[str, str, tuple[str, ...]], ...] = (
        ("vit", "ViT, pretrained", ("--baseline", str(shards))),
        ("unet", "UNet", ()),
    )
    for name, label, more in scored:
        folder = out / "evaluation" / name
        command = ("evaluate", str(runs / name), str(scenes), "--list", str(lists / "test.txt"), "--out", str(folder))
        steps.append(
            Step(
                f"evaluate the {label} on held-out scenes",
                (*command, "--name", label, *more),
                folder / "evaluation.json",
            )
        )
    evaluations = (str(out / "evaluation" / "vit"), str(out / "evaluation" / "unet"))
    report = ("report", *evaluations, "--run", str(runs / "pretrain"), "--out", str(out / "report.html"))
    # The report is always written again: it is quick, and prints the table.
    steps.append(Step("report", report, out / ".never"))
    return steps


def run_command(arguments: Sequence[str]) -> int:
    """Run the `arcticseg` command in a process of its own; the exit status."""
    return subprocess.run([sys.executable, "-m", "launchers.cli", *arguments], check=False).returncode


def demo(out: Path, seed: int = 0, tiny: bool = False, run: Callable[[Sequence[str]], int] = run_command) -> None:
    """Run what has not been done yet, print the score table and where to look.

    Args:
        run: runs the command of a step.

    Raises:
        ArcticSegError: a step failed; its own message stands above.
    """
    out = make_folder(out)
    began = time.monotonic()
    for step in demo_steps(out, seed, TINY if tiny else Size()):
        if step.done.exists():
            note(f"== {step.title}: done before")
            continue
        note(f"== {step.title}\n   arcticseg {shlex.join(step.arguments)}")
        started = time.monotonic()
        if run(step.arguments) != DONE:
            raise ArcticSegError(
                f"the demo stopped at '{step.title}'; repair what is said above and start it again: it goes on"
            )
        if step.done.parent == out / "scenes":
            step.done.touch()
        note(f"   {time.monotonic() - started:.0f} s")
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024**2
    show(f"All on {marked('scenes', True)}. {time.monotonic() - began:.0f} s; largest process {peak:.1f} GiB.")
    show(f"Look at {out / 'report.html'}, and at the maps in {out / 'evaluation' / 'vit' / 'maps'}.")
