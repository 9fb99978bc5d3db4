"""Scenes with charts through a network: official scores at 80 m, maps, products, evaluation.json."""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from arcticseg.baselines import LOGISTIC, MAJORITY, LogisticBaseline, fit_logistic
from arcticseg.data.manifest import read_manifest
from arcticseg.errors import SceneError, heed_interrupt
from arcticseg.files import make_folder, write_text
from arcticseg.ice import land
from arcticseg.ice.channels import RAW_SPACING
from arcticseg.ice.layers import LayerConfig, official_labels
from arcticseg.ice.reference import check_reference, find_references, read_reference, reference_of
from arcticseg.ice.scenes.open import open_scene
from arcticseg.ice.scenes.scene import Scene
from arcticseg.ice.score import Confusion, class_scores, confusion, empty_confusions, majority, scores
from arcticseg.ice.sigrid import CHARTS, CLASS_NAMES, IGNORE_INDEX, N_CLASSES
from arcticseg.pictures.results import EVALUATION_FILE, FORMAT
from arcticseg.products.charts import PRODUCT_FACTOR, chart_shape, fields_to_charts
from arcticseg.products.ensemble import Ensemble, ensemble
from arcticseg.products.outcome import Failure, Outcome
from arcticseg.products.product import Drawn, Product
from arcticseg.products.records import Finished, Records
from arcticseg.products.write import Drawer, Options, SceneHooks, made_with, write_scenes


def evaluate(
    predictor: Drawer,
    scenes: Sequence[Path],
    out: Path,
    *,
    products: Mapping[str, Product],
    name: str | None = None,
    run: Path | None = None,
    baseline_shards: Path | None = None,
    reference: Path | None = None,
    options: Options = Options(),
    report: Callable[[str], None] = lambda text: None,
    failed: Callable[[Failure], None] = lambda failure: None,
    outcome: Outcome | None = None,
    imports: Mapping[str, str | None] = {},
    again: bool = False,
) -> Path:
    """Score a network on whole scenes; write `evaluation.json`, and each product to a folder of its own in `out`.

    A scene that fails is left out of the scores, and named in `evaluation.json`. The counts of scenes that are finished
    are taken from their records.

    Args:
        scenes: files with charts, or without where `reference` has their charts.
        products: name -> what is written of each scene.
        name: of the network in tables; None: of its run folder.
        baseline_shards: fit the logistic regression on these shards and score it, too; None: only the majority class.
        reference: folder of reference charts at 80 m, which go before a scene's own.
        report: takes a line with each scene's scores.
        failed: takes a scene that is left out.
        outcome: is filled, also where the evaluation is interrupted; None: a new outcome.
        imports: modules from outside, and their checksums: scenes that were drawn with others are not finished.
        again: draw finished scenes again, too.

    Returns:
        path of evaluation.json.

    Raises:
        SceneError: the only scene fails, or all do.
        ConfigError, ShardError, OutputError: see their messages.
    """
    began = time.monotonic()
    outcome = Outcome(len(scenes)) if outcome is None else outcome
    drawer = ensemble(predictor)
    factor = drawer.network.factor
    scoring = score_scenes(
        drawer,
        scenes,
        out,
        outcome,
        products=products,
        baseline_shards=baseline_shards,
        reference=reference,
        options=options,
        report=report,
        failed=failed,
        imports=imports,
        again=again,
    )
    result = {
        "format": FORMAT,
        "name": name or drawer.network.name,
        "run": None if run is None else str(run),
        "weights": drawer.paths,
        "factor": factor,
        "pixel_spacing": round(RAW_SPACING * PRODUCT_FACTOR),
        **scoring.result(),
        "failed": [{"scene": failure.path.stem, "error": failure.reason} for failure in outcome.failed],
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": _versions(("arcticseg", "torch", "deepspeed", "timm", "numpy")),
        "seconds": round(time.monotonic() - began, 1),
    }
    write_text(out / EVALUATION_FILE, json.dumps(result, indent=1) + "\n")
    return out / EVALUATION_FILE


def score_scenes(
    drawer: Ensemble,
    scenes: Sequence[Path],
    out: Path,
    outcome: Outcome,
    *,
    products: Mapping[str, Product],
    baseline_shards: Path | None = None,
    reference: Path | None = None,
    options: Options = Options(),
    report: Callable[[str], None] = lambda text: None,
    failed: Callable[[Failure], None] = lambda failure: None,
    imports: Mapping[str, str | None] = {},
    again: bool = False,
) -> Scoring:
    """Draw and count scenes; write their products and records, from which `evaluate` takes them as finished.

    So the scenes of an evaluation can be shared out among machines that see the same files. Arguments and errors are
    those of `evaluate`.
    """
    references = charts_of(scenes, outcome, reference, options.rules, failed)
    make_folder(out)
    baseline, fitted = None, None
    if baseline_shards is not None and references:
        fitted = read_manifest(baseline_shards).fingerprint
        baseline = _fitted(baseline_shards, drawer.network.factor, fitted)
    scoring = Scoring(out, references, options.rules, baseline, report)
    hooks = SceneHooks(
        labels=scoring.labels, scores=scoring.scores, written=scoring.written, kept=scoring.kept, failed=failed
    )
    records = None
    if drawer.weights is not None:
        facts = {"verb": "evaluate", "baseline": fitted, "imports": imports, **made_with(drawer, options)}
        records = Records(out, facts, references.get, again)
    write_scenes(
        drawer,
        list(references),
        products,
        lambda scene, product: _file(out, scene, product),
        options,
        hooks,
        records,
        outcome,
    )
    return scoring


@functools.lru_cache(maxsize=1)
def _fitted(shards: Path, factor: int, fingerprint: str) -> LogisticBaseline:
    """The baseline of shards with a fingerprint; a process that is given scenes one by one fits it once."""
    return fit_logistic(shards, factor)


class Scoring:
    """Gives each scene its official labels, counts its pixels and keeps its record."""

    def __init__(
        self,
        out: Path,
        references: Mapping[Path, Path | None],
        rules: LayerConfig,
        baseline: LogisticBaseline | None,
        report: Callable[[str], None],
    ) -> None:
        self._out = out
        self._references = references
        self._rules = rules
        self._baseline = baseline
        self._report = report
        self._total, self._logistic = empty_confusions(), empty_confusions()
        # Of the scene that is being drawn: it counts when its files are written.
        self._counts, self._logistic_counts = empty_confusions(), empty_confusions()
        self._records: list[dict[str, Any]] = []

    def labels(self, path: Path, scene: Scene) -> NDArray[np.uint8]:
        """Charts of a scene at 80 m, uint8 [3, H, W], from its reference file or its own."""
        reference = self._references[path]
        if reference is not None:
            return read_reference(reference, chart_shape(scene))
        labels = official_labels(scene, self._rules)
        assert labels is not None, "charts_of has seen that the scene has a chart"
        return labels

    def scores(self, drawn: Drawn) -> dict[str, float | None]:
        """Scores of a scene."""
        assert drawn.labels is not None
        labels = drawn.labels
        if land.NOTE in drawn.scene.notes:
            # Products mask land; a coastline that is wrong by a kilometre must not count as a wrong chart.
            labels = np.where(drawn.layers.distance == 0, np.uint8(IGNORE_INDEX), labels)
        self._counts = count(labels, drawn.charts, drawn.network.charts)
        if self._baseline is not None:
            fields = self._baseline.fields(drawn.seen)
            charts = fields_to_charts(fields, self._baseline.classes, self._baseline.factor, drawn.layers)
            self._logistic_counts = count(labels, charts, drawn.network.charts)
        return scores(self._counts)

    def written(self, drawn: Drawn, files: Mapping[str, Path]) -> dict[str, Any]:
        """Add the counts of a scene to those of all, and report its scores; what `kept` needs to do the same."""
        assert drawn.scores is not None
        result = {
            "scene": drawn.scene.name,
            "simulated": drawn.scene.simulated,
            "pooled": dict(drawn.scores),
            "confusion": _lists(self._counts),
            "logistic": _lists(self._logistic_counts),
        }
        self._take(drawn.scene.path, result, files)
        return result

    def kept(self, path: Path, finished: Finished) -> None:
        """The same for a scene that was finished before."""
        self._take(path, finished.result, finished.files)

    def _take(self, path: Path, result: Mapping[str, Any], files: Mapping[str, Path]) -> None:
        _add(self._total, result["confusion"])
        if self._baseline is not None:
            _add(self._logistic, result["logistic"])
        reference = self._references[path]
        record = {key: result[key] for key in ("scene", "simulated", "pooled")}
        record["reference"] = None if reference is None else str(reference)
        for key, product in (("map", "map"), ("product", "netcdf")):
            record[key] = files[product].relative_to(self._out).as_posix() if product in files else None
        self._records.append(record)
        values = (f"{key} {'-' if value is None else f'{value:.2f}'}" for key, value in result["pooled"].items())
        self._report(f"{result['scene']}: {'  '.join(values)}")

    def result(self) -> dict[str, Any]:
        """What `evaluation.json` says of all scenes."""
        baselines = [{"name": MAJORITY, "pooled": scores(majority(self._total))}]
        if self._baseline is not None:
            baselines.append({"name": LOGISTIC, "pooled": scores(self._logistic)})
        return {
            "simulated": any(record["simulated"] for record in self._records),
            "n_scenes": len(self._records),
            "pooled": scores(self._total),
            "confusion": _lists(self._total),
            "by_class": {chart: class_scores(counts, CLASS_NAMES[chart]) for chart, counts in self._total.items()},
            "baselines": baselines,
            "scenes": self._records,
        }


def _file(out: Path, scene: str, product: Product) -> Path:
    """The file of a product of a scene; products in the same folder differ by extension."""
    return out / product.folder / f"{scene}{product.extension}"


def count(
    labels: NDArray[np.uint8], prediction: NDArray[np.uint8], charts: Iterable[str] = CHARTS
) -> dict[str, Confusion]:
    """Confusion counts of `charts`, 0 for others; labels and prediction are uint8 [3, H, W].

    A labelled pixel without prediction counts as class 0: scores are over all labelled pixels, so a network that
    declines to answer must not gain by it.
    """
    counts = empty_confusions()
    for chart in charts:
        n_classes, plane = N_CLASSES[chart], CHARTS.index(chart)
        answered = np.where(prediction[plane] < n_classes, prediction[plane], 0)
        counts[chart] = confusion(labels[plane], answered, n_classes)
    return counts


def _add(total: dict[str, Confusion], counts: Mapping[str, Any]) -> None:
    for chart, matrix in counts.items():
        total[chart] += np.array(matrix, np.int64)


def _lists(counts: Mapping[str, Confusion]) -> dict[str, list[list[int]]]:
    return {chart: matrix.tolist() for chart, matrix in counts.items()}


def charts_of(
    scenes: Iterable[Path],
    outcome: Outcome,
    reference: Path | None,
    rules: LayerConfig = LayerConfig(),
    failed: Callable[[Failure], None] = lambda failure: None,
) -> dict[Path, Path | None]:
    """Scene -> its reference file, or None where it is scored against its own chart.

    A scene with neither, one that cannot be read, and one whose reference has another shape or other rules fail.

    Raises:
        SceneError: the references cannot be read, the only scene fails, or all do.
    """
    known = {} if reference is None else find_references(reference)
    references: dict[Path, Path | None] = {}
    for path in scenes:
        try:
            references[path] = _chart_of(path, reference, known, rules)
        except Exception as error:
            heed_interrupt(error)
            failed(outcome.fail(path, error))
    if not references:
        outcome.need_any()
    return references


def _chart_of(path: Path, folder: Path | None, known: Mapping[str, Path], rules: LayerConfig) -> Path | None:
    with open_scene(path) as scene:
        chart = reference_of(scene.name, known)
        if chart is not None:
            if rules.rules != "autoice":
                raise SceneError(
                    f"{chart}: reference charts follow the rules 'autoice'; {rules.rules!r} needs the raw chart"
                )
            check_reference(chart, chart_shape(scene))
        elif not scene.has_chart:
            where = "" if folder is None else f" in it or in {folder}"
            raise SceneError(
                f"{path}: has no ice chart{where} to score against; give its chart by --reference, leave the scene "
                "out, or use `arcticseg predict`"
            )
    return chart


def _versions(packages: Iterable[str]) -> dict[str, str]:
    """Package -> version, of those that are installed."""
    versions = {}
    for package in packages:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions
