"""What `benchmarks/sameness.py` calls the same, and what it reports as different; nothing is trained here."""

import importlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import netCDF4
import numpy as np
import pytest
import rasterio
import yaml
from PIL import Image
from rasterio.control import GroundControlPoint

ROOT = Path(__file__).parents[2]
PARTS = ("", "_contents", "_layout", "_steps")


def float32(values: Sequence[float]) -> np.ndarray:
    return np.array(values, np.float32)


@pytest.fixture(scope="module")
def modules() -> dict[str, ModuleType]:
    """The parts of the program by the ends of their names; they import one another by name."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        return {part: importlib.import_module(f"sameness{part}") for part in PARTS}
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))


@pytest.fixture
def contents(modules: dict[str, ModuleType]) -> ModuleType:
    return modules["_contents"]


@pytest.fixture
def layout(modules: dict[str, ModuleType]) -> ModuleType:
    return modules["_layout"]


def test_equal_values_are_the_same(contents: ModuleType) -> None:
    def values() -> dict[str, Any]:
        return {
            "array": np.array([1.0, np.nan, -0.0, np.inf]),
            "texts": np.array(["a", "b"], dtype=object),
            "none": np.zeros((0, 3), np.float32),
            "bytes": b"abc",
            "number": 0.1,
            "list": [1, None, "x"],
        }

    assert contents.differences(values(), values()) == ([], 0.0)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (np.array([[1, 2], [3, 4]]), np.array([[1, 2], [3, 5]]), "1 of 4 values differ, the first at [1, 1]: 4 -> 5"),
        (float32([0.0]), float32([-0.0]), "1 of 1 values differ, at most by 0 of the largest, the first at [0]"),
        (float32([1, 2]), np.array([1.0, 2.0]), "float32[2] -> float64[2]"),
        (float32([1, np.nan]), float32([1, 2]), "at most by inf of the largest, the first at [1]: nan -> 2.0"),
        (np.array(["a", "b"], object), np.array(["a", "c"], object), "the first at [1]: 'b' -> 'c'"),
        (0.5, 0.75, "at most by 0.5 of the largest: 0.5 -> 0.75"),
        (b"abcd", b"abXd", "4 -> 4 bytes, the first difference at 2: b'cd' -> b'Xd'"),
        ([1, 2], [1, 3], "[1, 2] -> [1, 3]"),
        (1, True, "1 -> True"),
    ],
)
def test_the_first_difference_is_named(contents: ModuleType, old: Any, new: Any, said: str) -> None:
    (text,), _ = contents.differences({"before": 0, "x": old}, {"before": 0, "x": new})
    assert text.startswith("x: ")
    assert said in text


def test_a_value_that_a_side_lacks_is_a_difference(contents: ModuleType) -> None:
    texts, _ = contents.differences({"a": 1, "b": 2}, {"b": 2, "c": 3})
    assert texts == ["a: only in OLD", "c: only in NEW"]


def test_tolerance_is_for_floating_values_alone(contents: ModuleType) -> None:
    old = {"w": float32([100.0, 1.0]), "n": np.array([7])}
    new = {"w": float32([100.0, 1.001]), "n": np.array([7])}
    assert contents.differences(old, new)[0] != []
    texts, largest = contents.differences(old, new, tolerance=1e-4)
    assert texts == []
    assert largest == pytest.approx(1e-5, rel=1e-3)  # of the largest, 100
    assert contents.differences(old, new, tolerance=1e-6)[0] != []
    assert contents.differences(old, new | {"n": np.array([8])}, tolerance=1.0)[0] != []


def test_a_flipped_bit_of_a_tensor_is_reported(contents: ModuleType, tmp_path: Path) -> None:
    numpy_files = pytest.importorskip("safetensors.numpy")
    weights = {"encoder.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "head.bias": np.ones(2, np.float32)}
    numpy_files.save_file(weights, tmp_path / "old.safetensors", metadata={"config": "old"})
    weights["encoder.weight"].view(np.uint32)[1, 0] ^= 1
    numpy_files.save_file(weights, tmp_path / "new.safetensors", metadata={"config": "new"})
    old, new = (contents.tensors(tmp_path / f"{name}.safetensors") for name in ("old", "new"))
    (text,), _ = contents.differences(old, new)
    assert text.startswith("encoder.weight: 1 of 6 values differ")
    assert "the first at [1, 0]: 3.0 -> 3.0000002" in text


def test_a_changed_loss_is_reported_and_a_changed_rate_is_not(contents: ModuleType, tmp_path: Path) -> None:
    def metrics(loss: float, rate: float) -> Any:
        lines = [
            {"step": 1, "kind": "train", "loss": 2.0, "samples_per_s": rate},
            {"step": 2, "kind": "train", "loss": loss, "samples_per_s": rate},
            {"step": 2, "kind": "validation", "SIC": None, "SOD": 3.5},
        ]
        path = tmp_path / "metrics.jsonl"
        path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
        return contents.metrics(path)

    old = metrics(1.0, 10.0)
    assert contents.differences(old, metrics(1.0, 20.0))[0] == []
    (text,), _ = contents.differences(old, metrics(1.0000001, 10.0))
    assert text.startswith("train loss: 1 of 2 values differ")


def test_a_changed_file_is_reported(contents: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "a.tar").write_bytes(b"shard")
    (tmp_path / "inner" / "b.json").write_bytes(b"{}")
    old = contents.files(tmp_path)
    assert contents.differences(old, contents.files(tmp_path))[0] == []
    (tmp_path / "a.tar").write_bytes(b"shord")
    (tmp_path / "inner" / "b.json").unlink()
    texts, _ = contents.differences(old, contents.files(tmp_path))
    assert texts == ["a.tar: 5 -> 5 bytes, the first difference at 2: b'ard' -> b'ord'", "inner/b.json: only in OLD"]


def write_netcdf(path: Path, history: str, units: str) -> None:
    with netCDF4.Dataset(path, "w") as file:
        file.history = history
        file.createDimension("line", 3)
        variable = file.createVariable("SIC", "u1", ("line",), fill_value=255)
        variable.units = units
        variable[:] = [1, 255, 3]


def write_geotiff(path: Path, column: float, date: str) -> None:
    points = [GroundControlPoint(row=r, col=c, x=r, y=c) for r, c in ((0, 0), (0, column), (1, 0), (1, 1))]
    with rasterio.open(
        path, "w", driver="GTiff", height=2, width=2, count=1, dtype="uint8", gcps=points, crs="EPSG:4326"
    ) as file:
        file.write(np.array([[[1, 2], [3, 4]]], np.uint8))
        file.update_tags(TIFFTAG_DATETIME=date)


def test_products_are_compared_by_content_without_history(contents: ModuleType, tmp_path: Path) -> None:
    sides = {"old": ("2020", "2020", 1, "1", 1.0), "same": ("2021", "2021", 1, "1", 2.0), "new": ("", "", 2, "%", 1.0)}
    for side, (history, date, number, units, seconds) in sides.items():
        folder = tmp_path / side
        folder.mkdir()
        write_netcdf(folder / "scene.nc", history, units)
        write_geotiff(folder / "scene.tif", number, date)
        Image.fromarray(np.full((2, 2), number, np.uint8)).save(folder / "scene.png")
        made = {"pooled": {"SIC": float(number)}, "created": date, "seconds": seconds, "versions": {"numpy": date}}
        (folder / "evaluation.json").write_text(json.dumps(made))
    old, same, new = (contents.all_of(tmp_path / side, "*.*") for side in sides)
    assert contents.differences(old, same)[0] == []
    texts = contents.differences(old, new)[0]
    assert [text.split(" ")[0] + text.split(":")[1] for text in texts] == [
        "evaluation.json: pooled.SIC",
        "scene.nc: SIC",
        "scene.png: pixels",
        "scene.tif: control points",
    ]


def test_a_report_is_compared_without_dates_seconds_and_configs(contents: ModuleType, tmp_path: Path) -> None:
    def page(date: str, seconds: float, config: str, score: float) -> str:
        path = tmp_path / "report.html"
        path.write_text(
            f"<td>{score}</td><td>{seconds}</td><td>{date}</td><details><summary>Config</summary><pre>{config}</pre>"
        )
        return str(contents.page(path))

    page_of_old = page("2026-11-27T06:35:01+00:00", 13.7, "a: 1\n", 70.5)
    assert page_of_old == page("2026-12-01T16:00:59+00:00", 9, "b: 2\n", 70.5)
    assert page_of_old != page("2026-11-27T06:35:01+00:00", 13.7, "a: 1\n", 70.6)
    assert contents.figures("2 of 3 scenes, 1.5 MB: 4%") == ["2", "3", "1.5", "4%"]


OLD_CONFIG = """
steps: 1
model: {encoder: ENCODER, decoder: light, decoder_channels: null, sic: regression, depth: null, unet_filters: [4]}
"""


@pytest.mark.parametrize(
    ("encoder", "new"),
    [
        ("vit_x", "{encoder: {name: vit_x, depth: null}, decoder: null, heads: {}}"),
        ("unet", "{encoder: {name: unet, filters: [4]}, decoder: {name: unet}, heads: {SIC: {name: regression}}}"),
    ],
)
def test_old_and_new_keys_come_to_the_same_config(layout: ModuleType, encoder: str, new: str) -> None:
    old = layout.canonical(yaml.safe_load(OLD_CONFIG.replace("ENCODER", encoder)))
    assert old == layout.canonical(yaml.safe_load(f"{{steps: 1, model: {new}}}"))


def test_keys_that_only_the_new_side_has_are_left_out_at_their_defaults(
    modules: dict[str, ModuleType], capsys: pytest.CaptureFixture[str]
) -> None:
    old = {"trial": {"a": 1}}
    new = {"trial": {"a": 1, "b": [2], "c": 3}}
    kept = modules[""].without_new_defaults(old, new, {"a": 0, "b": [2], "c": 0})
    assert kept == {"trial": {"a": 1, "c": 3}}
    assert capsys.readouterr().out == "only NEW  b: [2]\n"


def test_the_layout_fits_this_checkout(layout: ModuleType, tmp_path: Path) -> None:
    """After a move, `sameness_layout.py` names the new places and keys."""
    module, _, name = layout.places(ROOT)["load"].partition(":")
    load = getattr(importlib.import_module(module), name)
    from arcticseg import config

    empty = tmp_path / "empty.yaml"
    empty.write_text("{}")
    new_keys = layout.has_new_keys(config.to_dict(load(empty, ["steps=1"])))
    for training in (*layout.TRAININGS, layout.MOVED):
        overrides = layout.overrides(layout.settings_of(training, 2, "runs/x"), new_keys)
        resolved = layout.canonical(config.to_dict(load(empty, overrides)))
        assert resolved["model.encoder.name"] == training.settings["model.encoder"]


def test_a_step_that_fails_is_a_difference_and_stops_what_needs_it(
    modules: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    sameness, steps = modules[""], modules["_steps"]

    def make(side: Any, parts: Sequence[str]) -> None:
        (side.folder / "made").write_text(side.checkout.name)

    def fail(side: Any, parts: Sequence[str]) -> None:
        if side.name == "NEW":
            raise steps.FailedError("NEW: no such command")

    def read(side: Any) -> dict[str, dict[str, Any]]:
        return {"made": {"text": (side.folder / "made").read_text()}}

    monkeypatch.setattr(steps, "STEPS", {"a": ((), make), "b": ((), fail), "c": (("b",), make)})
    monkeypatch.setattr(steps, "PARTS", {"a": ("a", read), "b": ("b", read), "c": ("c", read)})
    for name in ("STEPS", "PARTS"):
        monkeypatch.setattr(sameness, name, getattr(steps, name))
    for new, expected in (("y", ["a: made: text: 1 -> 1 characters", "b: NEW: no such", "c: is not made"]), ("x", [])):
        sides = []
        for name, checkout in (("OLD", "x"), ("NEW", new)):
            folder = tmp_path / new / name
            folder.mkdir(parents=True)
            sides.append(steps.Side(name, Path(checkout), folder))
        tally = sameness.Tally()
        sameness.compare(tuple(sides), ("a", "b", "c") if expected else ("a",), tally)
        status, printed = tally.summary(), capsys.readouterr().out.splitlines()
        assert status == bool(expected)
        assert printed[-1] == ("3 of 3 differ" if expected else "identical: 1 comparisons")
        for line, text in zip(printed, expected, strict=False):
            assert line.startswith(f"DIFFERENT {text}")
