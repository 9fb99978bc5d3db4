"""The XML files of simulated Sentinel-1 products, in the form of ESA's."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from arcticseg.ice.geo import interpolate
from arcticseg.ice.simulated import ATTRIBUTE
from shards.simulation.safe_tables import (
    BETA,
    LINE_SECONDS,
    SWATHS,
    Product,
    amplitudes,
    azimuth_lines,
    range_noise,
    scalloping,
)  # fmt: skip

_NAMESPACES = {
    "xfdu": "urn:ccsds:schema:xfdu:1",
    "safe": "http://www.esa.int/safe/sentinel-1.0",
    "s1sarl1": "http://www.esa.int/safe/sentinel-1.0/sentinel-1/sar/level-1",
}


def element(tag: str, content: Any) -> ElementTree.Element:
    """An element of nested content: a dict of children, or a value.

    In a dict a list repeats a child, a key `@x` is an attribute, and the empty key is the text.
    """
    made = ElementTree.Element(tag)
    if isinstance(content, dict):
        for key, value in content.items():
            if key.startswith("@"):
                made.set(key[1:], str(value))
            elif not key:
                made.text = str(value)
            else:
                made.extend(element(key, item) for item in (value if isinstance(value, list) else [value]))
    elif isinstance(content, np.ndarray):
        form = "{}" if content.dtype.kind == "i" else "{:.6e}"
        made.set("count", str(content.size))
        made.text = " ".join(form.format(value) for value in content)
    else:
        made.text = f"{content:.15e}" if isinstance(content, float) else str(content)
    return made


def _list(name: str, items: list[Any]) -> dict[str, Any]:
    return {"@count": len(items), name: items}


def _header(product: Product, polarisation: str) -> dict[str, Any]:
    return {
        "missionId": product.satellite,
        "productType": "GRD",
        "polarisation": polarisation,
        "mode": product.form.mode,
        "swath": product.form.mode,
        "startTime": product.time_of(0),
        "stopTime": product.time_of(product.shape[0] - 1),
        "absoluteOrbitNumber": product.orbit,
        "missionDataTakeId": int(product.take, 16),
        "imageNumber": f"{product.form.polarisations.index(polarisation) + 1:03d}",
    }


def calibration(product: Product, polarisation: str) -> ElementTree.Element:
    """The calibration file of a polarisation."""
    table = amplitudes(product, product.lines)
    flat = np.full(product.samples.size, BETA)
    vectors = [
        {"azimuthTime": product.time_of(line), "line": int(line), "pixel": product.samples, "sigmaNought": row,
         "betaNought": flat, "gamma": row, "dn": flat}
        for line, row in zip(product.lines, table, strict=True)
    ]  # fmt: skip
    content = {
        "adsHeader": _header(product, polarisation),
        "calibrationInformation": {"absoluteCalibrationConstant": 1.0},
        "calibrationVectorList": _list("calibrationVector", vectors),
    }
    return element("calibration", content)


def noise(product: Product, polarisation: str, channel: str) -> ElementTree.Element:
    """The noise file of a polarisation, in the form of the product's processor."""
    table = "noiseRangeLut" if product.form.is_new else "noiseLut"
    rows = range_noise(product, channel, product.lines)
    vectors = [
        {"azimuthTime": product.time_of(line), "line": int(line), "pixel": product.samples, table: row}
        for line, row in zip(product.lines, rows, strict=True)
    ]
    content: dict[str, Any] = {"adsHeader": _header(product, polarisation)}
    if not product.form.is_new:
        return element("noise", content | {"noiseVectorList": _list("noiseVector", vectors)})
    lines = azimuth_lines(product)
    blocks = [
        {"swath": f"{product.form.mode}{swath + 1}", "firstAzimuthLine": 0,
         "firstRangeSample": int(product.bounds[swath]), "lastAzimuthLine": product.shape[0] - 1,
         "lastRangeSample": int(product.bounds[swath + 1]) - 1, "line": lines,
         "noiseAzimuthLut": scalloping(swath, lines)}
        for swath in range(len(SWATHS))
    ]  # fmt: skip
    content["noiseRangeVectorList"] = _list("noiseRangeVector", vectors)
    content["noiseAzimuthVectorList"] = _list("noiseAzimuthVector", blocks)
    return element("noise", content)


def annotation(product: Product, polarisation: str, numbers: NDArray[np.uint16]) -> ElementTree.Element:
    """The annotation of a polarisation: what readers use of it."""
    lines, samples = (np.linspace(0, edge - 1, 21).round() for edge in product.shape)
    latitude, longitude, incidence = interpolate(product.geo, lines, samples)
    points = [
        {"azimuthTime": product.time_of(lines[i]), "line": int(lines[i]), "pixel": int(samples[j]),
         "latitude": float(latitude[i, j]), "longitude": float(longitude[i, j]), "height": 0.0,
         "incidenceAngle": float(incidence[i, j])}
        for i in range(lines.size) for j in range(samples.size)
    ]  # fmt: skip
    ascending = bool(latitude[-1].mean() > latitude[0].mean())
    image = {
        "productFirstLineUtcTime": product.time_of(0),
        "productLastLineUtcTime": product.time_of(product.shape[0] - 1),
        "productComposition": "Slice",
        "pixelValue": "Detected",
        "outputPixels": "16 bit Unsigned Integer",
        "rangePixelSpacing": product.form.spacing,
        "azimuthPixelSpacing": product.form.spacing,
        "azimuthTimeInterval": LINE_SECONDS,
        "numberOfSamples": product.shape[1],
        "numberOfLines": product.shape[0],
        "imageStatistics": {"outputDataMean": {"re": float(numbers.mean()), "im": 0.0}},
    }
    content = {
        "adsHeader": _header(product, polarisation),
        "generalAnnotation": {
            "productInformation": {"pass": "Ascending" if ascending else "Descending", "projection": "Ground Range"}
        },
        "imageAnnotation": {
            "imageInformation": image,
            "processingInformation": {"thermalNoiseCorrectionPerformed": "false", "ellipsoidName": "WGS84"},
        },
        "geolocationGrid": {"geolocationGridPointList": _list("geolocationGridPoint", points)},
    }
    return element("product", content)


def _object_of(file: Path) -> tuple[str, str]:
    """Kind of a file in a manifest, and its ID there."""
    identity = re.sub(r"[^a-z0-9]", "", file.stem)
    if file.suffix == ".tiff":
        return "Measurement", identity
    for kind in ("Calibration", "Noise"):
        if file.stem.startswith(kind.lower()):
            return kind, identity
    return "Product", f"product{identity}"


def _about(product: Product) -> dict[str, Any]:
    """What a manifest says of a product: ID -> content."""
    form = product.form
    software = {"@name": "Sentinel-1 IPF", "@version": form.processor}
    processing = {"@name": "GRD Post Processing", "safe:facility": {"@name": "arcticseg", "safe:software": software}}
    information = {
        "s1sarl1:transmitterReceiverPolarisation": list(form.polarisations),
        "s1sarl1:productClass": "S",
        "s1sarl1:productType": "GRD",
    }
    return {
        "processing": {"safe:processing": processing},
        "platform": {
            "safe:platform": {
                "safe:familyName": "SENTINEL-1",
                "safe:number": product.satellite[-1],
                "safe:instrument": {"safe:extension": {"s1sarl1:instrumentMode": {"s1sarl1:mode": form.mode}}},
            }
        },
        "measurementOrbitReference": {
            "safe:orbitReference": {"safe:orbitNumber": {"@type": "start", "": product.orbit}}
        },
        "generalProductInformation": {"s1sarl1:standAloneProductInformation": information},
        "acquisitionPeriod": {
            "safe:acquisitionPeriod": {
                "safe:startTime": product.time_of(0),
                "safe:stopTime": product.time_of(product.shape[0] - 1),
            }
        },
        ATTRIBUTE: {ATTRIBUTE: product.statement},
    }


def manifest(place: Path, product: Product) -> ElementTree.Element:
    """manifest.safe of the files that are in `place`."""
    files = sorted(file for file in place.rglob("*") if file.is_file())
    of = {file: _object_of(file) for file in files}
    objects = [
        {
            "@ID": identity,
            "@repID": f"s1Level1{kind}Schema",
            "byteStream": {
                "@mimeType": "text/xml" if file.suffix == ".xml" else "application/octet-stream",
                "@size": file.stat().st_size,
                "fileLocation": {"@locatorType": "URL", "@href": f"./{file.relative_to(place).as_posix()}"},
                "checksum": {"@checksumName": "MD5", "": hashlib.md5(file.read_bytes()).hexdigest()},
            },
        }
        for file, (kind, identity) in of.items()
    ]
    tables = [identity for kind, identity in of.values() if kind != "Measurement"]
    units = [
        {
            "@unitType": "Measurement Data Unit" if kind == "Measurement" else "Metadata Unit",
            "@repID": f"s1Level1{kind}Schema",
            **(
                {"@dmdID": " ".join(f"{name}Annotation" for name in tables if identity in name)}
                if kind == "Measurement"
                else {}
            ),
            "dataObjectPointer": {"@dataObjectID": identity},
        }
        for kind, identity in of.values()
    ]
    package = {
        "@unitType": "SAFE Archive Information Package",
        "@textInfo": f"Sentinel-1 {product.form.mode} Level-1 GRD Product",
        "xfdu:contentUnit": units,
    }
    metadata: list[dict[str, Any]] = [
        {"@ID": name, "metadataWrap": {"@mimeType": "text/xml", "xmlData": content}}
        for name, content in _about(product).items()
    ]
    metadata += [{"@ID": f"{name}Annotation", "dataObjectPointer": {"@dataObjectID": name}} for name in tables]
    content: dict[str, Any] = {f"@xmlns:{prefix}": address for prefix, address in _NAMESPACES.items()}
    content["informationPackageMap"] = {"xfdu:contentUnit": package}
    sections = {"metadataSection": {"metadataObject": metadata}, "dataObjectSection": {"dataObject": objects}}
    return element("xfdu:XFDU", content | sections)
