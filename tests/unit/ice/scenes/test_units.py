import json
from pathlib import Path

import numpy as np
import pytest

from arcticseg.errors import SceneError
from arcticseg.ice.channels import CHANNELS
from arcticseg.ice.scenes.units import UNITS, conversion

# Values of a unit, and the same in the unit expected, from tables of conversion, not from the module.
KNOWN = [
    ("K", "degC", 0.0, 273.15),
    ("K", "°C", -40.0, 233.15),
    ("K", "fahrenheit", -40.0, 233.15),
    ("K", "degrees_F", 32.0, 273.15),
    ("dB", "1", 0.1, -10.0),
    ("dB", "linear", 2.0, 3.0103),
    ("m/s", "knots", 10.0, 5.14444),
    ("m/s", "km/h", 36.0, 10.0),
    ("m/s", "cm s-1", 250.0, 2.5),
    ("kg/m2", "g/m2", 500.0, 0.5),
    ("kg/m2", "cm", 2.0, 20.0),
    ("latitude", "radians", 1.5707963, 90.0),
    ("longitude", "rad", -3.1415927, -180.0),
    ("longitude", "degrees_west", 60.0, -60.0),
    ("degree", "radian", 0.5235988, 30.0),
]
SAME = [
    ("K", ("K", "kelvin", "degK", "Kelvin", " K ")),
    ("dB", ("dB", "DB", "decibel")),
    ("m/s", ("m/s", "m s-1", "m s**-1", "m.s-1", "m s^-1", "meter second-1")),
    ("kg/m2", ("kg/m2", "kg m-2", "kg m**-2", "kg/m^2", "mm")),
    ("latitude", ("degrees_north", "degree", "°")),
    ("longitude", ("degrees_east", "degrees")),
    ("zone", ("1", "zone", "", None)),
    ("pixel", ("1", "pixels")),
]


@pytest.mark.parametrize(("unit", "given", "value", "expected"), KNOWN)
def test_known_values(unit: str, given: str, value: float, expected: float) -> None:
    convert = conversion("x", given, unit)
    assert convert is not None
    assert convert(np.array([value]))[0] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(("unit", "spellings"), SAME)
def test_spellings_of_the_same_unit(unit: str, spellings: tuple[str, ...]) -> None:
    assert all(conversion("x", given, unit) is None for given in spellings)


@pytest.mark.parametrize("given", ["m K", "counts", "degrees", 3, np.array([1, 2]), "x\ny"])
def test_other_units_are_refused(given: object) -> None:
    with pytest.raises(SceneError, match=r"^t2m has units .*; expected K; convert it") as caught:
        conversion("t2m", given, "K")
    assert "\n" not in str(caught.value)


def test_z_scores_are_not_converted() -> None:
    assert conversion("t2m", "K", "K", True) is None
    assert conversion("nersc_sar_primary", "1", "dB", True) is None
    with pytest.raises(SceneError, match=r"^t2m has units 'degC'; expected K of z-scores;"):
        conversion("t2m", "degC", "K", True)


def test_power_that_is_not_positive_is_no_data_and_mostly_negative_power_is_refused() -> None:
    convert = conversion("x", "1", "dB")
    assert convert is not None
    np.testing.assert_array_equal(np.isnan(convert(np.array([0.1, 0.0, -0.1, np.nan]))), [False, True, True, True])
    with pytest.raises(SceneError, match="3 of 4 values are negative"):
        convert(np.array([-20.0, -19.0, -3.0, 0.5]))


def test_every_channel_of_a_file_has_a_unit_that_is_known() -> None:
    assert {channel.unit for channel in CHANNELS.values() if channel.grid in ("sar", "2km")} <= set(UNITS)


def test_units_of_real_scenes_are_the_expected_ones(real_data: Path) -> None:
    schemas = json.loads((real_data / "schema" / "ai4arctic_real_scene_schemas.json").read_text())
    given = {
        (name, v["attrs"]["units"]) for s in schemas for name, v in s["variables"].items() if "units" in v["attrs"]
    }
    assert len(given) == 6
    for name, unit in given:
        assert conversion(name, unit, CHANNELS[name].unit) is None
