"""Hooks from outside on two real ranks: one averages weights, one stops; also with a task that owns parameters."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from safetensors.torch import load_file

from arcticseg.engine.checkpoint import Checkpoint
from launchers.command import command
from tests.forked import Forked
from tests.training import UNET, empty_config, kill, lines, overrides

STEPS, STOP = 6, 3

HOOKS = '''
from dataclasses import dataclass
from typing import ClassVar

from arcticseg.engine.config import HookConfig
from arcticseg.engine.hooks.hook import Hook


class Average(Hook):
    """The mean of all weights after each step."""

    def __init__(self):
        self.count, self.sums = 0, {}

    def on_start(self, training):
        self.module = training.engine.module

    def on_step(self, step, values):
        self.count += 1
        for name, value in self.module.state_dict().items():
            self.sums[name] = self.sums.get(name, 0) + value.detach().double()

    def state(self):
        return {"count": self.count}

    def load_state(self, state):
        self.count = state["count"]

    def tensors(self):
        return {name: value / self.count for name, value in self.sums.items()}

    def load_tensors(self, tensors):
        self.sums = {name: value * self.count for name, value in tensors.items()}


class Stop(Hook):
    """Stops after a step; the last rank alone wants it."""

    def __init__(self, at):
        self.at, self.done = at, 0

    def on_start(self, training):
        self.asks = training.ranks.rank == training.ranks.world_size - 1

    def on_step(self, step, values):
        self.done = step

    def wants_stop(self):
        return self.asks and self.done == self.at


@dataclass(frozen=True)
class AverageConfig(HookConfig):
    name: str = "average"
    implementation: ClassVar[str] = "hooks_of_test:Average"


@dataclass(frozen=True)
class StopConfig(HookConfig):
    name: str = "stop"
    at: int = 0
    implementation: ClassVar[str] = "hooks_of_test:Stop"


HookConfig.table |= {"average": AverageConfig, "stop": StopConfig}
'''


def train(module: str, config: str, arguments: Sequence[str], ranks: int = 1, resume: bool = False) -> int:
    """Train by the `main` of a module, to its end; the exit status."""
    process = Forked(module, command(config, arguments, resume)[3:], ranks, merged=True)
    try:
        printed, _ = process.communicate(timeout=300)
    finally:
        kill(process)
    assert process.returncode in (0, 3), printed
    return process.returncode


def newest(out: Path) -> Path:
    return max((out / "checkpoints").glob("step-????????"))


@pytest.mark.parametrize(("module", "zero_stage"), [("launchers.train", 2), ("tests.learned", 1)])
def test_a_hook_stops_two_ranks_and_another_averages_through_the_stop(
    module: str, zero_stage: int, tiny_shards: Path, tmp_path: Path
) -> None:
    (tmp_path / "hooks_of_test.py").write_text(HOOKS)
    config, whole, parts = empty_config(tmp_path), tmp_path / "whole", tmp_path / "parts"
    settings = UNET | {
        "steps": STEPS,
        "engine.zero_stage": zero_stage,
        "imports": f"[{tmp_path / 'hooks_of_test.py'}]",
        "hooks": f"[average, {{name: stop, at: {STOP}}}]",
    }
    alone = settings | {"hooks": "[average]"}
    assert train(module, config, overrides(tiny_shards, whole, alone)) == 0
    assert train(module, config, overrides(tiny_shards, parts, settings), ranks=2) == 3
    # Ranks agree on the wish together with what counts in the next step, which is still done.
    assert [line["step"] for line in lines(parts, "train")] == list(range(1, STOP + 2))
    assert json.loads((newest(parts) / "state.json").read_text())["hooks"]["average"] == {"count": STOP + 1}
    assert not (parts / "weights" / "last.safetensors").exists()
    assert train(module, config, overrides(tiny_shards, parts, settings), ranks=2, resume=True) == 0

    losses = [[line["loss"] for line in lines(out, "train")] for out in (whole, parts)]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)
    means = [dict(Checkpoint.open(newest(out)).tensors.below("hook/")) for out in (whole, parts)]
    assert means[0].keys() == means[1].keys()
    for name, value in means[0].items():
        torch.testing.assert_close(means[1][name], value, rtol=1e-3, atol=1e-5)
    last = [load_file(out / "weights" / "last.safetensors") for out in (whole, parts)]
    prefix = "average/network." if module == "tests.learned" else "average/"
    for name, value in last[0].items():
        torch.testing.assert_close(last[1][name], value, rtol=1e-3, atol=1e-5)
    assert any((means[0][prefix + name] - value).abs().max() > 1e-3 for name, value in last[0].items())
    own = {name.removeprefix(prefix) for name in means[0]} - last[0].keys()
    assert own == ({"average/task.logs"} if module == "tests.learned" else set())
    if own:
        # The task's own weights have moved.
        assert means[0]["average/task.logs"].abs().min() > 1e-3


def test_two_ranks_end_early_with_weights(tiny_shards: Path, tmp_path: Path) -> None:
    hook = "[{name: early_stop, score: SOD, patience: 1, min_delta: 1000}]"
    settings = UNET | {"steps": STEPS, "validate_every": 2, "hooks": hook}
    assert train("launchers.train", empty_config(tmp_path), overrides(tiny_shards, tmp_path / "run", settings), 2) == 0
    # The first validation is a rise above nothing, the second is none.
    assert [line["step"] for line in lines(tmp_path / "run", "validation")] == [2, 4]
    events = [(line["step"], line["event"]) for line in lines(tmp_path / "run", "event")]
    assert events == [(4, "finished early"), (4, "summary")]
    assert newest(tmp_path / "run").name == "step-00000004"
    assert (tmp_path / "run" / "weights" / "last.safetensors").exists()
