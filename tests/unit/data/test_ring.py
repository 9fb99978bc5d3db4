import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import fields
from itertools import count, islice
from pathlib import Path
from typing import Any

import made
import numpy as np
import pytest
import torch
from readers import Odd

from arcticseg.data.batch import Batch, collate
from arcticseg.data.crew import Processes
from arcticseg.data.decode import Layout
from arcticseg.data.manifest import read_manifest
from arcticseg.data.ring import Filled, PlacedSamples, Ring
from arcticseg.data.select import Selection, select
from arcticseg.errors import ShardError
from arcticseg.ice.channels import GROUPS, expand

N = 12
LAYOUT = Layout.of(made.SIZE, [4], expand(GROUPS))
# Both kinds of workers: threads of this process, and processes.
WORKERS = pytest.mark.parametrize("workers", [0, 2])


@pytest.fixture(scope="module")
def selection(tmp_path_factory: pytest.TempPathFactory) -> Selection:
    folder = tmp_path_factory.mktemp("shards")
    made.write(folder, [made.tile(i, cells=2 + i % 3, labelled=i % 5 > 0) for i in range(N)])
    return select(folder, read_manifest(folder), "train")


@pytest.fixture
def make(selection: Selection, tmp_path: Path) -> Iterator[Callable[..., Ring]]:
    rings = []

    def ring(workers: int, slots: int = 3, patience: float = 60.0, **odd: Any) -> Ring:
        rings.append(Ring(Odd(selection, tmp_path, **odd), LAYOUT, 4, workers, slots, patience=patience))
        return rings[-1]

    yield ring
    for each in rings:
        each.close()


def rows(batches: int | None = None, seed: int = 0) -> Iterator[PlacedSamples]:
    """Rows of four samples each, drawn by chance."""
    random = np.random.default_rng(seed)
    for batch in range(batches) if batches is not None else count():
        yield [(4 * batch + i, int(random.integers(N))) for i in range(4)]


def tensors(batch: Batch) -> dict[str, torch.Tensor]:
    return {f.name: getattr(batch, f.name) for f in fields(Batch) if isinstance(getattr(batch, f.name), torch.Tensor)}


def same(filled: Filled, asked: PlacedSamples) -> bool:
    """Whether a slot holds just these samples, by what `collate` makes of tiles that never were in a shard."""
    tiles = [made.tile(n, cells=2 + n % 3, labelled=n % 5 > 0) for _, n in asked]
    expected = collate(tiles, [place for place, _ in asked])
    found = tensors(filled.batch)
    for name, tensor in tensors(expected).items():
        corner = tuple(slice(0, n) for n in tensor.shape)
        if not torch.equal(torch.nan_to_num(found[name][corner]), torch.nan_to_num(tensor)):
            return False
        # What is left over is empty: no codes, and no points.
        left = found[name].clone()
        left[corner] = np.inf if "_" in name else 0
        if not ((left == np.inf) if "_" in name else (left == 0)).all():
            return False
    return filled.samples == asked


def check(ring: Ring, batches: int) -> None:
    for filled, asked in zip(ring.fill(rows(batches)), rows(batches), strict=True):
        assert same(filled, asked)
        assert not filled.damages
        ring.release(filled)


def ended(pid: int, seconds: float = 10) -> bool:
    """Whether a process ends within a time; a zombie has ended."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return True
        if state == "Z":
            return True
        time.sleep(0.02)
    return False


def pids(ring: Ring) -> list[int]:
    assert isinstance(ring._crew, Processes)
    return [worker.process.pid for worker in ring._crew.workers]


@WORKERS
def test_batches_come_in_order_however_fast_the_workers_are(make: Callable[..., Ring], workers: int) -> None:
    check(make(workers, jitter=0.02), 20)


@WORKERS
def test_a_batch_in_use_is_left_alone(make: Callable[..., Ring], workers: int) -> None:
    ring = make(workers, slots=4)
    held: dict[int, tuple[Filled, dict[str, torch.Tensor]]] = {}
    for step, filled in enumerate(ring.fill(rows(30))):
        held[step] = filled, {name: tensor.clone() for name, tensor in tensors(filled.batch).items()}
        # Up to three at once, given back out of order.
        if len(held) == 3:
            kept, copies = held.pop(sorted(held)[step % 3])
            for name, tensor in tensors(kept.batch).items():
                assert torch.equal(torch.nan_to_num(tensor), torch.nan_to_num(copies[name])), name
            ring.release(kept)


@WORKERS
def test_rows_are_taken_no_further_ahead_than_there_are_slots(make: Callable[..., Ring], workers: int) -> None:
    ring = make(workers, slots=5)
    taken: list[PlacedSamples] = []

    def endless() -> Iterator[PlacedSamples]:
        for each in rows():
            taken.append(each)
            yield each

    addresses = set()
    for given, filled in enumerate(islice(ring.fill(endless()), 40), 1):
        assert len(taken) <= given - 1 + 5
        addresses.add(filled.batch.hh.data_ptr())
        ring.release(filled)
    assert len(addresses) == 5


def test_slots_that_are_not_given_back_are_missed(make: Callable[..., Ring]) -> None:
    ring = make(0, slots=2)
    batches = ring.fill(rows())
    next(batches), next(batches)
    with pytest.raises(RuntimeError, match="all 2 slots are in use; release"):
        next(batches)


@WORKERS
def test_a_fill_that_was_broken_off_leaves_the_ring_whole(make: Callable[..., Ring], workers: int) -> None:
    ring = make(workers, jitter=0.01)
    for _ in range(3):
        batches = ring.fill(rows())
        ring.release(next(batches))
        batches.close()  # type: ignore[attr-defined]
    check(ring, 6)


@WORKERS
def test_a_damaged_sample_leaves_its_row_empty_until_it_is_replaced(make: Callable[..., Ring], workers: int) -> None:
    ring = make(workers, damaged=(3, 7))
    filled = next(ring.fill(iter([[(0, 5), (1, 3), (2, 6), (3, 7)]])))
    assert {row: damage.number for row, damage in filled.damages.items()} == {1: 3, 3: 7}
    batch = filled.batch
    for row in (1, 3):
        assert not batch.hh[row].any()
        assert not batch.hv[row].any()
        assert not batch.aux[row].any()
        assert (batch.dist[row] == 255).all()
        assert (batch.lab[row] == 255).all()
        assert torch.isnan(batch.clock[row]).all()
    assert ring.refill(filled, 1, 2) is None
    again = ring.refill(filled, 3, 3)
    assert again is not None
    assert again.number == 3
    assert list(filled.damages) == [3]
    assert ring.refill(filled, 3, 11) is None
    assert not filled.damages
    assert same(filled, [(0, 5), (1, 2), (2, 6), (3, 11)])


@WORKERS
def test_errors_come_where_their_batch_would(make: Callable[..., Ring], workers: int) -> None:
    ring = make(workers, out=(3,))
    batches = ring.fill(iter([[(0, 1)], [(1, 2)], [(2, 3)], [(3, 4)]]))
    for place in (0, 1):
        filled = next(batches)
        assert same(filled, [(place, place + 1)])
        ring.release(filled)
    with pytest.raises(ShardError, match=r"train-000000\.tar: sample at byte \d+: the source is out; mend it"):
        next(batches)
    assert same(next(ring.fill(iter([[(9, 2)]]))), [(9, 2)])


@WORKERS
def test_faults_of_the_program_keep_their_traceback(make: Callable[..., Ring], workers: int) -> None:
    with pytest.raises(RuntimeError, match=r"(?s)a loader worker failed.*in fetch.*a fault of the program"):
        next(make(workers, broken=(3,)).fill(iter([[(0, 3)]])))


def test_a_worker_that_dies_is_replaced(make: Callable[..., Ring]) -> None:
    ring = make(2, kills={3: 2, 8: 1})
    with pytest.warns(UserWarning, match="a loader worker died here .status -9.; another does its work again"):
        check(ring, 10)
    for pid in pids(ring):
        os.kill(pid, signal.SIGKILL)
    with pytest.warns(UserWarning, match="died here"):
        check(ring, 3)


def test_samples_that_kill_every_worker_end_it(make: Callable[..., Ring]) -> None:
    where = (
        r"train-000000\.tar: sample at byte \d+: loader workers died here 3 times \(status -9\); see the system's log"
    )
    ring = make(2, kills={3: 99})
    with pytest.warns(UserWarning, match="died here"), pytest.raises(ShardError, match=where):
        next(ring.fill(iter([[(0, 3), (1, 4)]])))


@WORKERS
def test_a_read_that_hangs_is_named_and_then_given_up(make: Callable[..., Ring], workers: int) -> None:
    ring = make(workers, patience=0.2, hangs={4: 1.0})
    with pytest.warns(UserWarning, match=r"sample at byte \d+: has been read for \d+ s; the source is slow"):
        assert same(next(ring.fill(iter([[(0, 4)]]))), [(0, 4)])
    ring = make(workers, patience=0.1, hangs={4: 30.0})
    began = time.monotonic()
    with pytest.warns(UserWarning, match="is slow"), pytest.raises(ShardError, match=r"not read within 1 s; check"):
        next(ring.fill(iter([[(0, 4)]])))
    assert time.monotonic() - began < 5


@WORKERS
def test_a_sample_that_ended_in_an_error_is_not_taken_for_a_slow_one(make: Callable[..., Ring], workers: int) -> None:
    ring = make(workers, patience=0.4, out=(3,), hangs={5: 0.2})
    with pytest.raises(ShardError, match="the source is out"):
        next(ring.fill(iter([[(0, 1), (1, 3)]])))  # one to each worker
    time.sleep(0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert same(next(ring.fill(iter([[(1, 5)]]))), [(1, 5)])


def test_workers_know_no_torch_and_end_with_the_ring(make: Callable[..., Ring]) -> None:
    ring = make(2)
    check(ring, 2)
    workers = pids(ring)
    for pid in workers:
        loaded = Path(f"/proc/{pid}/maps").read_text()
        assert "imagecodecs" in loaded
        assert "libtorch" not in loaded
        assert "blosc2_ext" not in loaded
    ring.close()
    assert all(ended(pid) for pid in workers)


@pytest.mark.parametrize("hang", [0, 60])
def test_workers_end_with_their_parent(selection: Selection, tmp_path: Path, hang: int) -> None:
    """The parent is killed, in the middle of a read that hangs or between two; nobody can tell the workers."""
    script = tmp_path / "parent.py"
    script.write_text(
        "import sys, time, pathlib\n"
        "from arcticseg.data.decode import Layout\n"
        "from arcticseg.data.manifest import read_manifest\n"
        "from arcticseg.data.ring import Ring\n"
        "from arcticseg.data.select import select\n"
        "from readers import Odd\n"
        "folder = pathlib.Path(sys.argv[1])\n"
        "reader = Odd(select(folder, read_manifest(folder), 'train'), folder, hangs={1: float(sys.argv[2])})\n"
        f"ring = Ring(reader, {LAYOUT!r}, 2, 2, 3)\n"
        "batches = ring.fill(iter([[(0, 0)], [(1, 1), (2, 2)]]))\n"
        "next(batches)\n"
        "print(*(worker.process.pid for worker in ring._crew.workers), flush=True)\n"
        "time.sleep(60)\n"
    )
    path = os.pathsep.join(filter(None, sys.path))
    command = [sys.executable, str(script), selection.sources[0].address, str(hang)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": path}) as parent:
        try:
            assert parent.stdout is not None
            workers = [int(pid) for pid in parent.stdout.readline().split()]
        finally:
            parent.kill()
    assert len(workers) == 2
    assert all(ended(pid) for pid in workers)


def test_the_same_on_any_number_of_workers(make: Callable[..., Ring]) -> None:
    def digest(workers: int, slots: int) -> list[bytes]:
        ring, found = make(workers, slots), []
        for filled in ring.fill(rows(6)):
            found.append(b"".join(tensor.numpy().tobytes() for tensor in tensors(filled.batch).values()))
            ring.release(filled)
        return found

    assert digest(0, 2) == digest(1, 3) == digest(3, 5)
