"""metrics.jsonl, the log that every run has."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from arcticseg.files import write_text
from arcticseg.run.folder import METRICS
from arcticseg.system import output_errors
from arcticseg.tracking.tracker import Confusions


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

    def confusions(self, step: int, counts: Confusions) -> None:
        """Append a line with the counts, rows chart, columns prediction."""
        self.log("confusion", step, {chart: own.tolist() for chart, own in counts.items()})

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


def last_step(folder: Path) -> int:
    """The last step of which metrics.jsonl tells anything; 0: there is none."""
    steps = (_step(line) for line in _all(folder / METRICS))
    return max((step for step in steps if step is not None), default=0)


def _lines(path: Path, keep_until: int) -> list[str]:
    """Whole lines of steps up to `keep_until`."""
    return [line for line in _all(path) if (step := _step(line)) is not None and step <= keep_until]


def _all(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []


def _step(line: str) -> int | None:
    """The step of a line of metrics.jsonl; None for a line that a kill left half written, or that is damaged."""
    try:
        values = json.loads(line)
    except ValueError:
        return None
    step = values.get("step") if isinstance(values, dict) else None
    return step if isinstance(step, int) else None
