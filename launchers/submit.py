"""Jobs for SLURM: the script of each, written beside what the job makes, and handed to sbatch."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import launchers.slurm
from arcticseg.errors import ConfigError
from arcticseg.files import make_folder, write_text
from arcticseg.ranks import SLURM_VARIABLES
from launchers.terminal import note

_TEMPLATES = Path(launchers.slurm.__file__).parent
# Behind this line of a template the arguments of a job are set.
_BEGIN = "set -euo pipefail\n"
# What a job takes over from the environment that it is submitted in.
_ENVIRONMENT = ("ARCTICSEG_SETUP", "ARCTICSEG_CONTAINER")
_PYTHON = "ARCTICSEG_PYTHON"
# What tells the way to a cluster.
_CLUSTER = ("SLURM_CONF", "SLURM_CLUSTERS", "SLURM_JWT")


@dataclass(frozen=True)
class Wishes:
    """What jobs ask of SLURM; None leaves it to the cluster.

    Attributes:
        tasks: processes a node.
        gpus: a node.
        cpus: a process.
        more: further options of sbatch.
    """

    nodes: int = 1
    tasks: int = 1
    gpus: int | None = None
    cpus: int | None = None
    time: str | None = None
    account: str | None = None
    partition: str | None = None
    name: str | None = None
    more: tuple[str, ...] = ()


@dataclass(frozen=True)
class Job:
    """A job.

    Attributes:
        kind: a word for what it does, in the names of its script and log.
        template: `train` or `job`, the shipped script that it is made from.
        arguments: of that script.
        out: folder that it writes to, absolute.
        parts: tasks of its array, each with a part of the scenes; 0: it is none.
    """

    kind: str
    template: Literal["train", "job"]
    arguments: tuple[str, ...]
    out: Path
    parts: int = 0

    @property
    def script(self) -> Path:
        """Where its script stands: beside the folder that it writes to."""
        return self.out.with_name(f"{self.out.name}.{self.kind}.sbatch")


def script(job: Job, wishes: Wishes) -> str:
    """The script of a job, whole: sbatch takes it as it is, now and again."""
    template = (_TEMPLATES / f"{job.template}.sbatch").read_text(encoding="utf-8")
    head, begin, body = template.partition(_BEGIN)
    directives = _directives(job, wishes)
    lines = [
        line
        for line in head.splitlines()
        if line.startswith("#SBATCH") and re.split("[ =]", line)[1].removeprefix("--") not in directives
    ]
    lines += [f"#SBATCH --{key}={shlex.quote(value)}" for key, value in directives.items()]
    lines += [f"#SBATCH {shlex.quote(option)}" for option in wishes.more]
    told = f"# Written by `arcticseg submit`; `sbatch {shlex.quote(str(job.script))}` submits it again."
    return "\n".join(["#!/bin/bash", told, "#", *lines, "", begin.rstrip(), *_settings(job), body])


def _directives(job: Job, wishes: Wishes) -> dict[str, str]:
    numbered = "%A_%a" if job.parts else "%j"
    log = str(job.script.with_suffix("")).replace("%", "%%")
    wanted = {
        "job-name": wishes.name or job.out.name,
        "chdir": os.getcwd(),
        "output": f"{log}-{numbered}.log",
        "nodes": wishes.nodes,
        "ntasks-per-node" if job.template == "train" else "ntasks": wishes.tasks,
        "gpus-per-node": wishes.gpus,
        "cpus-per-task": wishes.cpus,
        "time": wishes.time,
        "account": wishes.account,
        "partition": wishes.partition,
        "array": f"1-{job.parts}" if job.parts else None,
    }
    return {key: str(value) for key, value in wanted.items() if value is not None}


def _settings(job: Job) -> list[str]:
    """Lines that set environment and arguments."""
    known = {name: os.environ[name] for name in _ENVIRONMENT if os.environ.get(name)}
    python = os.environ.get(_PYTHON) or sys.executable
    values = known | ({} if "ARCTICSEG_CONTAINER" in known else {_PYTHON: python})
    if job.parts:
        values["ARCTICSEG_PARTS"] = str(job.parts)
    lines = [f"export {name}={shlex.quote(value)}" for name, value in values.items()]
    return [*lines, f"set -- {shlex.join(job.arguments)}", ""]


def submit(jobs: Sequence[Job], wishes: Wishes, after: Sequence[str]) -> str:
    """Write the scripts of jobs and submit them, each behind the one before.

    Args:
        after: numbers of jobs that must have ended well before the first begins.

    Returns:
        The number of the last job.

    Raises:
        ConfigError: there is no sbatch, or it refuses a job.
        OutputError: a script cannot be written.
    """
    program = shutil.which("sbatch")
    if program is None:
        raise ConfigError("sbatch is not found; submit from a machine of a SLURM cluster, or see scripts by --dry-run")
    needs = [":".join(["afterok", *after])] if after else []
    number = ""
    for job in jobs:
        make_folder(job.script.parent)
        write_text(job.script, script(job, wishes))
        number = _sbatch([program, "--parsable", *_dependency(needs), str(job.script)])
        note(f"{job.script}: job {number}")
        # A part that was lost is done by whatever puts the parts together. Parts that were cancelled, as a job before
        # them has failed, have ended, too: so what they wait for is waited for again.
        needs = [*needs, f"afterany:{number}"]
    return number


def _dependency(needs: Sequence[str]) -> list[str]:
    # Without the second option a job that can never begin would wait for ever.
    return [f"--dependency={','.join(needs)}", "--kill-on-invalid-dep=yes"] if needs else []


def _sbatch(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, env=_outside(os.environ))
    number = done.stdout.strip().partition(";")[0]
    if done.returncode or not number.isdecimal():
        said = " ".join((done.stderr or done.stdout).split()) or f"status {done.returncode}"
        raise ConfigError(f"{command[-1]}: sbatch refuses it ({said}); change the options, or give others by --sbatch")
    return number


def _outside(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment less what tells of a job around this process, which sbatch would hand on to another."""
    ranks = {*SLURM_VARIABLES, "LOCAL_SIZE"}
    return {
        name: value
        for name, value in environment.items()
        if name not in ranks and (not name.startswith("SLURM_") or name in _CLUSTER)
    }


def job_numbers(text: str) -> list[str]:
    """The numbers of `--after`.

    Raises:
        ConfigError: it is no list of them.
    """
    numbers = [part.strip() for part in text.split(",")]
    if not all(re.fullmatch(r"\d+(_\d+)?", number) for number in numbers):
        raise ConfigError(f"--after is '{text}'; give job numbers, such as 4711 or 4711,4712")
    return numbers
