"""The command line of a training in processes of its own."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from arcticseg.shown import hidden
from launchers.imports import absolute


def without_credentials(argv: Sequence[str] | None) -> list[str]:
    """The arguments of this process, addresses in them without credentials, which the environment takes.

    A command line is seen by everybody on the machine, and wandb keeps it: so a process that was started with
    credentials in it starts itself again without.

    Args:
        argv: arguments that are given instead of the process's own.
    """
    if argv is not None:
        return [hidden(argument) for argument in argv]
    line = [hidden(argument) for argument in sys.orig_argv]
    if line != sys.orig_argv:
        os.execv(sys.executable, [sys.executable, *line[1:]])
    return sys.argv[1:]


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
