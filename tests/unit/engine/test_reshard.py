"""Checkpoints brought to another number of ranks."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("deepspeed")

from arcticseg.engine.checksums import seal
from arcticseg.engine.process_group import Ranks
from arcticseg.engine.reshard import suited
from arcticseg.errors import ConfigError, OutputError


def checkpoint_of(folder: Path, world_size: int, zero_stage: int) -> Path:
    """A checkpoint's folder without DeepSpeed's files."""
    checkpoint = folder / "step-00000003"
    checkpoint.mkdir()
    seal(checkpoint, {"step": 3, "loader": {}, "hooks": {}, "world_size": world_size, "zero_stage": zero_stage})
    return checkpoint


ALONE = Ranks(rank=0, local_rank=0, world_size=1, local_world_size=1, device=torch.device("cpu"))


def test_a_checkpoint_that_cannot_be_converted_is_named_and_left_alone(tmp_path: Path) -> None:
    checkpoint = checkpoint_of(tmp_path, 2, 1)
    with pytest.raises(OutputError, match=r"step-00000003: .*\(.+\); see that the disk has room"):
        suited(checkpoint, 1, ALONE)
    assert list(tmp_path.iterdir()) == [checkpoint]


@pytest.mark.parametrize(("world_size", "stage"), [(2, 0), (1, 0), (1, 1), (1, 3)])
def test_a_checkpoint_that_suits_stays_as_it_is(tmp_path: Path, world_size: int, stage: int) -> None:
    checkpoint = checkpoint_of(tmp_path, world_size, stage)
    assert suited(checkpoint, stage, ALONE) == (checkpoint, False)


@pytest.mark.parametrize(
    ("world_size", "stage", "now", "told"),
    [
        (1, 1, 2, r"step-00000003: .*engine\.zero_stage 1, this run has 2"),
        (2, 3, 3, r"step-00000003: .*2 ranks with engine\.zero_stage 3.* 1; start as many"),
    ],
)
def test_a_checkpoint_that_cannot_suit_is_refused(
    tmp_path: Path, world_size: int, stage: int, now: int, told: str
) -> None:
    with pytest.raises(ConfigError, match=told):
        suited(checkpoint_of(tmp_path, world_size, stage), now, ALONE)
