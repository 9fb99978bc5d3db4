"""Tensor files are safetensors files: the library reads what we write."""

from __future__ import annotations

from pathlib import Path

import pytest
import xxhash

torch = pytest.importorskip("torch")
from safetensors.torch import load_file, save_file

from arcticseg.engine.tensor_files import TensorFiles, write_tensors

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool]
TENSORS = {
    **{f"of/{dtype}": torch.arange(7).to(dtype) for dtype in DTYPES},
    "turned": torch.arange(12.0).view(3, 4).t(),
    "number": torch.tensor(2.5),
    "none": torch.zeros(0, 3),
    "part": torch.arange(9.0)[4:6],
}


def test_the_library_reads_what_is_written(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    size, checksum = write_tensors(path, TENSORS)
    assert size == path.stat().st_size
    assert checksum == xxhash.xxh3_128_hexdigest(path.read_bytes())
    read = load_file(path)
    assert read.keys() == TENSORS.keys()
    for name, value in TENSORS.items():
        assert read[name].dtype == value.dtype
        assert torch.equal(read[name], value)


def test_files_are_read_as_one_mapping(tmp_path: Path) -> None:
    save_file({"a/x": torch.ones(2), "a/b/y": torch.zeros(1)}, tmp_path / "0.safetensors")
    write_tensors(tmp_path / "1.safetensors", {"c/z": torch.eye(2)})
    tensors = TensorFiles(sorted(tmp_path.iterdir()))
    assert set(tensors) == {"a/x", "a/b/y", "c/z"}
    assert tensors.first_parts() == ["a", "c"]
    assert dict(tensors.below("a/b/")) == {"y": torch.zeros(1)}
    assert set(tensors.below("a/").below("b/")) == {"y"}
    assert not tensors.below("d/")
    assert torch.equal(tensors["c/z"], torch.eye(2))
