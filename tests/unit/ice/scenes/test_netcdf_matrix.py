"""netCDF cells of the matrix of storages: {raw, ready-to-train} x {storage} x {kind of channel}, by both readers."""

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from arcticseg.errors import SceneError
from arcticseg.ice.channels import CHANNELS, COARSE
from arcticseg.ice.layers import read_layers
from arcticseg.ice.scenes.open import open_scene
from arcticseg.ice.scenes.scene import Scene
from launchers.cli import main
from tests import matrix, scenes

STATISTICS = {name: (channel.mean, channel.std) for name, channel in CHANNELS.items()}
Values = dict[str, np.ndarray]
KINDS = ("raw", "rtt")


def plain(kind: str) -> dict[str, scenes.Variable]:
    """A small scene with a number of each kind missing, except those that must not be."""
    if kind == "rtt":
        variables, _ = scenes.rtt(STATISTICS, 100, 110)
    else:
        variables = scenes.raw(200, 220)
        for name in (*matrix.CHANNELS["AMSR2"], *matrix.CHANNELS["ERA5"], "distance_map"):
            variables[name][1][1, 1] = np.nan
        variables["sar_grid_incidenceangle"][1][7] = np.nan
    return variables


def stored_name(kind: str, name: str) -> str:
    """The name in the file of a variable of `matrix`."""
    if kind == "raw":
        return f"sar_grid_{name}" if name in matrix.CHANNELS["geolocation"] else name
    return {"incidenceangle": "sar_incidenceangle"}.get(name) or (
        f"sar_grid2d_{name}" if name in matrix.CHANNELS["geolocation"] else name
    )


def values_of(kind: str, name: str, numbers: np.ndarray) -> np.ndarray:
    """The numbers of a plain file with NaN for no data: 0 among z-scores."""
    values = numbers.astype(np.float64)
    is_scored = kind == "rtt" and not name.startswith("sar_grid2d")
    return np.where(values == 0, np.nan, values) if is_scored else values


def read(scene: Scene) -> Values:
    """All that a scene holds."""
    coarse = {name: values for name in COARSE if (values := scene.coarse(name)) is not None}
    distance = scene.distance()
    assert distance is not None
    geo = {"latitude": scene.geo.latitude, "longitude": scene.geo.longitude, "incidenceangle": scene.geo.incidence}
    sar = {"nersc_sar_primary": scene.sar("hh"), "nersc_sar_secondary": scene.sar("hv")}
    return {**sar, **coarse, "distance_map": distance, **geo}


@pytest.fixture(scope="module", params=KINDS)
def kind_and_values(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Values]:
    path = scenes.write(tmp_path_factory.mktemp("plain") / "plain.nc", plain(request.param))
    with open_scene(path) as scene:
        return request.param, read(scene)


def written(
    path: Path, kind: str, names: tuple[str, ...], store: Callable[[np.ndarray], matrix.Stored], chunked: bool
) -> dict[str, float]:
    """Write a scene with some variables stored otherwise; the largest error of each."""
    variables, attributes, steps = plain(kind), {}, {}
    for name in names:
        key = stored_name(kind, name)
        dims, numbers = variables[key]
        stored = store(values_of(kind, key, numbers))
        variables[key], attributes[key] = (dims, stored.numbers), stored.attributes
        size = float(np.nanmax(np.abs(numbers.astype(np.float64))))
        spread = CHANNELS[key].std if kind == "rtt" and key in CHANNELS else 1.0
        # Half a step, and the rounding of float32.
        steps[name] = (0.501 * stored.step if stored.step > 1e-6 else 1e-6 * max(size, 1)) * spread + 1e-5
    scenes.write(path, variables, attributes_of=attributes, chunked=chunked)
    return steps


@pytest.mark.parametrize("chunked", [True, False], ids=["fast", "library"])
@pytest.mark.parametrize("channel", matrix.CHANNELS)
@pytest.mark.parametrize("storage", matrix.STORAGES)
def test_storage_does_not_change_values(
    tmp_path: Path, kind_and_values: tuple[str, Values], storage: str, channel: str, chunked: bool
) -> None:
    kind, expected = kind_and_values
    names = matrix.CHANNELS[channel]
    steps = written(tmp_path / "a.nc", kind, names, matrix.STORAGES[storage], chunked)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with open_scene(tmp_path / "a.nc") as scene:
            measured = read(scene)
    for name, values in measured.items():
        np.testing.assert_allclose(values, expected[name], rtol=0, atol=steps.get(name, 0), err_msg=name)


@pytest.mark.parametrize("chunked", [True, False], ids=["fast", "library"])
@pytest.mark.parametrize(
    ("name", "unit", "convert"), matrix.CONVERTED, ids=lambda value: value if isinstance(value, str) else ""
)
def test_units_are_converted_in_raw_scenes_and_not_among_z_scores(
    tmp_path: Path,
    kind_and_values: tuple[str, Values],
    name: str,
    unit: str,
    convert: Callable[[np.ndarray], np.ndarray],
    chunked: bool,
) -> None:
    kind, expected = kind_and_values
    is_scored = kind == "rtt" and name not in ("latitude", "longitude")
    path = tmp_path / "a.nc"
    written(path, kind, (name,), lambda values: matrix.Stored(convert(values), {"units": unit}), chunked)
    if is_scored and unit != "1":
        with pytest.raises(SceneError, match=rf"^{path}: {stored_name(kind, name)} has units '.*z-scores"):
            open_and_read(path)
    elif not is_scored:
        with open_scene(path) as scene:
            np.testing.assert_allclose(read(scene)[name], expected[name], rtol=1e-6, atol=1e-4)


def open_and_read(path: Path) -> None:
    with open_scene(path) as scene:
        read(scene)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("name", "unit"), matrix.WRONG_UNITS)
def test_wrong_units_are_refused(tmp_path: Path, kind: str, name: str, unit: str) -> None:
    path = tmp_path / "a.nc"
    written(path, kind, (name,), lambda values: matrix.Stored(values, {"units": unit}), True)
    with pytest.raises(SceneError, match=rf"^{path}: {stored_name(kind, name)} has units '{unit}'; expected .*; conv"):
        open_and_read(path)


@pytest.mark.parametrize("kind", KINDS)
def test_digital_numbers_and_power_are_refused(tmp_path: Path, kind: str) -> None:
    for change, text in (
        (matrix.DIGITAL_NUMBERS, "median of .*; calibrate"),
        (lambda d: 10 ** (d / 10), "median of .* 10 log10"),
    ):
        path = tmp_path / "a.nc"
        sar(path, kind, change)
        with open_scene(path) as scene, pytest.raises(SceneError, match=rf"^{path}: H[HV] has a {text}"):
            list(read_layers(scene, [2]))


@pytest.mark.parametrize("kind", KINDS)
def test_a_frame_of_one_value_is_named_or_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.nc"
    sar(path, kind, lambda decibels: matrix.framed(decibels, 0.0))
    with (
        open_scene(path) as scene,
        pytest.warns(UserWarning, match=r"a\.nc: [23]\d\.\d% of HH is exactly -?[0-9e.-]+ dB"),
    ):
        list(read_layers(scene, [2]))
    assert len(scene.notes) == 2
    sar(path, kind, lambda decibels: matrix.framed(decibels, -9999.0))
    with open_scene(path) as scene, pytest.raises(SceneError, match=rf"^{path}: [23]\d\.\d% of HH is exactly -999"):
        list(read_layers(scene, [2]))


def sar(path: Path, kind: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """A scene whose backscatter in dB is something else."""
    variables = plain(kind)
    for name in matrix.CHANNELS["SAR"]:
        dims, numbers = variables[name]
        mean, std = STATISTICS[name] if kind == "rtt" else (0.0, 1.0)
        decibels = np.random.default_rng(3).normal(-18, 3, numbers.shape)
        variables[name] = (dims, ((change(decibels) - mean) / std).astype(np.float32))
    scenes.write(path, variables)


def test_the_command_refuses_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "scenes"
    folder.mkdir()
    written(folder / "a.nc", "raw", ("t2m",), lambda values: matrix.Stored(values, {"units": "Pa"}), True)
    status = main(["shards", "build", str(folder), "--out", str(tmp_path / "out"), "--tile", "32", "--workers", "1"])
    lines = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert status == 2
    assert len(lines) == 1
    assert "t2m has units 'Pa'; expected K" in lines[0]
