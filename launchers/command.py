"""The command line of a training in processes of its own."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from launchers.imports import absolute


def command(
    config: str,
    overrides: Sequence[str] = (),
    resume: bool = False,
    ranks: int = 1,
    imports: Sequence[str] = (),
    changes: Sequence[str] = (),
) -> list[str]:
    """The command line that trains with a config, on so many ranks of this machine.

    Args:
        imports: modules that the training imports first, as of `--import`.
        changes: as of `--change`.
    """
    how = ["launchers.train"] if ranks == 1 else ["launchers.local", "--ranks", str(ranks)]
    tail = ["--config", config, *(["--resume"] if resume else [])]
    for name in absolute(imports):
        tail += ["--import", name]
    for change in changes:
        tail += ["--change", change]
    return [sys.executable, "-m", *how, *tail, *overrides]
