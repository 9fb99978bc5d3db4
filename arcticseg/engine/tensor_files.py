"""Tensors in safetensors files: written in one pass with a checksum, read lazily by name.

The library's own writer wants all of a file's bytes in memory at once, and a second pass for a checksum.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import xxhash
from torch import Tensor

from arcticseg.engine.progress import alive

# torch's types in the names of safetensors (https://github.com/huggingface/safetensors#format).
_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
# Bytes that the header's length is a multiple of.
_ALIGNED = 8
# Bytes that are written at once, and are still in the processor's cache for the checksum.
_CHUNK = 4 << 20


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> tuple[int, str]:
    """Write tensors of the CPU to a file and the disk; its size, and its xxh3-128.

    Raises:
        OSError: it cannot be written.
    """
    header: dict[str, Any] = {}
    end = 0
    # Widest first, so that each tensor lies where its type wants it.
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    for name in names:
        value = tensors[name]
        start, end = end, end + value.numel() * value.element_size()
        header[name] = {"dtype": _DTYPES[value.dtype], "shape": list(value.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNED)
    digest = xxhash.xxh3_128()
    with open(path, "wb") as file:
        for part in _chunks([len(text).to_bytes(8, "little") + text, *(_bytes(tensors[name]) for name in names)]):
            file.write(part)
            digest.update(part)
            alive()
        file.flush()
        os.fsync(file.fileno())
        return file.tell(), digest.hexdigest()


def _bytes(value: Tensor) -> memoryview:
    return value.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data


def _chunks(parts: Sequence[bytes | memoryview]) -> Iterator[memoryview]:
    for part in parts:
        view = memoryview(part)
        for start in range(0, len(view), _CHUNK):
            yield view[start : start + _CHUNK]


class TensorFiles(Mapping[str, Tensor]):
    """Tensors of several files by name, read when they are asked for; of those that begin with `prefix`, less it."""

    def __init__(self, paths: Sequence[Path], prefix: str = "") -> None:
        from safetensors import safe_open

        self._places: dict[str, Any] = {}
        self._prefix = prefix
        for path in paths:
            file = safe_open(path, framework="pt")
            self._places |= dict.fromkeys(file.keys(), file)

    def below(self, prefix: str) -> TensorFiles:
        """Those whose name begins with a prefix, less it."""
        part = TensorFiles([], self._prefix + prefix)
        part._places = {name: file for name, file in self._places.items() if name.startswith(part._prefix)}
        return part

    def first_parts(self) -> list[str]:
        """What stands before the first `/` of the names, each once."""
        return list(dict.fromkeys(name.partition("/")[0] for name in self))

    def __getitem__(self, name: str) -> Tensor:
        value: Tensor = self._places[self._prefix + name].get_tensor(self._prefix + name)
        return value

    def shape(self, name: str) -> torch.Size:
        """A tensor's shape, by the file's header alone."""
        return torch.Size(self._places[self._prefix + name].get_slice(self._prefix + name).get_shape())

    def __iter__(self) -> Iterator[str]:
        return (name.removeprefix(self._prefix) for name in self._places)

    def __len__(self) -> int:
        return len(self._places)
