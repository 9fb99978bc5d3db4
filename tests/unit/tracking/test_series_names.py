"""Names of series."""

from __future__ import annotations

import pytest

from arcticseg.tracking.names import series


@pytest.mark.parametrize(
    ("kind", "name", "told"),
    [
        ("train", "loss", "train/loss"),
        ("train", "loss_SIC", "train/loss/SIC"),
        ("train", "loss_SIC_auxiliary", "train/loss/SIC_auxiliary"),
        ("train", "weight_FLOE", "train/weight/FLOE"),
        ("train", "grad_norm", "train/grad_norm"),
        ("train", "grad_norm_discriminator", "train/grad_norm/discriminator"),
        ("train", "lr/x0.1", "train/lr/x0.1"),
        ("train", "adversarial_weight", "train/adversarial_weight"),
        ("train", "samples_per_s", "speed/samples_per_s"),
        ("train", "data_wait", "speed/data_wait"),
        ("train", "speed/mfu", "speed/mfu"),
        ("train", "memory/host_gb/rank_3", "memory/host_gb/rank_3"),
        ("validation", "SOD/F1/old_ice", "validation/SOD/F1/old_ice"),
        ("validation", "ema/combined", "validation/ema/combined"),
        ("scores", "probe_SIC", "scores/probe_SIC"),
        ("event", "samples", "event/samples"),
    ],
)
def test_a_value_has_a_place_in_the_tree(kind: str, name: str, told: str) -> None:
    assert series(kind, name) == told
