"""Memory that is used again: on a CPU, fresh pages cost several times as much as what is written to them."""

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
    """Memory of a file descriptor or of this process alone, there from the beginning; in huge pages where there are."""
    if descriptor >= 0:
        memory = mmap.mmap(descriptor, size, flags=mmap.MAP_SHARED)
    else:
        memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # a kernel without them
        memory.madvise(mmap.MADV_HUGEPAGE)
    np.frombuffer(memory, np.uint8)[:: mmap.PAGESIZE] = 0
    return memory


class Pool:
    """Tensors on the CPU whose memory goes to the next tensor of the same size once nothing refers to it."""

    def __init__(self) -> None:
        self._free: defaultdict[int, list[mmap.mmap]] = defaultdict(list)

    def empty(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """A tensor that holds anything; its memory is in use while it, a view of it or a graph lives."""
        size = max(1, math.prod(shape) * dtype.itemsize)
        free = self._free[size]
        memory = free.pop() if free else allocate(size)
        # The tensor's storage holds on to this array, whose end is the end of the storage.
        array = np.frombuffer(memory, np.uint8)
        weakref.finalize(array, free.append, memory).atexit = False
        return torch.from_numpy(array)[: math.prod(shape) * dtype.itemsize].view(dtype).view(*shape)
