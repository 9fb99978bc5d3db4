import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from arcticseg.ice import geo
from arcticseg.ice.channels import COARSE
from arcticseg.ice.scenes.open import open_scene
from tests import scenes

joblib = pytest.importorskip("joblib")
pytest.importorskip("torch")


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks" / "build.py"
    spec = importlib.util.spec_from_file_location("benchmark_build", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["benchmark_build"] = module
    spec.loader.exec_module(module)
    return module


def test_the_common_way_is_what_it_says(benchmark: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "FACTORS", (2,))
    monkeypatch.setattr(benchmark, "TILE", 64)
    path = scenes.write_raw(tmp_path / f"{scenes.RAW_NAME}.nc")
    out = tmp_path / "out"
    out.mkdir()
    # 300 x 325 pixels; the tiles of the first column hold the swath's edge.
    assert benchmark.common_way(path, out) == 4 * 4
    images = {"hh", "hv", "distance_map", *COARSE}
    places, labels = {"latitude", "longitude", "incidence"}, {"SIC", "SOD", "FLOE"}
    with open_scene(path) as scene:
        for file in out.iterdir():
            tile = joblib.load(file)
            assert set(tile) == images | places | labels | {"month", "day"}
            assert all(values.shape == (64, 64) for values in tile.values())
            assert {tile[name].dtype for name in images} == {np.dtype(np.float32)}
            assert not any(np.isnan(values).any() for values in tile.values())
            row, column = (int(number) for number in file.stem.split("_")[-2:])
            lines, samples = (2 * (first + np.arange(64)) + 0.5 for first in (row, column))
            latitude, longitude, incidence = geo.interpolate(scene.geo, lines, samples)
            for name, expected in (("latitude", latitude), ("longitude", longitude), ("incidence", incidence)):
                np.testing.assert_allclose(tile[name], expected, atol=1e-3)


def test_the_scene_has_no_empty_edges(benchmark: ModuleType, tmp_path: Path) -> None:
    path = scenes.write_raw(tmp_path / f"{scenes.RAW_NAME}.nc")
    with open_scene(path) as scene:
        before = scene.sar("hv")
    benchmark.fill_edges(path)
    with open_scene(path) as scene:
        after = scene.sar("hv")
    valid = np.isfinite(before)
    first = before.shape[1] // 20
    assert not valid.all()
    np.testing.assert_array_equal(after[valid], before[valid])
    np.testing.assert_array_equal(after[:, :first], before[:, 2 * first : first : -1])


@pytest.mark.parametrize(
    ("build", "status", "said"),
    [
        ({}, 0, "PASS: 9.0 times as fast (median of 3; at least 8), output 50.0 times smaller"),
        ({"seconds": 2.0}, 1, "FAIL: 4.5 times as fast"),
        ({"bytes": 1.5e6}, 1, "FAIL: 9.0 times as fast (median of 3; at least 8), output 33.3 times smaller"),
        ({"memory": 3.1e9}, 1, "3.10 GB a worker (at most 3)"),
    ],
)
def test_the_last_line_is_the_summary(
    benchmark: ModuleType, capsys: pytest.CaptureFixture[str], build: dict[str, Any], status: int, said: str
) -> None:
    measured = {"seconds": 1.0, "bytes": 1e6, "memory": 1e9, "result": 10} | build
    pairs = [(measured, {"seconds": s, "bytes": 50e6, "memory": 9e9, "result": 5}) for s in (7.0, 9.0, 20.0)]
    assert benchmark.summary(pairs) == status
    assert said in capsys.readouterr().out.splitlines()[-1]
