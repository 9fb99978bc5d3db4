"""A training whose classes weigh: which weights it uses, says and keeps."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from safetensors import safe_open
from sklearn.utils.class_weight import compute_class_weight

from arcticseg.data.manifest import read_manifest
from arcticseg.data.reader import SampleReader
from arcticseg.data.select import select
from tests.training import UNET, empty_config, overrides, train


def test_weights_are_those_of_the_selected_labels(tiny_shards: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    settings = UNET | {
        "steps": 1,
        "data.label_fraction": 0.6,
        "segment.class_weights.SOD": "{name: inverse, cap: 1000}",
        "segment.class_weights.FLOE": "none",
    }
    printed = train(empty_config(tmp_path), overrides(tiny_shards, out, settings))
    with safe_open(out / "weights" / "last.safetensors", "pt") as file:
        told = json.loads(file.metadata()["class_weights"])
    selection = select(tiny_shards, read_manifest(tiny_shards), "train", labelled=True, fraction=0.6)
    assert len(selection.scenes) == 2
    reader = SampleReader(selection)
    tiles = (reader.read(number) for number in range(len(selection)))
    labels = np.concatenate([tile.lab[1].ravel() for tile in tiles if tile.lab is not None])
    labels = labels[labels != 255]
    present = np.unique(labels)
    expected = np.zeros(6)
    expected[present] = compute_class_weight("balanced", classes=present, y=labels)
    assert list(told) == ["SOD"]
    assert told["SOD"] == pytest.approx(expected.tolist())
    assert f"weights of classes, SOD: open water {expected[0]:.3g}, new ice" in printed
    assert "classes, FLOE" not in printed
