"""Ray and Ray Tune: started, given the trials of a phase, and gone afterwards."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from arcticseg.errors import ConfigError
from launchers.ray_cluster import ENVIRONMENT, join
from launchers.sweep.board import Board
from launchers.sweep.study import PHASES, Phase, Resources, SweepConfig, Trial, config_path
from launchers.sweep.trial import Specification, run_trial

# A Unix socket's path has at most 107 bytes; Ray's are so much longer than its folder.
_SOCKET_PATH = 107
_RAY_SESSION = "/session_2026-01-01_00-00-00_000000_0000000/sockets/plasma_store"

_ENVIRONMENT = {
    **ENVIRONMENT,
    # Runs have logs of their own.
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    # The new output announces every experiment in spite of `verbose=0`.
    "RAY_AIR_NEW_OUTPUT": "0",
    # Else a report without the metric of a scheduler ends the whole phase: that of a failure, or of scenes without ice.
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
}


@contextlib.contextmanager
def started(out: Path, address: str | None, cfg: SweepConfig) -> Iterator[None]:
    """Ray, on a cluster or on this machine alone, without output of its own.

    Raises:
        ConfigError: no machine has what a trial asks for.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import ray

    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    temporary = ray_folder(out) if address is None else None
    try:
        if address is not None:
            join(address, quiet)
        else:
            ray.init(
                num_cpus=len(os.sched_getaffinity(0)),
                include_dashboard=False,
                # Trials exchange nothing but numbers.
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


def ray_folder(out: Path) -> Path:
    """Where a local Ray keeps its sockets and logs: in the study's folder, if paths there are short enough."""
    folder = out / ".ray"
    fits = len(os.fsencode(folder)) + len(_RAY_SESSION) <= _SOCKET_PATH
    return folder if fits else Path(tempfile.mkdtemp(prefix="ray-"))


def _check_resources(cfg: SweepConfig, nodes: Sequence[Mapping[str, Any]]) -> None:
    """Raise ConfigError where a trial would wait for ever, as no machine has what it asks for."""
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    for phase in PHASES:
        wanted: Resources = getattr(cfg.resources, phase)
        if not getattr(cfg, phase):
            continue
        for key, kind in (("cpus", "CPU"), ("gpus", "GPU")):
            most = max((float(resources.get(kind, 0)) for resources in alive), default=0.0)
            if getattr(wanted, key) > most:
                raise ConfigError(
                    f"key 'resources.{phase}.{key}' is {getattr(wanted, key)}; "
                    f"the largest machine of Ray has {most:g} {kind}s; set at most that"
                )


def run_phase(phase: Phase, cfg: SweepConfig, out: Path, board: Board, resume: bool) -> None:
    """Run the open trials of a phase, except those whose pretraining failed."""
    from ray import tune

    specifications = {
        trial.key: Specification(
            config=str(config_path(out, trial)),
            folder=str(trial.folder),
            ranks=trial.resources.ranks,
            resume=resume,
            # The folder in which dotted names of `imports` are found; Ray's workers may work elsewhere.
            path=os.getcwd() if trial.config.imports else None,
        )
        for trial in _runnable(phase, board)
    }
    if not specifications:
        return

    def trainable(parameters: dict[str, Any]) -> None:
        run_trial(specifications[parameters["trial"]], tune.report)

    lent: Resources = getattr(cfg.resources, phase)
    # Tune reports failed trials with their whole traceback; the board has a line for each.
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    storage = out / ".tune"
    tuner = tune.Tuner(
        tune.with_resources(trainable, {"cpu": lent.cpus, "gpu": lent.gpus}),
        param_space={"trial": tune.grid_search(list(specifications))},
        tune_config=tune.TuneConfig(
            scheduler=_scheduler(phase, cfg), max_concurrent_trials=cfg.max_concurrent, reuse_actors=False
        ),
        run_config=tune.RunConfig(name=phase, storage_path=str(storage), verbose=0, callbacks=[_callback(board)]),
    )
    try:
        tuner.fit()
    finally:
        shutil.rmtree(storage, ignore_errors=True)
    board.interrupted = bool(board.waiting(phase))


def _runnable(phase: Phase, board: Board) -> list[Trial]:
    """The open trials of a phase; those whose pretraining failed are noted as failed."""
    trials = []
    for trial in board.waiting(phase):
        if trial.init is not None and board.standings[f"pretrain/{trial.init}"].status != "finished":
            board.failed(trial.key, f"its pretraining '{trial.init}' failed")
        else:
            trials.append(trial)
    return trials


def _scheduler(phase: Phase, cfg: SweepConfig) -> Any:
    """What stops poor fine-tunings early; None: every trial runs to its end."""
    from ray.tune.schedulers import ASHAScheduler

    if phase != "finetune" or cfg.scheduler == "none":
        return None
    # No trial is stopped for having reached the end: its last steps write the weights.
    return ASHAScheduler(
        time_attr="step",
        metric="combined",
        mode="max",
        max_t=10**9,
        grace_period=cfg.asha.grace,
        reduction_factor=cfg.asha.reduction,
    )


def _callback(board: Board) -> Any:
    """What tells the board of Tune's trials."""
    from ray import tune

    class Tell(tune.Callback):
        def on_trial_start(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:
            board.started(trial.config["trial"])

        def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: Any, **_: Any) -> None:
            board.reported(trial.config["trial"], result)

        def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:
            board.ended(trial.config["trial"])

        def on_trial_error(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:
            board.failed(trial.config["trial"])

    return Tell()
