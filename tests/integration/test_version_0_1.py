"""A run folder and weights that version 0.1 wrote are read; made by it, committed under tests/fixtures."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from arcticseg.products.predictor import load_predictor
from launchers.status import ERROR_PREFIX, USER_ERROR
from shards.build import build
from shards.part import BuildConfig
from shards.simulate import simulate_scene
from tests.archive import quiet
from tests.training import lines, start, train

FIXTURE = Path(__file__).parents[1] / "fixtures" / "version_0_1"


@pytest.mark.parametrize("network", ["vit", "unet"])
def test_weights_give_the_outputs_that_version_0_1_gave(network: str) -> None:
    predictor = load_predictor(FIXTURE / f"{network}_last.safetensors", device="cpu")
    expected = np.load(FIXTURE / "outputs.npz")
    with torch.inference_mode():
        outputs = predictor.model(torch.from_numpy(expected[f"{network}_x"]))
    assert list(outputs) == ["SIC", "SOD", "FLOE"]
    for chart, output in outputs.items():
        np.testing.assert_allclose(output.numpy(), expected[f"{network}_{chart}"], rtol=1e-5, atol=1e-6)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of today with the tiles of those that version 0.1 trained on, which today's program does not read."""
    config = json.loads((FIXTURE / "shards" / "manifest.json").read_text())["builder"]["config"]
    scene = simulate_scene(tmp_path_factory.mktemp("scenes"), index=1, seed=0, size=700)
    out = tmp_path_factory.mktemp("built") / "shards"
    build({"train": [scene]}, out, BuildConfig(tile=config["tile"], factors=tuple(config["factors"])), report=quiet)
    return out


def test_shards_are_refused_in_one_line_that_says_how_to_build_them(tmp_path: Path) -> None:
    settings = [f"data.shards={FIXTURE / 'shards'}", f"out={tmp_path / 'run'}"]
    process = start(str(FIXTURE / "vit" / "config.yaml"), settings)
    printed, _ = process.communicate(timeout=120)
    assert process.returncode == USER_ERROR
    (error,) = (line for line in printed.splitlines() if line.startswith(ERROR_PREFIX))
    assert f"{FIXTURE / 'shards'}" in error
    assert "schema version 2, this program reads 3" in error
    assert "arcticseg shards build SCENES --out" in error
    assert "Traceback" not in printed


def test_a_checkpoint_is_refused_in_one_line_that_names_it(tmp_path: Path, shards: Path) -> None:
    run = tmp_path / "vit"
    shutil.copytree(FIXTURE / "vit", run)
    arguments = [f"data.shards={shards}", f"out={run}"]
    process = start(str(run / "config.yaml"), arguments, resume=True)
    printed, _ = process.communicate(timeout=120)
    assert process.returncode == USER_ERROR
    (error,) = (line for line in printed.splitlines() if line.startswith(ERROR_PREFIX))
    assert f"{run / 'checkpoints' / 'step-00000002'}: is of version 0.1" in error
    assert "model.init_from" in error
    assert "Traceback" not in printed
    # Its own config and weights are read, as the message says.
    settings = ["steps=1", "data.label_fraction=1.0", f"model.init_from={FIXTURE / 'vit_last.safetensors'}"]
    again = tmp_path / "again"
    train(str(run / "config.yaml"), [f"data.shards={shards}", f"out={again}", *settings])
    assert [line["step"] for line in lines(again, "train")] == [1]
