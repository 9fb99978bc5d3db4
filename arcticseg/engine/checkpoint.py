"""Checkpoints to go on from, and weights to use.

checkpoints/step-00000500/   DeepSpeed's files of all ranks and state.json
checkpoints/step-00000500-universal/   the same for any number of ranks, made when a run goes on with another number
checkpoints/last             name of the newest complete one, written when all ranks are done
weights/*.safetensors        float32 weights of `last` and of each best score; with the config they came from
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from arcticseg.engine.process_group import Ranks, barrier
from arcticseg.files import output_errors, write_text
from arcticseg.run.folder import CHECKPOINTS

_LAST = "last"


@dataclass
class Progress:
    """Where a training is: optimiser steps done, loader state, best scores so far."""

    step: int = 0
    loader: dict[str, Any] = field(default_factory=dict)
    best: dict[str, float] = field(default_factory=dict)


def newest(run: Path) -> Path | None:
    """The newest complete checkpoint of a run folder; None where there is none."""
    pointer = run / CHECKPOINTS / _LAST
    if not pointer.is_file():
        return None
    found = run / CHECKPOINTS / pointer.read_text().strip()
    return found if (found / "state.json").is_file() else None


def save(engine: Any, run: Path, progress: Progress, ranks: Ranks) -> None:
    """Write a checkpoint; every rank must call it. The one before is removed when this one is complete."""
    folder = run / CHECKPOINTS
    tag = f"step-{progress.step:08d}"
    try:
        with output_errors(folder):
            engine.save_checkpoint(str(folder), tag=tag, save_latest=False)
    except BaseException:
        shutil.rmtree(folder / tag, ignore_errors=True)
        raise
    if ranks.is_main:
        state = {
            "step": progress.step,
            "loader": progress.loader,
            "best": progress.best,
            "world_size": ranks.world_size,
            "zero_stage": engine.zero_optimization_stage(),
        }
        write_text(folder / tag / "state.json", json.dumps(state))
    barrier()
    if ranks.is_main:
        write_text(folder / _LAST, f"{tag}\n")
        for old in folder.glob("step-*"):
            if old.name != tag:
                shutil.rmtree(old, ignore_errors=True)
    barrier()


def read_progress(checkpoint: Path) -> Progress:
    """The progress of a checkpoint."""
    state = json.loads((checkpoint / "state.json").read_text())
    return Progress(state["step"], state["loader"], state["best"])


def load(engine: Any, checkpoint: Path) -> Progress:
    """Bring the engine back to a checkpoint that is `suited` to it."""
    engine.load_checkpoint(str(checkpoint.parent), tag=checkpoint.name)
    return read_progress(checkpoint)
