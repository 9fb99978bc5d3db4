"""How work in hand says how far it is."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

# Is told (done, in all).
OnProgress = Callable[[int, int], None]
# The name of a stage -> a context that gives what is to be told.
ShowStage = Callable[[str], AbstractContextManager[OnProgress]]


def ignore(done: int, total: int) -> None:
    """Show nothing of a piece of work."""


@contextlib.contextmanager
def silent(stage: str) -> Iterator[OnProgress]:
    """Show nothing of a stage."""
    yield ignore
