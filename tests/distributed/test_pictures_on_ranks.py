"""Pictures while real ranks train, of a pretraining and of a segmentation."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")

from tests.training import NETWORKS, empty_config, lines, overrides, train


@pytest.mark.parametrize("network", ["mae", "vit"])
def test_one_picture_a_validation_and_the_same_on_any_number_of_ranks(
    network: str, tiny_shards: Path, tmp_path: Path
) -> None:
    pictures, losses = {}, {}
    for ranks in (1, 2):
        out = tmp_path / str(ranks) / "run"
        keys = {"steps": 2, "validate_every": 1, "hooks": "[{name: pictures, samples: 3}]", "optim.lr": 1e-9}
        train(empty_config(tmp_path), overrides(tiny_shards, out, NETWORKS[network], keys), ranks)
        assert [line["file"] for line in lines(out, "picture")] == ["step-00000001.png", "step-00000002.png"]
        pictures[ranks] = (out / "pictures" / "step-00000001.png").read_bytes()
        losses[ranks] = [line["loss"] for line in lines(out, "train")]
    assert pictures[1][:4] == b"\x89PNG"
    assert losses[1] == pytest.approx(losses[2], rel=1e-4)
    assert len(pictures[1]) == pytest.approx(len(pictures[2]), rel=0.01)
