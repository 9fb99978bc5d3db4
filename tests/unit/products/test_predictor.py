from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from scipy.interpolate import RegularGridInterpolator
from torch import Tensor, nn

from arcticseg.data.transforms import Assemble
from arcticseg.evaluate import count
from arcticseg.ice.geo import GeoGrid
from arcticseg.ice.layers import Layers
from arcticseg.products.charts import _resampled, fields_to_charts
from arcticseg.products.predictor import Predictor
from arcticseg.run.config import RunConfig


def layers_of(hh: np.ndarray, factor: int) -> Layers:
    """Layers with one polarisation, no land and no coarse channels."""
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
        labels=None,
        coarse=np.zeros((20, 0, 0), np.float32),
        geo=GeoGrid(
            ends, ends, np.array([[0.0, 0.0], [1.0, 1.0]]), np.array([[0.0, 1.0], [0.0, 1.0]]), np.full((2, 2), 30.0)
        ),
    )


class Pointwise(nn.Module):
    """SIC = 5 + x; the other charts split at x = 0."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        hh = x[:, :1]
        return {
            "SIC": 5 + hh,
            "SOD": torch.cat([hh, -hh, *[torch.full_like(hh, -9)] * 4], dim=1),
            "FLOE": torch.cat([hh, -hh, *[torch.full_like(hh, -9)] * 5], dim=1),
        }


def predictor(tile: int, factor: int) -> Predictor:
    """A predictor of HH alone."""
    cfg = RunConfig(steps=1)
    return Predictor(
        "test", cfg, Pointwise(), Assemble(["nersc_sar_primary"]), tile, factor, False, torch.device("cpu")
    )


@pytest.mark.parametrize("overlap", [0, 4])
def test_overlapping_windows_of_a_pointwise_network_give_the_field_itself(overlap: int) -> None:
    hh = np.random.default_rng(0).normal(-14.5, 5.6, (41, 37))
    fields = predictor(16, 4).fields(layers_of(hh, 4), overlap, batch_size=3)
    assemble = Assemble(["nersc_sar_primary"])
    mean, std = assemble.statistics["nersc_sar_primary"]
    # Backscatter is stored in steps of 0.05 dB.
    np.testing.assert_allclose(fields["SIC"][0], 5 + (hh - mean) / std, atol=0.026 / std + 1e-5)
    np.testing.assert_allclose(fields["SOD"].sum(0), 1, atol=1e-5)


def test_windows_without_data_are_left_out_and_stay_masked() -> None:
    hh = np.full((40, 40), -10.0)
    hh[:, 20:] = np.nan
    found = predictor(16, 2)
    layers = layers_of(hh, 2)
    charts = found.charts(layers, layers)
    assert (charts[:, :, 20:] == 255).all()
    assert (charts[:, :, :20] != 255).all()


@pytest.mark.parametrize("factor", [2, 3, 5, 8])
def test_fields_come_to_80_m_at_the_right_place(factor: int) -> None:
    field = np.random.default_rng(1).random((3, 12, 9)).astype(np.float32)
    shape = (12 * factor // 2, 9 * factor // 2)
    got = np.concatenate([rows for _, rows in _resampled(field, factor, shape, band=5)], axis=1)
    # Positions in 40 m pixels: the centre of pixel i at factor k lies at k i + (k - 1) / 2.
    axes = [factor * np.arange(n) + (factor - 1) / 2 for n in field.shape[1:]]
    at = [np.clip(2 * np.arange(n) + 0.5, axis[0], axis[-1]) for n, axis in zip(shape, axes, strict=True)]
    for plane, found in zip(field, got, strict=True):
        wanted = RegularGridInterpolator(axes, plane)(np.stack(np.meshgrid(*at, indexing="ij"), axis=-1))
        np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_land_is_masked_in_a_chart() -> None:
    layers = layers_of(np.full((6, 6), -10.0), 2)
    layers.distance[:2] = 0
    fields = {"SIC": np.full((1, 6, 6), 3.2, np.float32)}
    fields |= {
        name: np.eye(n, dtype=np.float32)[1][:, None, None].repeat(6, 1).repeat(6, 2)
        for name, n in (("SOD", 6), ("FLOE", 7))
    }
    charts = fields_to_charts(fields, 2, layers)
    assert (charts[:, :2] == 255).all()
    assert (charts[0, 2:] == 3).all()
    assert (charts[1:, 2:] == 1).all()


def test_an_unanswered_labelled_pixel_counts_as_class_0() -> None:
    labels = np.full((3, 1, 3), 2, np.uint8)
    labels[:, 0, 2] = 255
    prediction = np.full((3, 1, 3), 2, np.uint8)
    prediction[:, 0, 0] = 255
    counts = count(labels, prediction)
    assert counts["SOD"].sum() == 2
    assert counts["SOD"][2, 0] == 1
    assert counts["SOD"][2, 2] == 1
