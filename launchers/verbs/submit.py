"""Write job scripts for SLURM and submit them: a training or a study by its config, and commands over many scenes.

The last line printed is a job's number, for --after of the next. The script stands beside what the job makes, such as
runs/vit.train.sbatch, and the log, too. Jobs are queued again, and go on, after a time limit, a preemption or a lost
node. All is checked before anything is submitted. Arguments behind CONFIG or COMMAND are those of `arcticseg train`,
`sweep`, `shards build`, `evaluate`, `predict` or `sync`; those of SLURM may stand among them.

arcticseg submit build scenes --out shards --lists lists --parts 16 --cpus 8 --time 4:00:00
arcticseg submit pretrain_vit data.shards=shards out=runs/mae --after 4711 --nodes 4 --gpus 4 --cpus 8
arcticseg submit finetune_vit model.init_from=runs/mae out=runs/vit --after 4712 --gpus 4 --sbatch=--qos=long
arcticseg submit evaluate runs/vit scenes --list lists/test.txt --after 4713 --gpus 1 --parts 4
arcticseg submit study common.data.shards=shards --gpus 4 --cpus 32
arcticseg submit runs/vit/config.yaml --resume --dry-run
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from arcticseg import config
from arcticseg.errors import ConfigError
from launchers import train
from launchers.scenes import augmentations
from launchers.status import DONE
from launchers.submit import Job, Wishes, job_numbers, script, submit
from launchers.terminal import plain_warnings, show
from launchers.verbs import evaluate, predict, shards, sweep, sync

# Word -> the command that it stands for, and the module of its arguments.
COMMANDS: dict[str, tuple[tuple[str, ...], ModuleType]] = {
    "build": (("shards", "build"), shards),
    "evaluate": (("evaluate",), evaluate),
    "predict": (("predict",), predict),
    "sync": (("sync",), sync),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `arcticseg submit`."""
    _add_wishes(parser)
    parser.add_argument(
        "what", metavar="CONFIG|COMMAND", help=f"config of a training or study, or one of {', '.join(COMMANDS)}"
    )
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...", help="arguments of what is to run")


def _add_wishes(parser: argparse.ArgumentParser) -> None:
    """What is asked of SLURM."""
    parser.add_argument("--after", metavar="JOB[,JOB]", help="begin when these jobs have ended well")
    parser.add_argument("--nodes", type=int, default=1, help="of a training (default 1)")
    parser.add_argument("--gpus", type=int, help="GPUs a node (default: none; of a study, what a trial takes)")
    parser.add_argument("--ranks", type=int, help="processes a node of a training (default: one a GPU, else 1)")
    parser.add_argument(
        "--cpus", type=int, help="CPUs a process (default: the cluster's; of a study, what a trial takes)"
    )
    parser.add_argument("--parts", type=int, default=1, help="jobs among which scenes are divided (default 1)")
    parser.add_argument("--time", help="time limit of a job, after which it is queued again, such as 24:00:00")
    parser.add_argument("--account", help="whom the jobs are charged to")
    parser.add_argument("--partition", help="where they run")
    parser.add_argument("--job-name", help="their name (default: that of the folder they write to)")
    parser.add_argument(
        "--sbatch",
        action="append",
        default=[],
        metavar="OPTIONS",
        help="further options of sbatch, such as --sbatch='--qos=long --exclusive'; can be given again",
    )
    parser.add_argument("--dry-run", action="store_true", help="print the scripts, then stop")


def main(arguments: argparse.Namespace) -> int:
    """Submit; the last job's number is printed."""
    own = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    _add_wishes(own)
    asked, words = own.parse_known_args(arguments.arguments, arguments)
    _check(asked)
    after = job_numbers(asked.after) if asked.after is not None else []
    with plain_warnings():
        jobs, wishes = _jobs(asked, words, bool(after))
    if asked.dry_run:
        show("\n".join(script(job, wishes) for job in jobs), end="")
        return DONE
    show(submit(jobs, wishes, after))
    return DONE


def _check(asked: argparse.Namespace) -> None:
    for key in ("nodes", "gpus", "ranks", "cpus", "parts"):
        value = getattr(asked, key)
        least = 0 if key == "gpus" else 1
        if value is not None and value < least:
            raise ConfigError(f"--{key} is {value}; set {least} or more")


def _jobs(asked: argparse.Namespace, words: Sequence[str], later: bool) -> tuple[list[Job], Wishes]:
    """The jobs that do what is asked for, in their order.

    Args:
        later: other jobs come first, and may make what these need.
    """
    wishes = Wishes(
        asked.nodes,
        asked.ranks or asked.gpus or 1,
        asked.gpus or None,
        asked.cpus,
        asked.time,
        asked.account,
        asked.partition,
        asked.job_name,
        tuple(option for text in asked.sbatch for option in shlex.split(text)),
    )
    if asked.what in COMMANDS:
        jobs = _scenes(asked, words, later)
    elif _is_study(asked.what):
        jobs, wishes = _study(asked, words, wishes)
    else:
        if asked.parts > 1:
            raise ConfigError(f"--parts is {asked.parts}; a training has none: give --nodes and --gpus")
        return [_training(asked, words, wishes, later)], wishes
    if asked.nodes > 1 or asked.ranks is not None:
        raise ConfigError(f"--nodes and --ranks are for trainings; '{asked.what}' takes --parts, or a single node")
    return jobs, dataclasses.replace(wishes, tasks=1)


def _is_study(name: str) -> bool:
    """Whether a config is that of a study: it has keys that no training has."""
    from arcticseg.run.config import RunConfig
    from launchers.sweep.study import SweepConfig

    own = {field.name for field in dataclasses.fields(SweepConfig)} - {
        field.name for field in dataclasses.fields(RunConfig)
    }
    return bool(own.intersection(config.read(name)))


def _training(asked: argparse.Namespace, words: Sequence[str], wishes: Wishes, later: bool) -> Job:
    """A training."""
    from arcticseg.engine.config import accumulation_steps
    from arcticseg.run import config as run_config
    from arcticseg.run.change import check_named
    from arcticseg.run.folder import holds_run, in_use

    parser = argparse.ArgumentParser(prog="arcticseg submit CONFIG")
    train.add_arguments(parser)
    line = ["--config", asked.what, *words]
    given = parser.parse_intermixed_args(line)
    cfg = run_config.load(given.config, [*given.overrides, *given.change], given.imports)
    check_named([text.partition("=")[0] for text in given.change])
    accumulation_steps(cfg.engine, wishes.nodes * wishes.tasks, pairs=cfg.data.augment.cutmix > 0)
    out = Path(os.path.abspath(cfg.out))
    if holds_run(out) and not given.resume:
        raise ConfigError(
            f"key 'out' is '{cfg.out}', which holds a run; go on with it by --resume, or set another folder"
        )
    if not later:
        if in_use(out):
            raise ConfigError(
                f"key 'out' is '{cfg.out}', where another training works; give --after with its job, or set another"
            )
        needed = {"data.shards": cfg.data.places, "model.init_from": [cfg.model.init_from or "."]}
        _see([(f"key '{key}'", place) for key, places in needed.items() for place in places if "://" not in place])
    return Job("train", "train", tuple(line), out)


def _study(asked: argparse.Namespace, words: Sequence[str], wishes: Wishes) -> tuple[list[Job], Wishes]:
    """A study, on what its largest trial takes unless more is asked for."""
    from launchers.sweep import study

    parser = argparse.ArgumentParser(prog="arcticseg submit STUDY")
    sweep.add_arguments(parser)
    given = parser.parse_args([asked.what, *words])
    cfg, trials = study.load(given.config, given.overrides, given.imports)
    if asked.parts > 1:
        raise ConfigError(f"--parts is {asked.parts}; a study has none: its trials share what the job has")
    out = Path(os.path.abspath(cfg.out))
    if not given.resume and any((out / phase).exists() for phase in study.PHASES):
        raise ConfigError(f"key 'out' is '{cfg.out}', which holds a study; go on with --resume, or set another folder")
    gpus = math.ceil(max(trial.resources.gpus for trial in trials))
    cpus = max(trial.resources.cpus for trial in trials)
    wishes = dataclasses.replace(wishes, gpus=wishes.gpus or gpus or None, cpus=wishes.cpus or cpus)
    return [Job("sweep", "job", ("sweep", asked.what, *words), out)], wishes


def _scenes(asked: argparse.Namespace, words: Sequence[str], later: bool) -> list[Job]:
    """A command over scenes: an array for its parts, and a job that puts them together."""
    command, module = COMMANDS[asked.what]
    parser = argparse.ArgumentParser(prog=f"arcticseg {command[0]}")
    module.add_arguments(parser)
    given = parser.parse_args([*command[1:], *words])
    if asked.what == "sync":
        if asked.parts > 1:
            raise ConfigError(f"--parts is {asked.parts}; sync has none")
        return [Job("sync", "job", (*command, *words), Path(os.path.abspath(given.folders[0])) / "wandb")]
    _check_scenes(asked, given)
    scenes = given.scenes if isinstance(given.scenes, list) else [given.scenes]
    runs = [given.run, *given.others] if asked.what != "build" else []
    if not later:
        _see([("the argument", str(place)) for place in (*scenes, *runs)])
    out = Path(os.path.abspath(given.out or Path(given.run) / "evaluation"))
    whole = Job(asked.what, "job", (*command, *words), out)
    parts = dataclasses.replace(whole, kind=f"{asked.what}-parts", parts=asked.parts)
    return [parts, whole] if asked.parts > 1 else [whole]


def _check_scenes(asked: argparse.Namespace, given: argparse.Namespace) -> None:
    """See that a command over scenes can be a job."""
    if given.ray is not None and asked.parts > 1:
        raise ConfigError(
            f"--ray with --parts {asked.parts}: a Ray cluster shares the scenes out itself; leave one out"
        )
    if asked.what == "build":
        return
    if given.again:
        raise ConfigError("--again would begin anew whenever a job is queued again; give another --out")
    augmentations(given.tta)
    if given.others and given.out is None:
        raise ConfigError("--with needs --out, a folder for the results of several runs")


def _see(places: Sequence[tuple[str, str]]) -> None:
    """See that files and folders are there."""
    for what, place in places:
        if not Path(place).exists():
            raise ConfigError(f"{what} is '{place}', which is not there; give --after with the job that makes it")
