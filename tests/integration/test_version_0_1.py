"""A run folder and weights that version 0.1 wrote are read; made by it, committed under tests/fixtures."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from arcticseg.products.predictor import load_predictor
from tests.training import lines, train

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


def test_a_run_goes_on_from_its_checkpoint_and_its_own_config(tmp_path: Path) -> None:
    run = tmp_path / "vit"
    shutil.copytree(FIXTURE / "vit", run)
    train(str(run / "config.yaml"), [f"data.shards={FIXTURE / 'shards'}", f"out={run}"], resume=True)
    steps = {line["step"]: line["loss"] for line in lines(run, "train")}
    shutil.copy(FIXTURE / "vit_metrics.jsonl", tmp_path / "metrics.jsonl")
    expected = {line["step"]: line["loss"] for line in lines(tmp_path, "train")}
    assert list(steps) == [1, 2, 3, 4]
    assert steps == pytest.approx(expected, rel=1e-4)
    weights, before = load_file(run / "weights" / "last.safetensors"), load_file(FIXTURE / "vit_last.safetensors")
    assert weights.keys() == before.keys()
    for name, value in weights.items():
        torch.testing.assert_close(value, before[name], rtol=1e-4, atol=1e-6)
    assert "name: vit_tiny_patch16_224" in (run / "config.yaml").read_text()
