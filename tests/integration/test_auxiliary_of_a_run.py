"""A training with auxiliary heads: its weights predict, and its encoder starts another training without them."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
from safetensors.torch import load_file

from arcticseg.ice.scenes.open import list_scenes
from tests.forked import run
from tests.training import VIT, empty_config, lines, overrides, train


def test_weights_with_auxiliary_heads_predict_and_start_another_training(
    tiny_archive: Path, tiny_shards: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    settings = VIT | {"steps": 2, "model.auxiliary.channels": 8}
    train(empty_config(tmp_path), overrides(tiny_shards, out, settings))
    assert {"loss_SOD", "loss_SOD_auxiliary", "loss_SIC_auxiliary"} <= set(lines(out, "train")[-1])
    path = out / "weights" / "last.safetensors"
    weights = load_file(path)
    assert any(name.startswith("auxiliary.heads.SOD") for name in weights)
    done = run("predict", path, list_scenes(tiny_archive)[0], "--out", tmp_path / "charts")
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "charts").glob("*.nc"))
    again = VIT | {"steps": 1, "model.init_from": path, "optim.lr": 1e-30}
    train(empty_config(tmp_path), overrides(tiny_shards, tmp_path / "again", again))
    started = load_file(tmp_path / "again" / "weights" / "last.safetensors")
    assert not any(name.startswith("auxiliary") for name in started)
    encoder = [name for name in started if name.startswith("encoder.")]
    assert encoder
    # At a rate of next to nothing the encoder is what it started from.
    assert all(torch.equal(started[name], weights[name]) for name in encoder)
