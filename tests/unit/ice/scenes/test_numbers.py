from typing import Any

import netCDF4
import numpy as np
import pytest
import xarray as xr

from arcticseg.errors import SceneError
from arcticseg.ice.scenes.numbers import STORAGE, descriptive, meaning

I2, F4, U1 = np.dtype("i2"), np.dtype("f4"), np.dtype("u1")
nan = np.nan


def decode(stored: list[float], dtype: str, unit: str = "K", **attributes: Any) -> list[float]:
    """Values of stored numbers, as a list with None for no data."""
    numbers = np.array(stored, dtype)
    values = meaning("x", attributes, numbers.dtype, unit).decode(numbers, np.float64)
    return [None if np.isnan(value) else round(float(value), 6) for value in values]  # type: ignore[misc]


def test_fill_counts_in_stored_numbers_and_scale_comes_after() -> None:
    attributes = {"scale_factor": 0.5, "add_offset": 10.0, "_FillValue": np.int16(0), "missing_value": np.int16(8)}
    # 0 and 8 as values (stored -20 and -4) are data.
    assert decode([0, 8, -20, -4, 2], "i2", **attributes) == [None, None, 0, 8, 11]


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        # The type of the stored numbers: stored numbers.
        ({"valid_range": np.array([0, 100], "i2")}, [None, 0, 50, None]),
        ({"valid_min": np.int16(0)}, [None, 0, 50, 100]),
        ({"valid_max": np.int16(100)}, [-50, 0, 50, None]),
        # A wider integer without a scale of that type: stored numbers.
        ({"valid_range": np.array([0, 100], "i8")}, [None, 0, 50, None]),
        # The type of the scale: values.
        ({"valid_range": np.array([0.0, 50.0], "f8")}, [None, 0, 50, None]),
        ({"valid_min": 0.0, "valid_max": 99.9}, [None, 0, 50, None]),
    ],
)
def test_the_type_of_a_valid_range_says_what_it_counts(attributes: dict[str, Any], expected: list[float]) -> None:
    assert decode([-100, 0, 100, 200], "i2", scale_factor=0.5, **attributes) == expected


def test_a_negative_scale_turns_a_range_of_values_around() -> None:
    assert decode([-10, 0, 10], "i2", scale_factor=-1.0, valid_min=0.0) == [10, 0, None]


def test_the_ends_of_a_range_are_valid_whatever_the_rounding_of_the_scale() -> None:
    attributes = {"scale_factor": np.float32(0.1), "add_offset": np.float32(-20)}
    assert -100 * float(attributes["scale_factor"]) < -30 + 20
    ends = np.array([-30, 10], "f4")
    values = decode([-101, -100, 300, 301], "i2", "dB", valid_range=ends, **attributes)
    assert [value is None for value in values] == [True, False, False, True]


def test_floats_are_compared_as_they_are_stored() -> None:
    assert decode([0.1, 0.2, -999.9], "f4", missing_value=-999.9, valid_min=0.1)[2] is None
    assert decode([0.1, 0.2], "f4", valid_min=0.1)[0] is not None


def test_a_missing_value_may_be_a_value() -> None:
    scale = {"scale_factor": np.float32(0.5), "add_offset": np.float32(100)}
    # As stored number 20,000 would fit, too; as value it does not: (20,000 - 100) / 0.5 is 39,800.
    assert decode([20_000, 0], "i2", missing_value=np.float32(20_000), **scale) == [None, 100]
    with pytest.raises(SceneError, match=r"x has missing_value 90.0, which may be .*type of the numbers, int16;"):
        decode([0], "i2", missing_value=np.float32(90), **scale)


def test_unsigned_bytes_have_unsigned_attributes() -> None:
    assert decode([-1, -2, 5], "i1", _Unsigned="true", _FillValue=np.int8(-1), scale_factor=2.0) == [None, 508, 10]
    assert decode([255, 1], "u1", _Unsigned="false", valid_min=np.int8(-5)) == [-1, 1]
    assert decode([-2, 5], "i1", _Unsigned="True", valid_max=np.int16(253)) == [None, 5]


def test_what_nobody_wrote_is_no_data_except_in_bytes() -> None:
    for dtype in ("i2", "u2", "i4", "u4", "i8", "u8"):
        fill = netCDF4.default_fillvals[dtype]
        assert decode([fill, 1], dtype) == [None, 1]
        # A variable with a fill value of its own has no other.
        assert decode([fill, 1], dtype, _FillValue=np.array(1, dtype))[0] is not None
    assert decode([-127, 1], "i1") == [-127, 1]
    assert decode([9.96921e36, np.inf, -np.inf, 3], "f8")[:2] == [None, None]
    assert decode([9.96921e36, 3e9], "f8", scale_factor=1e-9) == [None, 3]


def test_zero_is_zero_after_scale_and_offset() -> None:
    scale, offset = np.float32(0.01), np.float32(-20)
    assert float(scale) * 2000 + float(offset) != 0
    how = meaning("x", {"scale_factor": scale, "add_offset": offset}, I2, "dB")
    values = how.decode(np.array([2000, 2001], "i2"), np.float64)
    assert values[0] == 0
    assert values[1] == pytest.approx(0.01, abs=1e-5)


def test_the_number_next_to_zero_is_zero_among_z_scores() -> None:
    attributes = {"scale_factor": 0.001, "add_offset": 0.1234567}
    stored = np.array([-125, -124, -123, -122], "i2")
    np.testing.assert_array_equal(meaning("x", attributes, I2, "K", True).decode(stored) == 0, [0, 0, 1, 0])
    assert (meaning("x", attributes, I2, "K").decode(stored) != 0).all()


def test_plain_numbers_are_not_copied() -> None:
    stored = np.array([1.0, nan, -np.inf], np.float32)
    how = meaning("x", {"_FillValue": np.float32(nan), "description": "Sigma0 in dB", "min": "-3"}, F4, "dB")
    assert how.plain
    assert how.decode(stored) is stored


def test_decoding_agrees_with_xarray() -> None:
    random = np.random.default_rng(7)
    for dtype in ("i1", "i2", "i4", "u1", "u2", "f4", "f8"):
        stored = random.integers(0, 100, (40, 50)).astype(dtype)
        attributes: dict[str, Any] = {"scale_factor": 0.1, "add_offset": -3.0}
        attributes |= {"_FillValue": np.array(7, dtype)[()], "missing_value": np.array(7, dtype)[()]}
        if dtype in ("i1", "i2"):
            attributes["_Unsigned"] = "true"
            stored.flat[::3] = -stored.flat[::3]
        theirs = xr.decode_cf(xr.Dataset({"x": (("a", "b"), stored, attributes)}))["x"].values
        ours = meaning("x", attributes, stored.dtype, "K").decode(stored, np.float64)
        assert np.isnan(theirs).any()
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("dtype", "attributes"),
    [
        (I2, {"scale_factor": "0.01"}),
        (I2, {"scale_factor": 0.0}),
        (I2, {"scale_factor": nan}),
        (I2, {"scale_factor": np.array([1.0, 2.0])}),
        (I2, {"add_offset": np.inf}),
        (I2, {"add_offset": "minus twenty"}),
        (I2, {"_FillValue": 70_000}),
        (I2, {"_FillValue": 0.5}),
        (I2, {"_FillValue": "none"}),
        (F4, {"_FillValue": 1e300}),
        (I2, {"missing_value": nan}),
        (I2, {"missing_value": np.array([], "i2")}),
        (I2, {"valid_range": np.array([1, 2, 3], "i2")}),
        (I2, {"valid_range": np.array([3, 1], "i2")}),
        (I2, {"valid_range": "0 to 5"}),
        (I2, {"valid_min": np.array([nan], "f4"), "scale_factor": np.float32(1)}),
        (I2, {"valid_range": np.array([0, 5], "i2"), "valid_max": np.int16(4)}),
        (I2, {"valid_range": np.array([0.0, 5.0]), "scale_factor": np.float32(0.5)}),
        (I2, {"_Unsigned": "maybe"}),
        (F4, {"_Unsigned": "true"}),
    ],
)
def test_attributes_that_cannot_be_applied_are_refused(dtype: np.dtype[Any], attributes: dict[str, Any]) -> None:
    with pytest.raises(SceneError, match=rf"^x has {next(iter(attributes))} .*, which .*; ") as caught:
        meaning("x", attributes, dtype, "K")
    assert "\n" not in str(caught.value)


def test_a_copy_keeps_what_describes_values_only() -> None:
    attributes = dict.fromkeys(STORAGE, 1) | {"long_name": "air", "units": "degC", "min": "-3"}
    assert descriptive(attributes, "K") == {"long_name": "air", "units": "K", "min": "-3"}
    assert descriptive({"long_name": "air"}, "K") == {"long_name": "air"}
