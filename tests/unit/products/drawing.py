"""Networks of a few lines, and a scene that they draw."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn

from arcticseg import config
from arcticseg.data.transforms import Assemble
from arcticseg.ice.geo import GeoGrid
from arcticseg.ice.layers import Layers
from arcticseg.ice.scenes.scene import Scene
from arcticseg.ice.sigrid import CHARTS
from arcticseg.models.build import build_segmenter
from arcticseg.models.config import ModelConfig
from arcticseg.models.heads import Classification, Regression
from arcticseg.models.segmenter import Segmenter
from arcticseg.products.ensemble import ensemble
from arcticseg.products.predictor import Predictor
from arcticseg.products.product import Drawn, Network


class Bare(nn.Identity):
    """An encoder that changes nothing."""

    stride = 1


class Pointwise(Segmenter):
    """SIC = 5 + x; the other charts split at x = 0."""

    def __init__(self) -> None:
        heads = {"SIC": Regression(1, "SIC"), "SOD": Classification(1, "SOD"), "FLOE": Classification(1, "FLOE")}
        super().__init__(Bare(), nn.Identity(), heads)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        hh = x[:, :1]
        return {
            "SIC": 5 + hh,
            "SOD": torch.cat([hh, -hh, *[torch.full_like(hh, -9)] * 4], dim=1),
            "FLOE": torch.cat([hh, -hh, *[torch.full_like(hh, -9)] * 5], dim=1),
        }


def predictor(tile: int, factor: int, channels: Sequence[str] = ("nersc_sar_primary",)) -> Predictor:
    """A predictor by HH, which is the first channel."""
    network = Network("test", factor, simulated=False, charts=CHARTS)
    return Predictor(network, Pointwise(), Assemble(channels), tile, torch.device("cpu"))


def layers_of(hh: NDArray[np.floating], factor: int) -> Layers:
    """Layers with HH alone, no land and no coarse channels."""
    rows, columns = hh.shape
    ends = np.array([0.0, factor * max(rows, columns) + 1.0])
    return Layers(
        scene="scene",
        factor=factor,
        step=factor,
        pixel_spacing=40.0 * factor,
        time=None,
        ice_service=None,
        simulated=False,
        sar={"hh": hh.astype(np.float32), "hv": np.full(hh.shape, np.nan, np.float32)},
        distance=np.full(hh.shape, 255, np.uint8),
        chart=None,
        coarse=np.zeros((20, 0, 0), np.float32),
        geo=GeoGrid(
            ends, ends, np.array([[0.0, 0.0], [1.0, 1.0]]), np.array([[0.0, 1.0], [0.0, 1.0]]), np.full((2, 2), 30.0)
        ),
    )


def random_charts(shape: tuple[int, int]) -> NDArray[np.uint8]:
    """SIC, SOD and FLOE in classes drawn at random, a corner masked."""
    charts = np.random.default_rng(0).integers(0, [[[11]], [[6]], [[7]]], (3, *shape), dtype=np.uint8)
    charts[:, :5, :5] = 255
    return charts


def drawn(scene: Scene, charts: NDArray[np.uint8]) -> Drawn:
    """An open scene with charts that no network drew."""
    by_factor = ensemble(predictor(16, 4)).read(scene)
    return Drawn(
        scene, by_factor[4], by_factor[2], {}, charts, None, None, Network("test", 4, simulated=True, charts=CHARTS)
    )


def write_weights(path: Path, seed: int = 0) -> None:
    """Weights of a small UNet of HH and HV, with what a run writes beside them."""
    keys = {"encoder": {"name": "unet", "filters": [4, 8]}}
    torch.manual_seed(seed)
    model = build_segmenter(config.build(ModelConfig, keys), in_chans=2, tile=32)
    metadata = {
        "config": {"task": "segment", "model": keys, "data": {"channels": ["hh", "hv"], "valid_plane": False}},
        "tile": 32,
        "factors": [4, 8],
        "simulated": True,
        "statistics": {"nersc_sar_primary": [-14.0, 4.0]},
    }
    save_file(model.state_dict(), path, {key: json.dumps(value) for key, value in metadata.items()})
