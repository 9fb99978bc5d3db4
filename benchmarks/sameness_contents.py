"""What files hold, as name -> value, and in what two such contents differ; for `sameness.py`.

Values are arrays, bytes, texts, numbers and lists. What differs from run to run (times, rates, versions, history) is
left out when a file is read, so everything that is read must be the same.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Contents = dict[str, Any]

# Attributes of netCDF files and tags of GeoTIFFs that say who made the file when.
_HISTORY = {"history", "source", "created", "date_created", "date_modified", "TIFFTAG_DATETIME", "TIFFTAG_SOFTWARE"}
# Keys of JSON files and of metrics.jsonl that are times, or follow from them.
_TIMES = re.compile(r"(^|_)(created|versions?|seconds|per_s|time|wait)$|^(speed|memory)/")
_FIGURE = re.compile(r"[-+]?\d[\w.,:%-]*")
_SECONDS = re.compile(r"[\d.]+(?=</td><td>DATE)")
_CONFIG = re.compile(r"(?<=</summary><pre>)[^<]*")
_DATES = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d)?(\.\d+)?(Z|[+-]\d\d:?\d\d)?")


def files(folder: Path, pattern: str = "*") -> Contents:
    """The bytes of all files below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in _paths(folder, pattern)}


def all_of(folder: Path, pattern: str) -> Contents:
    """The contents of all netCDF, GeoTIFF, PNG, JSON and safetensors files below a folder."""
    readers = {
        ".nc": netcdf,
        ".tif": geotiff,
        ".png": picture,
        ".json": numbers,
        ".safetensors": tensors,
        ".npz": arrays,
    }
    out: Contents = {}
    for path in _paths(folder, pattern):
        name = path.relative_to(folder)
        out |= {f"{name}: {key}": value for key, value in readers[path.suffix](path).items()}
    return out


def _paths(folder: Path, pattern: str) -> list[Path]:
    return sorted(path for path in folder.rglob(pattern) if path.is_file())


def netcdf(path: Path) -> Contents:
    """Variables as they are stored, their dimensions and attributes, and the attributes of the file."""
    import netCDF4

    out: Contents = {}
    with netCDF4.Dataset(path) as file:
        file.set_auto_maskandscale(False)
        for name, variable in file.variables.items():
            out[name] = np.asarray(variable[:])
            out[f"{name}: dimensions"] = list(variable.dimensions)
        holders: dict[str, Any] = {"file": file, **file.variables}
        for name, holder in holders.items():
            for key in set(holder.ncattrs()) - _HISTORY:
                value = holder.getncattr(key)
                out[f"{name}: attribute {key}"] = value if isinstance(value, str) else np.asarray(value)
    return dict(sorted(out.items()))


def geotiff(path: Path) -> Contents:
    """Bands, control points, reference systems, descriptions and tags."""
    import rasterio

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with rasterio.open(path) as file:
            points, system = file.gcps
            out: Contents = {f"band {i}": file.read(i) for i in file.indexes}
            out["control points"] = np.array([(p.row, p.col, p.x, p.y, p.z or 0.0) for p in points])
            out["reference systems"] = [str(system), str(file.crs), list(file.transform)]
            out["descriptions"] = [str(text) for text in file.descriptions]
            out["no data"] = [str(value) for value in file.nodatavals]
            for band in (0, *file.indexes):
                tags = file.tags(band) if band else file.tags()
                out |= {f"tag {key} of band {band}": tags[key] for key in sorted(set(tags) - _HISTORY)}
    return out


def picture(path: Path) -> Contents:
    """Pixels."""
    from PIL import Image

    with Image.open(path) as image:
        return {"pixels": np.asarray(image)}


def numbers(path: Path) -> Contents:
    """The values of a JSON file, without times and versions."""
    return dict(_flat(json.loads(path.read_text()), ""))


def _flat(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            if not _TIMES.search(str(key)):
                yield from _flat(item, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list):
        for i, item in enumerate(value):
            yield from _flat(item, f"{name}[{i}]")
    else:
        yield name, value


def tensors(path: Path) -> Contents:
    """The tensors of a weights file, without its metadata."""
    from safetensors.numpy import load_file

    return dict(sorted(load_file(path).items()))


def arrays(path: Path) -> Contents:
    """The arrays of an npz file."""
    with np.load(path) as file:
        return {name: file[name] for name in file.files}


def metrics(path: Path, kinds: tuple[str, ...] = ("train", "validation", "event")) -> Contents:
    """Columns of metrics.jsonl, each an array of the values of all lines of a kind, without times and rates."""
    columns: dict[str, list[Any]] = {}
    for text in path.read_text().splitlines() if path.exists() else ():
        line = json.loads(text)
        if line["kind"] in kinds:
            for key, value in line.items():
                if key != "kind" and not _TIMES.search(key):
                    columns.setdefault(f"{line['kind']} {key}", []).append(value)
    return {
        name: np.array(values) if all(isinstance(value, (int, float)) for value in values) else values
        for name, values in columns.items()
    }


def page(path: Path) -> str:
    """A report without dates that have a time of day, a cell of seconds before one, and the configs of runs."""
    text = _DATES.sub("DATE", path.read_text())
    return _CONFIG.sub("CONFIG", _SECONDS.sub("SECONDS", text))


def figures(text: str) -> list[str]:
    """The numbers of a text; its words may be put in another way."""
    return _FIGURE.findall(text)


def differences(old: Contents, new: Contents, tolerance: float = 0.0) -> tuple[list[str], float]:
    """In what two contents differ, one text a value, and the largest relative difference of floating values.

    Args:
        tolerance: floating values may differ by this share of the largest absolute value of the old array.
    """
    texts, largest = [], 0.0
    for name in [*old, *(name for name in new if name not in old)]:
        if name not in old or name not in new:
            texts.append(f"{name}: only in {'OLD' if name in old else 'NEW'}")
            continue
        text, share = _difference(old[name], new[name], tolerance)
        largest = max(largest, share)
        if text is not None:
            texts.append(f"{name}: {text}")
    return texts, largest


def _difference(old: Any, new: Any, tolerance: float) -> tuple[str | None, float]:
    if isinstance(old, float) and isinstance(new, float):
        old, new = np.array(old), np.array(new)
    if isinstance(old, np.ndarray) and isinstance(new, np.ndarray):
        return _array_difference(old, new, tolerance)
    if type(old) is type(new) and old == new:
        return None, 0.0
    if isinstance(old, (bytes, str)) and type(old) is type(new):
        at = next((i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new)))
        unit = "bytes" if isinstance(old, bytes) else "characters"
        around = f": {_short(old[at : at + 40])} -> {_short(new[at : at + 40])}"
        return f"{len(old)} -> {len(new)} {unit}, the first difference at {at}{around}", 0.0
    return f"{_short(old)} -> {_short(new)}", 0.0


def _array_difference(old: NDArray[Any], new: NDArray[Any], tolerance: float) -> tuple[str | None, float]:
    if old.dtype.kind in "OUS" and new.dtype.kind in "OUS" and old.shape == new.shape:
        unequal = np.array([a != b for a, b in zip(old.ravel().tolist(), new.ravel().tolist(), strict=True)], bool)
    elif (old.dtype, old.shape) != (new.dtype, new.shape):
        return f"{old.dtype}{list(old.shape)} -> {new.dtype}{list(new.shape)}", 0.0
    else:
        # Bits are compared, so NaN equals NaN, and 0 is not -0.
        bits = [np.ascontiguousarray(values).reshape(-1).view(np.uint8) for values in (old, new)]
        unequal = (bits[0] != bits[1]).reshape(old.size, -1).any(axis=1) if old.size else np.zeros(0, bool)
    if not unequal.any():
        return None, 0.0
    share = _share(old, new) if old.dtype.kind == "f" else 0.0
    if old.dtype.kind == "f" and tolerance and share <= tolerance:
        return None, share
    first = np.unravel_index(int(unequal.argmax()), old.shape)
    where = f", the first at {[int(i) for i in first]}" if old.ndim else ""
    size = f", at most by {share:.3g} of the largest" if old.dtype.kind == "f" else ""
    return (
        f"{int(unequal.sum())} of {old.size} values differ{size}{where}: {_short(old[first])} -> {_short(new[first])}",
        share,
    )


def _share(old: NDArray[Any], new: NDArray[Any]) -> float:
    """The largest difference as a share of the largest absolute value; infinite where only one is a number."""
    x, y = old.astype(np.float64), new.astype(np.float64)
    equal = (x == y) | (np.isnan(x) & np.isnan(y))
    with np.errstate(invalid="ignore"):
        gaps = np.where(equal, 0.0, np.abs(x - y))
    largest = np.abs(x[np.isfinite(x)]).max(initial=0.0)
    gap = float(np.nan_to_num(gaps, nan=np.inf, posinf=np.inf).max())
    return 0.0 if gap == 0 else gap / float(largest) if largest else float("inf")


def _short(value: Any) -> str:
    text = repr(value.item() if isinstance(value, np.generic) else value)
    return text if len(text) <= 100 else f"{text[:97]}..."
