"""The same losses on one rank and on two, with gloo."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.training import NETWORKS, empty_config, launch, lines, overrides, train

STEPS = 20


@pytest.mark.parametrize("zero_stage", [0, 2])
# With BatchNorm losses are those of micro batches, as the start of such a run says.
@pytest.mark.parametrize("network", [name for name in NETWORKS if name != "batch"])
def test_losses_do_not_depend_on_the_number_of_ranks(
    network: str, zero_stage: int, tiny_shards: Path, tmp_path: Path
) -> None:
    losses = {}
    for ranks in (1, 2):
        out = tmp_path / str(ranks)
        settings = NETWORKS[network] | {"steps": STEPS, "engine.zero_stage": zero_stage}
        if network != "unet":
            settings["model.encoder.drop_path"] = 0.3
        train(empty_config(tmp_path), overrides(tiny_shards, out, settings), ranks)
        logged = lines(out, "train")
        assert [line["step"] for line in logged] == list(range(1, STEPS + 1))
        losses[ranks] = np.array([line["loss"] for line in logged])
    assert np.ptp(losses[1]) > 1e-3  # it does learn, so that equality means something
    np.testing.assert_allclose(losses[2], losses[1], rtol=1e-4)


def test_accumulation_does_not_change_the_losses(tiny_shards: Path, tmp_path: Path) -> None:
    losses = {}
    for micro in (1, 4):
        out = tmp_path / str(micro)
        settings = NETWORKS["unet"] | {"steps": 6, "engine.micro_batch_size": micro}
        train(empty_config(tmp_path), overrides(tiny_shards, out, settings))
        losses[micro] = np.array([line["loss"] for line in lines(out, "train")])
    np.testing.assert_allclose(losses[1], losses[4], rtol=1e-5)


def test_zero_3_in_bf16_by_the_launcher_trains_validates_and_writes_whole_weights(
    tiny_shards: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file

    out = tmp_path / "run"
    settings = NETWORKS["vit"] | {"steps": 3, "engine.zero_stage": 3, "engine.precision": "bf16"}
    train(empty_config(tmp_path), overrides(tiny_shards, out, settings), ranks=2, starting=launch)
    assert len(lines(out, "validation")) == 1
    weights = load_file(out / "weights" / "last.safetensors")
    assert all(tensor.numel() > 0 for tensor in weights.values())
    assert weights["heads.SOD.weight"].shape[0] == 6


def test_blocks_computed_again_under_zero_3_do_not_change_the_losses(tiny_shards: Path, tmp_path: Path) -> None:
    losses = {}
    for again, zero_stage in ((False, 0), (True, 3)):
        out = tmp_path / str(zero_stage)
        settings = NETWORKS["mae"] | {"steps": 4, "engine.zero_stage": zero_stage, "model.encoder.drop_path": 0.3}
        settings["model.encoder.checkpoint_blocks"] = again
        train(empty_config(tmp_path), overrides(tiny_shards, out, settings))
        losses[zero_stage] = np.array([line["loss"] for line in lines(out, "train")])
    np.testing.assert_allclose(losses[3], losses[0], rtol=1e-5)
