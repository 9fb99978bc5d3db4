"""Sentinel-1 products as scenes: their numbers, against a literal reading and against GDAL's."""

import warnings
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray

from arcticseg.errors import SceneError
from arcticseg.ice.geo import EARTH_RADIUS, interpolate, unit_vectors
from arcticseg.ice.scenes.open import list_scenes, open_scene, state_of
from arcticseg.ice.scenes.safe import SafeScene, open_safe
from shards.simulation.safe import SafeForm, zip_safe
from tests import safes, scenes

FORMS = {
    "new": SafeForm(),
    "old": SafeForm(processor="002.72"),
    "HH": SafeForm(polarisations=("HH",)),
    "VV and VH": SafeForm(polarisations=("VV", "VH")),
}
PLACES = {"HH": "hh", "HV": "hv", "VV": "hh", "VH": "hv"}


def opened(path: Path, n_threads: int = 1) -> SafeScene:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scene = open_scene(path, n_threads=n_threads)
    assert isinstance(scene, SafeScene)
    return scene


def power(decibels: NDArray) -> NDArray[np.float64]:
    return 10 ** (decibels.astype(np.float64) / 10)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_a_product_made_of_a_scene_gives_the_scene(tmp_path: Path, form: SafeForm) -> None:
    """Each pixel within half a step of its digital number and 0.05 dB, the median within 0.05 dB, places in 20 m."""
    root = safes.made(tmp_path, form)
    with open_scene(tmp_path / "raw" / f"{scenes.RAW_NAME}.nc") as raw, opened(root) as scene:
        assert scene.shape == raw.shape
        assert scene.polarisations == tuple(PLACES[name] for name in form.polarisations)
        for name in form.polarisations:
            place = PLACES[name]
            truth, read, numbers = raw.sar(place), scene.sar(place), safes.numbers_of(root, name.lower()).astype(float)
            assert np.array_equal(np.isnan(truth), np.isnan(read))
            known = ~np.isnan(truth)
            # Sigma0 at half a step of the digital number below and above what is read.
            columns = range(truth.shape[1])
            a = np.array([safes.literal_tables(root, name.lower(), 200, column)[0] for column in columns])[None, :]
            half = (numbers + 0.25) / a**2
            low, high = power(read) - half, power(read) + half
            slack = 10 ** (0.05 / 10)
            assert (power(truth)[known] >= low[known] / slack - 1e-9).all()
            assert (power(truth)[known] <= high[known] * slack + 1e-9).all()
            both = known & np.isfinite(truth) & np.isfinite(read)
            assert np.median(np.abs(truth[both] - read[both])) < 0.05
        lines, samples = (np.linspace(-5, edge + 5, 40) for edge in raw.shape)
        places = [unit_vectors(*interpolate(geo, lines, samples)[:2]) for geo in (raw.geo, scene.geo)]
        assert np.linalg.norm(places[0] - places[1], axis=-1).max() * EARTH_RADIUS < 20
        angles = [interpolate(geo, lines, samples)[2] for geo in (raw.geo, scene.geo)]
        assert np.abs(angles[0] - angles[1]).max() < 0.01


@pytest.mark.parametrize("form", [FORMS["new"], FORMS["old"]], ids=["new", "old"])
def test_pixels_equal_a_literal_reading(tmp_path: Path, form: SafeForm) -> None:
    root = safes.made(tmp_path, form)
    random = np.random.default_rng(1)
    with opened(root) as scene:
        for place in ("hh", "hv"):
            read, numbers = scene.sar(place), safes.numbers_of(root, place)
            corners = [(0, 329), (459, 329), (459, 40), (0, 66)]
            drawn = zip(random.integers(0, 460, 60), random.integers(20, 330, 60), strict=True)
            for line, sample in [*corners, *drawn]:
                amplitude, noise = safes.literal_tables(root, place, line, sample)
                sigma = (float(numbers[line, sample]) ** 2 - noise) / amplitude**2
                if sigma <= 0:
                    assert np.isneginf(read[line, sample])
                else:
                    assert power(read[line, sample]) == pytest.approx(sigma, rel=1e-4, abs=1e-6)


def test_products_have_the_form_that_gdals_reader_of_them_wants(tmp_path: Path) -> None:
    root = safes.made(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with rasterio.open(root / "manifest.safe", driver="SAFE") as file:
            tags = file.tags()
            assert (file.count, len(file.gcps[0])) == (2, 441)
            assert np.array_equal(file.read(2), safes.numbers_of(root, "hv"))
    assert (tags["MISSION_ID"], tags["ORBIT_NUMBER"], tags["PRODUCT_TYPE"], tags["MODE"]) == (
        "S1A",
        "22892",
        "GRD",
        "EW",
    )
    assert tags["ACQUISITION_START_TIME"].startswith("2018-07-21T12:01:56")


def test_facts(tmp_path: Path) -> None:
    root = safes.made(tmp_path)
    with opened(root) as scene:
        assert root.name == f"{scenes.RAW_NAME.split('_icechart')[0]}.SAFE"
        assert scene.name == root.stem
        assert scene.time == datetime(2018, 7, 21, 12, 1, 56, tzinfo=UTC)
        assert (scene.satellite, scene.orbit) == ("S1A", 22892)
        assert (scene.denoising, scene.processor, scene.ascending) == ("esa", 3.4, False)
        assert scene.simulated
        assert not scene.has_chart
        assert scene.pixel_spacing == 40
        assert scene.coarse("t2m") is scene.distance() is scene.chart() is None


def test_fine_pixels_are_averaged_before_noise_is_cut_off(tmp_path: Path) -> None:
    root = safes.made(tmp_path, SafeForm(mode="IW", spacing=10.0), lines=203, samples=162)
    # Its positions are those of 40 m, for which `open_scene` would correct it.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scene = open_safe(root)
    with scene:
        assert (scene.shape, scene.pixel_spacing) == ((50, 40), 40)
        read, numbers = scene.sar("hv"), safes.numbers_of(root, "hv").astype(float)
        for line, sample in ((0, 2), (17, 20), (49, 39), (25, 30), (5, 1)):
            block = [(i, j) for i in range(4 * line, 4 * line + 4) for j in range(4 * sample, 4 * sample + 4)]
            powers = []
            for i, j in block:
                amplitude, noise = safes.literal_tables(root, "hv", i, j)
                powers += [(numbers[i, j] ** 2 - noise) / amplitude**2] if numbers[i, j] else []
            if len(powers) < 8:
                assert np.isnan(read[line, sample])
            else:
                assert power(read[line, sample]) == pytest.approx(max(0, np.mean(powers)), rel=1e-3, abs=1e-6)
        # The middle of a pixel is the middle of the 16 that it is made of.
        with open_scene(tmp_path / "raw" / f"{scenes.RAW_NAME}.nc") as raw:
            places = [unit_vectors(*interpolate(raw.geo, [4 * 20 + 1.5], [4 * 10 + 1.5])[:2])]
        places += [unit_vectors(*interpolate(scene.geo, [20], [10])[:2])]
        assert np.linalg.norm(places[0] - places[1]) * EARTH_RADIUS < 1


@pytest.mark.parametrize("noise", [True, False])
def test_borders_of_old_processors_are_no_data(tmp_path: Path, noise: bool) -> None:
    root = safes.made(tmp_path, SafeForm(processor="002.72", noise=noise))
    outside = np.isnan(scenes.raw(460, 330)["nersc_sar_primary"][1])
    assert (safes.numbers_of(root, "hv")[outside] > 0).all()
    with opened(root) as scene:
        assert np.array_equal(np.isnan(scene.sar("hv")), outside)
        assert np.array_equal(np.isnan(scene.sar("hh")), outside)


def test_what_is_in_doubt_is_said(tmp_path: Path) -> None:
    for name, form, words, denoising in (
        ("a", SafeForm(processor="002.43"), "doubtful scale", "esa"),
        ("b", SafeForm(noise=False), "no thermal noise vectors of HH, HV", "none"),
        ("c", SafeForm(polarisations=("VV", "VH")), "VV and VH taken for HH and HV", "esa"),
    ):
        with pytest.warns(UserWarning, match=words), open_scene(safes.made(tmp_path / name, form)) as scene:
            assert scene.denoising == denoising
    root = safes.made(tmp_path / "d")
    safes.edit(safes.file_of(root, "noise", "hv"), "<noiseRangeVectorList.*</noiseRangeVectorList>", "")
    safes.forget_checksums(root)
    with pytest.warns(UserWarning, match="no thermal noise vectors of HV:"), open_scene(root) as scene:
        assert scene.denoising == "none"


def test_a_product_denoised_by_esa_is_not_denoised_again(tmp_path: Path) -> None:
    noisy = safes.made(tmp_path, SafeForm(noise=False))
    plain = opened(noisy).sar("hv")
    root = safes.made(tmp_path)
    noisy = safes.made(tmp_path / "b", SafeForm())
    for polarisation in ("hh", "hv"):
        safes.edit(safes.file_of(noisy, "annotation", polarisation), "(Performed>)false", r"\1true")
    safes.forget_checksums(noisy)
    with opened(noisy) as scene, opened(root) as other:
        assert scene.denoising == "esa"
        both = np.isfinite(plain) & np.isfinite(other.sar("hv"))
        assert (scene.sar("hv")[both] > other.sar("hv")[both]).all()


def test_a_zip_threads_and_byte_order_change_nothing(tmp_path: Path) -> None:
    root = safes.made(tmp_path, lines=1500, samples=1200)
    path = zip_safe(root)
    expected = opened(root).sar("hv")
    for scene in (opened(path), opened(path, n_threads=3), opened(root, n_threads=3)):
        assert np.array_equal(scene.sar("hv"), expected, equal_nan=True)
        assert scene.name == root.stem
    raster = safes.file_of(root, "measurement", "hv")
    numbers = safes.numbers_of(root, "hv")
    with rasterio.open(
        raster, "w", driver="GTiff", dtype="uint16", count=1, height=1500, width=1200, ENDIANNESS="BIG", nodata=7
    ) as file:
        numbers[3, 100:110] = 7
        file.write(numbers, 1)
    assert raster.read_bytes()[:2] == b"MM"
    safes.forget_checksums(root)
    expected[3, 100:110] = np.nan
    assert np.array_equal(opened(root).sar("hv"), expected, equal_nan=True)


def test_memory_is_used_again_where_that_is_allowed(tmp_path: Path) -> None:
    with opened(safes.made(tmp_path)) as scene:
        first = scene.sar("hh")
        with scene.reusing_memory():
            hh = scene.sar("hh")
            assert np.array_equal(hh, first, equal_nan=True)
            assert scene.sar("hv") is hh
        assert scene.sar("hv") is not hh


def test_products_are_found_in_folders(tmp_path: Path) -> None:
    root = safes.made(tmp_path / "scenes")
    (tmp_path / "scenes" / "raw" / f"{scenes.RAW_NAME}.nc").rename(tmp_path / "scenes" / "x.nc")
    path = zip_safe(root).rename(tmp_path / "scenes" / "S1B_EW_GRDM_1SDH.zip")
    (tmp_path / "scenes" / "charts.zip").write_bytes(b"")
    (tmp_path / "scenes" / "other").mkdir()
    assert list_scenes(tmp_path / "scenes") == sorted([root, path, tmp_path / "scenes" / "x.nc"])
    assert list_scenes(root) == [root]
    assert list_scenes(path) == [path]
    # Called otherwise, a product is known by its manifest.
    bare = root.rename(tmp_path / "bare")
    assert list_scenes(bare) == [bare]
    assert opened(bare).orbit == opened(bare / "manifest.safe").orbit == 22892
    before = state_of(bare)
    safes.file_of(bare, "measurement").write_bytes(b"")
    assert state_of(bare) != before


def test_a_lacking_polarisation_is_an_error(tmp_path: Path) -> None:
    root = safes.made(tmp_path, SafeForm(polarisations=("HH",)))
    with opened(root) as scene, pytest.raises(SceneError, match=rf"^{root}: no HV in it, only HH;"):
        scene.sar("hv")
