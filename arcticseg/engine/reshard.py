"""Checkpoints brought to another number of ranks: what reaches into DeepSpeed's own formats."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from arcticseg.engine.checkpoint import copy_hooks
from arcticseg.engine.checksums import DamagedError, read_state, remove, seal, sync_tree, verify
from arcticseg.engine.process_group import Ranks, agree
from arcticseg.errors import ArcticSegError, ConfigError, OutputError
from arcticseg.files import output_errors, sync_folder
from arcticseg.ranks import without_rank_variables


def suited(checkpoint: Path, zero_stage: int, ranks: Ranks) -> tuple[Path, bool]:
    """The checkpoint in a form that this number of ranks can load, and whether that is DeepSpeed's universal form.

    ZeRO 1 and 2 cut the optimiser's state among ranks; for another number of them rank 0 puts it together first. Every
    rank must call this, before it makes its engine.

    Raises:
        ConfigError: the checkpoint was made in another ZeRO stage, or on another number of ranks in stage 3, of which
            DeepSpeed restores the weights but not all of the optimiser's state.
        OutputError: the universal form cannot be written.
    """
    state = read_state(checkpoint)
    if state["zero_stage"] != zero_stage:
        raise ConfigError(
            f"{checkpoint}: was made with engine.zero_stage {state['zero_stage']}, this run has {zero_stage}; set the "
            "former"
        )
    if not zero_stage or state["world_size"] == ranks.world_size:
        return checkpoint, False
    if zero_stage == 3:
        raise ConfigError(
            f"{checkpoint}: was made on {state['world_size']} ranks with engine.zero_stage 3, this run has "
            f"{ranks.world_size}; start as many, or train with stage 0, 1 or 2, which go on with any number"
        )
    universal = checkpoint.with_name(f"{checkpoint.name}-universal")
    error = None
    if ranks.is_main and not _whole(universal):
        try:
            _make_universal(checkpoint, universal)
        except ArcticSegError as caught:
            error = caught
    agree(error, ranks.device)
    return universal, True


def _whole(folder: Path) -> bool:
    try:
        verify(folder)
    except DamagedError:
        return False
    return True


def _make_universal(checkpoint: Path, universal: Path) -> None:
    """Convert with DeepSpeed's own program, in a process of its own, since it prints and forks.

    Raises:
        OutputError: with what the program said last.
    """
    half = universal.with_name(f".{universal.name}.tmp")
    remove(half)
    command = [sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal", "--inject_missing_state"]
    command += ["--input_folder", str(checkpoint), "--output_folder", str(half)]
    # Not a rank of the training, and not to be taken for one.
    done = subprocess.run(command, env=without_rank_variables(os.environ), capture_output=True, text=True, check=False)
    if done.returncode:
        remove(half)
        reason = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
        raise OutputError(
            f"{checkpoint}: cannot be brought to another number of ranks ({reason}); see that the disk has room, or "
            "start as many ranks as before"
        )
    with output_errors(universal):
        copy_hooks(checkpoint, half)
        sync_tree(half)
        seal(half, read_state(checkpoint))
        remove(universal)
        half.rename(universal)
        sync_folder(universal.parent)
