"""The part of `sameness.py` that runs inside a checkout: it trains, keeps batches and masks, reads charts and configs.

    python benchmarks/sameness_probe.py REQUEST.json

The request names the checkout, the task, and where this checkout keeps what the task needs (`sameness_layout.py`).
Results are written to the working folder.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import signal
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Arrays by name; numpy types the arguments of savez so that only this fits.
Arrays = dict[str, Any]

# Batches, or masks, that are kept of a training.
_MOST = 16

# What is compared of a batch and of inputs: what all versions have.
_BATCH = (
    *("size", "coarse", "place", "hh", "hv", "dist", "aux", "aux_rows", "aux_cols"),
    *("geo", "geo_rows", "geo_cols", "clock", "lab"),
)
_DRAWS = ("crop", "transpose", "flip_rows", "flip_cols", "mix")
# Groups that a sample may lose; later versions have more behind these.
_GROUPS = 8
_INPUTS = ("place", "x", "data", "dropped", "labels")

_HEADER = "poly_id;CT;CA;SA;FA;CB;SB;FB;CC;SC;FC;CN;CD;CF;POLY_TYPE"
# Codes of the SIGRID-3 tables, -9 for none, and some that no table lists.
_CONCENTRATIONS = ("-9", "00", "01", "02", "10", "20", "30", "40", "50", "60", "70", "80", "90", "91", "92", "55", "99")
_STAGES = ("-9", "00", "80", "81", "82", "83", "84", "85", "86", "87", "88", "89", "91", "93", "95", "96", "98", "70")
_FLOES = ("-9", "00", "01", "02", "03", "04", "05", "06", "07", "08", "09", "10", "21", "22", "99", "14")


class Checkout:
    """The modules and names of a checkout, imported when they are asked for."""

    def __init__(self, folder: str, places: Mapping[str, str]) -> None:
        import arcticseg

        if not Path(str(arcticseg.__file__)).is_relative_to(folder):
            raise SystemExit(f"{arcticseg.__file__}: is imported, and not the package in {folder}; set PYTHONPATH")
        self._places = places

    def find(self, name: str) -> Any:
        """What a name of `sameness_layout.PLACES` stands for."""
        module, _, attribute = self._places[name].partition(":")
        loaded = importlib.import_module(module)
        return getattr(loaded, attribute) if attribute else loaded


def flat(value: Any, name: str) -> Iterator[tuple[str, NDArray[Any]]]:
    """Copies of all arrays and values in nested dataclasses and mappings, under dotted names."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from flat(item, f"{name}.{key}")
    elif hasattr(value, "detach"):
        yield name, value.detach().cpu().numpy().copy()
    elif isinstance(value, np.ndarray):
        yield name, value.copy()
    else:
        yield name, np.array(str(value))


@contextmanager
def wrapped(owner: Any, name: str, wrapper: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Iterator[None]:
    """Put a wrapper around a method while the context lasts."""
    method = getattr(owner, name)
    setattr(owner, name, wrapper(method))
    try:
        yield
    finally:
        setattr(owner, name, method)


@contextmanager
def recorded(checkout: Checkout, what: str | None, path: Path) -> Iterator[None]:
    """Keep batches and inputs, or masks, of what is trained in this context, in an npz file.

    Args:
        what: `batches`, `masks`, or None for nothing.
    """
    if what is None:
        yield
        return
    kept: Arrays = {}
    calls: Counter[str] = Counter()

    def keep(kind: str, value: Any) -> None:
        if calls[kind] < _MOST:
            kept.update(flat(value, f"{kind} {calls[kind]}"))
        calls[kind] += 1

    def assembling(method: Callable[..., Any]) -> Callable[..., Any]:
        def call(self: Any, batch: Any) -> Any:
            drawn = {name: getattr(batch.draws, name, None) for name in _DRAWS}
            drop = None if batch.draws is None else batch.draws.drop[:, :_GROUPS]
            keep("batch", {name: getattr(batch, name) for name in _BATCH} | {"draws": drawn | {"drop": drop}})
            # A training may ask for less than all.
            full = method(type(self)(self.channels, self.valid_plane, self.statistics), batch)
            keep("inputs", {name: getattr(full, name) for name in _INPUTS})
            inputs = method(self, batch)
            keep("used", {"seen": inputs.seen, "labels": inputs.labels})
            return inputs

        return call

    def masking(method: Callable[..., Any]) -> Callable[..., Any]:
        def call(self: Any, *arguments: Any) -> Any:
            result = method(self, *arguments)
            keep("mask", result[1])
            return result

        return call

    is_mask = what == "masks"
    owner, name = (
        (checkout.find("MaskedAutoencoder"), "forward") if is_mask else (checkout.find("Assemble"), "__call__")
    )
    with wrapped(owner, name, masking if is_mask else assembling):
        yield
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **kept)


@contextmanager
def stopped(checkout: Checkout, step: int | None) -> Iterator[None]:
    """Send this process SIGTERM, as a scheduler does, when the given step has been logged; None: never."""

    def logging(method: Callable[..., Any]) -> Callable[..., Any]:
        def log(self: Any, kind: str, at: int, values: Mapping[str, Any]) -> None:
            method(self, kind, at, values)
            if kind == "train" and at == step:
                signal.raise_signal(signal.SIGTERM)

        return log

    with wrapped(checkout.find("Jsonl"), "log", logging):
        yield


def train(checkout: Checkout, request: Mapping[str, Any]) -> None:
    """Do several trainings one after the other in one process a rank, which saves the starts of processes."""
    group = checkout.find("process_group")
    stop, group.stop = group.stop, lambda: None
    rank = os.environ.get("RANK", "0")
    load, run = checkout.find("load"), checkout.find("run")
    finished: dict[str, Any] = {}
    for job in request["jobs"]:
        cfg = load(request["config"], job["overrides"])
        path = Path("recorded") / f"{job['name']}-rank-{rank}.npz"
        with recorded(checkout, job["record"], path), stopped(checkout, job["stop"]):
            finished[f"{job['name']}{' resumed' if job['resume'] else ''}"] = np.array(run(cfg, job["resume"]))
    stop()
    np.savez(f"finished-{request['ranks']}-rank-{rank}.npz", **finished)


def charts(checkout: Checkout, request: Mapping[str, Any]) -> None:
    """Charts and layers of scenes, classes of drawn polygon codes, scores of drawn counts."""
    layers = checkout.find("layers")
    values: Arrays = {}
    for kind, path in request["scenes"].items():
        # Only raw scenes hold the codes that the other rules need.
        for rules in ("autoice", "corrected") if kind == "raw" else ("autoice",):
            config = layers.LayerConfig(rules=rules)
            with checkout.find("open_scene")(path) as scene:
                values.update(flat(scene.chart(rules), f"{kind} {rules} chart"))
                values.update(flat(layers.official_labels(scene, config), f"{kind} {rules} official labels"))
                for at in layers.read_layers(scene, {2, 4}, config):
                    # Labels are kept in one checkout as planes of classes, in another as rows of polygons.
                    parts = {field.name: getattr(at, field.name) for field in dataclasses.fields(at)}
                    parts = {name: part for name, part in parts.items() if name != "chart"} | {"labels": at.labels}
                    values.update(flat(parts, f"{kind} {rules} layers at {at.factor}"))
    np.savez("charts.npz", **values)
    np.savez("scores.npz", **polygons(checkout.find("chart")), **scores(checkout.find("score")))


def configs(checkout: Checkout, request: Mapping[str, Any]) -> None:
    """The resolved configs of shipped names, as JSON."""
    load, to_dict = checkout.find("load"), checkout.find("to_dict")
    resolved = {name: to_dict(load(name)) for name in request["configs"]}
    Path("configs.json").write_text(json.dumps(resolved, indent=1))


def polygons(chart: Any, n: int = 20_000) -> Arrays:
    """Classes [P, 3] of drawn polygon codes under both rules."""
    random = np.random.default_rng(0)
    columns = [random.choice(_CONCENTRATIONS, n)]
    for _ in range(3):
        columns += [random.choice(codes, n) for codes in (_CONCENTRATIONS, _STAGES, _FLOES)]
    columns += [random.choice(_FLOES, n) for _ in range(3)]
    letters = random.choice(["I", "W", "L"], n, p=[0.9, 0.05, 0.05])
    rows = [";".join([str(i), *map(str, cells)]) for i, cells in enumerate(zip(*columns, letters, strict=True))]
    table = chart.parse_polygon_codes([_HEADER, *rows], "drawn")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {f"polygons {rules}": chart.polygon_classes(table, rules) for rules in ("autoice", "corrected")}


def scores(score: Any) -> Arrays:
    """Confusion counts of drawn charts, their scores, and those of the most frequent class."""
    random = np.random.default_rng(1)
    values: Arrays = {}
    for case in range(20):
        counts = {}
        for name, classes in (("SIC", 11), ("SOD", 6), ("FLOE", 7)):
            chart = random.integers(0, classes, 1000, np.uint8)
            guess = np.where(random.random(1000) < case / 20, chart, random.integers(0, classes, 1000, np.uint8))
            chart[random.random(1000) < 0.1] = 255
            counts[name] = score.confusion(chart, guess, classes)
            values[f"confusion {case} {name}"] = counts[name]
        for kind, matrices in (("scores", counts), ("majority", score.majority(counts))):
            values |= {f"{kind} {case} {name}": np.array(value) for name, value in score.scores(matrices).items()}
    return values


def main() -> None:
    """Do what the request says."""
    request = json.loads(Path(sys.argv[1]).read_text())
    checkout = Checkout(request["checkout"], request["places"])
    {"train": train, "charts": charts, "configs": configs}[request["task"]](checkout, request)


if __name__ == "__main__":
    main()
