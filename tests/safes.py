"""Small Sentinel-1 products for tests, and a slow literal reading of them."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import rasterio
from numpy.typing import NDArray

from arcticseg.ice.scenes.open import open_scene
from shards.simulation.safe import SafeForm, write_safe
from tests import scenes


def made(folder: Path, form: SafeForm = SafeForm(), lines: int = 460, samples: int = 330, seed: int = 0) -> Path:
    """A product of the raw scene that `scenes.raw` gives, with some pixels without power; the scene lies beside it."""
    variables = scenes.raw(lines, samples, seed, chart=False)
    for name in ("nersc_sar_primary", "nersc_sar_secondary"):
        variables[name][1][lines // 2, samples // 2 :: 7] = -np.inf
    path = scenes.write(folder / "raw" / f"{scenes.RAW_NAME}.nc", variables)
    with open_scene(path) as scene:
        return write_safe(scene, folder, form)


def file_of(root: Path, kind: str, polarisation: str = "hh") -> Path:
    """A file of a product: `annotation`, `calibration`, `noise` or `measurement`."""
    patterns = {
        "annotation": f"annotation/s1*-{polarisation}-*.xml",
        "calibration": f"annotation/calibration/calibration-*-{polarisation}-*.xml",
        "noise": f"annotation/calibration/noise-*-{polarisation}-*.xml",
        "measurement": f"measurement/*-{polarisation}-*.tiff",
    }
    (path,) = root.glob(patterns[kind])
    return path


def forget_checksums(root: Path) -> None:
    """Take the checksums out of the manifest, so that a changed file is read."""
    edit(root / "manifest.safe", r"<checksum.*?</checksum>", "")


def edit(path: Path, old: str, new: str, count: int = 0) -> None:
    """Replace what a pattern finds in a text file; it must find something."""
    text, n = re.subn(old, new, path.read_text(encoding="utf-8"), count=count, flags=re.DOTALL)
    assert n, f"{path} holds no {old}"
    path.write_text(text, encoding="utf-8")


def numbers_of(root: Path, polarisation: str) -> NDArray[np.uint16]:
    """Digital numbers, uint16 [H, W]."""
    with rasterio.open(file_of(root, "measurement", polarisation)) as file:
        return np.asarray(file.read(1))


def literal_tables(root: Path, polarisation: str, line: int, sample: int) -> tuple[float, float]:
    """A of sigma0, and noise in DN^2, at a pixel: read word by word from the XML, with scalars only."""

    def vectors(kind: str, tag: str, table: str) -> list[tuple[float, list[float], list[float]]]:
        tree = ElementTree.parse(file_of(root, kind, polarisation))
        return [
            (float(item.findtext("line") or ""), *(numbers(item, name) for name in ("pixel", table)))
            for item in tree.iter(tag)
        ]

    def numbers(item: ElementTree.Element, name: str) -> list[float]:
        return [float(word) for word in (item.findtext(name) or "").split()]

    def between(at: float, places: list[float], values: list[float]) -> float:
        if at <= places[0]:
            return values[0]
        for (a, b), (left, right) in zip(pairwise(places), pairwise(values), strict=True):
            if a <= at <= b:
                return left + (right - left) * (at - a) / (b - a)
        return values[-1]

    def bilinear(tables: list[tuple[float, list[float], list[float]]]) -> float:
        at_line = [between(sample, pixels, values) for _, pixels, values in tables]
        return between(line, [at for at, *_ in tables], at_line)

    amplitude = bilinear(vectors("calibration", "calibrationVector", "sigmaNought"))
    range_vectors = vectors("noise", "noiseRangeVector", "noiseRangeLut") or vectors("noise", "noiseVector", "noiseLut")
    noise = bilinear(range_vectors)
    for block in ElementTree.parse(file_of(root, "noise", polarisation)).iter("noiseAzimuthVector"):
        corners = {item.tag: float(item.text or "") for item in block if item.tag[:4] in ("firs", "last")}
        if (
            corners["firstAzimuthLine"] <= line <= corners["lastAzimuthLine"]
            and corners["firstRangeSample"] <= sample <= corners["lastRangeSample"]
        ):
            noise *= between(line, numbers(block, "line"), numbers(block, "noiseAzimuthLut"))
    return amplitude, noise
