"""How commands over many scenes go on and end: what failed, what is done."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from arcticseg.errors import OutputError
from launchers.status import DONE, INTERRUPTED, PROBLEMS
from launchers.terminal import note

if TYPE_CHECKING:
    from arcticseg.products.ensemble import Ensemble
    from arcticseg.products.outcome import Failure, Outcome


def add_drawing_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments that say by which networks, and how, a scene is drawn."""
    parser.add_argument(
        "--with",
        dest="others",
        type=Path,
        action="append",
        default=[],
        metavar="RUN",
        help="a further run, or weights file, with whose probabilities those of RUN are averaged; may be repeated",
    )
    parser.add_argument(
        "--tta",
        metavar="NAMES",
        default="",
        help="average what a network says of turned windows: flips, turns (by quarters), scales (the next factors)",
    )
    parser.add_argument(
        "--whole", action="store_true", help="a scene as a single window, not as tiles; convolutional networks only"
    )


def augmentations(text: str) -> tuple[str, ...]:
    """What `--tta` names.

    Raises:
        ConfigError: there is none of a name.
    """
    from arcticseg.products.tta import check_names

    return check_names([name.strip() for name in text.split(",") if name.strip()])


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


def load(arguments: argparse.Namespace) -> Ensemble:
    """The networks that a command names."""
    from arcticseg.products.ensemble import load_ensemble

    return load_ensemble((arguments.run, *arguments.others), arguments.factor, arguments.device)


def load_once(arguments: argparse.Namespace) -> Ensemble:
    """The same, in a process that is given the scenes of a command one by one."""
    return _kept((arguments.run, *arguments.others), arguments.factor, arguments.device)


@functools.lru_cache(maxsize=1)
def _kept(places: tuple[Path, ...], factor: int | None, device: str | None) -> Ensemble:
    from arcticseg.products.ensemble import load_ensemble

    return load_ensemble(places, factor, device)
