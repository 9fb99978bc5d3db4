"""Sentinel-1 products (SAFE folders) of simulated scenes: what the reader of products is tested and tried with.

A product says of itself, in the manifest and in the tags of its rasters, that it is simulated.
"""

from __future__ import annotations

import re
import shutil
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.control import GroundControlPoint

from arcticseg.errors import SceneError
from arcticseg.files import make_folder
from arcticseg.ice.geo import interpolate
from arcticseg.ice.scenes.names import facts_of
from arcticseg.ice.scenes.open import open_scene
from arcticseg.ice.scenes.scene import Scene
from arcticseg.ice.simulated import ATTRIBUTE, statement
from arcticseg.system import output_errors
from shards.progress import OnProgress, ignore
from shards.simulation import safe_documents as documents
from shards.simulation.safe_tables import LINE_SECONDS, Product, SafeForm, digital_numbers

_NAME = re.compile(r"(S1[A-D]_\w\w_GRD\w_1S\w\w_\d{8}T\d{6}_\d{8}T\d{6}_\d{6}_[0-9A-F]{6}_[0-9A-F]{4})")


def write_safe(scene: Scene, folder: Path, form: SafeForm = SafeForm()) -> Path:
    """Write a scene's SAR as a product, whole or not at all.

    Args:
        scene: with HH, and HV where the form has two polarisations.
        folder: to write the SAFE folder to; it gets the name of the product that the scene's name says, else one of
            its time.

    Returns:
        The SAFE folder.

    Raises:
        SceneError: the scene lacks a polarisation, a time or incidence angles.
        OutputError: the folder cannot be written.
    """
    product = _product(scene, form)
    root = make_folder(folder) / _safe_name(scene, product)
    with _whole_folder(root) as place:
        for part in ("annotation/calibration", "measurement", "preview", "support"):
            make_folder(place / part)
        for channel, polarisation in zip(("hh", "hv"), form.polarisations, strict=False):
            if channel not in scene.polarisations:
                raise SceneError(f"{scene.path}: has no {channel.upper()}; give a scene that has it")
            numbers = digital_numbers(scene.sar(channel), product, channel)
            stem = product.stem(polarisation)
            _write_raster(place / "measurement" / f"{stem}.tiff", numbers, product)
            _write_xml(place / "annotation" / f"{stem}.xml", documents.annotation(product, polarisation, numbers))
            tables = place / "annotation" / "calibration"
            _write_xml(tables / f"calibration-{stem}.xml", documents.calibration(product, polarisation))
            if form.noise:
                _write_xml(tables / f"noise-{stem}.xml", documents.noise(product, polarisation, channel))
        _write_xml(place / "manifest.safe", documents.manifest(place, product))
    return root


def write_products(paths: Sequence[Path], folder: Path, progress: OnProgress = ignore) -> list[Path]:
    """The SAR of each of some scene files as a product; `progress` is told (products done, products in all)."""
    roots: list[Path] = []
    for path in paths:
        progress(len(roots), len(paths))
        with open_scene(path) as scene:
            roots.append(write_safe(scene, folder))
    progress(len(roots), len(paths))
    return roots


def zip_safe(root: Path) -> Path:
    """A zip of a SAFE folder beside it, as products are delivered."""
    path = root.with_suffix(".zip")
    with output_errors(path), zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for file in sorted(root.rglob("*")):
            archive.write(file, file.relative_to(root.parent))
    return path


@contextmanager
def _whole_folder(root: Path) -> Iterator[Path]:
    """A folder to write to, which becomes `root` when the block ends well."""
    place = root.with_name(f".{root.name}.tmp")
    with output_errors(root):
        shutil.rmtree(place, ignore_errors=True)
        try:
            yield place
            shutil.rmtree(root, ignore_errors=True)
            place.rename(root)
        finally:
            shutil.rmtree(place, ignore_errors=True)


def _product(scene: Scene, form: SafeForm) -> Product:
    facts = facts_of(scene.name)
    start = facts.time or scene.time
    if start is None or not np.isfinite(scene.geo.incidence).all():
        raise SceneError(f"{scene.path}: has no time or no incidence angles; give a raw scene")
    match = _NAME.search(scene.name)
    return Product(
        form=form,
        satellite=facts.satellite or scene.satellite or "S1A",
        start=start,
        stop=start + timedelta(seconds=scene.shape[0] * LINE_SECONDS),
        orbit=facts.orbit or scene.orbit or 1,
        take=match.group(1).split("_")[7] if match else "000000",
        shape=scene.shape,
        geo=scene.geo,
        statement=statement(f"no observation; a product made of the scene {scene.name}"),
    )


def _safe_name(scene: Scene, product: Product) -> str:
    form = product.form
    match = _NAME.search(scene.name)
    unique = match.group(1)[-4:] if match else "0000"
    stop = product.stop if not match else datetime.strptime(match.group(1).split("_")[5], "%Y%m%dT%H%M%S")
    kind = f"{form.mode}_GRD{'H' if form.spacing < 20 else 'M'}_{form.product_class}"
    times = f"{product.start:%Y%m%dT%H%M%S}_{stop:%Y%m%dT%H%M%S}"
    return f"{product.satellite}_{kind}_{times}_{product.orbit:06d}_{product.take}_{unique}.SAFE"


def _write_raster(path: Path, numbers: NDArray[np.uint16], product: Product) -> None:
    lines, samples = (np.linspace(0, edge - 1, n).round() for edge, n in zip(product.shape, (10, 21), strict=True))
    latitude, longitude, _ = interpolate(product.geo, lines, samples)
    points = [
        GroundControlPoint(row=float(lines[i]), col=float(samples[j]), x=longitude[i, j], y=latitude[i, j], z=0.0)
        for i in range(lines.size)
        for j in range(samples.size)
    ]
    description = f"Sentinel-{product.satellite[1:]} {product.form.mode} Level-1 GRD Product"
    with rasterio.open(
        path, "w", driver="GTiff", dtype="uint16", count=1, height=product.shape[0], width=product.shape[1],
        blockysize=1, gcps=points, crs="EPSG:4326",
    ) as file:  # fmt: skip
        file.update_tags(TIFFTAG_IMAGEDESCRIPTION=description, **{ATTRIBUTE: product.statement})
        file.write(numbers, 1)


def _write_xml(path: Path, root: ElementTree.Element) -> None:
    ElementTree.indent(root)
    path.write_bytes(ElementTree.tostring(root, encoding="UTF-8", xml_declaration=True))
