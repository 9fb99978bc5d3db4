"""What ends ranks, and what they leave: real launchers and ranks, each a process that loads torch."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from arcticseg.ranks import free_port, without_rank_variables
from arcticseg.run.folder import CHECKPOINTS
from launchers.status import ERROR_PREFIX, STOPPED, USER_ERROR
from tests.training import UNET, VIT, empty_config, kill, launch, overrides, wait_for_step


def children(process: int) -> list[int]:
    return [int(text) for text in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def gone(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def test_a_signal_to_the_launcher_ends_two_ranks_after_a_checkpoint(tiny_shards: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = launch(empty_config(tmp_path), overrides(tiny_shards, out, UNET, {"steps": 100000}), ranks=2)
    try:
        wait_for_step(process, out, 2)
        ranks = children(process.pid)
        os.kill(process.pid, signal.SIGINT)
        printed, _ = process.communicate(timeout=60)
    finally:
        kill(process)
    assert process.returncode == STOPPED, printed
    assert len(ranks) == 2
    assert all(map(gone, ranks))
    assert list((out / CHECKPOINTS).glob("step-*"))


def test_a_killed_rank_ends_all_without_a_traceback(tiny_shards: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = launch(empty_config(tmp_path), overrides(tiny_shards, out, UNET, {"steps": 100000}), ranks=2)
    try:
        wait_for_step(process, out, 2)
        ranks = children(process.pid)
        os.kill(ranks[1], signal.SIGKILL)
        began = time.monotonic()
        printed, _ = process.communicate(timeout=60)
    finally:
        kill(process)
    assert time.monotonic() - began < 10
    assert all(map(gone, ranks))
    assert process.returncode == 128 + signal.SIGKILL
    assert f"{ERROR_PREFIX}rank " in printed
    assert "Traceback" not in printed


def run_ranks(config: str, arguments: Sequence[Sequence[str]]) -> tuple[list[int], list[str]]:
    """Train with arguments for each rank, as on machines of their own; status and output of each."""
    size = str(len(arguments))
    world = {"WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    processes = []
    for rank, of_rank in enumerate(arguments):
        own = {"RANK": str(rank), "LOCAL_RANK": str(rank), "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
        processes.append(
            subprocess.Popen(
                [sys.executable, "-m", "launchers.train", "--config", config, *of_rank],
                env=without_rank_variables(os.environ) | world | own,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    printed = [process.communicate(timeout=100)[0] for process in processes]
    return [process.returncode for process in processes], printed


@pytest.mark.parametrize("blind", [0, 1])
def test_a_rank_without_its_shards_tells_it_and_ends_all(blind: int, tiny_shards: Path, tmp_path: Path) -> None:
    missing, out = tmp_path / "not-mounted", tmp_path / "run"
    places = [missing if rank == blind else tiny_shards for rank in (0, 1)]
    arguments = [overrides(place, out, UNET, {"steps": 2}) for place in places]
    statuses, printed = run_ranks(empty_config(tmp_path), arguments)
    assert statuses == [USER_ERROR, USER_ERROR], printed
    assert [text.count(ERROR_PREFIX) for text in printed] == [int(rank == blind) for rank in (0, 1)]
    assert str(missing) in printed[blind]
    assert "Traceback" not in "".join(printed)


@pytest.mark.parametrize(
    ("own", "told"),
    [
        ({"out": "elsewhere"}, "where rank 1 does not see rank 0's files"),
        ({"optim.lr": 0.5}, "rank 1 has 0.5 for key 'optim.lr', rank 0 has 0.003"),
    ],
)
def test_ranks_that_would_train_apart_are_refused(
    own: dict[str, object], told: str, tiny_shards: Path, tmp_path: Path
) -> None:
    if "out" in own:
        own = {"out": tmp_path / str(own["out"])}
    arguments = [overrides(tiny_shards, tmp_path / "run", UNET, {"steps": 2}, part) for part in ({}, own)]
    statuses, printed = run_ranks(empty_config(tmp_path), arguments)
    assert statuses == [USER_ERROR, USER_ERROR], printed
    assert [text.count(ERROR_PREFIX) for text in printed] == [0, 1], printed
    assert told in printed[1]
    assert "rank 1 has met an error" in printed[0]
    assert not list(tmp_path.glob("*/checkpoints/step-*"))


def test_an_error_of_all_ranks_is_told_once(tiny_shards: Path, tmp_path: Path) -> None:
    """They meet it after they have joined, and no launcher ends the others."""
    settings = VIT | {"steps": 2, "model.init_from": tmp_path / "missing"}
    arguments = [overrides(tiny_shards, tmp_path / "run", settings)] * 2
    statuses, printed = run_ranks(empty_config(tmp_path), arguments)
    assert statuses == [USER_ERROR, USER_ERROR], printed
    assert "".join(printed).count(ERROR_PREFIX) == 1, printed
    assert "".join(printed).count("missing: holds no weights") == 1, printed
