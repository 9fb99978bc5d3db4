"""What manifest and annotation of a Sentinel-1 product say: kind, processor, size, facts, geolocation."""

from __future__ import annotations

from xml.etree.ElementTree import Element

import numpy as np

from arcticseg.errors import SceneError
from arcticseg.ice.channels import RAW_SPACING
from arcticseg.ice.geo import GeoGrid
from arcticseg.ice.scenes import safe_xml as xml
from arcticseg.ice.scenes.names import Facts, facts_of

_MODES = ("EW", "IW")
# No product is larger: 400 km of 10 m, and a data take of EW.
_MAX_EDGE = 60_000
_MAX_PIXELS = 2_000_000_000


def check_type(product_type: str | None, mode: str | None, place: object) -> None:
    """Refuse what is not GRD of EW or IW, as far as it is said."""
    kind, how = (product_type or "GRD").strip(), (mode or "EW").strip()
    if kind != "GRD" or how not in _MODES:
        raise SceneError(f"{place}: is {how} {kind[:20]}; only GRD products of EW and IW are read: give one of these")


def processor(manifest: Element) -> float | None:
    """Version of the processor, such as 3.4."""
    versions = [item.get("version", "") for item in manifest.iter("software") if "IPF" in item.get("name", "")]
    try:
        return float(versions[0][:16])
    except (IndexError, ValueError):
        return None


def checksums(manifest: Element) -> dict[str, tuple[int | None, str]]:
    """Name of a file -> its bytes and MD5, as far as the manifest says them."""
    out: dict[str, tuple[int | None, str]] = {}
    for item in manifest.iter("byteStream"):
        location, checksum, size = item.find("fileLocation"), item.find("checksum"), item.get("size", "")
        if location is not None and checksum is not None and checksum.get("checksumName", "").upper() == "MD5":
            name = location.get("href", "").removeprefix("./")
            out[name] = (int(size) if size.isdecimal() else None, (checksum.text or "").strip().lower())
    return out


def facts(annotation: Element) -> Facts:
    """Time, satellite and orbit of an annotation's header."""
    header = {name: annotation.findtext(f"adsHeader/{name}") or "" for name in ("missionId", "startTime")}
    orbit = annotation.findtext("adsHeader/absoluteOrbitNumber") or ""
    facts = facts_of("", {"mission_id": header["missionId"], "start_time": header["startTime"], "orbit": orbit})
    time = None if facts.time is None else facts.time.replace(microsecond=0)
    return Facts(time, facts.satellite, facts.orbit)


def is_denoised(annotation: Element) -> bool:
    """Whether the processor has taken the thermal noise off."""
    path = "imageAnnotation/processingInformation/thermalNoiseCorrectionPerformed"
    return (annotation.findtext(path) or "").strip().lower() == "true"


def size(annotation: Element, place: str) -> tuple[int, int]:
    """Lines and samples."""
    names = ("numberOfLines", "numberOfSamples")
    height, width = (xml.integer(annotation, f"imageAnnotation/imageInformation/{name}", place) for name in names)
    if not (0 < height <= _MAX_EDGE and 0 < width <= _MAX_EDGE and height * width <= _MAX_PIXELS):
        raise SceneError(f"{place}: {height} x {width} pixels, which no product has; get the product again")
    return height, width


def spacing(annotation: Element, place: str) -> tuple[int, float]:
    """Pixels of the file to a pixel of the scene, and the scene's spacing in metres."""
    names = ("azimuthPixelSpacing", "rangePixelSpacing")
    down, across = (xml.number(annotation, f"imageAnnotation/imageInformation/{name}", place) for name in names)
    if not (min(down, across) >= 1 and max(down, across) <= 1.02 * min(down, across) and down <= 1000):
        raise SceneError(f"{place}: pixels of {down:g} x {across:g} m are not those of a GRD product; give one")
    step = max(1, int(RAW_SPACING / down + 0.02))
    # 10 m are averaged to 40 m; 25 m stay, since they are no whole part of it.
    step = step if abs(step * down - RAW_SPACING) <= 0.02 * RAW_SPACING else 1
    return step, step * down


def geolocation(annotation: Element, step: int, place: str) -> GeoGrid:
    """The grid of an annotation, in pixels of the scene."""
    points = annotation.findall("geolocationGrid/geolocationGridPointList/geolocationGridPoint")
    names = ("line", "pixel", "latitude", "longitude", "incidenceAngle")
    columns = np.array([[xml.number(point, name, place) for name in names] for point in points]).reshape(-1, len(names))
    lines, samples = np.unique(columns[:, 0]), np.unique(columns[:, 1])
    order = np.lexsort((columns[:, 1], columns[:, 0]))
    mesh = np.stack(np.meshgrid(lines, samples, indexing="ij"), axis=-1).reshape(-1, 2)
    if mesh.shape[0] != columns.shape[0] or (columns[order, :2] != mesh).any():
        raise SceneError(f"{place}: its {len(points)} geolocation points are not a grid; get the product again")
    fields = columns[order, 2:].reshape(lines.size, samples.size, 3)
    if not ((fields[..., 2] > 0) & (fields[..., 2] < 90)).all():
        raise SceneError(f"{place}: incidence angles are not between 0 and 90 degrees; get the product again")
    # The middle of the first scene pixel lies (step - 1) / 2 pixels from that of the first pixel of the file.
    shift = (step - 1) / 2
    try:
        return GeoGrid((lines - shift) / step, (samples - shift) / step, *np.moveaxis(fields, -1, 0).copy())
    except SceneError as error:
        raise SceneError(f"{place}: {error}") from error


def mean(annotation: Element, place: str) -> float | None:
    """Mean of the digital numbers; None: not said."""
    path = "imageAnnotation/imageInformation/imageStatistics/outputDataMean/re"
    return None if annotation.find(path) is None else xml.number(annotation, path, place)
