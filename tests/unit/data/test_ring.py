import multiprocessing
import os
import signal
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import fields
from itertools import count, islice
from multiprocessing.connection import Connection
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
# Both kinds of workers: threads of this process, and processes; a process takes long to start.
WORKERS = pytest.mark.parametrize("workers", [0, 1])
SEVERAL_WORKERS = pytest.mark.parametrize("workers", [0, 2])


@pytest.fixture(scope="module")
def selection(tmp_path_factory: pytest.TempPathFactory) -> Selection:
    folder = tmp_path_factory.mktemp("shards")
    made.write(folder, [made.tile(i, cells=2 + i % 3, labelled=i % 5 > 0) for i in range(N)])
    return select(folder, read_manifest(folder), "train")


@pytest.fixture
def make(selection: Selection, tmp_path: Path) -> Iterator[Callable[..., Ring]]:
    rings = []

    def make_ring(workers: int, slots: int = 3, patience: float = 60.0, **odd: Any) -> Ring:
        rings.append(Ring(Odd(selection, tmp_path, **odd), LAYOUT, 4, workers, slots, patience=patience))
        return rings[-1]

    yield make_ring
    for ring in rings:
        ring.close()


def requests(batches: int | None = None, seed: int = 0) -> Iterator[PlacedSamples]:
    """Micro batches of four samples each, drawn at random."""
    random = np.random.default_rng(seed)
    for batch in range(batches) if batches is not None else count():
        yield [(4 * batch + i, int(random.integers(N))) for i in range(4)]


class Fence:
    """A CUDA event."""

    def __init__(self, passed: bool) -> None:
        self.passed, self.waited = passed, False

    def query(self) -> bool:
        return self.passed

    def synchronize(self) -> None:
        self.passed = self.waited = True


def test_a_slot_whose_copies_run_is_not_filled_and_not_waited_for(make: Callable[..., Ring]) -> None:
    ring = make(0, slots=4)
    asked = list(requests(6))
    batches = ring.fill(iter(asked))
    used = [next(batches) for _ in range(4)]
    runs, passed = Fence(False), Fence(True)
    for filled, fence in ((used[0], runs), (used[1], passed)):
        ring.release(filled)
        ring._fences[filled.slot] = fence
    after = next(batches)
    assert (after.slot, runs.waited) == (used[1].slot, False)
    # Where no other is free, somebody must wait.
    last = next(batches)
    assert (last.slot, runs.waited) == (used[0].slot, True)
    assert same(after, asked[4])
    assert same(last, asked[5])
    with pytest.raises(RuntimeError, match="all 4 slots"):
        list(ring.fill(requests(1)))


def tensors(batch: Batch) -> dict[str, torch.Tensor]:
    """The tensors of a batch by name."""
    return {f.name: getattr(batch, f.name) for f in fields(Batch) if isinstance(getattr(batch, f.name), torch.Tensor)}


def same(filled: Filled, samples: PlacedSamples) -> bool:
    """Whether a slot holds just these samples, by `collate` of tiles that never were in a shard."""
    tiles = [made.tile(n, cells=2 + n % 3, labelled=n % 5 > 0) for _, n in samples]
    expected = collate(tiles, [place for place, _ in samples])
    decoded = tensors(filled.batch)
    for name, tensor in tensors(expected).items():
        corner = tuple(slice(0, n) for n in tensor.shape)
        if not torch.equal(torch.nan_to_num(decoded[name][corner]), torch.nan_to_num(tensor)):
            return False
        # The rest is empty: no codes, and no points.
        rest = decoded[name].clone()
        rest[corner] = np.inf if "_" in name else 0
        if not ((rest == np.inf) if "_" in name else (rest == 0)).all():
            return False
    return filled.samples == samples


def check(ring: Ring, batches: int) -> None:
    """Whether the ring gives the micro batches that are requested."""
    for filled, samples in zip(ring.fill(requests(batches)), requests(batches), strict=True):
        assert same(filled, samples)
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


@SEVERAL_WORKERS
def test_batches_come_in_order_however_fast_the_workers_are(make: Callable[..., Ring], workers: int) -> None:
    check(make(workers, jitter=0.02), 20)


@WORKERS
def test_a_batch_in_use_is_left_alone(make: Callable[..., Ring], workers: int) -> None:
    ring = make(workers, slots=4)
    held: dict[int, tuple[Filled, dict[str, torch.Tensor]]] = {}
    for step, filled in enumerate(ring.fill(requests(30))):
        held[step] = filled, {name: tensor.clone() for name, tensor in tensors(filled.batch).items()}
        # Up to three at once, released out of order.
        if len(held) == 3:
            kept, copies = held.pop(sorted(held)[step % 3])
            for name, tensor in tensors(kept.batch).items():
                assert torch.equal(torch.nan_to_num(tensor), torch.nan_to_num(copies[name])), name
            ring.release(kept)


@WORKERS
def test_requests_are_taken_as_far_ahead_as_there_are_slots(make: Callable[..., Ring], workers: int) -> None:
    ring = make(workers, slots=5)
    taken: list[PlacedSamples] = []

    def endless() -> Iterator[PlacedSamples]:
        for samples in requests():
            taken.append(samples)
            yield samples

    addresses = set()
    for given, filled in enumerate(islice(ring.fill(endless()), 40), 1):
        assert len(taken) <= given - 1 + 5
        addresses.add(filled.batch.hh.data_ptr())
        ring.release(filled)
    assert len(addresses) == 5


def test_slots_must_be_released(make: Callable[..., Ring]) -> None:
    ring = make(0, slots=2)
    batches = ring.fill(requests())
    next(batches), next(batches)
    with pytest.raises(RuntimeError, match="all 2 slots"):
        next(batches)


@SEVERAL_WORKERS
def test_a_fill_that_ends_early_leaves_the_ring_whole(make: Callable[..., Ring], workers: int) -> None:
    ring = make(workers, jitter=0.01)
    for _ in range(3):
        batches = ring.fill(requests())
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


@SEVERAL_WORKERS
def test_errors_come_in_the_place_of_their_batch(make: Callable[..., Ring], workers: int) -> None:
    ring = make(workers, out=(3,))
    batches = ring.fill(iter([[(0, 1)], [(1, 2)], [(2, 3)], [(3, 4)]]))
    for place in (0, 1):
        filled = next(batches)
        assert same(filled, [(place, place + 1)])
        ring.release(filled)
    with pytest.raises(ShardError, match=r"train-000000\.tar: sample at byte \d+: the source fails"):
        next(batches)
    assert same(next(ring.fill(iter([[(9, 2)]]))), [(9, 2)])


@WORKERS
def test_faults_of_the_program_keep_their_traceback(make: Callable[..., Ring], workers: int) -> None:
    with pytest.raises(RuntimeError, match=r"(?s)in fetch.*a fault of the program"):
        next(make(workers, broken=(3,)).fill(iter([[(0, 3)]])))


def test_a_worker_that_dies_is_replaced(make: Callable[..., Ring]) -> None:
    ring = make(2, kills={3: 2, 8: 1})
    with pytest.warns(UserWarning, match=r"train-00000\d\.tar: sample at byte \d+: .*died here .status -9."):
        check(ring, 10)
    for pid in pids(ring):
        os.kill(pid, signal.SIGKILL)
    with pytest.warns(UserWarning, match="died here"):
        check(ring, 3)


def test_samples_that_kill_every_worker_are_an_error(make: Callable[..., Ring]) -> None:
    message = r"train-000000\.tar: sample at byte \d+: .* 3 times \(status -9\)"
    ring = make(1, kills={3: 99})
    with pytest.warns(UserWarning, match="died here"), pytest.raises(ShardError, match=message):
        next(ring.fill(iter([[(0, 3), (1, 4)]])))


@WORKERS
def test_a_read_that_hangs_is_named_and_then_given_up(make: Callable[..., Ring], workers: int) -> None:
    ring = make(workers, patience=0.2, hangs={4: 1.0})
    with pytest.warns(UserWarning, match=r"sample at byte \d+: .* \d+ s; .*slow"):
        assert same(next(ring.fill(iter([[(0, 4)]]))), [(0, 4)])
    ring = make(workers, patience=0.1, hangs={4: 30.0})
    began = time.monotonic()
    with pytest.warns(UserWarning, match="slow"), pytest.raises(ShardError, match=r"sample at byte \d+: .* 1 s;"):
        next(ring.fill(iter([[(0, 4)]])))
    assert time.monotonic() - began < 5


@SEVERAL_WORKERS
def test_a_sample_that_ended_in_an_error_does_not_count_as_slow(make: Callable[..., Ring], workers: int) -> None:
    ring = make(workers, patience=0.4, out=(3,), hangs={5: 0.2})
    with pytest.raises(ShardError, match="the source fails"):
        next(ring.fill(iter([[(0, 1), (1, 3)]])))  # a sample for each worker
    time.sleep(0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert same(next(ring.fill(iter([[(1, 5)]]))), [(1, 5)])


def test_workers_load_no_torch_and_end_with_the_ring(make: Callable[..., Ring]) -> None:
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


def be_parent(reader: Odd, pipe: Connection) -> None:
    """A process with a ring of two workers, whose process ids it sends."""
    ring = Ring(reader, LAYOUT, 2, 2, 3)
    batches = ring.fill(iter([[(0, 0)], [(1, 1), (2, 2)]]))
    next(batches)
    pipe.send(pids(ring))
    time.sleep(60)


@pytest.mark.parametrize("hang", [0, 60])
def test_workers_end_with_their_parent(selection: Selection, tmp_path: Path, hang: int) -> None:
    """The parent is killed, during a read that hangs or between two reads; nobody can tell the workers."""
    ours, theirs = multiprocessing.Pipe()
    reader = Odd(selection, tmp_path, hangs={1: hang})
    # Forked, so that it need not import torch again.
    parent = multiprocessing.get_context("fork").Process(target=be_parent, args=(reader, theirs))
    parent.start()
    try:
        assert ours.poll(60)
        workers = ours.recv()
    finally:
        parent.kill()
        parent.join()
    assert len(workers) == 2
    assert all(ended(pid) for pid in workers)


def test_the_same_on_any_number_of_workers(make: Callable[..., Ring]) -> None:
    def digest(workers: int, slots: int) -> list[bytes]:
        ring, batches = make(workers, slots), []
        for filled in ring.fill(requests(6)):
            batches.append(b"".join(tensor.numpy().tobytes() for tensor in tensors(filled.batch).values()))
            ring.release(filled)
        return batches

    assert digest(0, 2) == digest(1, 3) == digest(2, 5)
