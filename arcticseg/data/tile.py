"""A tile: a window of a scene at one factor, as codes, and how it is cut."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import xxhash
from numpy.typing import NDArray

from arcticseg.errors import SceneError
from arcticseg.ice.channels import CHANNELS, COARSE, COARSE_SPACING
from arcticseg.ice.sigrid import CHARTS, IGNORE_INDEX, N_CLASSES

# Loader processes import this module, so what only a builder needs is imported where it is used.
if TYPE_CHECKING:
    from arcticseg.ice.indexed import IndexedChart
    from arcticseg.ice.layers import Layers
    from arcticseg.ice.partials import PolygonRow


# The planes of `geo.bin`.
GEO = ("sar_grid_latitude", "sar_grid_longitude", "sar_incidenceangle")

SAR_LOW, SAR_HIGH, SAR_STEP = -60.0, 40.0, 0.05
SAR_MAX_CODE = round((SAR_HIGH - SAR_LOW) / SAR_STEP) + 1

_COARSE_OFFSET = np.array([CHANNELS[name].offset for name in COARSE], np.float64)[:, None, None]
_COARSE_SCALE = np.array([CHANNELS[name].scale for name in COARSE], np.float64)[:, None, None]

UInt16 = NDArray[np.uint16]
Floating = TypeVar("Floating", bound=np.floating)


@dataclass(frozen=True)
class Tile:
    """A tile, H x W pixels, as stored.

    Attributes:
        key: unique in a shard set, from scene, factor, row and column.
        scene, factor: what it was cut from.
        row, col: first pixel in the scene at `factor`.
        pixel_spacing: metres.
        time: start of acquisition, ISO 8601, or None.
        ice_service: `dmi`, `cis` or None.
        simulated: whether the scene is simulated.
        hh, hv: uint16 [H, W] codes; 0 = no data.
        dist: uint8 [H, W]; 255 = none.
        aux: uint16 [20, h, w] codes; 0 = no data; h = w = 0 where the scene has no 2 km grid.
        aux_rows, aux_cols: float64 [h], [w]: tile coordinates of the cells' centres.
        geo: float32 [3, n, m]: latitude, longitude, incidence angle, degrees.
        geo_rows, geo_cols: float64 [n], [m]: tile coordinates of the grid points.
        lab: uint8 [3, H, W], SIC, SOD, FLOE; 255 = masked, also where there is no SAR data; None: the scene has no
            chart.
        poly: uint8 or uint16 [H, W], rows of `polygons`; the type's last value where there is no polygon or no SAR
            data; None: there is no chart, or its polygons are not known.
        polygons: the rows that occur in the tile; their labels are those of `lab`.
    """

    key: str
    scene: str
    factor: int
    row: int
    col: int
    pixel_spacing: float
    time: str | None
    ice_service: str | None
    simulated: bool
    hh: UInt16
    hv: UInt16
    dist: NDArray[np.uint8]
    aux: UInt16
    aux_rows: NDArray[np.float64]
    aux_cols: NDArray[np.float64]
    geo: NDArray[np.float32]
    geo_rows: NDArray[np.float64]
    geo_cols: NDArray[np.float64]
    lab: NDArray[np.uint8] | None
    poly: NDArray[np.unsignedinteger[Any]] | None = None
    polygons: tuple[PolygonRow, ...] = ()

    @property
    def valid(self) -> NDArray[np.bool_]:
        """bool [H, W]: some polarisation has data."""
        return (self.hh > 0) | (self.hv > 0)

    def class_counts(self) -> dict[str, list[int]]:
        """Chart -> pixels of each class and, last, masked ones; empty where there is no chart."""
        if self.lab is None:
            return {}
        counts = {}
        for plane, chart in zip(self.lab, CHARTS, strict=True):
            # Several times as fast as a histogram of bytes.
            counts[chart] = [int(np.count_nonzero(plane == k)) for k in (*range(N_CLASSES[chart]), IGNORE_INDEX)]
        return counts


def encode_sar(decibels: NDArray[np.floating]) -> UInt16:
    """dB [...] -> codes; NaN -> 0; -inf (zero power) -> 1."""
    return sar_codes(decibels, np.empty_like(decibels)).astype(np.uint16)


def sar_codes(decibels: NDArray[Floating], out: NDArray[Floating]) -> NDArray[Floating]:
    """The codes of `encode_sar` as whole numbers in the memory `out`, which has shape and type of `decibels`."""
    np.subtract(decibels, SAR_LOW, out=out)
    out /= SAR_STEP
    np.rint(out, out=out)
    np.clip(out, 0, SAR_MAX_CODE - 1, out=out)
    out += 1
    return np.fmax(out, 0, out=out)  # NaN becomes 0


def decode_sar(codes: UInt16) -> NDArray[np.float32]:
    """uint16 codes [...] -> dB, float32 [...]; 0 -> NaN."""
    return np.where(codes == 0, np.nan, SAR_LOW + SAR_STEP * (codes.astype(np.float64) - 1)).astype(np.float32)


def encode_coarse(values: NDArray[np.floating]) -> UInt16:
    """[20, h, w] in the channels' units -> uint16 codes; NaN -> 0; values outside a channel's range saturate."""
    with np.errstate(invalid="ignore"):
        steps = np.clip(np.rint((values - _COARSE_OFFSET) / _COARSE_SCALE), 0, 65534)
        return np.where(np.isnan(values), 0, steps + 1).astype(np.uint16)


def decode_coarse(codes: UInt16) -> NDArray[np.float64]:
    """uint16 codes [20, h, w] -> float64 values in the channels' units; 0 -> NaN."""
    return np.where(codes == 0, np.nan, _COARSE_OFFSET + _COARSE_SCALE * (codes.astype(np.float64) - 1))


def _span(points: NDArray[np.float64], size: int) -> slice:
    """The points that linear interpolation at 0 .. size - 1 needs: those inside and the next on either side."""
    first = int(np.searchsorted(points, 0, side="right")) - 1
    last = int(np.searchsorted(points, size - 1, side="left"))
    first, last = max(0, min(first, len(points) - 2)), min(len(points) - 1, max(last, 1))
    return slice(first, last + 1)


def _crop(plane: NDArray, row: int, col: int, size: int, fill: float) -> NDArray:
    """A size x size window of [..., H, W]; pixels outside are `fill`."""
    window = plane[..., row : row + size, col : col + size]
    lacking = [(0, 0)] * (plane.ndim - 2) + [(0, size - edge) for edge in window.shape[-2:]]
    if any(after for _, after in lacking):
        return np.pad(window, lacking, constant_values=fill)
    return np.ascontiguousarray(window)


def tile_key(scene: str, factor: int, row: int, col: int) -> str:
    """`PRODUCT_HHHHHH_kFF_RRRRR_CCCCC`: the scene's product name, a hash of its whole name, and the place.

    A tar header has room for 100 characters, so the chart's part of a scene name is only in the hash, and so is what
    follows satellite, times, orbit and take in a Sentinel-1 product's name. Dots, which end a key in a tar, and all but
    ASCII letters, digits, `_` and `-` become hyphens.
    """
    product = re.sub(r"[^0-9A-Za-z_-]", "-", scene.split("_icechart_")[0])[:62]
    return f"{product}_{xxhash.xxh3_64_hexdigest(scene.encode())[:6]}_k{factor:02d}_{row:05d}_{col:05d}"


def cut(layers: Layers, row: int, col: int, size: int) -> Tile:
    """The tile of size x size pixels whose first pixel is (row, col); beyond the scene's edge there is no data.

    The cell rule of the 2 km grid: with spacing s, tile pixel r lies at cell (row + r + 0.5) s / 2000 - 0.5.
    """
    spacing = layers.pixel_spacing
    cells = layers.coarse.shape[1:]
    aux_rows, aux_cols = (
        (np.arange(n) + 0.5) * COARSE_SPACING / spacing - 0.5 - first
        for n, first in zip(cells, (row, col), strict=True)
    )
    shift = (layers.step - 1) / 2
    geo = layers.geo
    geo_rows = (geo.lines - shift) / layers.step - row
    geo_cols = (geo.samples - shift) / layers.step - col
    aux_r, aux_c = (_span(points, size) if len(points) > 1 else slice(None) for points in (aux_rows, aux_cols))
    geo_r, geo_c = _span(geo_rows, size), _span(geo_cols, size)
    fields = np.stack([geo.latitude, geo.longitude, geo.incidence])[:, geo_r, geo_c]
    chart = layers.chart
    if chart is not None:
        chart = replace(chart, index=_crop(chart.index, row, col, size, chart.nothing))
    poly, polygons = (None, ()) if chart is None else polygons_of(chart)
    return Tile(
        key=tile_key(layers.scene, layers.factor, row, col),
        scene=layers.scene,
        factor=layers.factor,
        row=row,
        col=col,
        pixel_spacing=spacing,
        time=None if layers.time is None else layers.time.isoformat(),
        ice_service=layers.ice_service,
        simulated=layers.simulated,
        hh=encode_sar(_crop(layers.sar["hh"], row, col, size, np.nan)),
        hv=encode_sar(_crop(layers.sar["hv"], row, col, size, np.nan)),
        dist=_crop(layers.distance, row, col, size, IGNORE_INDEX),
        aux=encode_coarse(layers.coarse[:, aux_r, aux_c]),
        aux_rows=aux_rows[aux_r],
        aux_cols=aux_cols[aux_c],
        geo=fields.astype(np.float32),
        geo_rows=geo_rows[geo_r],
        geo_cols=geo_cols[geo_c],
        lab=None if chart is None else chart.planes(),
        poly=poly,
        polygons=polygons,
    )


def row_type(rows: int) -> type[np.uint8 | np.uint16]:
    """The type of `Tile.poly` for so many rows."""
    return np.uint8 if rows <= np.iinfo(np.uint8).max else np.uint16


def polygons_of(chart: IndexedChart) -> tuple[NDArray[np.unsignedinteger[Any]] | None, tuple[PolygonRow, ...]]:
    """`poly` and `polygons` of the tile that a chart covers.

    Raises:
        SceneError: the tile has more rows than uint16 can tell apart.
    """
    if chart.polygons is None:
        return None, ()
    # A row stands at the left edge, or follows another: much less to sort than all pixels.
    left, others = chart.index[:, 0], chart.index[:, 1:]
    present = np.unique(np.concatenate([left, others[others != chart.index[:, :-1]]]))
    present = present[present != chart.nothing]
    none = np.iinfo(row_type(len(present))).max
    if len(present) > none:
        raise SceneError(
            f"the chart has {len(present)} polygons in a tile, at most {none} can be stored; use smaller tiles"
        )
    places = np.full(len(chart.classes), none, row_type(len(present)))
    places[present] = np.arange(len(present))
    return chart.of_rows(places), tuple(map(chart.row, present.tolist()))


def interpolation_matrix(points: NDArray[np.float64], size: int, clamp: bool) -> NDArray[np.float32]:
    """The weights of linear interpolation from points to 0 .. size - 1.

    Args:
        points: float64 [n], rising.
        clamp: hold the edge values beyond the outermost points (2 km grid); else go on linearly (geolocation).

    Returns:
        float32 [size, n].
    """
    weights = np.zeros((size, len(points)), np.float64)
    if len(points) == 1:
        weights[:] = 1
    elif len(points) > 1:
        at = np.arange(size, dtype=np.float64)
        index = np.clip(np.searchsorted(points, at, side="right") - 1, 0, len(points) - 2)
        fraction = (at - points[index]) / (points[index + 1] - points[index])
        fraction = np.clip(fraction, 0, 1) if clamp else fraction
        weights[np.arange(size), index] = 1 - fraction
        weights[np.arange(size), index + 1] += fraction
    return weights.astype(np.float32)
