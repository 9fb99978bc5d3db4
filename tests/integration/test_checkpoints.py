"""What a run has learnt survives damage, bad numbers and a second training; nothing starts over in silence."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from arcticseg.run.folder import CHECKPOINTS, CONFIG, METRICS, last_weights
from launchers.status import ERROR_PREFIX, USER_ERROR
from tests.training import UNET, empty_config, kill, lines, overrides, start, train, wait_for_step

SETTINGS = UNET | {"steps": 6, "checkpoint_every": 2, "engine.zero_stage": 1}
NEWEST, BEFORE = "step-00000006", "step-00000004"
TENSORS = "model-00000.safetensors"

Harm = Callable[[Path], object]


def flip(path: Path) -> None:
    """Turn a bit in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 16
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def refused(config: str, arguments: Sequence[str], ranks: int = 1, resume: bool = True) -> str:
    """The only error line of a training that ends with status 2, and no traceback."""
    process = start(config, arguments, ranks, resume)
    try:
        printed, _ = process.communicate(timeout=120)
    finally:
        kill(process)
    assert process.returncode == USER_ERROR, printed
    assert "Traceback" not in printed
    (error,) = (line for line in printed.splitlines() if line.startswith(ERROR_PREFIX))
    return error


def steps_in(run: Path) -> set[str]:
    """Names of checkpoints, in every form and state."""
    return {path.name for path in (run / CHECKPOINTS).glob("*step-*")}


@pytest.fixture(scope="module")
def whole(tiny_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has trained to its end, with the checkpoints of its last steps."""
    folder = tmp_path_factory.mktemp("whole")
    train(empty_config(folder), overrides(tiny_shards, folder / "run", SETTINGS))
    assert steps_in(folder / "run") == {BEFORE, NEWEST}
    return folder / "run"


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    """A copy of the run without its last weights."""
    folder = Path(shutil.copytree(whole, tmp_path / "run"))
    shutil.rmtree(folder / "weights")
    return folder


@pytest.mark.parametrize(
    ("name", "harm", "ranks"),
    [(TENSORS, flip, 1), (TENSORS, cut, 1), (TENSORS, Path.unlink, 1), ("state.json", empty, 2)],
)
def test_a_damaged_checkpoint_is_named_and_the_one_before_gives_the_same_weights(
    name: str, harm: Harm, ranks: int, tiny_shards: Path, whole: Path, run: Path, tmp_path: Path
) -> None:
    harm(run / CHECKPOINTS / NEWEST / name)
    printed = train(empty_config(tmp_path), overrides(tiny_shards, run, SETTINGS), ranks, resume=True)
    assert f"{run / CHECKPOINTS / NEWEST}: is damaged: " in printed
    assert name in printed
    assert [line["step"] for line in lines(run, "train")] == list(range(1, 7))
    expected, weights = (load_file(last_weights(out)) for out in (whole, run))
    for key, value in expected.items():
        assert torch.equal(weights[key], value) or ranks > 1
        torch.testing.assert_close(weights[key], value, rtol=1e-3, atol=1e-5)
    assert steps_in(run) == {BEFORE, NEWEST}


@pytest.mark.parametrize("harm", [empty, Path.unlink, lambda path: path.write_text("step-00000099\n")])
def test_without_the_pointer_it_goes_on_from_the_newest(
    harm: Harm, tiny_shards: Path, run: Path, tmp_path: Path
) -> None:
    (run / CHECKPOINTS / "last").unlink()
    before = (run / METRICS).read_text()
    train(empty_config(tmp_path), overrides(tiny_shards, run, SETTINGS), resume=True)
    assert (run / METRICS).read_text().startswith(before)
    assert last_weights(run).is_file()


def test_without_a_whole_checkpoint_it_does_not_start_over(tiny_shards: Path, run: Path, tmp_path: Path) -> None:
    for step in (NEWEST, BEFORE):
        empty(run / CHECKPOINTS / step / TENSORS)
    config, arguments = empty_config(tmp_path), overrides(tiny_shards, run, SETTINGS)
    before = (run / METRICS).read_text()
    error = refused(config, arguments, ranks=2)
    assert all(f"{step}: is damaged: {TENSORS}" in error for step in (NEWEST, BEFORE))
    shutil.rmtree(run / CHECKPOINTS)
    assert str(run / CHECKPOINTS) in refused(config, arguments)
    assert (run / METRICS).read_text() == before


@pytest.mark.parametrize("harm", [empty, lambda path: path.write_bytes(b"\xff\x00: [")])
def test_a_lost_config_comes_back_from_the_checkpoint(
    harm: Harm, tiny_shards: Path, whole: Path, run: Path, tmp_path: Path
) -> None:
    whole_config = (run / CONFIG).read_text()
    harm(run / CONFIG)
    config, arguments = empty_config(tmp_path), overrides(tiny_shards, run, SETTINGS)
    assert "'optim.lr'" in refused(config, [*arguments, "optim.lr=0.5"])
    train(config, arguments, resume=True)
    assert (run / CONFIG).read_text() == whole_config.replace(str(whole), str(run))


def test_a_damaged_config_alone_is_named(tiny_shards: Path, run: Path, tmp_path: Path) -> None:
    shutil.rmtree(run / CHECKPOINTS)
    (run / ".training").unlink()
    empty(run / CONFIG)
    assert str(run / CONFIG) in refused(empty_config(tmp_path), overrides(tiny_shards, run, SETTINGS))


def test_what_is_left_of_a_run_is_not_overwritten(tiny_shards: Path, run: Path, tmp_path: Path) -> None:
    (run / METRICS).unlink()
    error = refused(empty_config(tmp_path), overrides(tiny_shards, run, SETTINGS), resume=False)
    assert f"'out' is '{run}'" in error


def test_damaged_lines_of_metrics_do_not_matter(tiny_shards: Path, run: Path, tmp_path: Path) -> None:
    data = (run / METRICS).read_bytes().splitlines()
    (run / METRICS).write_bytes(b"\n".join([data[0], b'{"step": "\xff', b'{"step": "1"}', *data[1:], data[1][:9]]))
    train(empty_config(tmp_path), overrides(tiny_shards, run, SETTINGS), resume=True)
    assert [line["step"] for line in lines(run, "train")] == list(range(1, 7))


@pytest.mark.parametrize("harm", [Path.unlink, empty, cut])
def test_lost_metrics_come_back_from_the_checkpoint(harm: Harm, tiny_shards: Path, run: Path, tmp_path: Path) -> None:
    shutil.rmtree(run / CHECKPOINTS / NEWEST)
    before = lines(run, "train")
    harm(run / METRICS)
    train(empty_config(tmp_path), overrides(tiny_shards, run, SETTINGS), resume=True)
    again = lines(run, "train")
    assert [line["step"] for line in again] == list(range(1, 7))
    assert again[:4] == before[:4]


POISON = """
from dataclasses import dataclass
from typing import ClassVar

from arcticseg.engine.config import HookConfig
from arcticseg.engine.hooks.hook import Hook


class Poison(Hook):
    '''Makes the loss NaN in some steps, on the last rank alone.'''

    def __init__(self, steps):
        self.steps, self.done = steps, 0

    def on_start(self, training):
        self.last = training.ranks.rank == training.ranks.world_size - 1
        self.done = training.first
        sums = training.task.sums
        training.task.sums = lambda *given: sums(*given) * (float("nan") if self.now() else 1.0)

    def now(self):
        return self.last and self.done + 1 in self.steps

    def on_step(self, step, values):
        self.done = step


@dataclass(frozen=True)
class PoisonConfig(HookConfig):
    name: str = "poison"
    steps: tuple[int, ...] = ()
    implementation: ClassVar[str] = "poison_of_test:Poison"


HookConfig.table |= {"poison": PoisonConfig}
"""


@pytest.mark.parametrize(("zero_stage", "precision"), [(0, "fp32"), (1, "bf16"), (3, "fp32")])
def test_a_step_with_nan_on_one_rank_is_left_out_on_all_and_its_samples_are_named(
    zero_stage: int, precision: str, tiny_shards: Path, tmp_path: Path
) -> None:
    (tmp_path / "poison_of_test.py").write_text(POISON)
    settings = {"engine.zero_stage": zero_stage, "engine.precision": precision, "tracking.every": 2}
    settings |= {"imports": f"[{tmp_path / 'poison_of_test.py'}]"}
    config, out = empty_config(tmp_path), tmp_path / "run"
    hooks = {"hooks": "[{name: poison, steps: [3, 4]}]"}
    printed = train(config, overrides(tiny_shards, out, SETTINGS, settings, hooks), ranks=2)
    assert "left out" in printed
    told = [json.loads(line) for line in (out / "skipped.jsonl").read_text().splitlines()]
    assert [line["step"] for line in told] == [3, 4]
    assert all(len(set(line["samples"])) == 4 for line in told)
    assert [line["skipped"] for line in lines(out, "train")] == [0, 2, 2]
    assert all(torch.isfinite(value).all() for value in load_file(last_weights(out)).values())
    # More in a row stop the run, which names a sample and says what to try; what was saved stays.
    hooks = {"hooks": "[{name: poison, steps: [3, 4, 5]}]"}
    again = tmp_path / "again"
    error = refused(config, overrides(tiny_shards, again, SETTINGS, settings, hooks), ranks=2, resume=False)
    assert "skipped.jsonl" in error
    assert told[0]["samples"][0].partition("/")[0] in error or "such as" in error
    assert "optim.lr" in error
    assert steps_in(again) == {"step-00000002", "step-00000004"}


SPOIL = """
from dataclasses import dataclass
from typing import ClassVar

from arcticseg.engine.config import HookConfig
from arcticseg.engine.hooks.hook import Hook


class Spoil(Hook):
    '''Makes a moment infinite after step 3, on the last rank alone; no weight changes by it.'''

    def on_start(self, training):
        self.engine, self.ranks = training.engine, training.ranks

    def on_step(self, step, values):
        if step == 3 and self.ranks.rank == self.ranks.world_size - 1:
            optimizer = getattr(self.engine.optimizer, "optimizer", self.engine.optimizer)
            next(iter(optimizer.state.values()))["exp_avg_sq"].view(-1)[0] = float("inf")


@dataclass(frozen=True)
class SpoilConfig(HookConfig):
    name: str = "spoil"
    implementation: ClassVar[str] = "spoil_of_test:Spoil"


HookConfig.table |= {"spoil": SpoilConfig}
"""


@pytest.mark.parametrize(("zero_stage", "ranks", "precision"), [(0, 1, "fp32"), (1, 2, "bf16"), (3, 2, "fp32")])
def test_bad_numbers_never_enter_a_checkpoint(
    zero_stage: int, ranks: int, precision: str, tiny_shards: Path, tmp_path: Path
) -> None:
    (tmp_path / "spoil_of_test.py").write_text(SPOIL)
    settings = {"checkpoint_every": 1, "engine.zero_stage": zero_stage, "engine.precision": precision}
    settings |= {"imports": f"[{tmp_path / 'spoil_of_test.py'}]", "hooks": "[spoil]"}
    out = tmp_path / "run"
    error = refused(empty_config(tmp_path), overrides(tiny_shards, out, SETTINGS, settings), ranks=ranks, resume=False)
    assert "step 3" in error
    assert "optim.lr" in error
    assert steps_in(out) == {"step-00000001", "step-00000002"}
    assert not last_weights(out).exists()


def test_a_folder_has_one_living_training(tiny_shards: Path, tmp_path: Path) -> None:
    config, out = empty_config(tmp_path), tmp_path / "run"
    arguments = overrides(tiny_shards, out, SETTINGS, {"steps": 100000, "checkpoint_every": 100000})
    first = start(config, arguments)
    wait_for_step(first, out, 2)
    for ranks, resume in ((1, False), (2, True)):
        assert f"'out' is '{out}'" in refused(config, arguments, ranks, resume)
    assert first.poll() is None
    kill(first)
    first.wait()
    again = start(config, arguments, resume=True)
    (out / METRICS).unlink()
    wait_for_step(again, out, 2)
    kill(again)
    again.wait()
