"""With every augmentation drawn: the same losses on any ranks and micro batches, and after a resumption."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from arcticseg.run.folder import finished
from tests.training import NETWORKS, empty_config, kill, lines, overrides, start, train, wait_for_step

STEPS = 8
DRAWN = {
    "data.channels": "[hh, hv, incidence, era5, season, position, spacing]",
    "data.missing_planes": True,
    "data.augment.crop": 0.7,
    "data.augment.rotate": 45,
    "data.augment.zoom_out": 1.3,
    "data.augment.speckle": 1.5,
    "data.augment.incidence_trend": 0.2,
    "data.augment.drop_groups": "{era5: 0.3}",
}


@pytest.mark.parametrize("network", ["vit", "mae"])
def test_losses_depend_on_places_alone(network: str, tiny_shards: Path, tmp_path: Path) -> None:
    config, settings = empty_config(tmp_path), NETWORKS[network] | DRAWN | {"steps": STEPS}
    # CutMix exchanges boxes within pairs, so a rank has two samples at least.
    settings |= {"data.augment.cutmix": 0.5} if network == "vit" else {}
    losses = {}
    for ranks, micro in ((1, 4), (2, 2), (1, 2)):
        out = tmp_path / f"{ranks}-{micro}"
        train(config, overrides(tiny_shards, out, settings | {"engine.micro_batch_size": micro}), ranks)
        losses[ranks, micro] = np.array([line["loss"] for line in lines(out, "train")])
    assert np.ptp(losses[1, 4]) > 1e-3
    for other in ((2, 2), (1, 2)):
        np.testing.assert_allclose(losses[other], losses[1, 4], rtol=1e-4)
    killed = tmp_path / "killed"
    settings |= {"engine.micro_batch_size": 4, "checkpoint_every": 3}
    process = start(config, overrides(tiny_shards, killed, settings))
    wait_for_step(process, killed, 5)
    kill(process)
    process.wait()
    assert not finished(killed)
    train(config, overrides(tiny_shards, killed, settings), resume=True)
    assert [line["loss"] for line in lines(killed, "train")] == losses[1, 4].tolist()
