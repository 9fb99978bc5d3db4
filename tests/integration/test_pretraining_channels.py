"""Masked autoencoders of any channels, and shares of patches removed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.training import MAE, empty_config, lines, overrides, train


@pytest.mark.parametrize(
    ("channels", "targets", "mask_ratio"),
    [
        ("[hh, hv, amsr2]", "[amsr2]", 0.6),
        ("[hh]", "[hh]", 0.9),
        ("[era5, distance, hv, incidence]", "[distance, hv, t2m, incidence]", 0.75),
    ],
)
def test_any_channels_are_inputs_and_targets(
    channels: str, targets: str, mask_ratio: float, tiny_shards: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file

    out = tmp_path / "run"
    keys = {"data.channels": channels, "pretrain.targets": targets, "pretrain.mask_ratio": mask_ratio}
    train(empty_config(tmp_path), overrides(tiny_shards, out, MAE, keys, {"steps": 3}))
    assert [line["step"] for line in lines(out, "train")] == [1, 2, 3]
    assert all(0 < line["loss"] < 10 for line in lines(out, "train"))
    (validation,) = lines(out, "validation")
    assert validation["reconstruction"] < 1
    expected = {"[amsr2]": 14, "[hh]": 1, "[distance, hv, t2m, incidence]": 4}[targets]
    assert load_file(out / "weights" / "last.safetensors")["decoder_pred.weight"].shape[0] == 64 * expected
