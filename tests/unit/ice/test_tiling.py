import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arcticseg.ice.tiling import blend_weights, starts, windows


@given(st.integers(1, 3000), st.integers(1, 400), st.data())
def test_starts_cover_the_length_without_leaving_it(length: int, tile: int, data: st.DataObject) -> None:
    overlap = data.draw(st.integers(0, tile - 1))
    if tile - overlap < length / 500:
        overlap = 0
    positions = starts(length, tile, overlap)
    if length <= tile:
        assert positions == [0]
        return
    assert positions[0] == 0
    assert positions[-1] == length - tile
    steps = np.diff(positions)
    assert (steps > 0).all()
    assert (steps <= tile - overlap).all()
    # All but the last step are even.
    assert (steps[:-1] == tile - overlap).all()


def test_windows_go_row_by_row() -> None:
    assert list(windows((25, 10), 10)) == [(0, 0), (10, 0), (15, 0)]
    assert list(windows((10, 21), 10, 5)) == [(0, 0), (0, 5), (0, 10), (0, 11)]


@pytest.mark.parametrize("overlap", [-1, 10, 11])
def test_an_overlap_that_does_not_step_is_refused(overlap: int) -> None:
    with pytest.raises(ValueError, match=f"overlap .*{overlap}"):
        starts(100, 10, overlap)


def test_blend_weights_fall_to_the_edges_and_never_reach_zero() -> None:
    weights = blend_weights(8, 3)
    np.testing.assert_allclose(weights[4], [0.25, 0.5, 0.75, 1, 1, 0.75, 0.5, 0.25])
    np.testing.assert_allclose(weights, np.outer(weights[4], weights[4]))
    assert (blend_weights(8, 0) == 1).all()


def test_blending_overlapping_windows_of_equal_values_gives_that_value() -> None:
    weights = blend_weights(10, 4)
    total, summed = np.zeros((23, 31)), np.zeros((23, 31))
    for row, column in windows((23, 31), 10, 4):
        total[row : row + 10, column : column + 10] += weights
        summed[row : row + 10, column : column + 10] += 7 * weights
    np.testing.assert_allclose(summed / total, 7)
