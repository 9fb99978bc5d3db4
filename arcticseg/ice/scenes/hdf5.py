"""Compressed HDF5 datasets, their chunks inflated by several threads.

The netCDF library inflates chunks one after the other under a lock, with zlib. Here HDF5 only gives each chunk as it is
stored; threads undo deflate (libdeflate, which verifies the stream's checksum) and shuffle. All else, a damaged chunk
included, is left to the netCDF library, so that a single library decides what a file holds and what is wrong with it.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import h5py
import imagecodecs
import numpy as np
from numpy.typing import NDArray

from arcticseg.errors import SceneError, heed_interrupt
from arcticseg.ice import threads

_DEFLATE, _SHUFFLE = h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE
# What is undone here, in the order in which a writer applied it.
_PIPELINES: tuple[list[int], ...] = ([], [_DEFLATE], [_SHUFFLE], [_SHUFFLE, _DEFLATE])
# More chunks than a list of their places should have.
_MOST_CHUNKS = 1 << 20


@dataclass(frozen=True)
class _Chunks:
    """How the chunks of a dataset are stored.

    Attributes:
        shape: of a chunk; the chunks at the far edges are stored whole, too.
        dtype: of the values.
        filters: one of `_PIPELINES`.
        places: first index of each chunk in the array.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    filters: list[int]
    places: list[tuple[int, ...]]


def check_self_contained(path: Path) -> None:
    """Refuse an HDF5 file that leads to other files: its reader would read them as the scene, private ones too.

    Raises:
        SceneError: a link, a dataset's storage or a virtual dataset is in another file.
        Exception: the file is damaged.
    """
    if not h5py.is_hdf5(os.path.abspath(path)):
        return
    # h5py cannot raise an error from within a visit; what a visitor returns ends it.
    with h5py.File(os.path.abspath(path), "r") as file:
        elsewhere = file.visititems_links(_linked) or file.visititems(_stored)
    if elsewhere is not None:
        name, target = elsewhere
        raise SceneError(f"{path}: {name} lies in {target}, not in the file itself; copy the values into one file")


def _linked(name: str, link: object) -> tuple[str, str] | None:
    """Name and file of a link to another file."""
    return (name, link.filename) if isinstance(link, h5py.ExternalLink) else None


def _stored(name: str, item: object) -> tuple[str, str] | None:
    """Name and place of a dataset whose values are stored elsewhere."""
    if not isinstance(item, h5py.Dataset):
        return None
    if item.external:
        return name, item.external[0][0]
    return (name, "other datasets") if item.is_virtual else None


def read_chunked(path: Path, name: str, n_threads: int, memory: NDArray[Any] | None = None) -> NDArray[Any] | None:
    """A numeric dataset of an HDF5 (netCDF-4) file, as stored: no fill value, scale or offset is applied.

    Args:
        path: the file.
        name: of a dataset in its root group.
        n_threads: chunks inflated at a time; the result does not depend on it.
        memory: an array that may be overwritten, used for the result where its shape and dtype fit.

    Returns:
        The array, in the machine's byte order; None where a chunk is missing or damaged, or not plain, deflated or
        shuffled: then the netCDF library must read the dataset, or say why it cannot be read.
    """
    try:
        with h5py.File(os.path.abspath(path), "r") as file:
            chunks = _layout(file, name)
            if chunks is None:
                return None
            dataset = file[name].id
            shape = dataset.shape
            out = memory
            if out is None or (out.shape, out.dtype) != (shape, chunks.dtype):
                out = np.empty(shape, chunks.dtype)
            # [..., itemsize]: the bytes of each value, which shuffle has sorted by their place in the value.
            values = out.view(np.uint8).reshape(*out.shape, out.itemsize)

            def inflate(place: tuple[int, ...]) -> None:
                # HDF5 looks the chunk up, so a damaged index of chunks has the same effect as for any reader; a chunk
                # that is missing, and stands for the fill value, raises an error.
                skipped, stored = dataset.read_direct_chunk(place)
                if skipped:
                    raise ValueError("some filters were not applied to a chunk")
                window = tuple(slice(first, first + n) for first, n in zip(place, chunks.shape, strict=True))
                target = values[window]
                inside = tuple(slice(n) for n in target.shape[:-1])
                source = _decoded(stored, chunks)
                if _SHUFFLE in chunks.filters:
                    for byte, plane in enumerate(source.reshape(out.itemsize, *chunks.shape)):
                        target[..., byte] = plane[inside]
                else:
                    target[...] = source.reshape(*chunks.shape, out.itemsize)[inside]

            for _ in threads.in_order(inflate, chunks.places, n_threads):
                pass
    except Exception as error:  # damage can raise any error; the netCDF library will raise its own and name it
        heed_interrupt(error)
        return None
    return out.astype(out.dtype.newbyteorder("="), copy=False)


def _layout(file: h5py.File, name: str) -> _Chunks | None:
    """Where and how a dataset is stored; None where that is out of the ordinary."""
    # A link may lead into another file.
    if not isinstance(file.get(name, getlink=True), h5py.HardLink):
        return None
    dataset = file[name]
    if not isinstance(dataset, h5py.Dataset) or dataset.chunks is None or not dataset.size:
        return None
    kind = dataset.id.get_type()
    is_number = kind.get_class() in (h5py.h5t.INTEGER, h5py.h5t.FLOAT) and dataset.dtype.kind in "fiu"
    if not is_number or not kind.equal(h5py.h5t.py_create(dataset.dtype)):
        return None
    properties = dataset.id.get_create_plist()
    applied = [properties.get_filter(i) for i in range(properties.get_nfilters())]
    filters = [code for code, *_ in applied]
    element = next((options[0] for code, _, options, _ in applied if code == _SHUFFLE), dataset.dtype.itemsize)
    if filters not in _PIPELINES or element != dataset.dtype.itemsize:
        return None
    if math.prod(-(-n // step) for n, step in zip(dataset.shape, dataset.chunks, strict=True)) > _MOST_CHUNKS:
        return None
    grid = product(*(range(0, n, step) for n, step in zip(dataset.shape, dataset.chunks, strict=True)))
    return _Chunks(dataset.chunks, dataset.dtype, filters, list(grid))


def _decoded(stored: bytes, layout: _Chunks) -> NDArray[np.uint8]:
    """The bytes of a chunk, inflated but still shuffled.

    Raises:
        imagecodecs.DeflateError: the chunk is damaged.
        ValueError: it has another number of bytes.
    """
    size = math.prod(layout.shape) * layout.dtype.itemsize
    data = imagecodecs.deflate_decode(stored, out=size) if _DEFLATE in layout.filters else stored
    if len(data) != size:
        raise ValueError(f"{len(data)} bytes in a chunk of {size}")
    return np.frombuffer(data, np.uint8)
