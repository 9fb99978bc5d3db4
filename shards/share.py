"""Scenes shared out among the tasks of a job array: each task finds its share alone, and all find the same."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from arcticseg.errors import ConfigError
from arcticseg.ice.scenes.open import state_of

_SHARE = re.compile(r"(\d{1,6})/(\d{1,6})")


@dataclass(frozen=True)
class Share:
    """Share `number` of `of`, counted from 1."""

    number: int
    of: int

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"


def parse_share(text: str) -> Share:
    """The share that `--part I/N` asks for.

    Raises:
        ConfigError: the text is not of this form, or I is not one of 1 to N.
    """
    match = _SHARE.fullmatch(text.strip())
    share = Share(*map(int, match.groups())) if match else Share(0, 0)
    if not 1 <= share.number <= share.of:
        raise ConfigError(
            f"--part is '{text}'; set I/N with I from 1 to N, such as 2/4; in a job array --array=1-4 and "
            "--part $SLURM_ARRAY_TASK_ID/4"
        )
    return share


def share_of(scenes: Iterable[Path], share: Share) -> list[Path]:
    """The scenes of a share, in the order given.

    By falling size scenes are dealt out to and fro, so shares have about as much work. What is finished already makes
    no difference: a task that is repeated, or is late, has the share that it would have had.
    """
    paths = list(scenes)
    ordered = sorted(paths, key=lambda path: (-_size(path), path.name))
    mine = set()
    for place, path in enumerate(ordered):
        turn, seat = divmod(place, share.of)
        if (share.of - 1 - seat if turn % 2 else seat) == share.number - 1:
            mine.add(path)
    return [path for path in paths if path in mine]


def _size(path: Path) -> int:
    """Bytes of a scene; 0 where it cannot be read, which whoever opens it says."""
    try:
        return state_of(path)[0]
    except OSError:
        return 0
