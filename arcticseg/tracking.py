"""Logs of a run: metrics.jsonl, which is always written, and wandb."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from arcticseg.errors import need
from arcticseg.files import output_errors, write_text
from arcticseg.run.folder import METRICS


class Tracker(Protocol):
    """Takes what a run has to say."""

    def log(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """Take the values of one step; `kind` is `train`, `validation` or `event`."""
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
        lines = self.path.read_text(errors="replace").splitlines() if self.path.exists() else []
        kept = [line for line in lines if (values := _parse(line)) is not None and values["step"] <= keep_until]
        write_text(self.path, "".join(f"{line}\n" for line in kept))
        with output_errors(self.path):
            self._file = open(self.path, "a")  # noqa: SIM115  closed by close()

    def log(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """Append a line."""
        with output_errors(self.path):
            self._file.write(json.dumps({"step": step, "kind": kind, **values}) + "\n")
            self._file.flush()

    def close(self) -> None:
        """Close the file."""
        # A line that did not fit on the disk was an error when it was logged; closing would only try again.
        with contextlib.suppress(OSError):
            self._file.close()


def _parse(line: str) -> dict[str, Any] | None:
    """A line of metrics.jsonl; None for a line that a kill left half written, or that is damaged."""
    try:
        values = json.loads(line)
    except ValueError:
        return None
    return values if isinstance(values, dict) and isinstance(values.get("step"), int) else None


class Wandb:
    """A wandb run in the run's folder: online with a key in WANDB_API_KEY, else offline."""

    def __init__(self, folder: Path, cfg: TrackingConfig, config: Mapping[str, Any], name: str) -> None:
        import wandb

        online = cfg.wandb == "auto" and bool(os.environ.get("WANDB_API_KEY"))
        self._run = wandb.init(
            project=cfg.project,
            group=cfg.group,
            name=name,
            dir=str(folder),
            config=dict(config),
            mode="online" if online else "offline",
            settings=wandb.Settings(silent=True, console="off"),
        )

    def log(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """Log numbers under `kind/`."""
        numbers = {f"{kind}/{key}": value for key, value in values.items() if isinstance(value, (int, float))}
        if numbers:
            self._run.log(numbers, step=step)

    def close(self) -> None:
        """Finish the run."""
        self._run.finish()


def make_trackers(
    folder: Path, cfg: TrackingConfig, config: Mapping[str, Any], name: str, keep_until: int = 0
) -> list[Tracker]:
    """metrics.jsonl, and wandb unless it is off."""
    trackers: list[Tracker] = [Jsonl(folder, keep_until)]
    if cfg.wandb != "off":
        trackers.append(Wandb(folder, cfg, config, name))
    return trackers


@dataclass(frozen=True)
class TrackingConfig:
    """Logs besides metrics.jsonl."""

    # auto: online with a key in WANDB_API_KEY, else offline.
    wandb: Literal["auto", "offline", "off"] = "auto"
    project: str = "arcticseg"
    group: str | None = None
    # Steps between log lines.
    every: int = 10

    def __post_init__(self) -> None:
        need(self.every > 0, "every", self.every, "set 1 or more")
        good = 0 < len(self.project) <= 128 and not set(self.project) & set("/\\#?%:")
        need(good, "project", self.project, "set a name of at most 128 characters without / \\ # ? % :")
        need(self.group != "", "group", "", "set a name, or null")
