"""The training loop and what it tells its hooks."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from safetensors.torch import load_file
from torch import Tensor

from arcticseg.engine import checkpoint, save
from arcticseg.engine.checkpoint import Checkpoint
from arcticseg.engine.hooks.hook import Hook, Training
from arcticseg.errors import ArcticSegError, OutputError
from arcticseg.run.folder import last_weights, skipped_path
from tests.unit.engine.trainings import LOGGED, STEPS, Mean, StopAt, trainer_of


class Notes(Hook):
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []
        self.values: dict[int, Any] = {}

    def on_start(self, training: Training) -> None:
        self.told.append(("start", training.first, training.last))

    def on_step(self, step: int, values: Any) -> None:
        self.told.append(("step", step))
        self.values[step] = values

    def on_validation(self, step: int, scores: Any) -> None:
        self.told.append(("validation", step, *scores))

    def on_event(self, step: int, event: str, values: Any) -> None:
        self.told.append((event, step))

    def on_end(self, step: int) -> None:
        self.told.append(("end", step))


def test_hooks_are_told_all_in_order(tmp_path: Path) -> None:
    notes = Notes()
    assert trainer_of(tmp_path, [notes]).train()
    steps: list[tuple[Any, ...]] = []
    for n in range(1, STEPS + 1):
        steps += [("step", n), ("validation", n, "halving")][: 1 + (n % 2 == 0)]
    assert notes.told == [("start", 0, STEPS), *steps, ("summary", STEPS), ("end", STEPS)]
    assert load_file(last_weights(tmp_path))["weight"].numel() == 1


def test_values_of_a_step_stay_on_the_device_until_a_hook_reads_them(tmp_path: Path) -> None:
    notes = Notes()
    trainer_of(tmp_path, [notes], log=4).train()
    assert [step for step, values in notes.values.items() if values is not None] == [4, STEPS]
    values = notes.values[4]
    assert list(values) == LOGGED
    assert [name for name, value in values.items() if isinstance(value, Tensor)] == [
        "loss",
        "loss_halving",
        "grad_norm",
    ]
    assert float(values["loss"]) == pytest.approx(3 * float(values["loss_halving"]))


def test_a_hook_may_stop_a_training_which_goes_on_later(tmp_path: Path) -> None:
    notes = Notes()
    assert not trainer_of(tmp_path, [notes, StopAt(1)]).train()
    # One more step is done: ranks agree on the wish together with what counts in the step.
    assert notes.told[-3:] == [("validation", 2, "halving"), ("summary", 2), ("end", 2)]
    assert not last_weights(tmp_path).exists()
    newest = checkpoint.newest(tmp_path, [].append)
    assert newest is not None
    assert newest.name == "step-00000002"


def test_a_signal_stops_a_training(tmp_path: Path) -> None:
    class Signal(Hook):
        def on_step(self, step: int, values: Any) -> None:
            if step == 3:
                os.kill(os.getpid(), signal.SIGUSR1)

    before = signal.getsignal(signal.SIGUSR1)
    notes = Notes()
    assert not trainer_of(tmp_path, [Signal(), notes]).train()
    assert notes.told[-1] == ("end", 4)
    assert signal.getsignal(signal.SIGUSR1) == before


@pytest.mark.parametrize("stop", [1, 3])
def test_a_mean_of_weights_goes_through_a_stop_and_a_checkpoint(tmp_path: Path, stop: int) -> None:
    whole = Mean()
    trainer_of(tmp_path / "whole", [whole]).train()
    assert not trainer_of(tmp_path / "parts", [Mean(), StopAt(stop)]).train()
    newest = checkpoint.newest(tmp_path / "parts", [].append)
    assert newest is not None
    state = json.loads((newest / "state.json").read_text())
    assert state["hooks"] == {"mean": {"count": stop + 1}}
    again = Mean()
    saved = Checkpoint.open(newest)
    resumed = trainer_of(tmp_path / "parts", [again], saved.position)
    saved.load_module(resumed.training.engine.module)
    saved.load_step(resumed.step)
    saved.load_hooks([again])
    assert resumed.train()
    assert again.count == whole.count == STEPS
    assert torch.equal(again.weights["weight"], whole.weights["weight"])
    ends = [load_file(last_weights(tmp_path / name))["weight"] for name in ("whole", "parts")]
    assert torch.equal(*ends)
    assert not torch.equal(ends[0].double(), whole.weights["weight"])


def test_hooks_end_with_an_error_too(tmp_path: Path) -> None:
    class Fails(Hook):
        def on_step(self, step: int, values: Any) -> None:
            raise ArcticSegError(f"no more at {step}")

    notes = Notes()
    with pytest.raises(ArcticSegError, match="no more at 1"):
        trainer_of(tmp_path, [Fails(), notes]).train()
    assert notes.told == [("start", 0, STEPS), ("end", 1)]


def test_steps_left_out_are_counted_and_their_samples_written_down(tmp_path: Path) -> None:
    notes = Notes()
    trainer = trainer_of(tmp_path, [notes], bad=[2, 5])
    assert trainer.train()
    assert (trainer.position.skipped, trainer.position.in_a_row) == (2, 0)
    # Told when the host reads it, at the next log line.
    assert [told for told in notes.told if "left out" in str(told[0])] == [
        ("step left out for NaN or infinity", 2),
        ("step left out for NaN or infinity", 6),
    ]
    assert [values["skipped"] for values in notes.values.values() if values is not None] == [1, 1, 2]
    lines = [json.loads(line) for line in skipped_path(tmp_path).read_text().splitlines()]
    assert lines == [{"step": 2, "samples": ["value 1"]}, {"step": 5, "samples": ["value 4"]}]
    newest = checkpoint.newest(tmp_path, [].append)
    assert newest is not None
    assert Checkpoint.open(newest).position.skipped == 2


def test_too_many_steps_left_out_in_a_row_end_the_training_and_name_samples(tmp_path: Path) -> None:
    # Of 6 steps 2 in a row may be left out.
    trainer = trainer_of(tmp_path, [], bad=[1, 3, 4, 5])
    with pytest.raises(ArcticSegError, match=r"in 3 steps in a row.*skipped\.jsonl .*value 4.*optim\.lr"):
        trainer.train()
    assert not last_weights(tmp_path).exists()
    newest = checkpoint.newest(tmp_path, [].append)
    assert newest is not None
    assert newest.name == "step-00000003"


def test_a_checkpoint_that_fails_does_not_end_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told, and the next is written; the last one is needed."""
    write, fails = save.write_tensors, [True, False]

    def full(*arguments: Any) -> Any:
        if fails.pop(0):
            raise OSError(28, "No space left on device")
        return write(*arguments)

    monkeypatch.setattr(save, "write_tensors", full)
    notes = Notes()
    assert trainer_of(tmp_path, [notes]).train()
    assert ("checkpoint failed, training goes on", 3) in notes.told
    newest = checkpoint.newest(tmp_path, [].append)
    assert newest is not None
    assert newest.name == "step-00000006"
    fails[:] = [False, True]
    with pytest.raises(OutputError, match="No space left"):
        trainer_of(tmp_path / "last", []).train()


def test_weights_that_are_not_numbers_are_not_saved(tmp_path: Path) -> None:
    """They become so behind the first checkpoint, and no log line tells it before the next."""

    class Spoil(Hook):
        def on_start(self, training: Training) -> None:
            self.weight = training.engine.module.weight

        def on_step(self, step: int, values: Any) -> None:
            if step == 5:
                self.weight.data.fill_(float("inf"))

    trainer = trainer_of(tmp_path, [Spoil()], log=100)
    trainer.validation = None
    with pytest.raises(ArcticSegError, match=r"NaN .*step 6.*optim\.lr"):
        trainer.train()
    newest = checkpoint.newest(tmp_path, [].append)
    assert newest is not None
    assert newest.name == "step-00000003"
    assert not last_weights(tmp_path).exists()


def test_a_trainer_hands_over_by_a_checkpoint_and_the_hooks_go_on(tmp_path: Path) -> None:
    """Steps, validations and weights are those of one trainer that does all."""
    notes = Notes()
    first = trainer_of(tmp_path, [notes], until=4)
    assert first.train()
    assert first.goes_on
    assert notes.told[-2:] == [("step", 4), ("validation", 4, "halving")]
    assert not last_weights(tmp_path).exists()
    saved = Checkpoint.open(checkpoint.folder_of(tmp_path, 4))
    second = trainer_of(tmp_path, [notes], position=saved.position, wish=first.wish)
    saved.load_module(second.training.engine.module)
    saved.load_step(second.step)
    assert second.train()
    assert not second.goes_on
    told = notes.told
    whole = Notes()
    trainer_of(tmp_path / "whole", [whole]).train()
    assert [item for item in told if item[0] != "start"] == [item for item in whole.told if item[0] != "start"]
    weights = [load_file(last_weights(out))["weight"] for out in (tmp_path, tmp_path / "whole")]
    assert torch.equal(*weights)


class Signalled(Hook):
    """Has this process signalled after a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step(self, step: int, values: Any) -> None:
        if step == self.step:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("step", [3, 4])
def test_a_signal_before_or_at_the_end_of_a_stage_is_not_lost(step: int, tmp_path: Path) -> None:
    """At the end it comes after ranks have agreed on the step: the next trainer stops, after a step of its own."""
    before = signal.getsignal(signal.SIGTERM)
    notes = Notes()
    first = trainer_of(tmp_path, [notes, Signalled(step)], until=4)
    assert first.train() == (step == 4)
    assert first.goes_on == (step == 4)
    if first.goes_on:
        assert signal.getsignal(signal.SIGTERM) != before
        saved = Checkpoint.open(checkpoint.folder_of(tmp_path, 4))
        assert not trainer_of(tmp_path, [notes], position=saved.position, wish=first.wish).train()
    stopped = 5 if step == 4 else 4
    assert notes.told[-2:] == [("summary", stopped), ("end", stopped)]
    assert checkpoint.newest(tmp_path, [].append) == checkpoint.folder_of(tmp_path, stopped)
    assert signal.getsignal(signal.SIGTERM) == before
