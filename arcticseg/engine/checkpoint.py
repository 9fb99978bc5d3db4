"""Checkpoints to go on from, on any number of ranks and in any ZeRO stage.

checkpoints/step-00000500/model-00000.safetensors   some of the tensors, one file a rank that wrote them, named
    module/NAME            float32 masters; frozen parameters and buffers as they are
    optimiser.SLOT/NAME    what the optimiser keeps for a parameter, such as `exp_avg`
    hook/HOOK/NAME         tensors of hooks
    step/PART/module/...   the same of a step's further networks
    step.kept/NAME         what else a step keeps
checkpoints/step-00000500/metrics.jsonl   what was logged so far
checkpoints/step-00000500/state.json      all that JSON can hold, and checksums of all files; written last
checkpoints/.step-00000500.tmp/   a checkpoint that is being written; what a kill leaves of it is never read
checkpoints/last             name of the newest, for people: the program looks at the checkpoints themselves
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from arcticseg.engine import reshard
from arcticseg.engine.checksums import DamagedError, OldFormatError, read_state, remove, seems_whole, verify
from arcticseg.engine.hooks.hook import Hook
from arcticseg.engine.process_group import Ranks
from arcticseg.engine.save import Saver
from arcticseg.engine.step import Step
from arcticseg.engine.tensor_files import TensorFiles
from arcticseg.engine.weights import check_finite
from arcticseg.engine.whole import MODULE, OPTIMISER, numbers_of, whole_tensors
from arcticseg.errors import ConfigError, OutputError
from arcticseg.files import write_text
from arcticseg.run.folder import (
    CHECKPOINTS,
    METRICS,
    finished,
    had_checkpoint,
    holds_run,
    note_checkpoint,
)

_LAST = "last"
# Begins the names of what a step keeps beside its engines.
_KEPT_BY_STEP = "step.kept/"
# Whole checkpoints that stay.
_KEPT = 2
_NAME = re.compile(r"step-(\d+)")


@dataclass
class Position:
    """Where a training is.

    Attributes:
        step: optimiser steps done.
        loader: the loader's state.
        skipped: steps among them that were left out for NaN or infinity; `in_a_row`: those at the end.
        stage: number of the stage of the last step.
    """

    step: int = 0
    loader: dict[str, Any] = field(default_factory=dict)
    skipped: int = 0
    in_a_row: int = 0
    stage: int = 0


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint, whose tensors are read when they are asked for.

    Attributes:
        state: of `state.json`.
    """

    folder: Path
    state: Mapping[str, Any]
    tensors: TensorFiles

    @classmethod
    def open(cls, folder: Path) -> Checkpoint:
        """Open a checkpoint that `newest` gave."""
        return cls(folder, read_state(folder), TensorFiles(sorted(folder.glob("model-*.safetensors"))))

    @property
    def position(self) -> Position:
        """Where the training was."""
        return Position(**self.state["position"])

    @property
    def metadata(self) -> dict[str, str]:
        """What weights need beside them."""
        return dict(self.state["metadata"])

    @property
    def config(self) -> dict[str, Any]:
        """Keys of the run's config."""
        return dict(json.loads(self.metadata["config"]))

    @property
    def metrics(self) -> Path:
        """What was logged so far."""
        return self.folder / METRICS

    def steps_taken(self, part: str = "") -> dict[str, float]:
        """Name -> steps that the optimiser has taken for a parameter, where it counts them."""
        return dict(self.state["parts"][part]["numbers"].get("step", {}))

    def load_module(self, module: nn.Module, part: str = "") -> None:
        """Give a network its weights and buffers, before DeepSpeed takes it.

        Raises:
            ConfigError: they are not those of the network.
        """
        weights = self.tensors.below(f"{_prefix(part)}{MODULE}/")
        kept = module.state_dict()
        missing, surplus = sorted(kept.keys() - set(weights)), sorted(set(weights) - kept.keys())
        differing = [name for name in weights if name in kept and weights.shape(name) != kept[name].shape]
        if missing or surplus or differing:
            name = (missing + surplus + differing)[0]
            raise ConfigError(
                f"{self.folder}: is of another network ({len(missing)} tensors missing, {len(surplus)} unknown, "
                f"{len(differing)} of other shape, such as {name}); set the model as it was, or another 'out'"
            )
        module.load_state_dict(weights)

    def load_step(self, step: Step) -> None:
        """Give the optimisers of a step their state; the weights are there already."""
        for part, engine in step.engines.items():
            below = self.tensors.below(_prefix(part))
            slots = [name.removeprefix(f"{OPTIMISER}.") for name in below.first_parts() if name.startswith(OPTIMISER)]
            optimiser = {slot: below.below(f"{OPTIMISER}.{slot}/") for slot in slots}
            told = self.state["parts"][part]
            reshard.fill(engine, {}, optimiser, told["numbers"])
            reshard.set_scaler(engine, told["scaler"])
        tensors = dict(self.tensors.below(_KEPT_BY_STEP))
        if tensors:
            step.load_tensors(tensors)

    def load_hooks(self, hooks: Sequence[Hook]) -> None:
        """Bring the hooks back."""
        for hook in hooks:
            if hook.name in self.state["hooks"]:
                hook.load_state(self.state["hooks"][hook.name])
            tensors = self.tensors.below(f"hook/{hook.name}/")
            if tensors:
                hook.load_tensors(dict(tensors))


def _prefix(part: str) -> str:
    """Of the names of a part's tensors; the first network has none."""
    return f"step/{part}/" if part else ""


def newest(run: Path, report: Callable[[str], None]) -> Path | None:
    """The newest whole checkpoint of a run folder, each of its files verified; None where the run never had any.

    Args:
        report: is told which checkpoints are damaged.

    Raises:
        ConfigError: the run has, or had, checkpoints, and none of them is whole; or the newest is of another version.
    """
    folder = run / CHECKPOINTS
    damaged = []
    for _, path in _steps(folder):
        try:
            verify(path)
        except DamagedError as error:
            damaged.append(error)
            report(f"{error}; looking for the checkpoint before it")
            continue
        except OldFormatError as error:
            raise ConfigError(str(error)) from None
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


def make_saver(run: Path, ranks: Ranks) -> Saver:
    """What writes the checkpoints of a run; beside the training where the device's memory is not the host's."""

    def done(whole: Path) -> None:
        note_checkpoint(run)
        # First, so that a disk that is full has room again.
        _remove_old(whole)
        with suppress(OutputError):
            write_text(whole.parent / _LAST, f"{whole.name}\n")

    return Saver(ranks, beside=ranks.device.type == "cuda", done=done)


def save(
    saver: Saver,
    step: Step,
    run: Path,
    position: Position,
    hooks: Sequence[Hook],
    metadata: Mapping[str, str],
) -> None:
    """Begin to write a checkpoint; every rank must call it. When it is whole, all but the last two are removed.

    Args:
        saver: settled.
        metadata: what weights need beside them, the config among it, so that both can be had from a checkpoint.

    Raises:
        ArcticSegError: a tensor of a hook or of the step is NaN or infinite.
    """
    ranks = saver.ranks
    # Of all ranks: to gather its tensors a hook may need them.
    kept = {f"hook/{hook.name}/{key}": value for hook in hooks for key, value in hook.tensors().items()}
    kept |= {f"{_KEPT_BY_STEP}{name}": value for name, value in step.tensors().items()}
    check_finite(kept.values(), "tensors of hooks or of the step", position.step, ranks.device)
    share = {name: saver.kept(value) for name, value in kept.items()} if ranks.is_main else {}
    parts = {}
    for part, engine in step.engines.items():
        # To the host as they come: all of them together need not fit beside the training on the device.
        share |= {f"{_prefix(part)}{name}": saver.kept(value) for name, value in whole_tensors(engine, ranks)}
        parts[part] = {"numbers": numbers_of(engine), "scaler": reshard.scaler_state(engine)}
    state = {
        "position": asdict(position),
        "hooks": {hook.name: state for hook in hooks if (state := hook.state())},
        "parts": parts,
        "metadata": dict(metadata),
    }
    whole = folder_of(run, position.step)
    copies = {METRICS: run / METRICS} if (run / METRICS).is_file() else {}
    saver.save(whole, share, state, copies)


def folder_of(run: Path, step: int) -> Path:
    """Where the checkpoint of a step is."""
    return run / CHECKPOINTS / f"step-{step:08d}"


def _remove_old(newest: Path) -> None:
    """Remove all but a checkpoint and the newest whole ones before it."""
    number = int(newest.name.removeprefix("step-"))
    before = [path for step, path in _steps(newest.parent) if step < number and seems_whole(path)]
    kept = {newest.name, *(path.name for path in before[: _KEPT - 1])}
    for path in newest.parent.glob("step-*"):
        if path.name not in kept:
            remove(path)
