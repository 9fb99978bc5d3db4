from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import Tensor, nn

from arcticseg.data.transforms import Assemble
from arcticseg.errors import SceneError
from arcticseg.evaluate import evaluate
from arcticseg.ice.layers import LayerConfig
from arcticseg.products.predictor import Predictor
from arcticseg.run.config import RunConfig
from shards.rtt import write_ready
from tests import scenes


class ByBackscatter(nn.Module):
    """Classes that follow from HH alone."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        hh = x[:, :1]
        logits = {name: [hh * k - 0.3 * k * k for k in range(n)] for name, n in (("SIC", 11), ("SOD", 6), ("FLOE", 7))}
        return {name: torch.cat(planes, dim=1) for name, planes in logits.items()}


PREDICTOR = Predictor(
    "test", RunConfig(steps=1), ByBackscatter(), Assemble(["nersc_sar_primary"]), 64, 2, False, torch.device("cpu")
)
SHAPE = {"lines": 200, "samples": 220, "seed": 1}


def archive(folder: Path) -> tuple[Path, Path, Path]:
    """A scene with its chart, the same without, and a folder with the chart as a reference."""
    charted = scenes.write_raw(folder / "charted" / f"{scenes.RAW_NAME}.nc", **SHAPE)
    variables = {name: one for name, one in scenes.raw(**SHAPE).items() if not name.startswith("polygon")}
    bare = scenes.write(folder / "bare" / charted.name, variables)
    (folder / "references").mkdir()
    ready, _ = write_ready(charted, folder / "references")
    ready.rename(ready.with_name(f"{ready.stem}_reference.nc"))
    return charted, bare, folder / "references"


def run(path: Path, out: Path, **options: object) -> dict:
    made = evaluate(PREDICTOR, [path], out, products=False, pictures=False, **options)  # type: ignore[arg-type]
    return dict(json.loads(made.read_text()))


def test_reference_charts_give_the_scores_of_the_scenes_own(tmp_path: Path) -> None:
    charted, bare, references = archive(tmp_path)
    own = run(charted, tmp_path / "own")
    found = run(bare, tmp_path / "referred", reference=references)
    assert found["confusion"] == own["confusion"]
    assert found["pooled"] == own["pooled"]
    assert np.sum(own["confusion"]["SIC"]) > 1000
    assert own["scenes"][0]["reference"] is None
    assert found["scenes"][0]["reference"].endswith("20180721T120156_cis_prep_reference.nc")


def test_a_scene_with_neither_is_said_before_any_work(tmp_path: Path) -> None:
    charted, bare, references = archive(tmp_path)
    other = bare.rename(bare.with_name("20190101T000000_dmi.nc"))
    for options, where in (
        ({}, "no ice chart to score"),
        ({"reference": references}, "no ice chart in it or in .*ref"),
    ):
        with pytest.raises(SceneError, match=f"20190101T000000_dmi.nc: has {where}"):
            evaluate(PREDICTOR, [charted, other], tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_references_that_do_not_fit(tmp_path: Path) -> None:
    _, bare, references = archive(tmp_path)
    with pytest.raises(SceneError, match="reference charts follow the rules 'autoice'; 'corrected' needs the raw one"):
        evaluate(PREDICTOR, [bare], tmp_path / "out", reference=references, rules=LayerConfig(rules="corrected"))
    variables = {k: v for k, v in scenes.raw(202, 220).items() if not k.startswith("polygon")}
    scenes.write(bare, variables)
    with pytest.raises(SceneError, match=r"SIC has shape \(100, 110\), its scene at 80 m \(101, 110\)"):
        evaluate(PREDICTOR, [bare], tmp_path / "out", reference=references)
    assert not (tmp_path / "out").exists()
