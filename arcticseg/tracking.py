"""Logs of a run: metrics.jsonl, which is always written, and wandb."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from arcticseg.errors import need
from arcticseg.files import write_text
from arcticseg.run.folder import METRICS
from arcticseg.shown import redacted, visible
from arcticseg.system import output_errors

_PROJECT = "arcticseg"


class Tracker(Protocol):
    """Takes what a run has to say."""

    def log(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """Take the values of one step; `kind` is `train`, `validation` or `event`."""
        ...

    def picture(self, step: int, name: str, path: Path) -> None:
        """Take a picture, a PNG file."""
        ...

    def close(self) -> None:
        """Finish writing."""
        ...


class Jsonl:
    """metrics.jsonl of a run folder: one JSON object a line, flushed at once.

    Args:
        folder: of the run.
        keep_until: on resume, the checkpoint's step: what a killed run wrote after it is cut off, so that each step
            stands once.
    """

    def __init__(self, folder: Path, keep_until: int = 0) -> None:
        self.path = folder / METRICS
        write_text(self.path, "".join(f"{line}\n" for line in _lines(self.path, keep_until)))
        with output_errors(self.path):
            self._file = open(self.path, "a")  # noqa: SIM115  closed by close()

    def log(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """Append a line."""
        with output_errors(self.path):
            self._file.write(json.dumps({"step": step, "kind": kind, **values}) + "\n")
            self._file.flush()

    def picture(self, step: int, name: str, path: Path) -> None:
        """Append a line that says where the picture is."""
        self.log("picture", step, {"name": name, "file": path.name})

    def close(self) -> None:
        """Close the file."""
        # A line that did not fit on the disk was an error when it was logged; closing would only try again.
        with contextlib.suppress(OSError):
            self._file.close()


def restore_metrics(folder: Path, copy: Path, step: int) -> None:
    """Take metrics.jsonl from the copy in a checkpoint, where it has lost lines up to the checkpoint's step.

    Raises:
        OutputError: it cannot be written.
    """
    path = folder / METRICS
    if copy.is_file() and len(_lines(path, step)) < len(_lines(copy, step)):
        write_text(path, copy.read_text(encoding="utf-8", errors="replace"))


def _lines(path: Path, keep_until: int) -> list[str]:
    """Whole lines of steps up to `keep_until`."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    return [line for line in lines if (values := _parse(line)) is not None and values["step"] <= keep_until]


def _parse(line: str) -> dict[str, Any] | None:
    """A line of metrics.jsonl; None for a line that a kill left half written, or that is damaged."""
    try:
        values = json.loads(line)
    except ValueError:
        return None
    return values if isinstance(values, dict) and isinstance(values.get("step"), int) else None


# Seconds for wandb's server to answer, for a run to begin there, and for what is left to be sent at the end.
_ANSWER, _INIT, _FINISH = 10.0, 30.0, 120.0
_SERVER = "https://api.wandb.ai"


def wandb_mode(cfg: TrackingConfig) -> Literal["online", "offline", "off"]:
    """How wandb logs: as the config says, less where WANDB_MODE or WANDB_DISABLED do; online needs a key."""
    mode = os.environ.get("WANDB_MODE", "").strip().lower()
    if cfg.wandb == "off" or mode == "disabled" or os.environ.get("WANDB_DISABLED", "").lower() in ("true", "1"):
        return "off"
    if cfg.wandb == "offline" or mode in ("offline", "dryrun"):
        return "offline"
    return "online" if mode in ("online", "run") or os.environ.get("WANDB_API_KEY") else "offline"


def _answers(address: str, seconds: float) -> bool:
    """Whether a server says anything within so many seconds."""
    try:
        with urllib.request.urlopen(address, timeout=seconds):
            return True
    except urllib.error.HTTPError:
        return True
    except (OSError, ValueError, http.client.HTTPException):
        return False


class Wandb:
    """A wandb run, in the run's folder unless WANDB_DIR names another; offline where the server does not answer."""

    def __init__(self, folder: Path, cfg: TrackingConfig, config: Mapping[str, Any], name: str) -> None:
        import wandb

        environment = os.environ
        settings: dict[str, Any] = {
            key: value
            for key, value, variable in (
                ("silent", True, "WANDB_SILENT"),
                ("console", "off", "WANDB_CONSOLE"),
                ("init_timeout", _INIT, "WANDB_INIT_TIMEOUT"),
                ("finish_timeout", _FINISH, "WANDB_FINISH_TIMEOUT"),
            )
            if variable not in environment
        }
        # What is as by default gives way to wandb's own variables.
        arguments: dict[str, Any] = {
            "project": environment.get("WANDB_PROJECT", _PROJECT) if cfg.project == _PROJECT else cfg.project,
            "group": cfg.group or environment.get("WANDB_RUN_GROUP"),
            "name": environment.get("WANDB_NAME", name),
            "dir": environment.get("WANDB_DIR", str(folder)),
            "config": dict(config),
            "settings": wandb.Settings(**settings),
        }
        server = environment.get("WANDB_BASE_URL", _SERVER)
        online = wandb_mode(cfg) == "online"
        if online and not _answers(server, _ANSWER):
            where = redacted(server)
            _note(f"wandb's server {where} does not answer; the run is logged offline, send it later by `wandb sync`")
            online = False
        if online:
            try:
                self._run = wandb.init(mode="online", **arguments)
                return
            except (wandb.Error, OSError, TimeoutError) as error:
                reason = visible(redacted(" ".join(str(error).split())))[:200]
                _note(f"wandb does not begin online ({reason}); the run is logged offline")
        self._run = wandb.init(mode="offline", **arguments)

    def log(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """Log numbers under `kind/`."""
        numbers = {f"{kind}/{key}": value for key, value in values.items() if isinstance(value, (int, float))}
        if numbers:
            self._run.log(numbers, step=step)

    def picture(self, step: int, name: str, path: Path) -> None:
        """Show the picture under `pictures/`."""
        import wandb

        self._run.log({f"pictures/{name}": wandb.Image(str(path))}, step=step)

    def close(self) -> None:
        """Finish the run."""
        self._run.finish()


def _note(text: str) -> None:
    print(f"arcticseg: {text}", file=sys.stderr, flush=True)


def make_trackers(
    folder: Path, cfg: TrackingConfig, config: Mapping[str, Any], name: str, keep_until: int = 0
) -> list[Tracker]:
    """metrics.jsonl, and wandb unless it is off."""
    trackers: list[Tracker] = [Jsonl(folder, keep_until)]
    if wandb_mode(cfg) != "off":
        trackers.append(Wandb(folder, cfg, config, name))
    return trackers


@dataclass(frozen=True)
class TrackingConfig:
    """Logs besides metrics.jsonl."""

    # auto: online with a key in WANDB_API_KEY, else offline; WANDB_MODE can only make it less.
    wandb: Literal["auto", "offline", "off"] = "auto"
    project: str = _PROJECT
    group: str | None = None
    # Steps between log lines.
    every: int = 10

    def __post_init__(self) -> None:
        need(self.every > 0, "every", self.every, "set 1 or more")
        good = 0 < len(self.project) <= 128 and not set(self.project) & set("/\\#?%:")
        need(good, "project", self.project, "set a name of at most 128 characters without / \\ # ? % :")
        need(self.group != "", "group", "", "set a name, or null")
