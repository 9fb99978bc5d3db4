"""A child process that ends with its parent, whatever ends that."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Callable

_PR_SET_PDEATHSIG = 1


def ending_with(parent: int) -> Callable[[], None]:
    """What a child calls when it begins, such as `preexec_fn`: the kernel then kills it when its parent ends.

    Linux only. A thread could not do it while native code holds Python's lock.

    Args:
        parent: the process that started it.
    """
    # Loaded by the parent: a child that has just been forked should do little.
    library = ctypes.CDLL(None)

    def call() -> None:
        library.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)

    return call
