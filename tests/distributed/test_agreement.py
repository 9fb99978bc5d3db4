"""What ranks tell each other, by gloo."""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from arcticseg.engine import process_group
from arcticseg.errors import ShardError


def rank_process(rank: int, folder: Path, answers: Any) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{folder / 'store'}", rank=rank, world_size=2)
    heard: list[Any] = [process_group.gather({"rank": rank})]
    process_group.agree(None)
    for failing in ((1,), (0,), (0, 1)):
        error = ShardError(f"of rank {rank}") if rank in failing else None
        try:
            process_group.agree(error)
        except ShardError as agreed:
            heard.append(str(agreed))
    process_group.stop()
    answers.put((rank, heard))


def test_an_error_of_one_rank_is_that_of_all(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    ranks = [context.Process(target=rank_process, args=(rank, tmp_path, answers)) for rank in range(2)]
    for process in ranks:
        process.start()
    told = dict(answers.get(timeout=60) for _ in ranks)
    for process in ranks:
        process.join(60)
    expected = [[{"rank": 0}, {"rank": 1}], "of rank 1", "of rank 0", "of rank 0"]
    assert told == {0: expected, 1: expected}


def test_one_rank_agrees_with_itself() -> None:
    assert process_group.gather(5) == [5]
    process_group.agree(None)
    with pytest.raises(ShardError, match="of this rank"):
        process_group.agree(ShardError("of this rank"))
