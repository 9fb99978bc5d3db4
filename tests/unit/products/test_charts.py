from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")

from drawing import layers_of, predictor
from scipy.interpolate import RegularGridInterpolator

from arcticseg.products.charts import fields_to_charts, resampled


def fields_of(shape: tuple[int, int]) -> dict[str, np.ndarray]:
    """SIC 3.2, and class 1 of the others."""
    fields = {"SIC": np.full((1, *shape), 3.2, np.float32)}
    for chart, n_classes in (("SOD", 6), ("FLOE", 7)):
        fields[chart] = np.zeros((n_classes, *shape), np.float32)
        fields[chart][1] = 1
    return fields


@pytest.mark.parametrize("factor", [2, 3, 5, 8])
def test_fields_come_to_80_m_at_the_right_place(factor: int) -> None:
    field = np.random.default_rng(1).random((3, 12, 9)).astype(np.float32)
    shape = (12 * factor // 2, 9 * factor // 2)
    fine = np.concatenate([rows for _, rows in resampled(field, factor, shape, band=5)], axis=1)
    # Positions in 40 m pixels: the centre of pixel i at factor k lies at k i + (k - 1) / 2.
    axes = [factor * np.arange(n) + (factor - 1) / 2 for n in field.shape[1:]]
    centres = [np.clip(2 * np.arange(n) + 0.5, axis[0], axis[-1]) for n, axis in zip(shape, axes, strict=True)]
    crossings = np.stack(np.meshgrid(*centres, indexing="ij"), axis=-1)
    for plane, values in zip(field, fine, strict=True):
        np.testing.assert_allclose(values, RegularGridInterpolator(axes, plane)(crossings), atol=1e-5)


def test_land_is_masked_in_a_chart() -> None:
    layers = layers_of(np.full((6, 6), -10.0), 2)
    layers.distance[:2] = 0
    charts = fields_to_charts(fields_of((6, 6)), predictor(16, 2).classes, 2, layers)
    assert (charts[:, :2] == 255).all()
    assert (charts[0, 2:] == 3).all()
    assert (charts[1:, 2:] == 1).all()


def test_a_chart_that_the_network_does_not_draw_is_masked() -> None:
    fields = fields_of((6, 6))
    del fields["SOD"]
    charts = fields_to_charts(fields, predictor(16, 2).classes, 2, layers_of(np.full((6, 6), -10.0), 2))
    assert [set(plane.ravel()) for plane in charts] == [{3}, {255}, {1}]
