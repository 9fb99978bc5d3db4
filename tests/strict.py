"""Tensors that stand for those of a device: our code must not ask for their values."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from arcticseg.data.batch import Batch, Draws, Hints

_OURS = str(Path(__file__).parents[1] / "arcticseg")
# Values come to the host; or the shape of a result depends on values, which the host must then know.
_ASKS = {
    *("item", "tolist", "cpu", "numpy", "__bool__", "__int__", "__float__", "__index__", "__array__", "__contains__"),
    *("nonzero", "argwhere", "masked_select", "unique", "unique_consecutive", "is_nonzero", "equal", "allclose"),
    *("_unique2", "repeat_interleave"),
}
_INDEXING = {"__getitem__", "__setitem__", "index_put_", "index_put"}


class AskedError(AssertionError):
    """Our code asked the device."""


def _masks(index: Any) -> bool:
    """Whether an index holds a mask, or a list, which would have to be copied to the device."""
    if isinstance(index, tuple):
        return any(map(_masks, index))
    return isinstance(index, list) or (isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8))


def _asker() -> str | None:
    """Who called torch, if that is our code."""
    frame = sys._getframe(2)
    while frame is not None and ("/torch/" in frame.f_code.co_filename or frame.f_code.co_filename == __file__):
        frame = frame.f_back  # type: ignore[assignment]
    if frame is None or not frame.f_code.co_filename.startswith(_OURS):
        return None
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


class Strict(Tensor):
    """A tensor whose values our code must not ask for; results of operations on it are such tensors, too."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        asks = name in _ASKS or (name in _INDEXING and _masks(args[1])) or (name == "where" and len(args) == 1)
        if name == "to" and any(str(part) == "cpu" for part in (*args[1:], *(kwargs or {}).values())):
            asks = True
        if asks and (asker := _asker()) is not None:
            raise AskedError(f"{asker}: {name}")
        return super().__torch_function__(func, types, args, kwargs or {})


def strict(tensor: Tensor) -> Strict:
    """The same values, not to be asked for."""
    return tensor.as_subclass(Strict)


def on_device(value: Any) -> Any:
    """A batch, or a part of it, whose tensors are strict, but for places, which stay on the host."""
    if isinstance(value, Tensor):
        return strict(value)
    if isinstance(value, tuple):
        return tuple(map(on_device, value))
    if isinstance(value, (Batch, Draws, Hints)):
        parts = {name: part if name == "place" else on_device(part) for name, part in vars(value).items()}
        return type(value)(**parts)
    return value
