"""How commands over many scenes go on and end: what failed, what is done."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from arcticseg.errors import OutputError
from launchers.status import DONE, INTERRUPTED, PROBLEMS
from launchers.terminal import note

if TYPE_CHECKING:
    from arcticseg.products.outcome import Failure, Outcome


def left_out(failure: Failure) -> None:
    """Tell of a scene that failed, when it happens."""
    note(f"arcticseg: left out: {failure.reason}")


def ended(outcome: Outcome, body: Callable[[], object]) -> int:
    """Work on scenes and tell how that ended; the exit status.

    Raises:
        ArcticSegError: of `body`; nothing could be done, or no file can be written any more.
    """
    try:
        body()
    except KeyboardInterrupt:
        note(f"arcticseg: stopped; {outcome}; the same command does the rest")
        return INTERRUPTED
    except OutputError:
        if outcome.total > 1:
            note(f"arcticseg: {outcome}; the same command does the rest")
        raise
    if outcome.kept:
        note(f"{len(outcome.kept)} of {outcome.total} scenes were finished before; --again draws them again")
    if not outcome.failed:
        return DONE
    note(f"{len(outcome.failed)} of {outcome.total} scenes failed:")
    for failure in outcome.failed:
        note(f"  {failure.reason}")
    return PROBLEMS


def contents(imports: Iterable[str]) -> dict[str, str | None]:
    """Modules given by --import: name -> checksum of the file, None where it is a dotted name."""
    from arcticseg.data.manifest import hash_file

    return {name: hash_file(Path(name)) if Path(name).is_file() else None for name in imports}
