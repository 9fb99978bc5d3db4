"""What a checkpoint keeps besides the network."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from torch import Tensor

from arcticseg.engine import checkpoint
from arcticseg.engine.checkpoint import Position
from arcticseg.engine.hooks.hook import Hook
from arcticseg.errors import OutputError
from tests.unit.engine.trainings import ALONE, trainer_of


class Keeps(Hook):
    """Has a state and tensors under a name."""

    def __init__(self, name: str, number: int | None = None) -> None:
        self.name, self.number = name, number

    def state(self) -> dict[str, Any]:
        return {} if self.number is None else {"number": self.number}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.number = state["number"]

    def tensors(self) -> dict[str, Tensor]:
        return {} if self.number is None else {"a/b": torch.full((2,), float(self.number)), "c": torch.eye(2).T[:1]}

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        self.loaded = dict(tensors)


def save(run: Path, step: int, *hooks: Hook) -> Path:
    trainer = trainer_of(run, hooks)
    checkpoint.save(trainer.step, 1, run, Position(step, {"consumed": 4 * step}), hooks, ALONE)
    newest = checkpoint.newest(run)
    assert newest is not None
    return newest


def test_state_and_tensors_of_each_hook_come_back(tmp_path: Path) -> None:
    newest = save(tmp_path, 3, Keeps("first", 1), Keeps("second", 2), Keeps("none"))
    state = json.loads((newest / "state.json").read_text())
    assert state["hooks"] == {"first": {"number": 1}, "second": {"number": 2}}
    assert (state["step"], state["world_size"], state["zero_stage"]) == (3, 1, 1)
    hooks = [Keeps("second"), Keeps("first"), Keeps("new")]
    checkpoint.load_hooks(newest, hooks)
    assert [hook.number for hook in hooks] == [2, 1, None]
    assert hooks[0].loaded["a/b"].tolist() == [2, 2]
    assert hooks[1].loaded["c"].tolist() == [[1, 0]]
    assert not hasattr(hooks[2], "loaded")
    position = checkpoint.load(trainer_of(tmp_path, hooks).step, newest)
    assert position == Position(3, {"consumed": 12})


def test_a_checkpoint_of_no_hooks_holds_none(tmp_path: Path) -> None:
    newest = save(tmp_path, 3)
    assert not (newest / "hooks.safetensors").exists()
    hook = Keeps("first", 5)
    checkpoint.load_hooks(newest, [hook])
    assert hook.number == 5


def test_the_one_before_goes_when_the_next_is_complete(tmp_path: Path) -> None:
    save(tmp_path, 3)
    newest = save(tmp_path, 6, Keeps("first", 1))
    assert [path.name for path in (tmp_path / "checkpoints").glob("step-*")] == ["step-00000006"] == [newest.name]


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    newest = save(tmp_path, 3)
    trainer = trainer_of(tmp_path, [])

    def fail(folder: Path, tag: str) -> None:
        (folder / tag).mkdir()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(trainer.step, "save", fail)
    with pytest.raises(OutputError, match=r"checkpoints.*No space left"):
        checkpoint.save(trainer.step, 1, tmp_path, Position(6), [], ALONE)
    assert checkpoint.newest(tmp_path) == newest
    assert [path.name for path in (tmp_path / "checkpoints").glob("step-*")] == ["step-00000003"]


def test_an_incomplete_checkpoint_is_none(tmp_path: Path) -> None:
    assert checkpoint.newest(tmp_path) is None
    (save(tmp_path, 3) / "state.json").unlink()
    assert checkpoint.newest(tmp_path) is None


def test_what_is_copied_to_another_form_is_ours(tmp_path: Path) -> None:
    newest = save(tmp_path, 3, Keeps("first", 1))
    (tmp_path / "other").mkdir()
    checkpoint.copy_state(newest, tmp_path / "other")
    assert sorted(path.name for path in (tmp_path / "other").iterdir()) == ["hooks.safetensors", "state.json"]


def test_best_scores_of_version_0_1_come_back(tmp_path: Path) -> None:
    from arcticseg.engine.hooks.best import Best

    state = {"step": 2, "loader": {}, "best": {"SIC": 12.5}, "world_size": 1, "zero_stage": 0}
    (tmp_path / "state.json").write_text(json.dumps(state))
    best = Best()
    checkpoint.load_hooks(tmp_path, [best])
    assert best.scores == {"SIC": 12.5}
