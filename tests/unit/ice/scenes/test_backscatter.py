from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from arcticseg.errors import SceneError
from arcticseg.ice.scenes.backscatter import check
from arcticseg.ice.scenes.open import open_scene


def decibels(shape: tuple[int, int] = (300, 320), middle: float = -18.0) -> np.ndarray:
    return np.random.default_rng(0).normal(middle, 4, shape).astype(np.float32)


def with_holes(value: float, share: float) -> np.ndarray:
    values = decibels()
    values.ravel()[np.random.default_rng(1).random(values.size) < share] = value
    return values


ORDINARY: dict[str, np.ndarray] = {
    "open water in HV": decibels(middle=-32),
    "bright ice": decibels(middle=-5),
    "half of zero power": with_holes(-np.inf, 0.5),
    "nine tenths without data": with_holes(np.nan, 0.9),
    "in steps of half a dB": np.round(decibels() * 2) / 2,
    "in steps of 4 dB": np.round(decibels() / 4) * 4,
    "packed in steps of 0.01 dB": np.round(decibels() * 100) / 100,
    "a point target": with_holes(28.0, 0.0001),
    "few pixels": decibels((3, 4)),
    "no pixel": np.full((9, 9), np.nan, np.float32),
    "no power": np.full((9, 9), -np.inf, np.float32),
}


@pytest.mark.parametrize("name", ORDINARY)
def test_ordinary_backscatter_passes(name: str) -> None:
    assert check(ORDINARY[name], "HH") is None


REFUSED: dict[str, tuple[Callable[[], np.ndarray], str]] = {
    "digital numbers": (lambda: np.round(474 * 10 ** (decibels() / 20)), r"median of 6\d\.?\d* dB.*calibrate"),
    "digital numbers in dB": (lambda: decibels(middle=35), "median of 3.*calibrate"),
    "linear power": (lambda: 10 ** (decibels() / 10), "0% negative values.*10 log10"),
    "power less its noise": (lambda: 10 ** (decibels() / 10) - 0.014, "10 log10"),
    "hundredths of a dB": (lambda: 100 * decibels(), "median of -1[78]"),
    "no data of -9999": (lambda: with_holes(-9999, 0.02), r"2\.\d% of HH is exactly -9999 dB.*_FillValue"),
    "some of -3.4e38": (lambda: with_holes(-3.4e38, 0.001), r"0\.1\d% of HH is such as -3\.4e\+38"),
    "much of -32768": (lambda: with_holes(-32768, 0.7), "exactly -32768 dB"),
    "much of 9999": (lambda: with_holes(9999, 0.1), "exactly 9999 dB"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_backscatter_is_refused(name: str) -> None:
    make, text = REFUSED[name]
    with pytest.raises(SceneError, match=text):
        check(make().astype(np.float32), "HH")


@pytest.mark.parametrize(
    ("values", "share", "number"),
    [
        (with_holes(0.0, 0.3), 30, 0),
        (with_holes(-30.0, 0.01), 1, -30),
        (np.maximum(decibels(), -24), 7, -24),
        (np.full((90, 90), -15, np.float32), 100, -15),
    ],
)
def test_one_value_too_often_is_named(values: np.ndarray, share: float, number: float) -> None:
    text = check(values, "HV")
    assert text is not None
    told, name, value = text.split("% of ")[0], text.split()[2], text.split("exactly ")[1].split(" dB")[0]
    assert float(told) == pytest.approx(share, abs=1)
    assert name == "HV"
    assert float(value) == number


def test_a_frame_of_a_large_scene_is_seen_in_its_sample() -> None:
    values = decibels((2500, 2600))
    values[:, :40] = 0
    text = check(values, "HH")
    assert text is not None
    assert float(text.split("%")[0]) == pytest.approx(100 * 40 / 2600, abs=0.2)


def test_real_scenes_pass(real_data: Path) -> None:
    paths = sorted((real_data / "sar").glob("*.tif"))
    assert len(paths) == 4
    for path in paths:
        with open_scene(path, "hv") as scene:
            assert check(scene.sar("hv"), "HV") is None
