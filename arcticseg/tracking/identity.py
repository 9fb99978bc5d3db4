"""Which wandb run a run folder is, through all that it is stopped and goes on.

`wandb.json` of the run folder keeps the id, made once. wandb wants steps that rise; a training that was killed goes on
from a checkpoint before its last logged step. So wandb counts on from what it has seen (`behind` says how far), and the
step of the training is a series of its own, `step`, over which all others are drawn.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import string
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from arcticseg.files import write_text
from arcticseg.run.folder import WANDB
from arcticseg.tracking.jsonl import last_step

_LETTERS = string.ascii_lowercase + string.digits


@dataclass(frozen=True)
class Identity:
    """A wandb run, as a run folder keeps it.

    Attributes:
        id: of wandb.
        folder: absolute path of the run folder at the last start; a copy of the folder is another run.
        behind: what is added to the training's step for wandb, so that its steps rise.
    """

    id: str
    folder: str
    behind: int = 0


def begin(folder: Path, step: int) -> Identity:
    """The identity of a run that begins, or goes on after `step`; written before anything is logged.

    A folder without one, as of a run from before, gets one. So does a copy of a folder that is still in its place; a
    folder that was moved keeps its own. WANDB_RUN_ID goes before.

    Raises:
        OutputError: it cannot be written.
    """
    here = str(folder.resolve())
    before = _read(folder / WANDB)
    given = os.environ.get("WANDB_RUN_ID")
    if before is None or _copied(before, here) or (given is not None and given != before.id):
        now = Identity(given or "".join(secrets.choice(_LETTERS) for _ in range(8)), here)
    else:
        now = replace(before, folder=here, behind=before.behind + max(0, last_step(folder) - step))
    write_text(folder / WANDB, json.dumps(asdict(now)) + "\n")
    return now


def _copied(kept: Identity, here: str) -> bool:
    """Whether the folder that an identity was made for is another, and still there."""
    with contextlib.suppress(OSError):
        # Also by another path, as where a file system is mounted in two places.
        if kept.folder == here or os.path.samefile(kept.folder, here):
            return False
    other = _read(Path(kept.folder) / WANDB)
    return other is not None and other.id == kept.id


def _read(path: Path) -> Identity | None:
    """None: there is none, or it is damaged."""
    try:
        kept: Any = json.loads(path.read_text(encoding="utf-8"))
        known = Identity(kept["id"], kept["folder"], kept["behind"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    good = isinstance(known.id, str) and known.id.isascii() and isinstance(known.folder, str)
    return known if good and known.id and isinstance(known.behind, int) and known.behind >= 0 else None
