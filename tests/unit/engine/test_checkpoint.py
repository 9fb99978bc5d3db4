"""What a checkpoint keeps besides the network."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from torch import Tensor, nn

from arcticseg.engine import checkpoint
from arcticseg.engine import save as engine_save
from arcticseg.engine.checkpoint import Checkpoint, Position
from arcticseg.engine.checksums import DamagedError, OldFormatError, read_state
from arcticseg.engine.hooks.hook import Hook
from arcticseg.errors import ArcticSegError, ConfigError, OutputError
from tests.unit.engine.trainings import ALONE, trainer_of


class Keeps(Hook):
    """Has a state and tensors under a name."""

    def __init__(self, name: str, number: float | None = None) -> None:
        self.name, self.number = name, number

    def state(self) -> dict[str, Any]:
        return {} if self.number is None else {"number": self.number}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.number = state["number"]

    def tensors(self) -> dict[str, Tensor]:
        return {} if self.number is None else {"a/b": torch.full((2,), float(self.number)), "c": torch.eye(2).T[:1]}

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        self.loaded = dict(tensors)


METADATA = {"config": '{"steps": 9}', "tile": "64"}


def begin(run: Path, step: int, *hooks: Hook) -> OutputError | None:
    """Write a checkpoint; its error, where it failed."""
    saver = checkpoint.make_saver(run, ALONE)
    position = Position(step, {"consumed": 4 * step}, skipped=2, in_a_row=1)
    checkpoint.save(saver, trainer_of(run, hooks).step, run, position, hooks, METADATA)
    error = saver.settle()
    assert error is None or isinstance(error, OutputError)
    return error


def save(run: Path, step: int, *hooks: Hook) -> Path:
    assert begin(run, step, *hooks) is None
    return newest(run)


def newest(run: Path, said: Sequence[str] = ()) -> Path:
    """The newest whole checkpoint; `said`: parts of what is reported on the way."""
    reported: list[str] = []
    path = checkpoint.newest(run, reported.append)
    assert path is not None
    assert len(reported) == len(said)
    assert all(part in line for part, line in zip(said, reported, strict=True))
    return path


def steps(run: Path) -> list[str]:
    """Names of what stands in the folder of checkpoints, beside the pointer."""
    return sorted(path.name for path in (run / "checkpoints").iterdir() if path.name != "last")


def test_state_and_tensors_of_each_hook_come_back(tmp_path: Path) -> None:
    whole = save(tmp_path, 3, Keeps("first", 1), Keeps("second", 2), Keeps("none"))
    saved = Checkpoint.open(whole)
    assert saved.state["hooks"] == {"first": {"number": 1}, "second": {"number": 2}}
    hooks = [Keeps("second"), Keeps("first"), Keeps("new")]
    saved.load_hooks(hooks)
    assert [hook.number for hook in hooks] == [2, 1, None]
    assert hooks[0].loaded["a/b"].tolist() == [2, 2]
    assert hooks[1].loaded["c"].tolist() == [[1, 0]]
    assert not hasattr(hooks[2], "loaded")
    assert saved.position == Position(3, {"consumed": 12}, skipped=2, in_a_row=1)


def test_all_that_a_run_needs_can_be_had_from_a_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
    saved = Checkpoint.open(save(tmp_path, 3))
    assert saved.config == {"steps": 9}
    assert saved.metadata == METADATA
    assert saved.metrics.read_text() == '{"step": 1}\n'


def test_weights_and_state_of_the_optimiser_come_back(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, [])
    trainer.train()
    saved = Checkpoint.open(newest(tmp_path))
    other = trainer_of(tmp_path / "other", [])
    network, engine = other.training.engine.module, other.training.engine
    saved.load_module(network)
    saved.load_step(other.step)
    assert torch.equal(network.weight, trainer.training.engine.module.weight)
    kept, given = (e.optimizer.state[e.module.weight]["momentum_buffer"] for e in (trainer.training.engine, engine))
    assert torch.equal(kept, given)
    assert kept.abs().max() > 0


def test_another_network_is_refused_by_name(tmp_path: Path) -> None:
    saved = Checkpoint.open(save(tmp_path, 3))
    for network, told in (
        (nn.Conv2d(1, 2, 1, bias=False), r"1 of other shape, such as weight"),
        (nn.Conv2d(1, 1, 1), r"1 tensors missing.*such as bias"),
        (nn.Sequential(nn.Conv2d(1, 1, 1, bias=False)), r"1 unknown"),
    ):
        with pytest.raises(ConfigError, match=rf"step-00000003: is of another network .*{told}"):
            saved.load_module(network)


def test_the_last_two_stay(tmp_path: Path) -> None:
    for step in (3, 6, 9):
        whole = save(tmp_path, step, Keeps("first", 1))
    assert steps(tmp_path) == ["step-00000006", "step-00000009"]
    assert whole.name == "step-00000009"
    assert (tmp_path / "checkpoints" / "last").read_text() == "step-00000009\n"


@pytest.mark.parametrize("name", ["state.json", "step-00000006"])
def test_a_full_disk_at_the_end_leaves_those_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    whole = save(tmp_path, 3)
    rename, replace = Path.rename, os.replace

    def full(call: Callable[..., Any], source: Path, target: Path) -> None:
        if Path(target).name == name:
            raise OSError(28, "No space left on device")
        call(source, target)

    monkeypatch.setattr(os, "replace", lambda source, target: full(replace, source, target))
    monkeypatch.setattr(Path, "rename", lambda source, target: full(rename, source, target))
    assert "No space left" in str(begin(tmp_path, 6, Keeps("first", 1)))
    assert newest(tmp_path) == whole
    assert steps(tmp_path) == ["step-00000003"]


def test_a_checkpoint_that_cannot_be_written_leaves_those_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = save(tmp_path, 3)

    def full(path: Path, tensors: Any) -> tuple[int, str]:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(engine_save, "write_tensors", full)
    assert "No space left" in str(begin(tmp_path, 6))
    assert newest(tmp_path) == whole
    assert steps(tmp_path) == ["step-00000003"]


def test_a_disk_that_is_full_when_a_checkpoint_is_whole_frees_the_oldest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in (3, 6):
        save(tmp_path, step)
    replace = os.replace

    def full(source: Any, target: Any) -> None:
        if Path(target).name == "last":
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    assert begin(tmp_path, 9) is None
    assert newest(tmp_path).name == "step-00000009"
    assert steps(tmp_path) == ["step-00000006", "step-00000009"]


def flip(path: Path) -> None:
    """Turn a bit in the middle."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def become_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


HARMS = [flip, cut, empty, Path.unlink, become_a_folder]


@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.parametrize("name", ["model-00000.safetensors", "metrics.jsonl", "state.json"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_taken(
    tmp_path: Path, name: str, harm: Callable[[Path], None]
) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
    before = save(tmp_path, 3, Keeps("first", 1))
    harm(save(tmp_path, 6, Keeps("first", 1)) / name)
    checksum = "checksum of " if harm is flip and name != "state.json" else ""
    reported: list[str] = []
    assert checkpoint.newest(tmp_path, reported.append) == before
    assert f"step-00000006: is damaged: {checksum}" in reported[0]
    assert name in reported[0]
    assert str(before) in reported[1]
    # The next save takes its place.
    again = save(tmp_path, 6, Keeps("first", 1))
    assert again.name == "step-00000006"
    assert steps(tmp_path) == ["step-00000003", "step-00000006"]


def test_each_bit_of_the_state_counts(tmp_path: Path) -> None:
    """No bit turned in `state.json` gives another state."""
    path = save(tmp_path, 3) / "state.json"
    data, state = path.read_bytes(), read_state(path.parent)
    for place in range(len(data)):
        for bit in range(8):
            changed = bytearray(data)
            changed[place] ^= 1 << bit
            path.write_bytes(changed)
            with contextlib.suppress(DamagedError, OldFormatError):
                assert read_state(path.parent) == state


@pytest.mark.parametrize("harm", HARMS)
def test_no_whole_checkpoint_is_an_error_that_names_all(tmp_path: Path, harm: Callable[[Path], None]) -> None:
    for step in (3, 6):
        save(tmp_path, step)
    for step in (3, 6):
        harm(tmp_path / "checkpoints" / f"step-0000000{step}" / "model-00000.safetensors")
    with pytest.raises(ConfigError, match=r"step-00000006.*model-00000.*step-00000003.*model-00000.*'out'"):
        checkpoint.newest(tmp_path, [].append)


@pytest.mark.parametrize("harm", [empty, Path.unlink, lambda path: path.write_text("step-00000099\n")])
def test_the_pointer_is_a_hint(tmp_path: Path, harm: Callable[[Path], None]) -> None:
    whole = save(tmp_path, 3)
    harm(tmp_path / "checkpoints" / "last")
    assert newest(tmp_path) == whole


@pytest.mark.parametrize("lost", ["checkpoints", "checkpoints/step-00000003"])
def test_a_run_that_had_a_checkpoint_is_not_one_without(tmp_path: Path, lost: str) -> None:
    assert checkpoint.newest(tmp_path, [].append) is None
    save(tmp_path, 3)
    (tmp_path / "metrics.jsonl").touch()
    shutil.rmtree(tmp_path / lost)
    with pytest.raises(ConfigError, match=r"checkpoints: .*missing.*'out'"):
        checkpoint.newest(tmp_path, [].append)


def test_what_a_kill_leaves_of_a_save_is_no_checkpoint(tmp_path: Path) -> None:
    half = tmp_path / "checkpoints" / ".step-00000003.tmp"
    half.mkdir(parents=True)
    (half / "model-00000.safetensors").touch()
    assert checkpoint.newest(tmp_path, [].append) is None
    (tmp_path / "checkpoints" / "step-00000004-universal").mkdir()
    save(tmp_path, 6)
    assert steps(tmp_path) == ["step-00000006"]


def test_a_checkpoint_of_version_0_1_is_refused_in_one_line_that_names_it(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints" / "step-00000002"
    folder.mkdir(parents=True)
    state = {"step": 2, "loader": {}, "best": {"SIC": 12.5}, "world_size": 1, "zero_stage": 0}
    (folder / "state.json").write_text(json.dumps(state))
    with pytest.raises(ConfigError, match=r"step-00000002: is of version 0\.1, .*init_from") as caught:
        newest(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_a_hook_with_bad_numbers_is_not_saved(tmp_path: Path, number: float) -> None:
    whole = save(tmp_path, 3)
    with pytest.raises(ArcticSegError, match=r"hooks.*step 6"):
        save(tmp_path, 6, Keeps("first", number))
    assert newest(tmp_path) == whole
    assert steps(tmp_path) == ["step-00000003"]
