"""A rank that hangs is named, with the stacks of all that can print, and all ranks end."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from launchers.command import command
from launchers.status import ERROR_PREFIX
from tests.forked import Forked
from tests.training import UNET, empty_config, kill, overrides, wait_for_step

AT, SECONDS = 3, 6.0

HOOK = """
import ctypes, os, signal, time
from dataclasses import dataclass
from typing import ClassVar

from arcticseg.engine.config import HookConfig
from arcticseg.engine.hooks.hook import Hook


def where_it_stands():
    time.sleep(1000)


HOWS = {
    "sleep": where_it_stands,
    "stop": lambda: os.kill(os.getpid(), signal.SIGSTOP),
    # A call through PyDLL keeps Python's lock, so no thread of Python runs.
    "lock": lambda: ctypes.PyDLL(None).sleep(1000),
}


class Hang(Hook):
    def __init__(self, rank, at, how):
        self.rank, self.at, self.how = rank, at, how

    def on_start(self, training):
        self.here = training.ranks.rank == self.rank

    def on_step(self, step, values):
        if self.here and step == self.at:
            HOWS[self.how]()


@dataclass(frozen=True)
class HangConfig(HookConfig):
    name: str = "hang"
    rank: int = 0
    at: int = 0
    how: str = ""
    implementation: ClassVar[str] = "hang_of_test:Hang"


HookConfig.table["hang"] = HangConfig
"""


@pytest.mark.parametrize(("rank", "how"), [(1, "sleep"), (0, "stop"), (1, "lock")])
def test_the_rank_that_hangs_is_named_and_all_end(rank: int, how: str, tiny_shards: Path, tmp_path: Path) -> None:
    (tmp_path / "hang_of_test.py").write_text(HOOK)
    out = tmp_path / "run"
    settings = UNET | {
        "steps": 100000,
        "imports": f"[{tmp_path / 'hang_of_test.py'}]",
        "hooks": f"[{{name: hang, rank: {rank}, at: {AT}, how: {how}}}]",
        "engine.hang_seconds": SECONDS,
    }
    arguments = command(empty_config(tmp_path), overrides(tiny_shards, out, settings))[3:]
    process = Forked("launchers.train", arguments, 2, merged=True)
    try:
        wait_for_step(process, out, AT)
        began = time.monotonic()
        printed, _ = process.communicate(timeout=60)
    finally:
        kill(process)
    # The logs come before the hook; what is beyond the limit is for printing and ending.
    assert time.monotonic() - began < SECONDS + 8, printed
    assert process.returncode not in (0, 3), printed
    assert printed.count(ERROR_PREFIX) == 1, printed
    assert re.search(rf"{ERROR_PREFIX}rank {rank} .*hangs: no progress for 6 s", printed), printed
    assert re.search(rf"rank {1 - rank}: .*(distributed_c10d|process_group)\.py", printed), printed
    if how == "sleep":
        assert "rank 1 in hooks after step 3 hangs" in printed
        assert re.search(r"rank 1: .*hang_of_test.py.* in where_it_stands", printed), printed
    else:
        state = "T (stopped)" if how == "stop" else "S (sleeping)"
        assert re.search(
            rf"rank {rank}: prints nothing itself; /proc/\d+ has: status State: {re.escape(state)}", printed
        )
    if how == "lock":
        # What C prints of it.
        assert "in <lambda>" in printed
