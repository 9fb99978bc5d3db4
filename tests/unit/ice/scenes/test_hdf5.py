import os
from pathlib import Path
from typing import Any

import h5py
import netCDF4
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arcticseg.errors import SceneError
from arcticseg.ice.scenes import hdf5
from arcticseg.ice.scenes.hdf5 import read_chunked
from arcticseg.ice.scenes.open import open_scene
from tests import scenes


def library(path: Path, name: str = "x") -> np.ndarray:
    """A variable as the netCDF library reads it."""
    with netCDF4.Dataset(path) as file:
        file.set_auto_maskandscale(False)
        return np.asarray(file[name][...])


def write(path: Path, values: np.ndarray, **options: Any) -> Path:
    """A netCDF-4 file of a single variable, `x`."""
    with netCDF4.Dataset(path, "w") as file:
        names = [f"d{i}" for i in range(values.ndim)]
        for name, length in zip(names, values.shape, strict=True):
            file.createDimension(name, length)
        variable = file.createVariable("x", values.dtype, names, **options)
        variable.set_auto_maskandscale(False)
        variable[...] = values
    return path


def numbers(shape: tuple[int, ...], dtype: str, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    if np.dtype(dtype).kind == "f":
        values = random.normal(0, 100, shape)
        values[random.random(shape) < 0.1] = np.nan
        return values.astype(dtype)
    return random.integers(0, 100, shape).astype(dtype)


@settings(max_examples=60, deadline=None)
@given(
    shape=st.lists(st.integers(1, 40), min_size=1, max_size=3).map(tuple),
    dtype=st.sampled_from(["f4", "f8", "i2", "u1", "i8"]),
    endian=st.sampled_from(["little", "big", "native"]),
    zlib=st.booleans(),
    shuffle=st.booleans(),
    fletcher32=st.booleans(),
    fill=st.sampled_from([None, 7, False]),
    n_threads=st.integers(1, 3),
    data=st.data(),
)
def test_chunks_are_what_the_library_reads(
    tmp_path_factory: pytest.TempPathFactory,
    shape: tuple[int, ...],
    dtype: str,
    endian: Any,
    zlib: bool,
    shuffle: bool,
    fletcher32: bool,
    fill: Any,
    n_threads: int,
    data: st.DataObject,
) -> None:
    path = tmp_path_factory.mktemp("file") / "a.nc"
    chunks = tuple(data.draw(st.integers(1, n)) for n in shape)
    filters = {"compression": "zlib" if zlib else None, "shuffle": shuffle, "fletcher32": fletcher32}
    kind = np.dtype(dtype).newbyteorder({"little": "<", "big": ">", "native": "="}[endian])
    write(path, numbers(shape, dtype).astype(kind), endian=endian, fill_value=fill, chunksizes=chunks, **filters)
    values = read_chunked(path, "x", n_threads)
    # A byte has no order: bytes that are declared to have an order are left to the library.
    if fletcher32 or (dtype == "u1" and endian == "big"):
        assert values is None
        return
    assert values is not None
    expected = library(path)
    assert values.dtype == expected.dtype.newbyteorder("=")
    np.testing.assert_array_equal(values, expected)


def test_memory_is_used_where_it_fits(tmp_path: Path) -> None:
    path = write(tmp_path / "a.nc", numbers((50, 60), "f4"), zlib=True, chunksizes=(20, 20))
    for memory in (np.zeros((50, 60), np.float32), np.zeros((50, 60)), np.zeros((60, 50), np.float32)):
        values = read_chunked(path, "x", 1, memory)
        assert values is not None
        assert np.shares_memory(values, memory) == (memory.shape == (50, 60) and memory.dtype == np.float32)
        np.testing.assert_array_equal(values, library(path))


def test_what_is_out_of_the_ordinary_is_left_to_the_library(tmp_path: Path) -> None:
    values = numbers((30, 40), "f4")
    path = tmp_path / "a.h5"
    with h5py.File(path, "w", userblock_size=0) as file:
        file.create_dataset("contiguous", data=values)
        file.create_dataset("lzf", data=values, chunks=(10, 10), compression="lzf")
        file.create_dataset("scaled", data=numbers((30, 40), "i4"), chunks=(10, 10), scaleoffset=3)
        file.create_dataset("holes", (30, 40), "f4", chunks=(10, 10), fillvalue=5)[:10] = 1
        file.create_dataset("text", data=["a"] * 30, chunks=(10,))
        file.create_dataset("flags", data=values > 0, chunks=(10, 10))
        file.create_dataset("pairs", data=np.zeros(30, [("a", "f4"), ("b", "i2")]), chunks=(10,))
        file.create_dataset("none", (0, 40), "f4", chunks=(10, 10), maxshape=(None, 40))
        # Twenty bits of thirty-two.
        unusual = h5py.h5t.STD_I32LE.copy()
        unusual.set_precision(20)
        space = h5py.h5s.create_simple((30,))
        properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        properties.set_chunk((10,))
        h5py.h5d.create(file.id, b"narrow", unusual, space, properties).write(
            h5py.h5s.ALL, h5py.h5s.ALL, np.zeros(30, "i4")
        )
        skipped = file.create_dataset("skipped", (30, 40), "f4", chunks=(30, 40), compression="gzip")
        skipped.id.write_direct_chunk((0, 0), values.tobytes(), filter_mask=1)
        file.create_group("group")
        file["soft"] = h5py.SoftLink("/contiguous")
    other = tmp_path / "b.h5"
    with h5py.File(other, "w", userblock_size=512) as file:
        file.create_dataset("x", data=values, chunks=(10, 10))
        file["elsewhere"] = h5py.ExternalLink(str(path), "lzf")
    with h5py.File(path) as file:
        names = list(file)
    assert len(names) >= 12
    for name in [*names, "absent"]:
        assert read_chunked(path, name, 1) is None, name
    np.testing.assert_array_equal(read_chunked(other, "x", 1), values)
    assert read_chunked(other, "elsewhere", 1) is None
    assert read_chunked(tmp_path / "c.h5", "x", 1) is None


def test_plain_and_only_shuffled_chunks_are_read_here(tmp_path: Path) -> None:
    values = numbers((33, 41), "f8")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("plain", data=values, chunks=(10, 10))
        file.create_dataset("shuffled", data=values, chunks=(10, 10), shuffle=True)
        file.create_dataset("deflated", data=values, chunks=(10, 10), compression="gzip")
    for name in ("plain", "shuffled", "deflated"):
        np.testing.assert_array_equal(read_chunked(tmp_path / "a.h5", name, 2), values)


def chunk_range(path: Path, name: str, number: int) -> tuple[int, int]:
    """First byte and number of bytes of a chunk in its file."""
    with h5py.File(path) as file:
        info = file[name].id.get_chunk_info(number)
    return info.byte_offset, info.size


def test_damaged_chunks_are_never_wrong_data(tmp_path: Path) -> None:
    """Bits flipped in compressed data: the right array (a flip in padding bits), or nothing; then a clean error."""
    variables = scenes.raw(100, 150)
    sound = scenes.write(tmp_path / f"{scenes.RAW_NAME}.nc", variables)
    data = sound.read_bytes()
    offset, size = chunk_range(sound, "nersc_sar_primary", 0)
    random = np.random.default_rng(0)
    path = tmp_path / "a.nc"
    refused = 0
    for place in [0, 1, size - 4, size - 1, *random.integers(2, size - 4, 40)]:
        damaged = bytearray(data)
        damaged[offset + place] ^= 1 << int(random.integers(8))
        path.write_bytes(damaged)
        values = read_chunked(path, "nersc_sar_primary", 2)
        if values is None:
            refused += 1
            with open_scene(path) as scene, pytest.raises(SceneError, match=rf"^{path}: cannot be read \("):
                scene.sar("hh")
        else:
            np.testing.assert_array_equal(values, variables["nersc_sar_primary"][1])
    assert refused >= 40


def test_a_chunk_that_inflates_to_another_size_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    for wrong in (numbers((10, 9), "f4"), numbers((11, 10), "f4")):
        with h5py.File(path, "w") as file:
            dataset = file.create_dataset("x", (10, 10), "f4", chunks=(10, 10), compression="gzip")
            dataset.id.write_direct_chunk((0, 0), hdf5.imagecodecs.deflate_encode(wrong.tobytes()))
        assert read_chunked(path, "x", 1) is None


@pytest.mark.parametrize("kind", ["link", "group", "nested", "storage", "virtual"])
def test_a_scene_that_leads_to_other_files_is_refused(tmp_path: Path, kind: str) -> None:
    path, other = tmp_path / "a.nc", tmp_path / "other.h5"
    values = numbers((100, 150), "f4")
    with h5py.File(other, "w") as file:
        file["x"] = values
    (tmp_path / "secret.bin").write_bytes(values.tobytes())
    variables = scenes.raw(100, 150)
    del variables["distance_map"]
    scenes.write(path, variables)
    open_scene(path).close()
    with h5py.File(path, "a") as file:
        if kind == "link":
            file["distance_map"] = h5py.ExternalLink(str(other), "x")
        elif kind == "group":
            file["more"] = h5py.ExternalLink(str(other), "/")
        elif kind == "nested":
            file.create_group("more")["x"] = h5py.ExternalLink("/etc/hostname", "/")
        elif kind == "storage":
            file.create_dataset("distance_map", (100, 150), "f4", external=[(str(tmp_path / "secret.bin"), 0, 60_000)])
        else:
            layout = h5py.VirtualLayout((100, 150), "f4")
            layout[:] = h5py.VirtualSource(str(other), "x", shape=(100, 150))
            file.create_virtual_dataset("distance_map", layout)
    with pytest.raises(SceneError, match=rf"^{path}: (distance_map|more|more/x) lies in .*, not in the file itself; "):
        open_scene(path)


def test_a_file_cut_short_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.nc", numbers((200, 200), "f8"), zlib=True, chunksizes=(50, 50))
    for size in (path.stat().st_size // 2, 100, 0):
        os.truncate(path, size)
        assert read_chunked(path, "x", 1) is None


def test_a_scene_with_unwritten_chunks_has_no_data_there(tmp_path: Path) -> None:
    path = tmp_path / f"{scenes.RAW_NAME}.nc"
    variables = scenes.raw(200, 250)
    del variables["distance_map"]
    scenes.write(path, variables)
    with netCDF4.Dataset(path, "a") as file:
        zones = file.createVariable("distance_map", "f4", scenes.SAR_DIMS, zlib=True, chunksizes=(100, 100))
        zones[:100] = 3
    assert read_chunked(path, "distance_map", 1) is None
    with open_scene(path) as scene:
        filled = library(path, "distance_map")
        np.testing.assert_array_equal(scene.distance(), np.where(filled > 1e30, np.nan, filled))
