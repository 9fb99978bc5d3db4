"""Tensors from weights files of other projects: safetensors, or what `torch.save` wrote; no code in them is run."""

from __future__ import annotations

import math
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from arcticseg.documents import DocumentError
from arcticseg.errors import ConfigError, heed_interrupt
from arcticseg.models.weights import read_safetensors
from arcticseg.shown import brief

# Entries of an archive and tensors of a file; the largest public networks have a few thousand.
_MOST = 1 << 17
# Where trainers keep the network in a checkpoint: mmengine and timm, facebookresearch, others.
_SECTIONS = ("state_dict", "model", "model_state_dict")
_KINDS = "give a .safetensors file, or a .pth, .pt or .bin file that torch.save wrote"


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a file by name, and the metadata of a safetensors file, else none.

    Of a checkpoint those of its network. `module.`, which begins all names of networks that several processes trained,
    is left out. Nothing larger than the file is made, and no code in it is run.

    Raises:
        ConfigError: it cannot be read as weights.
    """
    try:
        with open(path, "rb") as file:
            magic = file.read(4)
        if magic[:2] in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
            return _network(path, _unpickled(path, archive=magic[:2] == b"PK")), {}
        tensors, metadata = read_safetensors(path)
    except (OSError, DocumentError) as error:
        raise ConfigError(f"{path}: cannot be read as weights ({error}); {_KINDS}") from error
    return _named(path, tensors), metadata


def _unpickled(path: Path, archive: bool) -> Any:
    """What `torch.save` wrote, tensors and plain values only.

    Raises:
        ConfigError: it needs more than that, or is damaged.
    """
    try:
        if archive:
            _check_archive(path)
        # Mapped, an archive's tensors are views of the file: none can reach beyond it.
        return torch.load(path, map_location="cpu", weights_only=True, mmap=archive)
    except UnpicklingError as error:
        raise ConfigError(
            f"{path}: holds more than tensors and plain values, which could run code when it is loaded "
            f"({_reason(error)}); where you trust it, write its network alone: torch.save(torch.load(FILE, "
            "weights_only=False)['state_dict'], NEW)"
        ) from error
    except Exception as error:
        heed_interrupt(error)
        raise ConfigError(f"{path}: cannot be read as weights ({_reason(error)}); {_KINDS}") from error


def _reason(error: Exception) -> str:
    """The first line of an error, short; of torch's long advice what is not allowed."""
    needed = re.search(r"GLOBAL (\S+)", str(error))
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"it needs {brief(needed[1])}" if needed else brief((lines or [type(error).__name__])[0])


def _check_archive(path: Path) -> None:
    """See that an archive is stored as torch does it: not compressed, no more in it than the file is long.

    Raises:
        DocumentError: it is not.
    """
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    if len(entries) > _MOST:
        raise DocumentError(f"it has {len(entries):,} entries; at most {_MOST:,} are read")
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise DocumentError("it is compressed, which torch.save does not do")
    if sum(entry.file_size for entry in entries) > path.stat().st_size:
        raise DocumentError("its entries are larger than the file")


def _network(path: Path, loaded: Any) -> dict[str, Tensor]:
    """The tensors of a network in what a trainer saved.

    Raises:
        ConfigError: there are none, or it is not clear which.
    """
    if not isinstance(loaded, Mapping):
        raise ConfigError(f"{path}: holds a {type(loaded).__name__}, not tensors by name; {_KINDS}")
    sections = [key for key in _SECTIONS if isinstance(loaded.get(key), Mapping)]
    if len(sections) > 1:
        raise ConfigError(f"{path}: holds several networks ({', '.join(sections)}); give a file of one of them")
    state = loaded[sections[0]] if sections else loaded
    return _named(path, {key: value for key, value in state.items() if isinstance(value, Tensor)})


def _named(path: Path, tensors: Mapping[Any, Tensor]) -> dict[str, Tensor]:
    """Tensors that are what they seem, by names without the prefix of parallel networks.

    Raises:
        ConfigError: there are none, or one is of a kind that weights are not.
    """
    if not tensors or len(tensors) > _MOST or not all(isinstance(name, str) for name in tensors):
        raise ConfigError(f"{path}: holds {len(tensors)} tensors by name; {_KINDS}")
    for name, tensor in tensors.items():
        if not _is_plain(tensor):
            raise ConfigError(f"{path}: tensor {brief(name)} is not of a kind that weights are; give other weights")
    prefix = "module." if all(name.startswith("module.") for name in tensors) else ""
    return {name.removeprefix(prefix): tensor.detach() for name, tensor in tensors.items()}


def _is_plain(tensor: Tensor) -> bool:
    """Whether a tensor is dense, lies in memory, and has no more numbers than it has bytes for."""
    if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized or tensor.is_complex():
        return False
    return math.prod(tensor.shape) * tensor.element_size() <= tensor.untyped_storage().nbytes()
