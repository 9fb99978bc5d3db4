"""What `arcticseg evaluate` and a run write, read back and checked: evaluation.json and metrics.jsonl.

Reading is strict, so that a page is never built on a value that is not there: a value that is missing or of another
type is a `ReportError` that names the file, the key and the value.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from arcticseg.errors import ReportError
from arcticseg.ice.sigrid import CHARTS, N_CLASSES
from arcticseg.run.folder import CONFIG, METRICS

EVALUATION_FILE = "evaluation.json"
FORMAT = 1
SCORES = (*CHARTS, "combined")

# R2 of SIC, weighted F1 of SOD and FLOE, and the combined score, all times 100; None where undefined.
Scores = Mapping[str, float | None]

# Kinds of lines of metrics.jsonl, in the order of `Run`.
_KINDS = ("train", "validation", "event", "scores")

_REMEDY = "run `arcticseg evaluate` again to rewrite it"


@dataclass(frozen=True)
class SceneResult:
    """Scores of a scene, and the files made for it, if any."""

    scene: str
    simulated: bool
    pooled: Scores
    map: Path | None
    product: Path | None


@dataclass(frozen=True)
class Baseline:
    """A reference that needs no network, scored on the same pixels."""

    name: str
    pooled: Scores


@dataclass(frozen=True)
class Failed:
    """A scene that could not be scored, and why."""

    scene: str
    error: str


@dataclass(frozen=True)
class Evaluation:
    """A model on a set of scenes; `confusion` is int64 [classes, classes], rows chart, columns prediction."""

    path: Path
    name: str
    run: str | None
    factor: int
    pixel_spacing: float
    simulated: bool
    pooled: Scores
    confusion: Mapping[str, npt.NDArray[np.int64]]
    baselines: tuple[Baseline, ...]
    scenes: tuple[SceneResult, ...]
    failed: tuple[Failed, ...]
    weights: str | None
    created: str
    versions: Mapping[str, str]
    seconds: float | None

    @property
    def scene_names(self) -> frozenset[str]:
        """The scenes: two evaluations compare where these are equal."""
        return frozenset(scene.scene for scene in self.scenes)


@dataclass(frozen=True)
class Run:
    """The config and the measured values of a training; the records are as in metrics.jsonl, by kind."""

    folder: Path
    config: str
    train: tuple[Mapping[str, Any], ...]
    validation: tuple[Mapping[str, Any], ...]
    event: tuple[Mapping[str, Any], ...]
    scores: tuple[Mapping[str, Any], ...] = ()


def read_evaluations(paths: Sequence[Path]) -> list[Evaluation]:
    """Read several evaluations, each once; evaluations of equal name get their folder added, to tell them apart.

    Raises:
        ReportError: no evaluation is given, or an evaluation cannot be read.
    """
    if not paths:
        raise ReportError("no evaluation given; name one or more evaluation.json files of `arcticseg evaluate`")
    read = list({e.path.resolve(): e for e in map(read_evaluation, paths)}.values())
    names = [evaluation.name for evaluation in read]
    return [replace(e, name=f"{e.name} ({e.path.parent})") if names.count(e.name) > 1 else e for e in read]


def read_evaluation(path: Path) -> Evaluation:
    """Read an evaluation.json, given itself or by its folder.

    Raises:
        ReportError: the file is missing, is not JSON, has another format, or lacks a value.
    """
    path = Path(path)
    if path.is_dir():
        path = path / EVALUATION_FILE
    record = _Record(path, _read_json(path))
    version = record.get("format", int)
    if version != FORMAT:
        raise record.error("format", version, f"this version reads format {FORMAT}; {_REMEDY}")
    return Evaluation(
        path=path,
        name=record.get("name", str),
        run=record.get("run", str, optional=True),
        factor=record.get("factor", int),
        pixel_spacing=float(record.get("pixel_spacing", (int, float))),
        simulated=record.get("simulated", bool),
        pooled=record.scores("pooled"),
        confusion={chart: record.under("confusion").matrix(chart, N_CLASSES[chart]) for chart in CHARTS},
        baselines=tuple(Baseline(b.get("name", str), b.scores("pooled")) for b in record.records("baselines")),
        scenes=tuple(_scene(scene, path.parent) for scene in record.records("scenes")),
        failed=tuple(
            Failed(failed.get("scene", str), failed.get("error", str))
            for failed in record.records("failed", later=True)
        ),
        weights=record.get("weights", str, optional=True, later=True),
        created=record.get("created", str),
        versions={str(key): str(value) for key, value in record.get("versions", dict).items()},
        seconds=record.get("seconds", (int, float), optional=True),
    )


def _scene(record: _Record, folder: Path) -> SceneResult:
    picture, product = (record.get(key, str, optional=True) for key in ("map", "product"))
    return SceneResult(
        scene=record.get("scene", str),
        simulated=record.get("simulated", bool),
        pooled=record.scores("pooled"),
        map=None if picture is None else folder / picture,
        product=None if product is None else folder / product,
    )


def read_run(folder: Path) -> Run:
    """Read config.yaml and metrics.jsonl of a run folder.

    A last line that was cut off, as by a crash while it was written, is left out; kinds other than "train",
    "validation", "event" and "scores" are skipped.

    Raises:
        ReportError: a file is missing or a line is not a JSON object.
    """
    config = _read_text(folder / CONFIG, "name the folder of a run, with config.yaml and metrics.jsonl")
    metrics = folder / METRICS
    text = _read_text(metrics, "name the folder of a run that has made its first step")
    lines = text.splitlines()
    if lines and not text.endswith("\n"):
        lines.pop()
    records: dict[str, list[Mapping[str, Any]]] = {kind: [] for kind in _KINDS}
    for number, line in enumerate(lines, start=1):
        try:
            value = json.loads(line)
        except json.JSONDecodeError:
            value = None
        if not isinstance(value, dict) or not _is_number(value.get("step", 0)):
            raise ReportError(f"{metrics}: line {number} is not a record: {_short(line)}; remove the line")
        if value.get("kind") in records and "step" in value:
            records[value["kind"]].append(value)
    return Run(folder, config, *(tuple(records[kind]) for kind in _KINDS))


def find_run(evaluation: Evaluation) -> Path | None:
    """The run folder that an evaluation names: relative to its own folder, to one above it or to the working folder."""
    if evaluation.run is None:
        return None
    folder = evaluation.path.absolute().parent
    candidates = [base / evaluation.run for base in (folder, *folder.parents)]
    return next((c for c in [*candidates, Path(evaluation.run)] if (c / CONFIG).is_file()), None)


def points(records: Sequence[Mapping[str, Any]], key: str) -> list[tuple[float, float]]:
    """(step, value) of a key where it is a finite number."""
    return [
        (float(record["step"]), float(record[key]))
        for record in records
        if _is_number(record.get(key)) and math.isfinite(record[key])
    ]


class _Record:
    """A JSON object that knows where it stands, so that its errors can say so."""

    def __init__(self, path: Path, value: Mapping[str, Any], where: str = "") -> None:
        self.path, self.value, self.where = path, value, where

    def error(self, key: str, value: object, remedy: str = _REMEDY) -> ReportError:
        return ReportError(f"{self.path}: {self.where}{key} is {_short(value)}; {remedy}")

    def get(self, key: str, kind: type | tuple[type, ...], *, optional: bool = False, later: bool = False) -> Any:
        """A value; None where it may be null (`optional`), or where earlier versions did not write it (`later`)."""
        if key not in self.value and later:
            return None
        if key not in self.value:
            raise ReportError(f"{self.path}: {self.where}{key} is missing; {_REMEDY}")
        value = self.value[key]
        if value is None and optional:
            return None
        # To Python a bool is an int; in the file it is not.
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise self.error(key, value)
        return value

    def under(self, key: str) -> _Record:
        return _Record(self.path, self.get(key, dict), f"{self.where}{key}.")

    def records(self, key: str, *, later: bool = False) -> list[_Record]:
        values = self.get(key, list, later=later) or []
        for k, value in enumerate(values):
            if not isinstance(value, dict):
                raise self.error(f"{key}[{k}]", value)
        return [_Record(self.path, value, f"{self.where}{key}[{k}].") for k, value in enumerate(values)]

    def scores(self, key: str) -> Scores:
        inner = self.under(key)
        scores = {name: inner.get(name, (int, float), optional=True) for name in SCORES}
        # A NaN in the file means the same as null: undefined.
        return {k: None if v is None or not math.isfinite(v) else float(v) for k, v in scores.items()}

    def matrix(self, key: str, n: int) -> npt.NDArray[np.int64]:
        rows = self.get(key, list)
        square = len(rows) == n and all(isinstance(row, list) and len(row) == n for row in rows)
        if not square or not all(_is_number(count) and count >= 0 for row in rows for count in row):
            raise self.error(key, rows, f"it must be {n} rows of {n} counts; {_REMEDY}")
        return np.array(rows, np.int64)


def _read_text(path: Path, remedy: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a text file"
        raise ReportError(f"{path}: cannot be read: {reason}; {remedy}") from error


def _read_json(path: Path) -> dict[str, Any]:
    text = _read_text(path, "name an evaluation.json of `arcticseg evaluate`, or its folder")
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise ReportError(f"{path}: is not JSON: {error.msg} in line {error.lineno}; {_REMEDY}") from error
    if not isinstance(value, dict):
        raise ReportError(f"{path}: holds {_short(value)}, not an evaluation; {_REMEDY}")
    return value


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
