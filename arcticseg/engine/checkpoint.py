"""Checkpoints to go on from.

checkpoints/step-00000500/   DeepSpeed's files of all ranks, hooks.safetensors, and state.json with checksums of all
checkpoints/step-00000500-universal/   the same for any number of ranks, made when a run goes on with another number
checkpoints/.step-00000500.tmp/   a checkpoint that is being written; what a kill leaves of it is never read
checkpoints/last             name of the newest, for people: the program looks at the checkpoints themselves
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from arcticseg.engine.checksums import DamagedError, is_sealed, read_state, remove, seal, seems_whole, sync_tree, verify
from arcticseg.engine.hooks.hook import Hook
from arcticseg.engine.process_group import Ranks, agree, barrier
from arcticseg.engine.step import Step
from arcticseg.engine.weights import check_finite
from arcticseg.errors import ArcticSegError, ConfigError
from arcticseg.files import atomic_path, output_errors, sync_folder, write_text
from arcticseg.run.folder import CHECKPOINTS, finished, had_checkpoint, holds_run, note_checkpoint
from arcticseg.run.migrate import hook_states

_LAST = "last"
_HOOKS = "hooks.safetensors"
# Whole checkpoints that stay.
_KEPT = 2
_NAME = re.compile(r"step-(\d+)")


@dataclass
class Position:
    """Where a training is: optimiser steps done, and the loader's state."""

    step: int = 0
    loader: dict[str, Any] = field(default_factory=dict)


def newest(run: Path, report: Callable[[str], None]) -> Path | None:
    """The newest whole checkpoint of a run folder, each of its files verified; None where the run never had any.

    Args:
        report: is told which checkpoints are damaged, and which cannot be verified.

    Raises:
        ConfigError: the run has, or had, checkpoints, and none of them is whole.
    """
    folder = run / CHECKPOINTS
    damaged = []
    for _, path in _steps(folder):
        try:
            state = verify(path)
        except DamagedError as error:
            damaged.append(error)
            report(f"{error}; looking for the checkpoint before it")
            continue
        if not is_sealed(state):
            report(f"{path}: is of version 0.1, which wrote no checksums, so it cannot be verified")
        if damaged:
            report(f"going on from {path}")
        return path
    remedy = "restore a checkpoint from a copy, or set another 'out' to start again"
    if damaged:
        raise ConfigError(f"{folder}: no checkpoint is whole ({', '.join(map(str, damaged))}); {remedy}")
    last = folder / _LAST
    # Who empties a folder may leave the hidden note.
    noted = had_checkpoint(run) and holds_run(run)
    if noted or finished(run) or (last.is_file() and last.stat().st_size):
        raise ConfigError(f"{folder}: the run had checkpoints, which are missing; {remedy}")
    return None


def _steps(folder: Path) -> list[tuple[int, Path]]:
    """Step and place of each checkpoint in a folder, whole or not, the newest first."""
    named = ((_NAME.fullmatch(path.name), path) for path in folder.glob("step-*"))
    return sorted(((int(match[1]), path) for match, path in named if match), reverse=True)


def save(
    step: Step,
    zero_stage: int,
    run: Path,
    position: Position,
    hooks: Sequence[Hook],
    ranks: Ranks,
    config: Mapping[str, Any],
) -> None:
    """Write a checkpoint; every rank must call it. When it is whole, all but the last two are removed.

    Args:
        config: of the run, kept for the case that `config.yaml` is damaged.

    Raises:
        ArcticSegError: a tensor of a hook is NaN or infinite.
        OutputError: it cannot be written; the checkpoints before stay.
    """
    folder = run / CHECKPOINTS
    half = folder / f".step-{position.step:08d}.tmp"
    # Of all ranks: to gather its tensors a hook may need them.
    tensors = {f"{hook.name}/{key}": value for hook in hooks for key, value in hook.tensors().items()}
    check_finite(tensors.values(), "tensors of hooks", position.step, ranks.device)
    state = {
        "step": position.step,
        "loader": position.loader,
        "hooks": {hook.name: state for hook in hooks if (state := hook.state())},
        "world_size": ranks.world_size,
        "zero_stage": zero_stage,
        "config": dict(config),
    }
    if ranks.is_main:
        for path in folder.glob(".step-*"):
            remove(path)
    barrier()
    try:
        with output_errors(folder):
            step.save(folder, half.name)
        barrier()
        # Of each node: it flushes what its ranks have written.
        _on_some(ranks.local_rank == 0, ranks, folder, lambda: sync_tree(half))
        _on_some(ranks.is_main, ranks, folder, lambda: _complete(half, tensors, state))
    except BaseException:
        remove(half)
        raise
    if ranks.is_main:
        note_checkpoint(run)
        _remove_old(folder, position.step)
    barrier()


def _on_some(chosen: bool, ranks: Ranks, place: Path, body: Callable[[], None]) -> None:
    """Do on some ranks what writes to a place; the error of one rank is that of all."""
    error = None
    if chosen:
        try:
            with output_errors(place):
                body()
        except ArcticSegError as caught:
            error = caught
    agree(error, ranks.device)


def _complete(half: Path, tensors: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    """Add our own files to those of DeepSpeed, and give the checkpoint its name."""
    _save_tensors(half / _HOOKS, tensors)
    seal(half, state)
    whole = half.with_name(half.name.removeprefix(".").removesuffix(".tmp"))
    # A damaged checkpoint, before which the training went on.
    remove(whole)
    half.rename(whole)
    sync_folder(whole.parent)
    write_text(whole.parent / _LAST, f"{whole.name}\n")


def _remove_old(folder: Path, step: int) -> None:
    """Remove all but the checkpoint of a step and the newest whole ones before it."""
    before = [path for number, path in _steps(folder) if number < step and seems_whole(path)]
    kept = {f"step-{step:08d}", *(path.name for path in before[: _KEPT - 1])}
    for path in folder.glob("step-*"):
        if path.name not in kept:
            remove(path)


def _save_tensors(path: Path, tensors: Mapping[str, Any]) -> None:
    from safetensors.torch import save_file

    if tensors:
        with atomic_path(path) as temporary:
            save_file({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, temporary)


def copy_hooks(checkpoint: Path, folder: Path) -> None:
    """Copy the hooks' tensors of a checkpoint into another form of it."""
    if (checkpoint / _HOOKS).is_file():
        shutil.copyfile(checkpoint / _HOOKS, folder / _HOOKS)


def load(step: Step, checkpoint: Path) -> Position:
    """Bring a step back to a checkpoint that `reshard.suited` gave; every rank must call it.

    Raises:
        ConfigError: a checkpoint without checksums cannot be read.
    """
    state = read_state(checkpoint)
    try:
        step.load(checkpoint.parent, checkpoint.name)
    except Exception as error:
        if is_sealed(state):
            raise
        raise ConfigError(
            f"{checkpoint}: cannot be read ({error}); restore it from a copy, or set another 'out' to start again"
        ) from error
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
