"""Scenes with charts through a network: official scores at 80 m, maps, products, evaluation.json."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from arcticseg.baselines import LOGISTIC, MAJORITY, fit_logistic
from arcticseg.errors import SceneError
from arcticseg.files import make_folder, write_text
from arcticseg.ice import layers as scene_layers
from arcticseg.ice.channels import RAW_SPACING
from arcticseg.ice.layers import LayerConfig, Layers
from arcticseg.ice.reference import check_reference, find_references, read_reference, reference_of
from arcticseg.ice.resample import coarse_shape
from arcticseg.ice.scenes.open import open_scene
from arcticseg.ice.scenes.scene import Scene
from arcticseg.ice.score import Confusion, confusion, empty_confusions, majority, scores
from arcticseg.ice.sigrid import CHARTS, N_CLASSES
from arcticseg.pictures import maps
from arcticseg.pictures.results import EVALUATION_FILE, FORMAT
from arcticseg.products.charts import PRODUCT_FACTOR, fields_to_charts, product_positions
from arcticseg.products.geotiff import write_geotiff
from arcticseg.products.netcdf import write_netcdf
from arcticseg.products.predictor import Predictor


def count(labels: NDArray[np.uint8], prediction: NDArray[np.uint8]) -> dict[str, Confusion]:
    """Confusion counts of each chart; both uint8 [3, H, W]. A labelled pixel without prediction counts as class 0.

    Scores are over all labelled pixels, so a network that declines to answer must not gain by it.
    """
    out = {}
    for i, chart in enumerate(CHARTS):
        answered = np.where(prediction[i] < N_CLASSES[chart], prediction[i], 0)
        out[chart] = confusion(labels[i], answered, N_CLASSES[chart])
    return out


def _add(total: dict[str, Confusion], counts: dict[str, Confusion]) -> None:
    for chart, matrix in counts.items():
        total[chart] += matrix


def evaluate(
    predictor: Predictor,
    scenes: Sequence[Path],
    out: Path,
    *,
    name: str | None = None,
    run: Path | None = None,
    baseline_shards: Path | None = None,
    reference: Path | None = None,
    products: bool = True,
    pictures: bool = True,
    overlap: int | None = None,
    batch_size: int = 8,
    rules: LayerConfig = LayerConfig(),
    report: Callable[[str], None] = lambda text: None,
) -> Path:
    """Score a network on whole scenes; write `evaluation.json`, `maps/*.png` and `products/*.nc, *.tif` to `out`.

    Args:
        scenes: files with charts, or without where `reference` has one.
        name: of the network in tables; None: of its run folder.
        baseline_shards: fit the logistic regression on these shards and score it, too; None: only the majority class.
        reference: folder of reference charts at 80 m, which go before a scene's own.
        report: is told each scene's scores.

    Returns:
        path of evaluation.json.

    Raises:
        SceneError, ConfigError, OutputError: see their messages.
    """
    began = time.monotonic()
    references = charts_of(scenes, reference, rules)
    make_folder(out)
    baseline = None if baseline_shards is None else fit_logistic(baseline_shards, predictor.factor)
    total, logistic = empty_confusions(), empty_confusions()
    records: list[dict[str, Any]] = []
    simulated = False
    for path in scenes:
        with open_scene(path) as scene:
            labels = _labels(scene, references[path], rules)
            own, product = predictor.read(scene, rules)
            prediction = predictor.charts(own, product, overlap, batch_size)
            counts = count(labels, prediction)
            _add(total, counts)
            if baseline is not None:
                _add(logistic, count(labels, fields_to_charts(baseline.fields(own), predictor.factor, product)))
            pooled = scores(counts)
            record: dict[str, Any] = {"scene": scene.name, "simulated": scene.simulated, "pooled": pooled}
            record |= {"reference": references[path] and str(references[path]), "map": None, "product": None}
            if products:
                folder = make_folder(out / "products")
                write_netcdf(folder / f"{scene.name}.nc", scene, prediction, predictor)
                write_geotiff(folder / f"{scene.name}.tif", scene, prediction)
                record["product"] = f"products/{scene.name}.nc"
            if pictures:
                draw(
                    make_folder(out / "maps") / f"{scene.name}.png",
                    scene,
                    product,
                    prediction,
                    labels,
                    pooled,
                    predictor,
                )
                record["map"] = f"maps/{scene.name}.png"
            records.append(record)
            simulated |= scene.simulated
        report(f"{scene.name}: " + "  ".join(f"{key} {'-' if v is None else f'{v:.2f}'}" for key, v in pooled.items()))
    baselines = [{"name": MAJORITY, "pooled": scores(majority(total))}]
    if baseline is not None:
        baselines.append({"name": LOGISTIC, "pooled": scores(logistic)})
    result = {
        "format": FORMAT,
        "name": name or predictor.name,
        "run": None if run is None else str(run),
        "factor": predictor.factor,
        "pixel_spacing": int(RAW_SPACING * PRODUCT_FACTOR),
        "simulated": simulated,
        "n_scenes": len(records),
        "pooled": scores(total),
        "confusion": {chart: matrix.tolist() for chart, matrix in total.items()},
        "baselines": baselines,
        "scenes": records,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": _versions(),
        "seconds": round(time.monotonic() - began, 1),
    }
    write_text(out / EVALUATION_FILE, json.dumps(result, indent=1) + "\n")
    return out / EVALUATION_FILE


def charts_of(
    scenes: Sequence[Path], reference: Path | None, rules: LayerConfig = LayerConfig()
) -> dict[Path, Path | None]:
    """Scene -> its reference file, or None where it is scored against its own chart.

    Raises:
        SceneError: a scene with neither, or that cannot be read; a reference of another shape, or for other rules.
    """
    known = {} if reference is None else find_references(reference)
    found: dict[Path, Path | None] = {}
    for path in scenes:
        with open_scene(path) as scene:
            found[path] = chart = reference_of(scene.name, known)
            if chart is None and not scene.has_chart:
                where = "" if reference is None else f" in it or in {reference}"
                raise SceneError(
                    f"{path}: has no ice chart{where} to score against; give one by --reference, leave the scene out, "
                    "or use `arcticseg predict`"
                )
            if chart is not None and rules.rules != "autoice":
                raise SceneError(
                    f"{chart}: reference charts follow the rules 'autoice'; {rules.rules!r} needs the raw one"
                )
            if chart is not None:
                check_reference(chart, _product_shape(scene))
    return found


def _product_shape(scene: Scene) -> tuple[int, int]:
    """Rows and columns of a scene at 80 m."""
    return coarse_shape(scene.shape, scene_layers.step_of(scene, PRODUCT_FACTOR))


def _labels(scene: Scene, reference: Path | None, rules: LayerConfig) -> NDArray[np.uint8]:
    """Charts of a scene at 80 m, uint8 [3, H, W], from its reference file or its own."""
    if reference is not None:
        return read_reference(reference, _product_shape(scene))
    labels = scene_layers.official_labels(scene, rules)
    assert labels is not None, "charts_of saw a chart"
    return labels


def draw(
    path: Path,
    scene: Scene,
    layers: Layers,
    prediction: NDArray[np.uint8],
    labels: NDArray[np.uint8] | None,
    pooled: dict[str, float | None] | None,
    predictor: Predictor,
) -> None:
    """The map of one scene, whose layers at 80 m are given: SAR, chart, prediction and difference."""
    latitude, longitude = product_positions(scene)
    maps.scene_map(
        path,
        title=f"{scene.name}\n{predictor.name}, trained at {predictor.factor * RAW_SPACING:g} m",
        hh=layers.sar["hh"] if "hh" in scene.polarisations else None,
        hv=layers.sar["hv"] if "hv" in scene.polarisations else None,
        chart=labels,
        prediction=prediction,
        land=layers.distance == 0,
        pixel_spacing=layers.pixel_spacing,
        latitude=latitude,
        longitude=longitude,
        simulated=scene.simulated,
        scores=pooled,
    )


def _versions() -> dict[str, str]:
    found = {}
    for package in ("arcticseg", "torch", "deepspeed", "timm", "numpy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
