"""Memory that is used again: on a CPU, fresh pages cost several times as much as the writing to them."""

from __future__ import annotations

import contextlib
import math
import mmap
import weakref
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def allocate(size: int, descriptor: int = -1) -> mmap.mmap:
    """Memory of `size` bytes whose pages are there at once, huge pages where the kernel has them.

    Args:
        descriptor: of a file to map and share; negative: memory of this process alone.
    """
    if descriptor >= 0:
        memory = mmap.mmap(descriptor, size, flags=mmap.MAP_SHARED)
    else:
        memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # a kernel without them
        memory.madvise(mmap.MADV_HUGEPAGE)
    np.frombuffer(memory, np.uint8)[:: mmap.PAGESIZE] = 0
    return memory


class Pool:
    """Tensors on the CPU whose memory goes to another tensor of the same size once nothing refers to them."""

    def __init__(self) -> None:
        self._free: defaultdict[int, list[mmap.mmap]] = defaultdict(list)

    def empty(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """A tensor of any content; its memory is in use as long as the tensor, a view of it or a graph lives."""
        size = max(1, math.prod(shape) * dtype.itemsize)
        free = self._free[size]
        memory = free.pop() if free else allocate(size)
        # The tensor's storage holds on to this array, whose end is the end of the storage.
        array = np.frombuffer(memory, np.uint8)
        weakref.finalize(array, free.append, memory).atexit = False
        return torch.from_numpy(array)[: math.prod(shape) * dtype.itemsize].view(dtype).view(*shape)
