"""A study with Ray Tune: first its pretrainings, each once, then its fine-tunings; every trial is a training by itself.

Tune decides what runs where and when; what a run has reached is read from its folder, which outlives Ray. So a sweep
that was ended in whatever way goes on with `--resume`: finished runs stay, others go on from their checkpoints.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from arcticseg import config
from arcticseg.data.manifest import read_manifest
from arcticseg.errors import ConfigError
from arcticseg.files import make_folder, write_text
from arcticseg.run.config import RunConfig
from launchers.sweep import standings, study
from launchers.sweep.board import Board
from launchers.sweep.study import Phase, Resources, SweepConfig, Trial
from launchers.sweep.trial import run_trial

_STUDY = "study.yaml"

# A Unix socket's path has at most 107 bytes; Ray's are so much longer than its folder.
_SOCKET_PATH = 107
_RAY_SESSION = "/session_2026-01-01_00-00-00_000000_0000000/sockets/plasma_store"

_ENVIRONMENT = {
    # `uv run` would otherwise make every worker install the project anew.
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    # Runs have logs of their own.
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    # The new output announces every experiment in spite of `verbose=0`.
    "RAY_AIR_NEW_OUTPUT": "0",
}


def sweep(
    name: str, overrides: Sequence[str] = (), dry_run: bool = False, resume: bool = False, address: str | None = None
) -> int:
    """Run a study and print its table.

    Args:
        name: path of a sweep YAML, or the name of a shipped one.
        overrides: dotted, such as `out=studies/a` or `finetune.unet.optim.lr=1e-3`.
        dry_run: print the trials and their configs only.
        resume: go on with the study in its folder.
        address: of a Ray cluster; None: RAY_ADDRESS, or this machine.

    Returns:
        0; 1 where a trial failed; 130 where the sweep was interrupted.

    Raises:
        ArcticSegError: before any trial starts, with a message for the user.
    """
    cfg, trials = study.load(name, overrides)
    if dry_run:
        print(_described(trials), end="")
        return 0
    simulated = _check_inputs(trials)
    out = Path(os.path.abspath(cfg.out))
    _prepare(out, cfg, trials, resume)
    board = Board(out, trials, simulated, standings.stopped_before(out) if resume else set())
    if board.waiting("pretrain") or board.waiting("finetune"):
        with _ray(out, address or os.environ.get("RAY_ADDRESS"), cfg):
            for phase in ("pretrain", "finetune"):
                _run_phase(phase, cfg, out, board, resume)
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
    """See that shards and weights are there; whether any of the scenes are simulated.

    Raises:
        ArcticSegError: they are not.
    """
    simulated = False
    names = {trial.model for trial in trials if trial.phase == "finetune"}
    for shards in dict.fromkeys(place for trial in trials for place in trial.config.data.places):
        if "://" in shards:
            continue
        found = read_manifest(Path(shards))
        simulated |= found.simulated
        if names and "val" not in found.splits:
            raise ConfigError(f"{shards}: holds no split 'val', by which a sweep compares; build it with one")
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
    begun = any((out / phase).exists() for phase in ("pretrain", "finetune"))
    if begun and not resume:
        raise ConfigError(f"key 'out' is '{out}', which holds a study; go on with --resume, or set another folder")
    for trial in trials:
        path = _config_path(out, trial)
        if trial.finished and path.is_file():
            changed = study.differences(config.build(RunConfig, config.read(path)), trial.config)
            if changed:
                key, before, now = changed[0]
                raise ConfigError(
                    f"{trial.phase} '{trial.name}': key '{key}' is {now!r}; the finished run in {trial.folder} had "
                    f"{before!r}; set that, or another 'out'"
                )
    for trial in trials:
        make_folder(_config_path(out, trial).parent)
        write_text(_config_path(out, trial), config.dump(trial.config))
    write_text(out / _STUDY, config.dump(cfg))


def _config_path(out: Path, trial: Trial) -> Path:
    return out / "configs" / trial.phase / f"{trial.name}.yaml"


@contextlib.contextmanager
def _ray(out: Path, address: str | None, cfg: SweepConfig) -> Iterator[None]:
    """Ray, on a cluster or on this machine alone, quiet, and gone afterwards.

    Raises:
        ConfigError: no machine has what a trial is to get.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import ray

    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    temporary = ray_folder(out) if address is None else None
    try:
        if address is not None:
            _join(address, quiet)
        else:
            ray.init(
                num_cpus=len(os.sched_getaffinity(0)),
                include_dashboard=False,
                # Trials hand nothing but numbers to one another.
                object_store_memory=100_000_000,
                _temp_dir=str(temporary),
                **quiet,
            )
        _check_resources(cfg, ray.nodes())
        yield
    finally:
        ray.shutdown()
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def _join(address: str, options: Mapping[str, Any]) -> None:
    import ray

    try:
        ray.init(address=address, **options)
    except (ConnectionError, ray.exceptions.RayError) as error:
        raise ConfigError(
            f"Ray cluster '{address}' does not answer ({error}); start it, and if it wants a token, "
            "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN as on its nodes"
        ) from error


def ray_folder(out: Path) -> Path:
    """Where a local Ray keeps its sockets and logs: in the study's folder, if paths there are short enough."""
    folder = out / ".ray"
    fits = len(os.fsencode(folder)) + len(_RAY_SESSION) <= _SOCKET_PATH
    return folder if fits else Path(tempfile.mkdtemp(prefix="ray-"))


def _check_resources(cfg: SweepConfig, nodes: Sequence[Mapping[str, Any]]) -> None:
    """Raise ConfigError where a trial would wait for ever, as no machine has what it asks for."""
    there = [node["Resources"] for node in nodes if node["Alive"]]
    for phase in ("pretrain", "finetune"):
        wanted: Resources = getattr(cfg.resources, phase)
        if not getattr(cfg, phase):
            continue
        for key, kind in (("cpus", "CPU"), ("gpus", "GPU")):
            most = max((float(node.get(kind, 0)) for node in there), default=0.0)
            if getattr(wanted, key) > most:
                raise ConfigError(
                    f"key 'resources.{phase}.{key}' is {getattr(wanted, key)}; "
                    f"the largest machine of Ray has {most:g} {kind}s; set at most that"
                )


def _run_phase(phase: Phase, cfg: SweepConfig, out: Path, board: Board, resume: bool) -> None:
    """Run the open trials of a phase, those whose pretraining failed excepted."""
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler

    trials = []
    for trial in board.waiting(phase):
        if trial.init is not None and board.standings[f"pretrain/{trial.init}"].status != "finished":
            board.failed(trial.key, f"its pretraining '{trial.init}' failed")
        else:
            trials.append(trial)
    if not trials:
        return
    specifications = {
        trial.key: {
            "config": str(_config_path(out, trial)),
            "folder": str(trial.folder),
            "ranks": trial.resources.ranks,
            "resume": resume,
        }
        for trial in trials
    }

    def trainable(parameters: dict[str, Any]) -> None:
        run_trial(specifications[parameters["trial"]], tune.report)

    class Say(tune.Callback):
        def on_trial_start(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:
            board.started(trial.config["trial"])

        def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: Any, **_: Any) -> None:
            board.reported(trial.config["trial"], result)

        def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:
            board.ended(trial.config["trial"])

        def on_trial_error(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:
            board.failed(trial.config["trial"])

    scheduler = None
    if phase == "finetune" and cfg.scheduler == "asha":
        # No trial is stopped for having reached the end: its last steps write the weights.
        scheduler = ASHAScheduler(
            time_attr="step",
            metric="combined",
            mode="max",
            max_t=10**9,
            grace_period=cfg.asha.grace,
            reduction_factor=cfg.asha.reduction,
        )
    lent: Resources = getattr(cfg.resources, phase)
    # Tune reports failed trials with all of their traceback; the board does in one line.
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    storage = out / ".tune"
    tuner = tune.Tuner(
        tune.with_resources(trainable, {"cpu": lent.cpus, "gpu": lent.gpus}),
        param_space={"trial": tune.grid_search(list(specifications))},
        tune_config=tune.TuneConfig(scheduler=scheduler, max_concurrent_trials=cfg.max_concurrent, reuse_actors=False),
        run_config=tune.RunConfig(name=phase, storage_path=str(storage), verbose=0, callbacks=[Say()]),
    )
    try:
        tuner.fit()
    finally:
        shutil.rmtree(storage, ignore_errors=True)
    board.interrupted = bool(board.waiting(phase))
