"""wandb, in a thread of its own: whatever its server does, a training never waits for it before its end."""

from __future__ import annotations

import http.client
import os
import queue
import signal
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from arcticseg.ice.sigrid import CLASS_NAMES
from arcticseg.shown import redacted, visible
from arcticseg.tracking.config import PROJECT, TrackingConfig
from arcticseg.tracking.identity import Identity
from arcticseg.tracking.mode import has_key, server, wandb_mode
from arcticseg.tracking.names import series
from arcticseg.tracking.offline import point_at
from arcticseg.tracking.tracker import Confusions

# Seconds for wandb's server to answer, for a run to begin there, and for what is left to be sent at the end.
_ANSWER, _INIT, _FINISH = 10.0, 30.0, 60.0
# Seconds more in which wandb ends what it has begun.
_PATIENCE = 30.0
# Those that ask a training for a checkpoint and an end.
_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
# What may wait to be handed to wandb; more is lost, and stands in metrics.jsonl.
_MOST = 20_000


class Wandb:
    """A wandb run, in the run's folder unless WANDB_DIR names another; offline where the server does not answer.

    Args:
        folder: of the run.
        config: of the run, and what else is known of it.
        name: of the run, unless WANDB_NAME is set.
        identity: which run it is.
        first: steps done at its start.
    """

    def __init__(
        self,
        folder: Path,
        cfg: TrackingConfig,
        config: Mapping[str, Any],
        name: str,
        identity: Identity,
        first: int = 0,
    ) -> None:
        # Reports of wandb's own faults would wait for the server at the end of the process.
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        # The service of another process, such as a notebook that started the training, would end with that.
        if os.environ.get("WANDB_SERVICE", "").split("-")[1:2] != [str(os.getpid())]:
            os.environ.pop("WANDB_SERVICE", None)
        import wandb

        self._wandb, self._folder, self._identity, self._first = wandb, folder, identity, first
        self._online = wandb_mode(cfg) == "online"
        self._arguments = self._arguments_of(cfg, config, name)
        # None: the end.
        self._waiting: queue.SimpleQueue[Callable[[Any], None] | None] = queue.SimpleQueue()
        self._told: set[str] = set()
        self._thread = threading.Thread(target=self._work, name="wandb", daemon=True)
        self._began = time.monotonic()
        self._thread.start()

    def _arguments_of(self, cfg: TrackingConfig, config: Mapping[str, Any], name: str) -> dict[str, Any]:
        environment = os.environ
        settings: dict[str, Any] = {
            key: value
            for key, value, variable in (
                ("silent", True, "WANDB_SILENT"),
                ("console", "off", "WANDB_CONSOLE"),
                ("init_timeout", _INIT, "WANDB_INIT_TIMEOUT"),
                ("finish_timeout", _FINISH, "WANDB_FINISH_TIMEOUT"),
                ("resume", "allow", "WANDB_RESUME"),
            )
            if variable not in environment
        }
        # What is as by default gives way to wandb's own variables.
        return {
            "project": environment.get("WANDB_PROJECT", PROJECT) if cfg.project == PROJECT else cfg.project,
            "group": cfg.group or environment.get("WANDB_RUN_GROUP"),
            "name": environment.get("WANDB_NAME", name),
            "dir": environment.get("WANDB_DIR", str(self._folder)),
            "id": self._identity.id,
            "config": dict(config),
            "settings": self._wandb.Settings(**settings),
        }

    def log(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """Log numbers under their `series`."""
        numbers = {series(kind, key): value for key, value in values.items() if isinstance(value, (int, float))}
        if numbers:
            self._log(step, lambda: numbers)

    def confusions(self, step: int, counts: Confusions) -> None:
        """Show a confusion matrix of each chart under `confusion/`, with the table that it is drawn from."""
        self._log(step, lambda: {f"confusion/{chart}": self._matrix(chart, own) for chart, own in counts.items()})

    def _matrix(self, chart: str, counts: Any) -> Any:
        names = CLASS_NAMES[chart]
        rows = [[names[i], names[j], int(counts[i, j])] for i in range(len(names)) for j in range(len(names))]
        columns: list[Any] = ["Actual", "Predicted", "nPredictions"]
        table = self._wandb.Table(columns=columns, data=rows)
        title = {"title": f"{chart}: pixels by class of the chart and of the network"}
        return self._wandb.plot_table("wandb/confusion_matrix/v1", table, {name: name for name in columns}, title)

    def picture(self, step: int, name: str, path: Path) -> None:
        """Show the picture under `pictures/`."""
        self._log(step, lambda: {f"pictures/{name}": self._wandb.Image(str(path))})

    def close(self) -> None:
        """Finish the run, within the time that wandb has for that."""
        self._waiting.put(None)
        given = self._arguments["settings"].finish_timeout
        # It may still begin.
        begun = max(0.0, self._began + _ANSWER + 2 * _INIT - time.monotonic())
        self._thread.join(begun + given + _PATIENCE if given > 0 else None)
        if self._thread.is_alive():
            self._note("wandb does not end; what it has not sent is on the disk, see `arcticseg sync`")

    def _log(self, step: int, values: Callable[[], dict[str, Any]]) -> None:
        """Have values logged, which the thread makes."""
        # A row of wandb is a step, and a run that goes on begins with the next.
        goes_on = self._first or self._identity.behind
        row = self._identity.behind + (max(step, self._first + 1) if goes_on else step)
        if self._waiting.qsize() < _MOST:
            self._waiting.put(lambda run: run.log({"step": step, **values()}, step=row))
        else:
            self._note("wandb takes nothing any more; what it loses stands in metrics.jsonl")

    def _work(self) -> None:
        # wandb's service, which is started from here, inherits this: a scheduler's signal to all processes is for the
        # training, and SIGUSR1 would end the service with what it holds.
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        run: Any = None
        try:
            run = self._begin()
        except Exception as error:
            self._note(f"wandb does not begin ({_line(error)}); all is in metrics.jsonl")
        while (act := self._waiting.get()) is not None:
            if run is not None:
                self._try(act, run)
        if run is not None:
            self._try(lambda run: run.finish(), run)
            if getattr(run, "_finish_timed_out", False):
                self._note(f"wandb's server is slow; send the rest by `wandb sync --include-online {_place(run)}`")

    def _try(self, act: Callable[[Any], None], run: Any) -> None:
        try:
            act(run)
        except Exception as error:
            self._note(f"wandb: {_line(error)}; training goes on")

    def _begin(self) -> Any:
        where = redacted(server())
        if self._online and not has_key():
            self._note(f"there is no key for wandb's server {where}: `wandb login`; the run is logged offline")
            self._online = False
        if self._online and not _answers(server(), _ANSWER):
            self._note(f"wandb's server {where} does not answer; the run is logged offline, see `arcticseg sync`")
            self._online = False
        if self._online:
            try:
                return self._ready(self._wandb.init(mode="online", **self._arguments))
            except Exception as error:
                self._note(f"wandb does not begin online ({_line(error)}); the run is logged offline")
                # Its service holds the run that did not begin.
                self._wandb.teardown(1)
        run = self._wandb.init(mode="offline", **self._arguments)
        point_at(_place(run), self._folder)
        return self._ready(run)

    def _ready(self, run: Any) -> Any:
        """All series are drawn over the step of the training."""
        run.define_metric("*", step_metric="step")
        return run

    def _note(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            print(f"arcticseg: {text}", file=sys.stderr, flush=True)


def _place(run: Any) -> Path:
    """The folder of a wandb run."""
    return Path(run.dir).parent


def _line(error: Exception) -> str:
    return visible(redacted(" ".join(str(error).split())))[:200]


def _answers(address: str, seconds: float) -> bool:
    """Whether a server says anything within so many seconds."""
    try:
        with urllib.request.urlopen(address, timeout=seconds):
            return True
    except urllib.error.HTTPError:
        return True
    except (OSError, ValueError, http.client.HTTPException):
        return False
