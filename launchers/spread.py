"""Work on scenes shared out among several machines: by the tasks of a job array, or by a Ray cluster."""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from arcticseg.errors import ConfigError
from launchers.imports import absolute
from launchers.terminal import note, show

if TYPE_CHECKING:
    from arcticseg.products.outcome import Outcome
    from shards.share import Share


def add_part_argument(parser: argparse.ArgumentParser, rest: str) -> None:
    """Add `--part I/N`; it comes as the text `part`.

    Args:
        rest: what the command without it does then.
    """
    parser.add_argument(
        "--part",
        metavar="I/N",
        help=f"work on share I of N of the scenes only, as a task of a job array; the same command without it {rest}",
    )


def add_ray_argument(parser: argparse.ArgumentParser) -> None:
    """Add `--ray ADDRESS`; it comes as the text `ray`."""
    parser.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="work on the machines of this Ray cluster, which must see the same files: auto, or HOST:PORT of its head",
    )


def asked_share(arguments: argparse.Namespace) -> Share | None:
    """The share of the scenes that is asked for; None: all of them.

    Raises:
        ConfigError: there is no such share, or it is to be worked on by a cluster.
    """
    if arguments.part is None:
        return None
    if arguments.ray is not None:
        raise ConfigError("--part with --ray: a Ray cluster shares the scenes out itself; leave one of them out")
    from shards.share import parse_share

    return parse_share(arguments.part)


def shared_out(scenes: list[Path], share: Share | None) -> list[Path]:
    """The scenes of a share; all where none is asked for."""
    if share is None:
        return scenes
    from shards.share import share_of

    mine = share_of(scenes, share)
    note(f"part {share}: {len(mine)} of {len(scenes)} scenes")
    return mine


@dataclass(frozen=True)
class Told:
    """What the work on a scene came to on another machine, and what it printed on stdout and stderr."""

    outcome: Outcome
    out: str
    err: str


def told(body: Callable[[Outcome], object]) -> Told:
    """Work on a scene of several, and keep what is printed for whoever asked for it."""
    from arcticseg.products.outcome import Outcome

    outcome, out, err = Outcome(1, of_more=True), io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        body(outcome)
    return Told(outcome, out.getvalue(), err.getvalue())


def draw_on_ray(
    arguments: argparse.Namespace,
    draw: Callable[[Path, argparse.Namespace], Told],
    scenes: Sequence[Path],
    out: Path,
    outcome: Outcome,
) -> None:
    """Work on scenes by tasks of a Ray cluster, each with a GPU, or where there is none with a machine's cores.

    Args:
        draw: takes a scene and the command's arguments, which name files that every machine finds.
        out: folder of the output.
        outcome: is filled.

    Raises:
        ConfigError: the cluster does not answer, or a machine is of no use.
        OutputError: of a scene's task.
        SceneError: no scene can be used.
    """
    from arcticseg.products.records import FOLDER
    from launchers.ray_workers import RayWorkers, joined, machines
    from shards.workers import Job

    given = {path.absolute(): path for path in scenes}
    with joined(arguments.ray):
        gpus, threads = _lent(machines(), arguments.device)
        theirs = _for_others(arguments, out, "cuda" if gpus else "cpu")
        with RayWorkers(out / FOLDER, note, gpus) as pool:
            for job, answer in pool.map(draw, [Job((path, theirs), threads=threads) for path in given]):
                path = given[job.arguments[0]]
                if answer.error is not None:
                    note(f"arcticseg: left out: {outcome.fail(path, answer.error).reason}")
                    continue
                done: Told = answer.value
                for print_, text in ((note, done.err), (show, done.out)):
                    if text.strip():
                        print_(text.rstrip("\n"))
                outcome.drawn += [path] * len(done.outcome.drawn)
                outcome.kept += [path] * len(done.outcome.kept)
                reasons = (failure.reason.replace(str(job.arguments[0]), str(path)) for failure in done.outcome.failed)
                outcome.failed += [replace(done.outcome.failed[0], path=path, reason=reason) for reason in reasons]
    outcome.need_any()


def _lent(machines: Sequence[dict[str, float]], device: str | None) -> tuple[int, int]:
    """GPUs and cores for a scene.

    Raises:
        ConfigError: no machine has them.
    """
    with_gpus = [machine for machine in machines if machine.get("GPU", 0) >= 1 and machine.get("CPU", 0) >= 1]
    if device is not None and device.startswith("cuda") and not with_gpus:
        raise ConfigError(f"--device is '{device}'; no machine of the Ray cluster has a GPU; leave it out")
    if with_gpus and device != "cpu":
        return 1, max(1, min(int(machine["CPU"] // machine["GPU"]) for machine in with_gpus))
    cores = [int(machine["CPU"]) for machine in machines if machine.get("CPU", 0) >= 1]
    if not cores:
        raise ConfigError("no machine of the Ray cluster has CPUs for tasks; start one with `ray start --num-cpus`")
    return 0, min(cores)


def _for_others(arguments: argparse.Namespace, out: Path, device: str) -> argparse.Namespace:
    """The arguments of a command as other machines understand them."""
    theirs = copy.copy(arguments)
    theirs.out, theirs.device, theirs.imports = out.absolute(), device, list(absolute(arguments.imports))
    theirs.run, theirs.others = arguments.run.absolute(), [path.absolute() for path in arguments.others]
    for key in ("reference", "baseline"):
        if getattr(arguments, key, None) is not None:
            setattr(theirs, key, getattr(arguments, key).absolute())
    return theirs
