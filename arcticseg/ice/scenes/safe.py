"""Sentinel-1 GRD products (SAFE folders, or their zips) as scenes: EW and IW, HH and HV, HH alone, or VV and VH.

sigma0 = (DN^2 - noise) / A^2, with the tables of `safe_tables`. What a pixel is:

- DN 0, and what the raster marks as no data: no data.
- Power that is not above zero once the noise is taken off: zero power (-inf dB), which is data and counts as 0 in
  means. Pixels of 10 m are averaged to 40 m before this, so that noise averages out.
- Border noise, in products of processors before 2.90, which have low numbers where later ones have 0: on each line,
  from either end, the pixels up to the first one whose co-polarised power is above the noise (or above -30 dB, where
  the product has no noise vectors): no data in all polarisations. After MPC-0243, which looks at denoised
  co-polarised power from the borders, too.
- VV and VH take the places of HH and HV, with a warning.

Plain XML rather than xarray-sentinel or sarsen: these give tables for whole rasters in float64, know no version of the
processor, and bring dask; what a scene needs is a few tables.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from threading import Lock
from xml.etree.ElementTree import Element

import numpy as np
from numpy.typing import NDArray
from rasterio import DatasetReader
from rasterio.windows import Window

from arcticseg.errors import SceneError
from arcticseg.ice import resample, threads
from arcticseg.ice.scenes import backscatter
from arcticseg.ice.scenes import safe_annotation as said
from arcticseg.ice.scenes import safe_tables as tables
from arcticseg.ice.scenes import safe_xml as xml
from arcticseg.ice.scenes.names import facts_of
from arcticseg.ice.scenes.safe_files import MANIFEST, SafeFiles
from arcticseg.ice.scenes.scene import Float, Scene
from arcticseg.ice.simulated import ATTRIBUTE, is_simulated

# Polarisation -> the channel whose place it takes.
_PLACES = {"HH": "hh", "HV": "hv", "VV": "hh", "VH": "hv"}
# Versions of the processor: from the first on its noise vectors have the right scale (before, users of them found other
# scales; Park et al. 2018, doi:10.1109/TGRS.2017.2765248), from the second on borders are 0 (MPC-0243).
_NOISE_SCALED, _BORDERS_ZERO = 2.53, 2.90
# The least co-polarised power that is not border noise where the product has no noise vectors.
_BORDER_POWER = 10.0 ** (-30 / 10)
# Files of two polarisations have been exchanged where a mean is so much nearer to that of the other annotation.
_NEARER = 10.0
# Pixels worked on at once.
_BAND = 1 << 20


@dataclass(frozen=True)
class _Image:
    """A measurement and its tables.

    Attributes:
        polarisation: as measured, such as `HH`.
        raster: its file.
        annotation: root of its annotation.
        calibration: values of A.
        noise: None: none, or taken off already.
        mean: of its digital numbers, as annotated; None: not annotated.
    """

    polarisation: str
    raster: str
    annotation: Element
    calibration: tables.Vectors
    noise: tables.Noise | None
    mean: float | None


class SafeScene(Scene):
    """A Sentinel-1 GRD product. It has no chart, no distance map and no coarse channel.

    Attributes:
        processor: version of ESA's processor (IPF), such as 3.4; None: not known; beside the attributes of every scene.
        ascending: whether the satellite flies northward; None: not known.

    Raises:
        SceneError: see `open_safe`.
    """

    kind = "Sentinel-1 SAFE product"
    has_chart = False
    ice_service = None

    def __init__(self, path: Path, n_threads: int = 1) -> None:
        self.path, self.name, self.threads = path, path.stem, n_threads
        self._files = SafeFiles(path)
        self._manifest = xml.parse(self._files.read(MANIFEST), f"{path}: {MANIFEST}")
        self._checksums = said.checksums(self._manifest)
        self._verified: set[str] = set()
        self.processor = said.processor(self._manifest)
        self.simulated = is_simulated({ATTRIBUTE: self._manifest.findtext(".//simulated") or ""})
        said.check_type(self._manifest.findtext(".//productType"), self._manifest.findtext(".//mode"), path)
        self._images = self._read_images()
        self.polarisations = tuple(place for place in ("hh", "hv") if place in self._images)
        first = self._images[self.polarisations[0]]
        place = f"{path}: annotation of {first.polarisation}"
        self._size = said.size(first.annotation, place)
        self._step, self.pixel_spacing = said.spacing(first.annotation, place)
        self.shape = (self._size[0] // self._step, self._size[1] // self._step)
        if min(self.shape) < 2:
            raise SceneError(f"{path}: has {self._size[0]} x {self._size[1]} pixels; give a larger product")
        self.geo = said.geolocation(first.annotation, self._step, place)
        self.take_facts(said.facts(first.annotation).completed(facts_of(path.name)))
        orbit_pass = (first.annotation.findtext("generalAnnotation/productInformation/pass") or "").strip().lower()
        self.ascending = {"ascending": True, "descending": False}.get(orbit_pass)
        self._set_denoising()

    def sar(self, polarisation: str) -> Float:
        """Sigma0 in dB, float32 [H, W]; NaN = no data; -inf: no power above the noise.

        Raises:
            SceneError: the product lacks the polarisation, or is damaged.
        """
        image = self._images.get(polarisation)
        if image is None:
            raise SceneError(
                f"{self.path}: no {polarisation.upper()} in it, only {', '.join(self.polarisations).upper()}; "
                "use that or give another product"
            )
        out = self._memory if self._memory is not None else np.empty(self.shape, np.float32)
        if self._reuses:
            self._memory = out
        border = self._border if self.processor is not None and self.processor < _BORDERS_ZERO else None
        every = backscatter.sampling(self.shape[0] * self._step * self._size[1])
        looked_at: list[NDArray[np.uint16]] = []

        def work(first: int, numbers: NDArray[np.uint16], no_data: NDArray[np.bool_]) -> int:
            power = self._power(image, first, numbers)
            power[no_data] = np.nan
            if border is not None:
                _mask_border(power, border[:, first : first + len(numbers)])
            rows = slice(first // self._step, (first + len(numbers)) // self._step)
            _decibels(_means(power, self._step), out[rows])
            looked_at.append(numbers[::every, ::every][~no_data[::every, ::every]])
            return int(numbers.sum(dtype=np.int64))

        total = sum(self._by_band(image, work))
        self._check_exchanged(image, total / (self.shape[0] * self._step * self._size[1]))
        odd = backscatter.check_numbers(np.concatenate(looked_at), polarisation.upper())
        if odd is not None:
            self._warn(odd)
        return out

    def _by_band(self, image: _Image, work) -> Iterator[int]:  # type: ignore[no-untyped-def]
        """What `work` gives for each band of lines: first line, digital numbers, which of them are no data."""
        height = self.shape[0] * self._step
        lines = max(1, _BAND // (self._size[1] * self._step)) * self._step
        lock = Lock()
        with self._files.raster(image.raster) as source:
            _check_raster(source, self._size, f"{self.path}: {image.raster}")
            self._verify(image.raster, source.compression is not None)

            def read_and_work(first: int) -> int:
                # A raster is read by one thread at a time; the tables are applied by all.
                with lock:
                    window = Window(0, first, self._size[1], min(lines, height - first))
                    numbers = source.read(1, window=window)
                no_data = numbers == 0
                if source.nodata:
                    no_data |= numbers == source.nodata
                return int(work(first, numbers, no_data))

            yield from threads.in_order(read_and_work, range(0, height, lines), self.threads)

    def _power(self, image: _Image, first: int, numbers: NDArray[np.uint16]) -> Float:
        """Sigma0 in linear power, float32 [n, W], of digital numbers from line `first` on."""
        power = numbers.astype(np.float32)
        power *= power
        if image.noise is not None:
            power -= image.noise.band(first, first + len(numbers))
        amplitude = image.calibration.band(first, first + len(numbers))
        amplitude *= amplitude
        power /= amplitude
        return power

    @cached_property
    def _border(self) -> NDArray[np.int64] | None:
        """First and end of the samples that are not border noise, [2, lines]; None: there is no co-polarisation."""
        image = self._images.get("hh")
        if image is None:
            return None
        border = np.zeros((2, self.shape[0] * self._step), np.int64)
        least = 0.0 if image.noise is not None else _BORDER_POWER

        def work(first: int, numbers: NDArray[np.uint16], no_data: NDArray[np.bool_]) -> int:
            signal = (self._power(image, first, numbers) > least) & ~no_data
            there = signal.any(axis=1)
            border[0, first : first + len(numbers)] = np.where(there, signal.argmax(axis=1), 0)
            end = signal.shape[1] - signal[:, ::-1].argmax(axis=1)
            border[1, first : first + len(numbers)] = np.where(there, end, 0)
            return 0

        for _ in self._by_band(image, work):
            pass
        return border

    def _verify(self, name: str, packed: bool) -> None:
        """Check a raster against the manifest, once; one that has been packed since has another size."""
        size, checksum = self._checksums.get(name, (None, ""))
        if name in self._verified or not checksum:
            return
        size_now = self._files.size(name)
        if packed and size_now != size:
            self._warn(f"{name} has been packed since it was delivered, and cannot be checked for damage")
        elif size_now != size or self._files.md5(name) != checksum:
            raise SceneError(f"{self.path}: {name} differs from its checksum: it is damaged; get the product again")
        self._verified.add(name)

    def _check_exchanged(self, image: _Image, mean: float) -> None:
        """Refuse a raster whose mean is that of another polarisation."""
        for other in self._images.values():
            if other is image or other.mean is None or image.mean is None:
                continue
            if abs(mean - other.mean) * _NEARER < abs(mean - image.mean):
                raise SceneError(
                    f"{self.path}: the mean of {image.raster} is {mean:.1f}, as annotated for {other.polarisation}, "
                    f"not {image.polarisation} ({image.mean:.1f}): files have been exchanged; get the product again"
                )

    def _read_images(self) -> dict[str, _Image]:
        """The images by the channel that they are taken for."""
        rasters = self._files.of_kind("measurement")
        if not rasters:
            raise SceneError(f"{self.path}: holds no measurement of a GRD product; give a GRD product of EW or IW")
        images: dict[str, _Image] = {}
        for stem, raster in rasters.items():
            image = self._read_image(stem, raster)
            place = _PLACES[image.polarisation]
            if place in images:
                raise SceneError(
                    f"{self.path}: {raster} and {images[place].raster} are both {image.polarisation}, or of two kinds; "
                    "give a product as ESA delivers it"
                )
            images[place] = image
        lacking = [
            name for name in self._checksums if name.startswith("measurement/") and name not in self._files.names
        ]
        if lacking:
            self._warn(f"{', '.join(lacking)} is not there, though the manifest lists it; the others are read")
        return images

    def _read_image(self, stem: str, raster: str) -> _Image:
        """A measurement with its annotation, calibration and noise, whose headers must be of this polarisation."""
        polarisations = facts_of(stem).polarisations or ()
        polarisation = polarisations[0].upper() if len(polarisations) == 1 else "?"
        roots: dict[str, Element] = {}
        for kind in ("annotation", "calibration", "noise"):
            name = self._files.of_kind(kind).get(stem)
            if name is not None:
                roots[kind] = self._parse(name, polarisation)
            elif kind != "noise":
                raise SceneError(f"{self.path}: {raster} has no {kind} beside it; get the whole product")
        annotation, place = roots["annotation"], f"{self.path}: {stem}"
        width = said.size(annotation, place)[1]
        noise = tables.noise(roots["noise"], width, f"{place} (noise)") if "noise" in roots else None
        return _Image(
            polarisation=polarisation,
            raster=raster,
            annotation=annotation,
            calibration=tables.calibration(roots["calibration"], width, f"{place} (calibration)"),
            noise=None if said.is_denoised(annotation) else noise,
            mean=said.mean(annotation, place),
        )

    def _parse(self, name: str, polarisation: str) -> Element:
        """An XML file of an image, checked against the manifest; of this polarisation."""
        place = f"{self.path}: {name}"
        checksum = self._checksums.get(name, (None, ""))[1]
        if checksum and self._files.md5(name) != checksum:
            raise SceneError(f"{place} differs from its checksum: it is damaged; get the product again")
        root = xml.parse(self._files.read(name), place)
        product_type, mode, of = (
            xml.text(root, f"adsHeader/{key}", place) for key in ("productType", "mode", "polarisation")
        )
        said.check_type(product_type, mode, place)
        if of not in _PLACES or of != polarisation:
            raise SceneError(
                f"{place}: is of {of[:20]}, but named for {polarisation}: files have been exchanged; get the product "
                "again"
            )
        return root

    def _set_denoising(self) -> None:
        """Set whose noise removal it is, and warn of what is in doubt."""
        images = self._images.values()
        noisy = (image for image in images if image.noise is None and not said.is_denoised(image.annotation))
        without = [image.polarisation for image in noisy]
        self.denoising = "none" if without else "esa"
        if without:
            self._warn(f"no thermal noise vectors of {', '.join(without)}: the noise stays in the backscatter")
        elif self.processor is not None and self.processor < _NOISE_SCALED:
            self._warn(
                f"made by processor {self.processor:.2f}, whose noise vectors are of doubtful scale (before "
                f"{_NOISE_SCALED}); a newer processing of it is better"
            )
        if any(image.polarisation[0] == "V" for image in images):
            measured = " and ".join(self._images[place].polarisation for place in self.polarisations)
            self._warn(f"{measured} taken for {' and '.join(map(str.upper, self.polarisations))}, which look otherwise")

    def _warn(self, text: str) -> None:
        self.note(text)
        warnings.warn(f"{self.path}: {text}", stacklevel=4)


def open_safe(path: Path, n_threads: int = 1) -> SafeScene:
    """Open a Sentinel-1 product as a scene.

    Raises:
        SceneError: it is no GRD product of EW or IW, or a file of it is missing, damaged or of another polarisation.

    Warns:
        of missing or doubtful noise vectors, and of VV and VH.
    """
    return SafeScene(path, n_threads)


def _check_raster(source: DatasetReader, size: tuple[int, int], place: str) -> None:
    if source.count != 1 or source.dtypes[0] != "uint16":
        raise SceneError(
            f"{place}: holds {source.count} x {source.dtypes[0]}, a GRD product holds 1 x uint16; give one as ESA "
            "delivers it"
        )
    if (source.height, source.width) != size:
        raise SceneError(
            f"{place}: has {source.height} x {source.width} pixels, its annotation says {size[0]} x {size[1]}; "
            "get the product again"
        )


def _mask_border(power: Float, border: NDArray[np.int64]) -> None:
    """No data outside `border` [2, n], in place."""
    samples = np.arange(power.shape[1])
    power[(samples < border[0][:, None]) | (samples >= border[1][:, None])] = np.nan


def _means(power: Float, step: int) -> Float:
    """Means over blocks of step x step, of the pixels with data; NaN where less than half of them have data."""
    return power if step == 1 else resample.block_means(power, [step])[step]


def _decibels(power: Float, out: Float) -> None:
    """Write 10 log10 of power [n, W]; what is not above zero is -inf, NaN stays."""
    np.maximum(power, 0, out=power)
    with np.errstate(divide="ignore"):
        np.log10(power, out=out)
    out *= 10
