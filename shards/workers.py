"""Processes that work on scenes."""

from __future__ import annotations

import multiprocessing
import os
import threading
from concurrent.futures import ProcessPoolExecutor


def process_pool(workers: int) -> ProcessPoolExecutor:
    """A pool of processes that end with the one that started them.

    They are started afresh: forking a process that holds threads of HDF5, blosc2 or torch can hang.
    """
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(max(1, workers), context, initializer=_end_with_parent)


def _end_with_parent() -> None:
    """Without this a worker whose parent is killed waits for work for ever, and keeps its memory."""
    threading.Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
