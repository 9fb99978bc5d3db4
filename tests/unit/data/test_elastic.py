"""Real processes on different numbers of ranks and workers: the same global batches, byte for byte."""

from __future__ import annotations

import json
import multiprocessing
import random
from pathlib import Path
from typing import Any

import made
import pytest
import torch
from made import hashes

from arcticseg.data.augment import Augment
from arcticseg.data.config import DataConfig
from arcticseg.data.decode import Layout
from arcticseg.data.loader import Loader, make_order
from arcticseg.data.reader import SampleReader
from arcticseg.data.select import open_set, select_from
from arcticseg.data.share import Share
from arcticseg.ice.channels import expand

pytestmark = pytest.mark.slow

GLOBAL, STEPS, SAMPLES = 24, 6, 50
# Ranks, workers of each, micro batch.
MACHINES = [(1, 0, 24), (1, 2, 8), (2, 1, 12), (2, 3, 4), (4, 2, 3)]
LAYOUT = Layout.of(made.SIZE, (2, 4), expand(("hh", "hv", "incidence", "distance", "amsr2", "era5")))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    shards = tmp_path_factory.mktemp("shards")
    made.write(shards, [made.tile(i, scene=f"s{i % 7}", factor=(2, 2, 4)[i % 3]) for i in range(SAMPLES)])
    return shards


def run_rank(folder: Path, mix: str, shuffle: Any, machine: tuple[int, int, int], rank: int, state: Any, steps: int,
             global_batch: int, out: Path) -> None:  # fmt: skip
    """A rank's process: (place -> hash) of each of its steps, and its state at the end, to a file."""
    torch.set_num_threads(1)
    ranks, workers, micro = machine
    selection = select_from([open_set(str(folder))], "train")
    order = make_order(selection, DataConfig(block=12, shuffle=shuffle, window=2), mix, seed=3)
    augment = Augment(5, flips=True, quarter_turns=True, drop_groups=(("era5", 0.5),))
    loader = Loader(SampleReader(selection), LAYOUT, order, Share(rank, ranks, global_batch, micro), workers, augment)
    if state is not None:
        loader.load_state_dict(state)
    taken = []
    for _ in range(steps):
        taken.append({place: digest for batch in loader.step() for place, digest in hashes(batch).items()})
        assert not loader.trouble
        loader.stepped()
    (out / f"{rank}.json").write_text(json.dumps([taken, loader.state_dict()]))
    loader.close()


def run(
    folder: Path,
    out: Path,
    machine: tuple[int, int, int],
    state: Any = None,
    steps: int = STEPS,
    mix: str = "none",
    shuffle: str = "global",
    global_batch: int = GLOBAL,
) -> tuple[list[dict[str, str]], Any]:
    """Global batches, each (place -> hash) in order, and the state after them, which is the same on all ranks."""
    out.mkdir(parents=True, exist_ok=True)
    # Forked, so that they need not import torch again.
    context = multiprocessing.get_context("fork")
    processes = [
        context.Process(target=run_rank, args=(folder, mix, shuffle, machine, rank, state, steps, global_batch, out))
        for rank in range(machine[0])
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    parts, states = zip(*(json.loads((out / f"{rank}.json").read_text()) for rank in range(machine[0])), strict=True)
    assert all(state == states[0] for state in states)
    return [{k: v for part in step for k, v in part.items()} for step in zip(*parts, strict=True)], states[0]


@pytest.mark.parametrize(("mix", "shuffle", "moves"), [("none", "global", 5), ("weights", "blocks", 2)])
def test_the_same_global_batches_on_any_machine_and_after_any_move(
    mix: str, shuffle: str, moves: int, folder: Path, tmp_path: Path
) -> None:
    whole, _ = run(folder, tmp_path / "whole", MACHINES[0], mix=mix, shuffle=shuffle)
    assert [list(map(int, step)) for step in whole] == [list(range(i * 24, i * 24 + 24)) for i in range(STEPS)]
    machines = list(zip(MACHINES, random.Random(mix).sample(MACHINES, len(MACHINES)), strict=True))[:moves]
    for number, (first, second) in enumerate(machines):
        stop = random.Random(f"{mix} {number}").randrange(1, STEPS)
        before, state = run(folder, tmp_path / f"{number}a", first, steps=stop, mix=mix, shuffle=shuffle)
        after, _ = run(folder, tmp_path / f"{number}b", second, state, steps=STEPS - stop, mix=mix, shuffle=shuffle)
        assert [list(step.items()) for step in before + after] == [list(step.items()) for step in whole]


@pytest.mark.parametrize("mix", ["none", "weights"])
def test_a_doubled_global_batch_goes_on_with_the_next_places(mix: str, folder: Path, tmp_path: Path) -> None:
    whole, _ = run(folder, tmp_path / "whole", (1, 0, 24), mix=mix)
    before, state = run(folder, tmp_path / "a", (2, 1, 12), steps=2, mix=mix)
    after, state = run(folder, tmp_path / "b", (4, 0, 4), state, steps=2, mix=mix, global_batch=48)
    assert state["consumed"] == 6 * 24
    assert [len(step) for step in after] == [48, 48]
    expected, joined = ([item for step in taken for item in step.items()] for taken in (whole, before + after))
    assert joined == expected
