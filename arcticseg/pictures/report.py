"""A page for one or several evaluations: scores beside baselines, curves, maps scene by scene, confusion, configs.

`write_report` makes a single HTML file that needs nothing else: pictures are embedded, curves are inline SVG, and there
is neither a script nor an address outside the page. `score_table` is the same table for a terminal.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from PIL import Image

from arcticseg.errors import ReportError
from arcticseg.files import atomic_path, make_folder
from arcticseg.ice.score import class_scores
from arcticseg.ice.sigrid import CHARTS
from arcticseg.ice.simulated import SCENES_BANNER, marked
from arcticseg.pictures.colours import CHART_TITLES, COLOURS, chart_colours
from arcticseg.pictures.curves import Chart, Series, line_chart
from arcticseg.pictures.results import SCORES, Evaluation, Run, Scores, find_run, points, read_evaluations, read_run

COLUMN_TITLES = {"SIC": "SIC R²", "SOD": "SOD F1", "FLOE": "FLOE F1", "combined": "combined"}

# A map is embedded at most this wide: sharp on a wide screen, and a page of forty maps still opens at once.
_MAP_WIDTH = 2000
_MAP_QUALITY = 80

# The page has this many line colours before they repeat.
_LINE_COLOURS = 6


@dataclass(frozen=True)
class ScoreRow:
    """A line of the score table: a model or a baseline.

    Attributes:
        colour: the model's number on the page.
        failed: scenes that it could not score.
    """

    name: str
    scores: Scores
    best: frozenset[str]
    baseline: bool
    colour: int = 0
    note: str = ""
    failed: int = 0


@dataclass(frozen=True)
class Group:
    """Evaluations on the same scenes and pixels: only these may be compared."""

    n_scenes: int
    pixel_spacing: float
    simulated: bool
    rows: tuple[ScoreRow, ...]


def write_report(evaluations: Sequence[Path], out: Path, runs: Sequence[Path] = ()) -> Path:
    """Write a self-contained HTML page.

    Args:
        evaluations: evaluation.json files, or their folders.
        out: the .html file, or a folder for report.html.
        runs: run folders whose curves and configs are shown besides those that the evaluations name.

    Returns:
        The file written.

    Raises:
        ReportError: an evaluation or a run in `runs` cannot be read. A run or map that an evaluation merely names may
            be absent: the page says so.
        OutputError: the page cannot be written.
    """
    read = read_evaluations(evaluations)
    out = Path(out)
    path = out if out.suffix == ".html" else out / "report.html"
    html = _template().render(_page(read, _runs(read, runs)))
    make_folder(path.parent)
    with atomic_path(path) as partial:
        partial.write_text(html, encoding="utf-8")
    return path


def score_table(evaluations: Sequence[Path]) -> str:
    """The score table as text: models, then baselines, an asterisk at the best of each column.

    Raises:
        ReportError: an evaluation cannot be read.
    """
    return "\n\n".join(_text_table(group) for group in score_groups(read_evaluations(evaluations)))


def _text_table(group: Group) -> str:
    def cells(row: ScoreRow) -> list[str]:
        return [row.name, *(text(row.scores[k]) + ("*" if k in row.best else " ") for k in SCORES)]

    head = ["", *(title + " " for title in COLUMN_TITLES.values())]
    models = [cells(row) for row in group.rows if not row.baseline]
    baselines = [cells(row) for row in group.rows if row.baseline]
    widths = [max(map(len, column)) for column in zip(head, *models, *baselines, strict=True)]
    rule = "\u2500" * (sum(widths) + 2 * (len(widths) - 1))

    def line(texts: Sequence[str]) -> str:
        first, *rest = (cell.rjust(width) for cell, width in zip(texts, widths, strict=True))
        return "  ".join([texts[0].ljust(len(first)), *rest])

    lines = [line(head), rule, *map(line, models)]
    if baselines:
        lines += [rule, *map(line, baselines)]
    scenes = marked("scenes", group.simulated)
    lines.append(f"{group.n_scenes} {scenes} at {group.pixel_spacing:g} m; * best of its column")
    lines += [f"{row.name}: {row.failed} more could not be scored" for row in group.rows if row.failed]
    return "\n".join(line.rstrip() for line in lines)


def score_groups(evaluations: Sequence[Evaluation]) -> list[Group]:
    """Models and baselines ranked within the same scenes; a baseline that several evaluations share has one row."""
    together: dict[tuple[frozenset[str], float], list[tuple[int, Evaluation]]] = {}
    for number, evaluation in enumerate(evaluations):
        together.setdefault((evaluation.scene_names, evaluation.pixel_spacing), []).append((number, evaluation))
    return [_group(members) for members in together.values()]


def _group(members: Sequence[tuple[int, Evaluation]]) -> Group:
    models = [
        ScoreRow(
            e.name,
            e.pooled,
            frozenset(),
            baseline=False,
            colour=number % _LINE_COLOURS,
            note=f"factor {e.factor}",
            failed=len(e.failed),
        )
        for number, e in members
    ]
    baselines: dict[tuple[str, tuple[float | None, ...]], ScoreRow] = {}
    for _, e in members:
        for b in e.baselines:
            row = ScoreRow(b.name, b.pooled, frozenset(), baseline=True, note=f"of {e.name}")
            baselines.setdefault((b.name, tuple(b.pooled[k] for k in SCORES)), row)
    names = [name for name, _ in baselines]
    # Where evaluations disagree on a baseline, each row says whose it is.
    references = [row if names.count(row.name) > 1 else replace(row, note="") for row in baselines.values()]
    rows = [*sorted(models, key=_rank), *sorted(references, key=_rank)]
    highest = {k: max((v for row in rows if (v := row.scores[k]) is not None), default=None) for k in SCORES}
    rows = [
        replace(row, best=frozenset(k for k in SCORES if row.scores[k] is not None and row.scores[k] == highest[k]))
        for row in rows
    ]
    first = members[0][1]
    return Group(len(first.scenes), first.pixel_spacing, any(e.simulated for _, e in members), tuple(rows))


def _rank(row: ScoreRow) -> float:
    combined = row.scores["combined"]
    return math.inf if combined is None else -combined


def text(score: float | None) -> str:
    """A score with one decimal, a proper minus, and a dash where it is undefined."""
    return "\u2013" if score is None else f"{score:.1f}".replace("-", "\u2212")


def _template() -> Any:
    source = resources.files("arcticseg.pictures").joinpath("templates/report.html.j2").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["score"] = text
    return environment.from_string(source)


@dataclass(frozen=True)
class _NamedRun:
    name: str
    colour: int
    run: Run

    @property
    def data(self) -> str:
        """How many samples the training used and lost, by the run's last summary; empty where it has none."""
        summaries = [event for event in self.run.event if event.get("event") == "summary"]
        words = {
            "samples": "samples",
            "damaged": "damaged and replaced",
            "dropped": "left out at the end, too few for a step",
            "padded": "repeated to fill the last step",
        }
        return ", ".join(
            f"{last[key]:,} {said}" for last in summaries[-1:] for key, said in words.items() if last.get(key)
        )


def _runs(evaluations: Sequence[Evaluation], folders: Sequence[Path]) -> list[_NamedRun]:
    """The runs of the evaluations, then those of `folders`, each once; a model's curve has the model's colour."""
    runs: dict[Path, _NamedRun] = {}
    for number, evaluation in enumerate(evaluations):
        folder = find_run(evaluation)
        if folder is not None and folder.resolve() not in runs:
            runs[folder.resolve()] = _NamedRun(evaluation.name, number % _LINE_COLOURS, read_run(folder))
    for folder in map(Path, folders):
        if folder.resolve() not in runs:
            number = max(len(evaluations), len(runs))
            runs[folder.resolve()] = _NamedRun(folder.resolve().name, number % _LINE_COLOURS, read_run(folder))
    return list(runs.values())


def _page(evaluations: Sequence[Evaluation], runs: Sequence[_NamedRun]) -> dict[str, Any]:
    """Everything the template shows."""
    groups = score_groups(evaluations)
    return {
        "groups": groups,
        "columns": COLUMN_TITLES,
        "scores": SCORES,
        "headline": _headline(groups),
        "simulated": [s for s in _scene_names(evaluations) if any(_is_simulated(e, s) for e in evaluations)],
        "banner": SCENES_BANNER,
        "any_simulated": any(e.simulated or any(s.simulated for s in e.scenes) for e in evaluations),
        "n_scenes": len(_scene_names(evaluations)),
        "created": max(e.created for e in evaluations),
        "ribbon": [*COLOURS["SIC"], *COLOURS["SOD"][1:]],
        "chart_titles": CHART_TITLES,
        "curves": _curves(runs),
        "models": [
            {
                "number": number,
                "name": e.name,
                "colour": number % _LINE_COLOURS,
                "evaluation": e,
                "matrices": {chart: _matrix(e, chart) for chart in CHARTS},
                "run_missing": e.run is not None and find_run(e) is None,
            }
            for number, e in enumerate(evaluations)
        ],
        "scenes": [_scene(evaluations, name) for name in _scene_names(evaluations)],
        "runs": runs,
        "versions": _versions(evaluations),
    }


def _scene_names(evaluations: Iterable[Evaluation]) -> list[str]:
    return list(dict.fromkeys(scene.scene for evaluation in evaluations for scene in evaluation.scenes))


def _is_simulated(evaluation: Evaluation, name: str) -> bool:
    return any(scene.simulated for scene in evaluation.scenes if scene.scene == name)


def _headline(groups: Sequence[Group]) -> dict[str, Any] | None:
    """The best model and how far above the best baseline it is; None where scores are of several sets of scenes."""
    if len(groups) != 1:
        return None
    models = [row for row in groups[0].rows if not row.baseline and row.scores["combined"] is not None]
    if not models:
        return None
    best = models[0]
    references = [row for row in groups[0].rows if row.baseline and row.scores["combined"] is not None]
    gain = None
    if references:
        gain = (best.scores["combined"] or 0.0) - (references[0].scores["combined"] or 0.0)
    return {"row": best, "gain": gain, "reference": references[0].name if references else ""}


def _curves(runs: Sequence[_NamedRun]) -> list[Chart]:
    """Loss of runs that learn without labels, their probes; loss of runs that learn charts, their validation scores."""
    labelled = [r for r in runs if any(points(r.run.validation, k) for k in SCORES)]
    unlabelled = [r for r in runs if r not in labelled]

    def of(members: Sequence[_NamedRun], kind: str, key: str) -> list[Series]:
        return [Series(r.name, r.colour, points(getattr(r.run, kind), key), marked=kind != "train") for r in members]

    charts = [
        line_chart("Training loss, without labels", "step", of(unlabelled, "train", "loss")),
        *(line_chart(f"Linear probe, {COLUMN_TITLES[k]}", "step", of(runs, "scores", f"probe_{k}")) for k in CHARTS),
        line_chart("Training loss", "step", of(labelled, "train", "loss")),
        line_chart("Validation combined score", "step", of(labelled, "validation", "combined")),
        *(line_chart(f"Validation {COLUMN_TITLES[k]}", "step", of(labelled, "validation", k)) for k in CHARTS),
    ]
    return [chart for chart in charts if chart is not None]


_RATIOS = ("precision", "recall", "F1", "IoU")


def _matrix(evaluation: Evaluation, chart: str) -> dict[str, Any] | None:
    """Shares of each chart class by prediction; None where no pixel was scored."""
    counts = evaluation.confusion[chart]
    total = int(counts.sum())
    if total == 0:
        return None
    told = class_scores(counts, [name for name, _ in chart_colours(chart)])
    assert told is not None
    rows = []
    for k, (name, colour) in enumerate(chart_colours(chart)):
        of_class = int(counts[k].sum())
        cells = [
            {
                "share": int(count) / of_class if of_class else 0.0,
                "count": int(count),
                "right": j == k,
                "predicted": chart_colours(chart)[j][0],
            }
            for j, count in enumerate(counts[k])
        ]
        ratios = [f"{key} {told['classes'][k][key]:.2f}" for key in _RATIOS if told["classes"][k][key] is not None]
        row = {"name": name, "colour": colour, "n": of_class, "share": of_class / total, "cells": cells}
        rows.append(row | {"ratios": ", ".join(ratios)})
    return {"rows": rows} | {key: told[key] for key in ("accuracy", "mIoU", "macro_F1")}


def _scene(evaluations: Sequence[Evaluation], name: str) -> dict[str, Any]:
    entries = []
    for number, evaluation in enumerate(evaluations):
        for scene in evaluation.scenes:
            if scene.scene == name:
                missing = scene.map is not None and not scene.map.is_file()
                entries.append(
                    {
                        "number": number,
                        "model": evaluation.name,
                        "colour": number % _LINE_COLOURS,
                        "scores": scene.pooled,
                        "image": None if scene.map is None or missing else _embedded(scene.map),
                        "missing": scene.map.name if scene.map is not None and missing else "",
                    }
                )
    return {
        "name": name,
        "simulated": any(_is_simulated(e, name) for e in evaluations),
        "entries": entries,
        "maps": [entry for entry in entries if entry["image"]],
    }


def _embedded(picture: Path) -> str:
    """A data URI of a picture, reduced to what a page needs.

    Raises:
        ReportError: the file is not a picture.
    """
    try:
        with Image.open(picture) as opened:
            image = opened.convert("RGB")
    except OSError as error:
        raise ReportError(f"{picture}: is not a picture that can be read; run `arcticseg evaluate` again") from error
    if image.width > _MAP_WIDTH:
        image = image.resize((_MAP_WIDTH, round(image.height * _MAP_WIDTH / image.width)), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=_MAP_QUALITY, method=4)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _versions(evaluations: Sequence[Evaluation]) -> dict[str, str]:
    """Package -> version, or the several versions where the evaluations differ."""
    packages = sorted({package for e in evaluations for package in e.versions})
    return {
        package: ", ".join(dict.fromkeys(e.versions[package] for e in evaluations if package in e.versions))
        for package in packages
    }
