import math
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from arcticseg.errors import SceneError
from arcticseg.ice.channels import CHANNELS, COARSE
from arcticseg.ice.geo import GeoGrid
from arcticseg.ice.indexed import IndexedChart, index_planes
from arcticseg.ice.layers import LayerConfig, official_labels, read_layers, step_of
from arcticseg.ice.scenes.open import open_scene
from arcticseg.ice.scenes.scene import Scene
from tests import scenes

STATISTICS = {name: (channel.mean, channel.std) for name, channel in CHANNELS.items()}


class MadeScene(Scene):
    """A scene from arrays."""

    def __init__(self, hh: np.ndarray, hv: np.ndarray | None = None, spacing: float = 40.0) -> None:
        self.path, self.name = Path("made.nc"), "made"
        self.values = {"hh": hh} | ({} if hv is None else {"hv": hv})
        self.shape = (hh.shape[0], hh.shape[1])
        self.pixel_spacing = spacing
        self.time, self.ice_service, self.simulated = datetime(2020, 2, 3, tzinfo=UTC), None, False
        self.polarisations = tuple(self.values)
        two = np.array([0.0, 9.0])
        self.geo = GeoGrid(two, two, np.full((2, 2), 75.0), np.zeros((2, 2)), np.full((2, 2), 30.0))
        self.labels: np.ndarray | None = None
        self.zones: np.ndarray | None = None
        self.has_chart = False
        self.reads = 0

    def sar(self, polarisation: str) -> np.ndarray:
        self.reads += 1
        return self.values[polarisation]

    def distance(self) -> np.ndarray | None:
        return self.zones

    def indexed_chart(self, rules: str = "autoice", strict: bool = False) -> IndexedChart | None:
        return None if self.labels is None else index_planes(self.labels)


def noise(shape: tuple[int, int], seed: int = 0, holes: float = 0.2) -> np.ndarray:
    random = np.random.default_rng(seed)
    values = random.normal(-15, 3, shape).astype(np.float32)
    values[random.random(shape) < holes] = np.nan
    return values


def labels(shape: tuple[int, int], seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    planes = np.stack([random.integers(0, n, shape) for n in (11, 6, 7)]).astype(np.uint8)
    planes[random.random(planes.shape) < 0.1] = 255
    return planes


def test_layers_of_a_raw_scene(tmp_path: Path) -> None:
    variables = scenes.raw()
    with open_scene(scenes.write_raw(tmp_path / f"{scenes.RAW_NAME}.nc")) as scene:
        by_factor = {layers.factor: layers for layers in read_layers(scene, [2, 5])}
        chart = scene.chart()
    assert chart is not None
    for factor, shape in ((2, (300, 325)), (5, (120, 130))):
        layers = by_factor[factor]
        labels = layers.labels
        assert labels is not None
        assert layers.shape == shape
        assert (layers.scene, layers.step, layers.pixel_spacing) == (scenes.RAW_NAME, factor, 40 * factor)
        assert (layers.ice_service, layers.simulated) == ("cis", False)
        random = np.random.default_rng(factor)
        for i, j in zip(random.integers(0, shape[0], 200), random.integers(0, shape[1], 200), strict=True):
            block = np.s_[i * factor : (i + 1) * factor, j * factor : (j + 1) * factor]
            for polarisation, name in (("hh", "nersc_sar_primary"), ("hv", "nersc_sar_secondary")):
                valid = [value for value in variables[name][1][block].ravel().tolist() if not math.isnan(value)]
                expected = math.nan
                if 2 * len(valid) >= factor**2:
                    expected = 10 * math.log10(sum(10 ** (value / 10) for value in valid) / len(valid))
                assert layers.sar[polarisation][i, j] == pytest.approx(expected, abs=1e-4, nan_ok=True)
            assert layers.distance[i, j] == np.rint(variables["distance_map"][1][block].mean())
            for plane, pixels in zip(labels, chart[(slice(None), *block)], strict=True):
                known, votes = np.unique(pixels[pixels != 255], return_counts=True)
                voted = known[votes.argmax()] if len(known) else 255
                no_sar = any(np.isnan(layers.sar[name][i, j]) for name in ("hh", "hv"))
                assert plane[i, j] == (255 if no_sar else voted)
        np.testing.assert_array_equal(layers.coarse, np.stack([variables[n][1] for n in COARSE]).astype(np.float32))
        np.testing.assert_array_equal(layers.valid, np.isfinite(layers.sar["hh"]) | np.isfinite(layers.sar["hv"]))


def test_each_image_is_read_once() -> None:
    scene = MadeScene(noise((60, 60)), noise((60, 60)))
    assert len(list(read_layers(scene, [1, 2, 3, 4]))) == 4
    assert scene.reads == 2


def test_a_layer_that_a_scene_lacks_has_no_data() -> None:
    (layers,) = read_layers(MadeScene(noise((20, 30))), [2])
    assert np.isnan(layers.sar["hv"]).all()
    assert layers.sar["hv"].shape == layers.shape == (10, 15)
    # All positions of this scene are one in the Greenland Sea, further than the last zone from a coast.
    assert (layers.distance == 41).all()
    assert layers.labels is None
    assert layers.coarse.shape == (20, 0, 0)
    np.testing.assert_array_equal(layers.valid, np.isfinite(layers.sar["hh"]))


def test_zero_power_is_valid() -> None:
    (layers,) = read_layers(MadeScene(np.array([[-np.inf] * 2, [-10.0] * 2], np.float32)), [1])
    assert layers.valid.all()


@pytest.mark.parametrize("how", ["majority", "nearest", "maximum"])
def test_labels_are_reduced_as_the_config_says(how: str) -> None:
    scene = MadeScene(noise((9, 9)))
    scene.labels = labels((9, 9))
    (layers,) = read_layers(scene, [3], LayerConfig(labels=how))
    assert layers.labels is not None
    block = scene.labels[:, 3:6, 6:9].reshape(3, -1)
    expected = {
        "nearest": block[:, 4],
        "maximum": block.max(axis=1),
        "majority": [np.bincount(plane[plane != 255]).argmax() for plane in block],
    }[how]
    np.testing.assert_array_equal(layers.labels[:, 1, 2], expected)


def test_a_pixel_without_backscatter_has_no_label() -> None:
    """As in the official labels: it needs each polarisation that the scene has; zero power is data."""
    hh, hv = (np.full((4, 6), -15, np.float32) for _ in range(2))
    hh[:, 0], hv[:, 1], hh[:, 2], hh[:3, 3] = np.nan, np.nan, -np.inf, np.nan
    expected = np.array([[True, True, False, True, False, False]] * 3 + [[True, True, False, False, False, False]])
    for both in (hv, None, np.full((4, 6), np.nan, np.float32)):
        scene = MadeScene(hh, both)
        scene.labels = np.full((3, 4, 6), 2, np.uint8)
        (layers,) = read_layers(scene, [1])
        assert layers.labels is not None
        only_hh = expected & ([[True, False, False, True, False, False]] if both is not hv else True)
        for plane in layers.labels:
            np.testing.assert_array_equal(plane == 255, only_hh)
        assert not (layers.labels != 255).any(axis=0)[~layers.valid].any()


def test_averages_and_shares_are_as_the_config_says() -> None:
    values = np.array([[-10, -20], [np.nan, np.nan]], np.float32)
    (layers,) = read_layers(MadeScene(values), [2], LayerConfig(sar_average="db"))
    assert layers.sar["hh"][0, 0] == -15
    (layers,) = read_layers(MadeScene(values), [2])
    assert layers.sar["hh"][0, 0] == pytest.approx(10 * math.log10((0.1 + 0.01) / 2))
    (layers,) = read_layers(MadeScene(values), [2], LayerConfig(min_valid=0.6))
    assert np.isnan(layers.sar["hh"][0, 0])


@pytest.mark.parametrize("average", ["linear", "db"])
def test_averaging_lowers_white_noise_as_it_must(average: str) -> None:
    """Unit variance in the averaged quantity over 2.8 x 10^6 pixels: the deviation is 1 / factor."""
    random = np.random.default_rng(11)
    drawn = random.standard_normal((1650, 1700), np.float32)
    # Power must be positive: a mean of 20 puts zero twenty deviations away.
    scene = MadeScene(drawn - 15 if average == "db" else 10 * np.log10((20 + drawn) / 1000))
    five, ten = read_layers(scene, [5, 10], LayerConfig(sar_average=average))
    for layers, expected, tolerance in ((five, 0.2, 0.002), (ten, 0.1, 0.002)):
        averaged = layers.sar["hh"].astype(np.float64)
        averaged = averaged if average == "db" else 1000 * 10 ** (averaged / 10)
        assert averaged.std() == pytest.approx(expected, abs=tolerance)


def test_a_scene_without_a_valid_pixel_is_an_error() -> None:
    with pytest.raises(SceneError, match=r"^made\.nc: .* hh, hv;"):
        list(read_layers(MadeScene(noise((9, 9), holes=1.1), noise((9, 9), holes=1.1)), [2]))


def test_a_scene_smaller_than_a_pixel_is_an_error() -> None:
    with pytest.raises(SceneError, match=r"^made\.nc: \(9, 30\) .* factor 10"):
        list(read_layers(MadeScene(noise((9, 30))), [10]))


def test_factors_count_in_pixels_of_40_metres(tmp_path: Path) -> None:
    variables, physical = scenes.rtt(STATISTICS)
    with open_scene(scenes.write(tmp_path / "a.nc", variables, scenes.RTT_ATTRIBUTES)) as scene:
        assert [step_of(scene, factor) for factor in (2, 4, 10)] == [1, 2, 5]
        with pytest.raises(SceneError, match=r"a\.nc: factor 3 .* 80 m; .* 2"):
            step_of(scene, 3)
        with pytest.raises(SceneError, match="factor 5"):
            list(read_layers(scene, [2, 5]))
        own, halved = read_layers(scene, [2, 4])
    assert (own.shape, own.pixel_spacing, own.step) == ((300, 325), 80, 1)
    assert (halved.shape, halved.pixel_spacing, halved.step) == ((150, 162), 160, 2)
    np.testing.assert_allclose(own.sar["hh"], physical["nersc_sar_primary"][1], atol=1e-4)
    assert own.labels is not None
    np.testing.assert_array_equal(own.labels[1], variables["SOD"][1])


@pytest.mark.parametrize(("spacing", "step"), [(40.7, 6), (79.1, 3), (90.0, 3), (10.0, 6), (120.4, 2)])
def test_a_measured_spacing_means_the_nearest_multiple(spacing: float, step: int) -> None:
    assert step_of(MadeScene(noise((9, 9)), spacing=spacing), 6) == step


def test_official_labels_follow_the_recipe_of_the_ready_to_train_files() -> None:
    """2 x 2 maximum, in which a masked pixel wins; no data in any full-resolution variable is no data in all."""
    shape = (41, 37)
    scene = MadeScene(noise(shape, 1, 0.02), noise(shape, 2, 0.02))
    scene.labels = labels(shape, 3)
    scene.zones = np.abs(noise(shape, 4, 0.02))
    official = official_labels(scene, LayerConfig(labels="majority"))
    assert official is not None
    assert official.shape == (3, 20, 18)
    for i in range(20):
        for j in range(18):
            block = np.s_[2 * i : 2 * i + 2, 2 * j : 2 * j + 2]
            missing = any(
                math.isnan(value)
                for image in (scene.values["hh"], scene.values["hv"], scene.zones)
                for value in image[block].ravel().tolist()
            )
            for chart in range(3):
                pixels = scene.labels[chart][block].ravel().tolist()
                expected = 255 if missing or 255 in pixels else max(pixels)
                assert official[chart, i, j] == expected


def test_official_labels_of_a_ready_to_train_file_are_its_own(tmp_path: Path) -> None:
    variables, _ = scenes.rtt(STATISTICS)
    with open_scene(scenes.write(tmp_path / "a.nc", variables, scenes.RTT_ATTRIBUTES)) as scene:
        official = official_labels(scene)
    assert official is not None
    np.testing.assert_array_equal(official, np.stack([variables[name][1] for name in ("SIC", "SOD", "FLOE")]))


def test_official_labels_of_a_scene_without_a_chart() -> None:
    assert official_labels(MadeScene(noise((9, 9)))) is None
