from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import Tensor, nn

from arcticseg.data.transforms import Assemble
from arcticseg.errors import SceneError
from arcticseg.evaluate import count, evaluate
from arcticseg.ice.land import distance_zones
from arcticseg.ice.layers import LayerConfig, Layers, official_labels
from arcticseg.ice.scenes.open import open_scene
from arcticseg.ice.sigrid import CHARTS
from arcticseg.models.heads import Classification
from arcticseg.models.segmenter import Segmenter
from arcticseg.products.map import Map
from arcticseg.products.outcome import Failure
from arcticseg.products.predictor import Predictor
from arcticseg.products.product import Drawn, Network, Product
from arcticseg.products.table import PRODUCTS
from arcticseg.products.write import Options
from shards.rtt import write_ready
from tests import scenes


class ByBackscatter(Segmenter):
    """Classes that follow from HH alone."""

    def __init__(self) -> None:
        encoder = nn.Identity()
        encoder.stride = 1  # type: ignore[assignment]
        super().__init__(encoder, nn.Identity(), {chart: Classification(1, chart) for chart in CHARTS})

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        hh = x[:, :1]
        logits = {name: [hh * k - 0.3 * k * k for k in range(n)] for name, n in (("SIC", 11), ("SOD", 6), ("FLOE", 7))}
        return {name: torch.cat(planes, dim=1) for name, planes in logits.items()}


PREDICTOR = Predictor(
    Network("test", 2, simulated=False, charts=CHARTS),
    ByBackscatter(),
    Assemble(["nersc_sar_primary"]),
    64,
    torch.device("cpu"),
)
SHAPE = {"lines": 200, "samples": 220, "seed": 1}


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """A scene with its chart, the same without, and a folder with the chart as a reference."""
    folder = tmp_path_factory.mktemp("archive")
    charted = scenes.write_raw(folder / "charted" / f"{scenes.RAW_NAME}.nc", **SHAPE)
    bare = scenes.write_raw(folder / "bare" / charted.name, **SHAPE, chart=False)
    (folder / "references").mkdir()
    ready, _ = write_ready(charted, folder / "references")
    ready.rename(ready.with_name(f"{ready.stem}_reference.nc"))
    return charted, bare, folder / "references"


def run(path: Path, out: Path, reference: Path | None = None) -> dict[str, Any]:
    """Scores of a scene, without products."""
    return dict(json.loads(evaluate(PREDICTOR, [path], out, products={}, reference=reference).read_text()))


def test_an_unanswered_labelled_pixel_counts_as_class_0() -> None:
    labels = np.full((3, 1, 3), 2, np.uint8)
    labels[:, 0, 2] = 255
    prediction = np.full((3, 1, 3), 2, np.uint8)
    prediction[:, 0, 0] = 255
    counts = count(labels, prediction)
    assert counts["SOD"].sum() == 2
    assert counts["SOD"][2, 0] == 1
    assert counts["SOD"][2, 2] == 1


def test_reference_charts_give_the_scores_of_the_scenes_own(archive: tuple[Path, Path, Path], tmp_path: Path) -> None:
    charted, bare, references = archive
    own = run(charted, tmp_path / "own")
    referred = run(bare, tmp_path / "referred", references)
    assert referred["confusion"] == own["confusion"]
    assert referred["pooled"] == own["pooled"]
    assert np.sum(own["confusion"]["SIC"]) > 1000
    assert own["scenes"][0]["reference"] is None
    assert referred["scenes"][0]["reference"].endswith("20180721T120156_cis_prep_reference.nc")


def test_land_of_a_coastline_does_not_count(tmp_path: Path) -> None:
    variables = scenes.raw(**SHAPE)
    # To the west coast of Greenland.
    dims, degrees = variables["sar_grid_longitude"]
    variables["sar_grid_longitude"] = (dims, degrees + 2.4)
    zones = variables.pop("distance_map")
    path = scenes.write(tmp_path / "a.nc", variables)
    with open_scene(path) as scene:
        labels = official_labels(scene)
        is_land = distance_zones(scene.geo, scene.shape, 40.0, [2])[2] == 0
    assert labels is not None
    assert 0.05 < is_land.mean() < 0.95
    scored = np.sum(run(path, tmp_path / "coastline")["confusion"]["SIC"])
    assert scored == np.count_nonzero((labels[0] != 255) & ~is_land)
    # With a map of its own, which says that land is elsewhere, all labels count.
    path = scenes.write(tmp_path / "b.nc", variables | {"distance_map": zones})
    assert np.sum(run(path, tmp_path / "map")["confusion"]["SIC"]) == np.count_nonzero(labels[0] != 255)


def test_scenes_are_pooled_and_their_files_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[str] = []
    monkeypatch.setattr(Map, "write", lambda self, path, scene: drawn.append(path.relative_to(tmp_path).as_posix()))
    paths = [scenes.write_raw(tmp_path / f"{name}.nc", **SHAPE) for name in "ab"]
    lines: list[str] = []
    evaluation = evaluate(
        PREDICTOR, paths, tmp_path / "out", products=PRODUCTS, name="net", run=tmp_path, report=lines.append
    )
    record = json.loads(evaluation.read_text())
    assert sorted(path.name for path in (tmp_path / "out" / "products").iterdir()) == ["a.nc", "a.tif", "b.nc", "b.tif"]
    assert drawn == ["out/maps/a.png", "out/maps/b.png"]
    assert [(scene["map"], scene["product"]) for scene in record["scenes"]] == [
        ("maps/a.png", "products/a.nc"),
        ("maps/b.png", "products/b.nc"),
    ]
    assert (record["name"], record["run"], record["factor"], record["pixel_spacing"]) == ("net", str(tmp_path), 2, 80)
    # The two scenes are equal.
    assert record["n_scenes"] == 2
    assert record["pooled"] == record["scenes"][0]["pooled"] == record["scenes"][1]["pooled"]
    assert np.sum(record["confusion"]["SIC"]) % 2 == 0
    assert [baseline["name"] for baseline in record["baselines"]] == ["majority class"]
    assert len(lines) == 2
    assert f"SIC {record['pooled']['SIC']:.2f}" in lines[0]


def test_a_chart_that_the_network_does_not_draw_has_no_score(archive: tuple[Path, Path, Path], tmp_path: Path) -> None:
    network = replace(PREDICTOR.network, charts=("SOD",))
    evaluation = evaluate(replace(PREDICTOR, network=network), [archive[0]], tmp_path, products={})
    pooled = json.loads(evaluation.read_text())["pooled"]
    assert pooled["SOD"] is not None
    assert (pooled["SIC"], pooled["FLOE"], pooled["combined"]) == (None, None, None)


def test_a_scene_with_neither_is_reported_before_any_work(archive: tuple[Path, Path, Path], tmp_path: Path) -> None:
    charted, bare, references = archive
    other = Path(shutil.copy(bare, tmp_path / "20190101T000000_dmi.nc"))
    for reference, named in ((None, "--reference"), (references, f"{references}.*--reference")):
        with pytest.raises(SceneError, match=f"20190101T000000_dmi.nc: .*{named}"):
            evaluate(PREDICTOR, [other], tmp_path / "out", products={}, reference=reference)
        assert not (tmp_path / "out").exists()
    told: list[object] = []
    evaluate(PREDICTOR, [charted, other], tmp_path / "out", products={}, failed=told.append, report=told.append)
    assert len(told) == 2
    assert isinstance(told[0], Failure)
    assert told[0].path == other


def test_a_damaged_reference_fails_its_own_scene_alone(archive: tuple[Path, Path, Path], tmp_path: Path) -> None:
    charted, bare, references = archive
    folder = Path(shutil.copytree(references, tmp_path / "references"))
    good = next(folder.iterdir())
    damaged = folder / "20190101T000000_dmi_reference.nc"
    damaged.write_bytes(good.read_bytes()[:1000])
    other = Path(shutil.copy(bare, tmp_path / "20190101T000000_dmi.nc"))
    with pytest.warns(UserWarning, match=str(damaged)):
        path = evaluate(PREDICTOR, [other, bare], tmp_path / "out", products={}, reference=folder)
    record = json.loads(path.read_text())
    assert [failure["scene"] for failure in record["failed"]] == [other.stem]
    assert str(damaged) in record["failed"][0]["error"]
    assert record["confusion"] == run(charted, tmp_path / "own")["confusion"]


class Broken(Product):
    """Cannot be written for a scene `a`."""

    extension = ".txt"

    def write(self, path: Path, drawn: Drawn) -> None:
        if drawn.scene.name == "a":
            raise ValueError("no text")
        path.write_text("text")


def test_scenes_that_fail_are_left_out_and_named(tmp_path: Path) -> None:
    paths = [scenes.write_raw(tmp_path / f"{name}.nc", **SHAPE | {"seed": ord(name)}) for name in "abc"]
    paths[1].write_bytes(paths[1].read_bytes()[:2000])
    told: list[Failure] = []
    path = evaluate(PREDICTOR, paths, tmp_path / "out", products={"broken": Broken()}, failed=told.append)
    record, only = json.loads(path.read_text()), run(paths[2], tmp_path / "only")
    assert [failure["scene"] for failure in record["failed"]] == ["b", "a"]
    assert [failure["error"] for failure in record["failed"]] == [failure.reason for failure in told]
    assert str(paths[1]) in told[0].reason
    assert [scene["scene"] for scene in record["scenes"]] == ["c"]
    # The counts of a scene whose files cannot be written are not among them either.
    assert (record["confusion"], record["pooled"], record["n_scenes"]) == (only["confusion"], only["pooled"], 1)
    assert only["failed"] == []


def test_where_no_scene_can_be_scored(tmp_path: Path) -> None:
    paths = [tmp_path / "a.nc", tmp_path / "b.nc"]
    with pytest.raises(SceneError, match=rf"none of 2 scenes.*{paths[0]}"):
        evaluate(PREDICTOR, paths, tmp_path / "out", products={})
    assert not (tmp_path / "out").exists()


def test_finished_scenes_are_scored_by_their_records(
    archive: tuple[Path, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    charted, bare, references = archive
    other = scenes.write_raw(tmp_path / "other.nc", **SHAPE | {"seed": 2})
    paths, out = [charted, other], tmp_path / "out"
    products = {"netcdf": PRODUCTS["netcdf"]}
    drawn: list[str] = []
    fields = Predictor.fields

    def counted(self: Predictor, layers: Layers, *rest: Any) -> Any:
        drawn.append(layers.scene)
        return fields(self, layers, *rest)

    monkeypatch.setattr(Predictor, "fields", counted)

    def scored(weights: str | None = "w", of: list[Path] = paths, **options: Any) -> tuple[dict[str, Any], int]:
        """The evaluation without its times, and how many scenes were drawn for it."""
        drawn.clear()
        options = {"products": products, **options}
        record = json.loads(evaluate(replace(PREDICTOR, weights=weights), of, out, **options).read_text())
        return {key: value for key, value in record.items() if key not in ("created", "seconds")}, len(drawn)

    assert scored(of=paths[:1])[1] == 1
    whole, n = scored()
    assert n == 1
    assert scored() == (whole, 0)
    assert [scene["product"] for scene in whole["scenes"]] == [f"products/{path.stem}.nc" for path in paths]
    assert scored(weights=None) == (whole, 2)
    assert scored(again=True) == (whole, 2)
    bare_record, n = scored(products={})
    assert (bare_record["pooled"], n) == (whole["pooled"], 0)
    assert bare_record["scenes"][0]["product"] is None
    assert scored(weights="others")[1] == 2
    assert scored(options=Options(rules=LayerConfig(rules="corrected")), weights="others")[1] == 2
    # Another chart to score against.
    own = {"of": [bare], "reference": references}
    assert [scored(**own)[1] for _ in range(2)] == [1, 0]
    chart = next(references.iterdir())
    with netCDF4.Dataset(chart, "a") as file:
        file["SIC"][:5] = 255
    assert [scored(**own)[1] for _ in range(2)] == [1, 0]


def test_references_that_do_not_fit(archive: tuple[Path, Path, Path], tmp_path: Path) -> None:
    _, bare, references = archive
    corrected = Options(rules=LayerConfig(rules="corrected"))
    with pytest.raises(SceneError, match=r"_prep_reference.nc: .*'autoice'.*'corrected'"):
        evaluate(PREDICTOR, [bare], tmp_path / "out", products={}, reference=references, options=corrected)
    larger = scenes.write_raw(tmp_path / bare.name, lines=202, samples=220, chart=False)
    with pytest.raises(SceneError, match=r"_prep_reference.nc: SIC.*\(100, 110\).*\(101, 110\)"):
        evaluate(PREDICTOR, [larger], tmp_path / "out", products={}, reference=references)
    assert not (tmp_path / "out").exists()
