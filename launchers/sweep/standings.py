"""Results of a study so far: the best validation of each run, as a table, results.csv and results.json."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, stdev
from typing import Any, Literal

from arcticseg.errors import ReportError
from arcticseg.files import write_text
from arcticseg.ice.sigrid import CHARTS
from arcticseg.ice.simulated import marked
from arcticseg.pictures.results import read_run
from launchers.sweep.study import SEED, Trial, short

SCORES = (*CHARTS, "combined")
RESULTS = "results.json"
TABLE = "results.csv"

# finished: trained to its end; stopped: by the scheduler, as a poor one; failed: with a reason; open: the rest.
Status = Literal["finished", "stopped", "failed", "open"]


@dataclass(frozen=True)
class Standing:
    """A trial, how it stands, and its best validation so far.

    Attributes:
        reason: why it failed or is open, in one line.
        step: of the best validation.
        scores: of the best validation: SIC, SOD, FLOE, combined; of a pretraining: reconstruction.
    """

    trial: Trial
    status: Status
    reason: str = ""
    step: int | None = None
    scores: Mapping[str, float | None] = field(default_factory=dict)


def standing(trial: Trial, status: Status, reason: str = "") -> Standing:
    """A trial with the best validation that its metrics.jsonl holds."""
    best = "combined" if trial.phase == "finetune" else "reconstruction"
    try:
        records = read_run(trial.folder).validation
    except ReportError:
        records = ()
    scored = [record for record in records if record.get(best) is not None]
    if not scored:
        return Standing(trial, status, reason)
    record = max(scored, key=lambda record: float(record[best]))
    names = SCORES if trial.phase == "finetune" else ("reconstruction",)
    return Standing(trial, status, reason, int(record["step"]), {name: record.get(name) for name in names})


def stopped_before(out: Path) -> set[str]:
    """Keys of the trials that the scheduler stopped in an earlier sweep of this folder."""
    path = out / RESULTS
    if not path.is_file():
        return set()
    return {
        f"{row['phase']}/{row['name']}" for row in json.loads(path.read_text())["trials"] if row["status"] == "stopped"
    }


def write(out: Path, standings: Sequence[Standing], simulated: bool) -> None:
    """Write results.json (all trials) and results.csv (fine-tunings), each whole.

    Raises:
        OutputError: they cannot be written.
    """
    rows = [
        {
            "phase": standing.trial.phase,
            "name": standing.trial.name,
            "model": standing.trial.model,
            "init": standing.trial.init,
            "grid": dict(standing.trial.grid),
            "status": standing.status,
            "reason": standing.reason,
            "step": standing.step,
            "scores": dict(standing.scores),
            "run": str(standing.trial.folder.relative_to(out)),
        }
        for standing in standings
    ]
    write_text(out / RESULTS, json.dumps({"study": out.name, "simulated": simulated, "trials": rows}, indent=1) + "\n")
    tuned = [standing for standing in standings if standing.trial.phase == "finetune"]
    keys = list(tuned[0].trial.grid) if tuned else []
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(["model", *keys, *SCORES, "step", "status", "reason", "simulated", "run"])
    for standing in tuned:
        trial = standing.trial
        values = [trial.grid[key] for key in keys]
        scores = [standing.scores.get(name) for name in SCORES]
        told = [standing.step, standing.status, standing.reason, simulated, trial.folder.relative_to(out)]
        lines.writerow([trial.model, *values, *scores, *told])
    write_text(out / TABLE, text.getvalue())


def table(standings: Sequence[Standing], simulated: bool) -> str:
    """The table of fine-tunings for a terminal; above it, a line for each pretraining."""
    pretrained = [_pretraining(standing) for standing in standings if standing.trial.phase == "pretrain"]
    tuned = [standing for standing in standings if standing.trial.phase == "finetune"]
    if not tuned:
        return "\n".join(pretrained)
    keys = [key for key in tuned[0].trial.grid if key != SEED]
    # A study that went well needs no column to say so.
    told = any(standing.status != "finished" for standing in tuned)
    head = ["model", *(short(key, keys) for key in keys), *SCORES, *(["status"] if told else [])]
    alike: dict[tuple[str, ...], list[Standing]] = {}
    for standing in tuned:
        trial = standing.trial
        alike.setdefault((trial.model, *(str(trial.grid[key]) for key in keys)), []).append(standing)
    rows = [
        [
            *names,
            *(_number([standing.scores.get(name) for standing in group]) for name in SCORES),
            *([", ".join(dict.fromkeys(standing.status for standing in group))] if told else []),
        ]
        for names, group in alike.items()
    ]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    rule = "\u2500" * (sum(widths) + 2 * (len(widths) - 1))

    def line(cells: Sequence[str]) -> str:
        first, *rest = zip(cells, widths, strict=True)
        return "  ".join([first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in rest)])

    lines = [*pretrained, line(head), rule, *map(line, rows), rule]
    lines.append(f"Best validation of each run by combined score, tiles of {marked('validation scenes', simulated)}.")
    if any(len(group) > 1 for group in alike.values()):
        lines.append("Mean and standard deviation over seeds.")
    return "\n".join(lines)


def _pretraining(standing: Standing) -> str:
    reconstruction = standing.scores.get("reconstruction")
    score = "" if reconstruction is None else f", reconstruction {reconstruction:.3f}"
    return f"pretraining {standing.trial.name}: {standing.status}{score}"


def _number(values: Sequence[Any]) -> str:
    """The value of a run, or mean and standard deviation (of a sample) of several, of those that have it."""
    known = [float(value) for value in values if value is not None]
    if not known:
        return "-"
    if len(values) == 1:
        return f"{known[0]:.2f}"
    spread = f"{stdev(known):.2f}" if len(known) > 1 else "-"
    return f"{mean(known):.2f} \u00b1 {spread}"
