"""Products written from simulated scenes, read back."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import rasterio

from arcticseg.ice.geo import EARTH_RADIUS, interpolate, unit_vectors
from arcticseg.ice.layers import read_layers
from arcticseg.ice.scenes.open import open_scene
from shards.simulate import simulate_scene
from shards.simulation.safe import write_safe
from tests import safes


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A simulated scene, and the product made of it."""
    folder = tmp_path_factory.mktemp("safe")
    path = simulate_scene(folder / "raw.nc", index=1, seed=3, size=600, labelled=False)
    with open_scene(path) as scene:
        return path, write_safe(scene, folder)


def test_each_pixel_comes_back(pair: tuple[Path, Path]) -> None:
    """Within half a step of its digital number and 0.05 dB; the median within 0.05 dB, places within 20 m."""
    slack = 10 ** (0.05 / 10)
    with open_scene(pair[0]) as raw, open_scene(pair[1]) as scene:
        assert scene.shape == raw.shape
        for name in ("hh", "hv"):
            truth, read = (10 ** (part.sar(name).astype(float) / 10) for part in (raw, scene))
            known = ~np.isnan(truth)
            assert np.array_equal(known, ~np.isnan(read))
            numbers = safes.numbers_of(pair[1], name).astype(float)
            gain = np.array([safes.literal_tables(pair[1], name, 300, k)[0] for k in range(truth.shape[1])])[None, :]
            # Half a step of the digital number in power, around what is read: (n +- 1/2)^2 - n^2 = 1/4 +- n.
            half = (numbers + 0.25) / gain**2
            assert (truth >= (read - half) / slack - 1e-9)[known].all()
            assert (truth <= (read + half) * slack + 1e-9)[known].all()
            both = known & (truth > 0) & (read > 0)
            assert np.median(np.abs(10 * np.log10(truth[both] / read[both]))) < 0.05
        lines, samples = (np.linspace(0, edge - 1, 40) for edge in raw.shape)
        places = [unit_vectors(*interpolate(geo, lines, samples)[:2]) for geo in (raw.geo, scene.geo)]
        assert np.linalg.norm(places[0] - places[1], axis=-1).max() * EARTH_RADIUS < 20


def test_a_frame_of_one_number_is_named(pair: tuple[Path, Path], tmp_path: Path) -> None:
    root = tmp_path / pair[1].name
    for file in pair[1].rglob("*"):
        if file.is_file():
            target = root / file.relative_to(pair[1])
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.read_bytes())
    safes.forget_checksums(root)
    with rasterio.open(safes.file_of(root, "measurement", "hh"), "r+") as file:
        numbers = file.read(1)
        numbers[:, :120] = 400
        file.write(numbers, 1)
    with warnings.catch_warnings(record=True) as caught, open_scene(root) as scene:
        warnings.simplefilter("always")
        list(read_layers(scene, [2]))
        told = [*map(str, (item.message for item in caught)), *scene.notes]
    named = [text for text in told if "the digital number of" in text and "HH is exactly 400" in text]
    assert len(named) == 2, told
    assert not any("HV is exactly" in text for text in told)
