"""A study with Ray Tune: first its pretrainings, each once, then its fine-tunings; every trial is a training by itself.

Tune decides what runs where and when; how far a run has come is read from its folder, which outlives Ray. So a sweep
that ended in any way goes on with `--resume`: finished runs stay, others go on from their checkpoints.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from arcticseg import config
from arcticseg.data.manifest import read_manifest
from arcticseg.errors import ConfigError
from arcticseg.files import make_folder, write_text
from arcticseg.run import config as run_config
from launchers.status import DONE
from launchers.sweep import ray, standings, study
from launchers.sweep.board import Board
from launchers.sweep.study import SweepConfig, Trial, config_path
from launchers.terminal import plain_warnings, show

_STUDY = "study.yaml"


def sweep(
    name: str,
    overrides: Sequence[str] = (),
    imports: Sequence[str] = (),
    dry_run: bool = False,
    resume: bool = False,
    address: str | None = None,
) -> int:
    """Run a study and print its table.

    Args:
        name: path of a sweep YAML, or the name of a shipped config.
        overrides: dotted, such as `out=studies/a` or `finetune.unet.optim.lr=1e-3`.
        imports: modules that every trial imports, as of `--import`.
        dry_run: print the trials and their configs only.
        resume: go on with the study in its folder.
        address: of a Ray cluster; None: RAY_ADDRESS, or this machine.

    Returns:
        DONE; PROBLEMS where a trial failed; INTERRUPTED where the sweep was.

    Raises:
        ArcticSegError: before any trial starts, with a message for the user.
    """
    with plain_warnings():
        cfg, trials = study.load(name, overrides, imports)
    if dry_run:
        show(_described(trials), end="")
        return DONE
    simulated = _check_inputs(trials)
    out = Path(os.path.abspath(cfg.out))
    _prepare(out, cfg, trials, resume)
    board = Board(out, trials, simulated, standings.stopped_before(out) if resume else set())
    if board.waiting("pretrain") or board.waiting("finetune"):
        with ray.started(out, address or os.environ.get("RAY_ADDRESS"), cfg):
            for phase in study.PHASES:
                ray.run_phase(phase, cfg, out, board, resume)
                if board.interrupted:
                    break
    return board.close()


def _described(trials: Sequence[Trial]) -> str:
    """The trials as YAML documents, under a comment that counts them."""
    pretrainings = sum(trial.phase == "pretrain" for trial in trials)
    lines = [f"# pretrainings: {pretrainings}, fine-tunings: {len(trials) - pretrainings}\n"]
    for trial in trials:
        after = f", after pretrain/{trial.init}" if trial.init else ""
        lines.append(f"--- # {trial.key}{after}\n{config.dump(trial.config)}")
    return "".join(lines)


def _check_inputs(trials: Sequence[Trial]) -> bool:
    """Check that shards and weights are there; return whether any of the scenes are simulated.

    Raises:
        ArcticSegError: they are not.
    """
    simulated = False
    finetunes = any(trial.phase == "finetune" for trial in trials)
    for shards in dict.fromkeys(place for trial in trials for place in trial.config.data.places):
        if "://" in shards:
            continue
        manifest = read_manifest(Path(shards))
        simulated |= manifest.simulated
        if finetunes and "val" not in manifest.splits:
            raise ConfigError(f"{shards}: holds no split 'val', by which a sweep compares; build it with such a split")
    for trial in trials:
        start = trial.config.model.init_from
        if trial.init is None and start is not None and not Path(start).exists():
            raise ConfigError(
                f"{trial.phase} '{trial.name}': key 'model.init_from' is '{start}', which is not there; "
                "set the folder of a run, or `init:` to a pretraining of the study"
            )
    return simulated


def _prepare(out: Path, cfg: SweepConfig, trials: Sequence[Trial], resume: bool) -> None:
    """Make the study's folder and write down the config of each trial.

    Raises:
        ConfigError: it holds a study and `--resume` is not given, or a finished run of another config.
        OutputError: it cannot be written to.
    """
    make_folder(out)
    begun = any((out / phase).exists() for phase in study.PHASES)
    if begun and not resume:
        raise ConfigError(f"key 'out' is '{out}', which holds a study; go on with --resume, or set another folder")
    for trial in trials:
        path = config_path(out, trial)
        if trial.finished and path.is_file():
            changed = study.changes(run_config.load(path), trial.config)
            if changed:
                key, before, now = changed[0]
                raise ConfigError(
                    f"{trial.phase} '{trial.name}': key '{key}' is {now!r}; the finished run in {trial.folder} had "
                    f"{before!r}; set that, or another 'out'"
                )
    for trial in trials:
        make_folder(config_path(out, trial).parent)
        write_text(config_path(out, trial), config.dump(trial.config))
    write_text(out / _STUDY, config.dump(cfg))
