"""Checkpoints to go on from.

checkpoints/step-00000500/   DeepSpeed's files of all ranks, hooks.safetensors and state.json
checkpoints/step-00000500-universal/   the same for any number of ranks, made when a run goes on with another number
checkpoints/last             name of the newest complete one, written when all ranks are done
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from arcticseg.engine.hooks.hook import Hook
from arcticseg.engine.process_group import Ranks, barrier
from arcticseg.engine.step import Step
from arcticseg.files import atomic_path, output_errors, write_text
from arcticseg.run.folder import CHECKPOINTS
from arcticseg.run.migrate import hook_states

_LAST = "last"
_STATE = "state.json"
_HOOKS = "hooks.safetensors"


@dataclass
class Position:
    """Where a training is: optimiser steps done, and the loader's state."""

    step: int = 0
    loader: dict[str, Any] = field(default_factory=dict)


def newest(run: Path) -> Path | None:
    """The newest complete checkpoint of a run folder; None where there is none."""
    pointer = run / CHECKPOINTS / _LAST
    if not pointer.is_file():
        return None
    checkpoint = run / CHECKPOINTS / pointer.read_text().strip()
    return checkpoint if (checkpoint / _STATE).is_file() else None


def save(step: Step, zero_stage: int, run: Path, position: Position, hooks: Sequence[Hook], ranks: Ranks) -> None:
    """Write a checkpoint; every rank must call it. The one before is removed when this one is complete."""
    folder = run / CHECKPOINTS
    tag = f"step-{position.step:08d}"
    try:
        with output_errors(folder):
            step.save(folder, tag)
    except BaseException:
        shutil.rmtree(folder / tag, ignore_errors=True)
        raise
    # Of all ranks: to gather its tensors a hook may need them.
    tensors = {f"{hook.name}/{key}": value for hook in hooks for key, value in hook.tensors().items()}
    if ranks.is_main:
        _save_tensors(folder / tag / _HOOKS, tensors)
        state = {
            "step": position.step,
            "loader": position.loader,
            "hooks": {hook.name: state for hook in hooks if (state := hook.state())},
            "world_size": ranks.world_size,
            "zero_stage": zero_stage,
        }
        write_text(folder / tag / _STATE, json.dumps(state))
    barrier()
    if ranks.is_main:
        write_text(folder / _LAST, f"{tag}\n")
        for old in folder.glob("step-*"):
            if old.name != tag:
                shutil.rmtree(old, ignore_errors=True)
    barrier()


def _save_tensors(path: Path, tensors: dict[str, Any]) -> None:
    from safetensors.torch import save_file

    if tensors:
        with atomic_path(path) as temporary:
            save_file({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, temporary)


def read_state(checkpoint: Path) -> dict[str, Any]:
    """What `state.json` of a checkpoint holds."""
    return dict(json.loads((checkpoint / _STATE).read_text()))


def copy_state(checkpoint: Path, folder: Path) -> None:
    """Copy what is ours of a checkpoint, beside DeepSpeed's files."""
    for name in (_HOOKS, _STATE):
        if (checkpoint / name).is_file():
            shutil.copyfile(checkpoint / name, folder / name)


def load(step: Step, checkpoint: Path) -> Position:
    """Bring a step back to a checkpoint that `reshard.suited` gave; every rank must call it."""
    step.load(checkpoint.parent, checkpoint.name)
    state = read_state(checkpoint)
    return Position(state["step"], state["loader"])


def load_hooks(checkpoint: Path, hooks: Sequence[Hook]) -> None:
    """Bring the hooks back to a checkpoint."""
    states = hook_states(read_state(checkpoint))
    tensors = _load_tensors(checkpoint / _HOOKS)
    for hook in hooks:
        if hook.name in states:
            hook.load_state(states[hook.name])
        prefix = f"{hook.name}/"
        own = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
        if own:
            hook.load_tensors(own)


def _load_tensors(path: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return load_file(path) if path.is_file() else {}
