"""Checkpoints to go on from, and weights to use.

checkpoints/step-00000500/   DeepSpeed's files of all ranks and state.json
checkpoints/step-00000500-universal/   the same for any number of ranks, made when a run goes on with another number
checkpoints/last             name of the newest complete one, written when all ranks are done
weights/*.safetensors        float32 weights of `last` and of each best score; with the config they came from
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from arcticseg.engine.deepspeed_engine import full_state_dict
from arcticseg.engine.process_group import Ranks, agree, barrier
from arcticseg.errors import ArcticSegError, ConfigError, OutputError
from arcticseg.files import atomic_path, make_folder, output_errors, write_text

_LAST = "last"


@dataclass
class Progress:
    """Where a training is: optimiser steps done, loader state, best scores so far."""

    step: int = 0
    loader: dict[str, Any] = field(default_factory=dict)
    best: dict[str, float] = field(default_factory=dict)


def newest(run: Path) -> Path | None:
    """The newest complete checkpoint of a run folder; None where there is none."""
    pointer = run / "checkpoints" / _LAST
    if not pointer.is_file():
        return None
    found = run / "checkpoints" / pointer.read_text().strip()
    return found if (found / "state.json").is_file() else None


def save(engine: Any, run: Path, progress: Progress, ranks: Ranks) -> None:
    """Write a checkpoint; every rank must call it. The one before is removed when this one is complete."""
    folder = run / "checkpoints"
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


def suited(checkpoint: Path, zero_stage: int, ranks: Ranks) -> tuple[Path, bool]:
    """The checkpoint in a form that this number of ranks can load, and whether that is DeepSpeed's universal form.

    ZeRO 1 and 2 cut the optimiser's state among ranks; for another number of them rank 0 puts it together first. Every
    rank must call this, before it makes its engine.

    Raises:
        ConfigError: the checkpoint was made in another ZeRO stage, or on another number of ranks in stage 3, of which
            DeepSpeed restores the weights but not all of the optimiser's state.
        OutputError: the universal form cannot be written.
    """
    state = json.loads((checkpoint / "state.json").read_text())
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
    if ranks.is_main and not universal.exists():
        try:
            _make_universal(checkpoint, universal)
        except ArcticSegError as found:
            error = found
    agree(error, ranks.device)
    return universal, True


def _make_universal(checkpoint: Path, universal: Path) -> None:
    """Convert with DeepSpeed's own program, in a process of its own, since it prints and forks.

    Raises:
        OutputError: with what the program said last.
    """
    half = universal.with_name(f".{universal.name}.tmp")
    shutil.rmtree(half, ignore_errors=True)
    command = [sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal", "--inject_missing_state"]
    command += ["--input_folder", str(checkpoint), "--output_folder", str(half)]
    # Not a rank of the training, and not to be taken for one.
    alone = {name: value for name, value in os.environ.items() if name not in ("RANK", "LOCAL_RANK", "WORLD_SIZE")}
    done = subprocess.run(command, env=alone, capture_output=True, text=True, check=False)
    if done.returncode:
        shutil.rmtree(half, ignore_errors=True)
        reason = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
        raise OutputError(
            f"{checkpoint}: cannot be brought to another number of ranks ({reason}); see that the disk has room, or "
            "start as many ranks as before"
        )
    with output_errors(universal):
        shutil.copyfile(checkpoint / "state.json", half / "state.json")
        half.rename(universal)


def load(engine: Any, checkpoint: Path) -> Progress:
    """Bring the engine back to a checkpoint that is `suited` to it."""
    engine.load_checkpoint(str(checkpoint.parent), tag=checkpoint.name)
    return read_progress(checkpoint)


def save_weights(engine: Any, path: Path, metadata: dict[str, str]) -> None:
    """Write the whole model's weights with the config that they need; every rank must call it."""
    from safetensors.torch import save_file

    weights = full_state_dict(engine)
    if weights is not None:
        make_folder(path.parent)
        with atomic_path(path) as temporary:
            save_file(weights, temporary, metadata=metadata)
    barrier()


def weights_file(place: Path) -> Path:
    """The weights that a run folder or a file stands for: the best by combined score, else the best, else the last.

    Raises:
        ConfigError: there are none.
    """
    if place.is_file():
        return place
    folder = place / "weights"
    for name in ("best-combined", "best-reconstruction", "last"):
        if (folder / f"{name}.safetensors").is_file():
            return folder / f"{name}.safetensors"
    raise ConfigError(f"{place}: holds no weights; give a run folder that has trained, or a .safetensors file")


def load_weights(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Weights by name, and the metadata beside them.

    Raises:
        ConfigError: the file is no weights file of this project.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a dict
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"{path}: cannot be read as weights ({error}); give a .safetensors file of a run") from error
    if "config" not in metadata:
        raise ConfigError(f"{path}: holds no config; give a .safetensors file of a run")
    return weights, metadata
