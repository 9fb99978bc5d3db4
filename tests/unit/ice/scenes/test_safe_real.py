"""Pieces of real Sentinel-1 products, from the source distributions of two packages that read them.

xarray-sentinel carries annotations of EW (SLC) and IW, sarsen those of an IW GRD product with its calibration and noise
and a raster of zeros. They are downloaded once a run; where that cannot be, these tests skip.
"""

import subprocess
import sys
import tarfile
import warnings
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from arcticseg.errors import SceneError
from arcticseg.ice.scenes import safe_annotation, safe_tables, safe_xml
from arcticseg.ice.scenes.names import facts_of
from arcticseg.ice.scenes.open import open_scene
from arcticseg.ice.scenes.safe import open_safe
from tests import safes

Unpacked = Callable[[str], Path]


@pytest.fixture(scope="session")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Unpacked:
    """Gives the folder of products in a package's source distribution, such as `sarsen==0.9.6`."""
    folders: dict[str, Path | str] = {}

    def download(package: str) -> Path | str:
        out = tmp_path_factory.mktemp("sdist")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        command += ["--no-binary", package.partition("==")[0], "--dest", str(out), package]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        except subprocess.TimeoutExpired:
            return f"{package} takes too long to download"
        archives = list(out.glob("*.tar.gz"))
        if not archives:
            return f"{package} cannot be downloaded: {done.stderr.strip().splitlines()[-1:]}"
        with tarfile.open(archives[0]) as archive:
            archive.extractall(out, filter="data")
        return next(out.glob("*/tests/data"))

    def give(package: str) -> Path:
        folder = folders.setdefault(package, "") or download(package)
        folders[package] = folder
        if isinstance(folder, str):
            pytest.skip(folder)
        return folder

    return give


@pytest.fixture(scope="session")
def ew(unpacked: Unpacked) -> Path:
    return next(unpacked("xarray-sentinel==0.9.6").glob("S1A_EW_SLC*.SAFE/annotation/s1a-ew1-slc-hh-*.xml"))


@pytest.fixture(scope="session")
def iw(unpacked: Unpacked) -> Path:
    return next(unpacked("sarsen==0.9.6").glob("S1B_IW_GRDH*.SAFE"))


def test_the_grid_of_a_real_ew_annotation_is_read_to_its_own_digits(ew: Path) -> None:
    geo = safe_annotation.geolocation(safe_xml.parse(ew.read_bytes(), ew.name), 1, ew.name)
    points = list(ElementTree.parse(ew).iter("geolocationGridPoint"))
    assert len(points) == geo.latitude.size == 378
    assert geo.latitude.shape == (18, 21)
    for point in points:
        line, sample = (int(point.findtext(name) or "") for name in ("line", "pixel"))
        at = geo.lines.tolist().index(line), geo.samples.tolist().index(sample)
        for field, name in (
            (geo.latitude, "latitude"),
            (geo.longitude, "longitude"),
            (geo.incidence, "incidenceAngle"),
        ):
            assert field[at] == float(point.findtext(name) or "")
            # As text, the number is the one that stands there.
            assert f"{field[at]:.15e}" == (point.findtext(name) or "").strip()
    assert (round(geo.incidence.min(), 1), round(geo.incidence.max(), 1)) == (19.3, 28.7)


def test_slc_is_refused(ew: Path, iw: Path) -> None:
    product = ew.parents[1]
    with pytest.raises(SceneError, match=r"is EW SLC; only GRD products of EW and IW are read"):
        open_scene(product)


def test_facts_of_a_real_product(iw: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scene = open_safe(iw)
    with scene:
        facts = facts_of(iw.name)
        assert (scene.time, scene.satellite, scene.orbit) == (facts.time, facts.satellite, facts.orbit)
        assert (scene.processor, scene.denoising, scene.ascending, scene.simulated) == (3.4, "esa", False, False)
        assert scene.shape == (16705 // 4, 26102 // 4)
        assert scene.pixel_spacing == 40
        # The footprint in the manifest, in whole degrees.
        assert 40 < scene.geo.latitude.min() < scene.geo.latitude.max() < 43
        assert 11 < scene.geo.longitude.min() < scene.geo.longitude.max() < 16
        assert "VV taken for HH" in "; ".join(scene.notes)


def test_tables_of_a_real_product_equal_a_literal_reading(iw: Path) -> None:
    """Lines between vectors, sub-swath borders (8889, 17700), and what lies beyond the outermost vectors."""
    width = 26102

    def root(kind: str) -> ElementTree.Element:
        path = safes.file_of(iw, kind, "vv")
        return safe_xml.parse(path.read_bytes(), path.name)

    calibration = safe_tables.calibration(root("calibration"), width, "calibration")
    noise = safe_tables.noise(root("noise"), width, "noise")
    assert noise is not None
    assert len(noise.blocks) == 3
    for line in (0, 333, 668, 9001, 16704):
        amplitudes, powers = calibration.band(line, line + 1)[0], noise.band(line, line + 1)[0]
        for sample in (0, 13, 8889, 8890, 17700, 17701, 20011, 26101):
            amplitude, power = safes.literal_tables(iw, "vv", line, sample)
            assert amplitudes[sample] == pytest.approx(amplitude, rel=1e-6)
            assert powers[sample] == pytest.approx(power, rel=1e-5, abs=1e-3)
    # Bands do not depend on where they begin.
    assert np.array_equal(noise.band(600, 700)[50:], noise.band(650, 700))
