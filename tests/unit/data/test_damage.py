"""Faults of shards on a disk, on a server and behind a cache: correct batches, or a clear error."""

from __future__ import annotations

import functools
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import made
import pytest
from made import hashes

pytest.importorskip("obstore")

from arcticseg.data import manifest as manifests
from arcticseg.data.cache import Cache
from arcticseg.data.config import DataConfig
from arcticseg.data.crew import Processes
from arcticseg.data.decode import Layout
from arcticseg.data.loader import Loader, make_order
from arcticseg.data.quarantine import Damage
from arcticseg.data.reader import SampleReader
from arcticseg.data.select import open_set, select_from
from arcticseg.data.share import Share
from arcticseg.data.source import Folder, Patience
from arcticseg.data.validation import ValidationLoader
from arcticseg.errors import ShardError
from arcticseg.ice.channels import expand
from tests.archive import tie
from tests.served import Server, serve, serve_s3

SIZE, SAMPLES, PER_SHARD, STEPS, RANKS = 96, 30, 6, 5, 2
# Samples to a step.
BATCH = 6
LAYOUT = Layout.of(SIZE, (4,), expand(("hh", "hv", "incidence", "distance", "amsr2", "era5")))
HASTE = Patience(0.4, 1)
FIRST = "train-000000.tar"

pytestmark = pytest.mark.filterwarnings("ignore:.*trying again", "ignore:.*is not cached", "ignore:.*died here")


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pristine")
    made.write(folder, [made.tile(i, scene=f"s{i % 5}", size=SIZE) for i in range(SAMPLES)], per_shard=PER_SHARD)
    return folder


@pytest.fixture
def folder(pristine: Path, tmp_path: Path) -> Path:
    """A copy to be damaged."""
    return Path(shutil.copytree(pristine, tmp_path / "shards"))


@pytest.fixture(params=["disk", "server", "cache"])
def place(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class World:
    """The ranks of a training in threads of this process."""

    def __init__(self, place: str, cache: Cache | None = None, max_damaged: int = 100, workers: int = 0) -> None:
        selection = select_from([open_set(place, HASTE)], "train")
        order = make_order(selection, DataConfig(), "none", seed=2)
        self.loaders = [
            Loader(
                SampleReader(selection, cache=None if cache is None else Cache(cache.folder, cache.limit)),
                LAYOUT,
                order,
                Share(rank, RANKS, BATCH, 3),
                workers,
                max_damaged=max_damaged,
                patience=5,
            )
            for rank in range(RANKS)
        ]
        self._barrier = threading.Barrier(RANKS)
        self._said: list[Any] = [None] * RANKS

    def _gather(self, rank: int) -> Callable[[Any], list[Any]]:
        def gather(value: Any) -> list[Any]:
            self._said[rank] = value
            self._barrier.wait(60)
            values = list(self._said)
            self._barrier.wait(60)
            return values

        return gather

    def _run(self, rank: int, steps: int, rows: dict[int, str], news: list[Damage], errors: list[Any]) -> None:
        loader, gather = self.loaders[rank], self._gather(rank)
        try:
            for _ in range(steps):
                batches = loader.step()
                while any(gather(loader.trouble)):
                    batches, new = loader.settle(gather)
                    if rank == 0:
                        news += new
                rows.update(item for batch in batches for item in hashes(batch).items())
                loader.stepped()
        except Exception as error:
            errors[rank] = error

    def train(self, steps: int = STEPS) -> tuple[dict[int, str], list[Damage]]:
        """(place -> hash of its row) of all ranks' steps, and the damage that the ranks report.

        Raises:
            ArcticSegError: all ranks ended with this message.
        """
        rows: dict[int, str] = {}
        news: list[Damage] = []
        errors: list[Any] = [None] * RANKS
        threads = [threading.Thread(target=self._run, args=(rank, steps, rows, news, errors)) for rank in range(RANKS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive()
        if any(errors):
            assert {(type(error), str(error)) for error in errors} == {(type(errors[0]), str(errors[0]))}
            assert "\n" not in str(errors[0])
            raise errors[0]
        return rows, news

    def close(self) -> None:
        for loader in self.loaders:
            loader.close()


@pytest.fixture
def server(folder: Path) -> Iterator[Server]:
    with serve(folder) as server:
        yield server


@pytest.fixture
def make_world(place: str, folder: Path, server: Server, tmp_path: Path) -> Iterator[Callable[..., World]]:
    """Makes a world that reads `folder` from the disk, a server or through a cache."""
    worlds = []

    def make(**options: Any) -> World:
        cache = Cache(tmp_path / "cache") if place == "cache" else None
        worlds.append(World(str(folder) if place == "disk" else server.address, cache, **options))
        return worlds[-1]

    yield make
    for world in worlds:
        world.close()


@functools.cache
def rows_of(pristine: Path, damaged: frozenset[int]) -> dict[int, str]:
    """(place -> hash of its row) of two steps more than usual, from whole shards with these samples in quarantine."""
    world = World(str(pristine))
    for loader in world.loaders:
        loader.quarantine.restore([{"number": n, "shard": "", "offset": 0, "reason": ""} for n in damaged])
    rows, _ = world.train(STEPS + 2)
    world.close()
    return rows


def expected(pristine: Path, damaged: set[int], steps: int = STEPS) -> dict[int, str]:
    """The rows of some steps, given the set of damaged samples."""
    return {place: digest for place, digest in rows_of(pristine, frozenset(damaged)).items() if place < steps * BATCH}


def touched(folder: Path, begin: int, end: int) -> set[int]:
    """Numbers of the samples of the first shard that have bytes in a range."""
    entries = manifests.read_index(folder / FIRST)
    return {i for i, entry in enumerate(entries) if entry.offset < end and entry.offset + entry.size > begin}


def cut_in_half(folder: Path) -> set[int]:
    data = (folder / FIRST).read_bytes()
    (folder / FIRST).write_bytes(data[: len(data) // 2])
    return touched(folder, len(data) // 2, len(data))


def zeroed(folder: Path) -> set[int]:
    data = bytearray((folder / FIRST).read_bytes())
    begin, end = 30_000, 30_000 + (256 << 10)
    assert end < len(data)
    data[begin:end] = bytes(end - begin)
    (folder / FIRST).write_bytes(data)
    return touched(folder, begin, end)


def one_bit(folder: Path) -> set[int]:
    data = bytearray((folder / FIRST).read_bytes())
    data[123_456] ^= 16
    (folder / FIRST).write_bytes(data)
    return touched(folder, 123_456, 123_457)


def renamed_member(folder: Path) -> set[int]:
    """A member of another name in a tar that is sound except for that."""
    data = bytearray((folder / FIRST).read_bytes())
    begin = data.index(b".hv.b2") + 1 - len(manifests.read_index(folder / FIRST)[0].key) - 1
    begin -= begin % 512
    header = data[begin : begin + 512]
    header[:100] = bytes(header[:100]).replace(b".hv.b2", b".vh.b2")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    data[begin : begin + 512] = header
    (folder / FIRST).write_bytes(data)
    return touched(folder, begin, begin + 512)


def other_version(folder: Path) -> set[int]:
    """A shard built from other scenes, under the same name."""
    made.write(folder / "new", [made.tile(100 + i, size=SIZE) for i in range(PER_SHARD)], per_shard=PER_SHARD)
    shutil.copy(folder / "new" / FIRST, folder / FIRST)
    return set(range(PER_SHARD))


@pytest.mark.parametrize("harm", [cut_in_half, zeroed, one_bit, renamed_member, other_version])
def test_damaged_samples_are_replaced_on_all_ranks_and_counted(
    harm: Callable[[Path], set[int]], folder: Path, pristine: Path, make_world: Callable[..., World]
) -> None:
    damaged = harm(folder)
    assert 0 < len(damaged) <= PER_SHARD
    world = make_world()
    rows, news = world.train()
    assert {damage.number for damage in news} == damaged
    assert sorted(rows) == list(range(SAMPLES))
    assert rows == expected(pristine, damaged)
    entries = manifests.read_index(folder / FIRST)
    for damage in news:
        assert damage.shard.endswith(f"/{FIRST}")
        assert damage.offset == entries[damage.number].offset
        assert "bytes" in damage.reason or "checksum" in damage.reason
    # The state holds the damage, so a run that goes on knows it from its first step, and has the same batches.
    states = [loader.state_dict() for loader in world.loaders]
    assert states[0] == states[1]
    again = make_world()
    for loader in again.loaders:
        loader.load_state_dict(states[0])
        assert loader.damaged == len(damaged)
    further, more = again.train(2)
    assert more == []
    whole = expected(pristine, damaged, STEPS + 2)
    assert further == {place: digest for place, digest in whole.items() if place >= SAMPLES}


@pytest.mark.parametrize("harm", [cut_in_half, other_version])
def test_more_damage_than_allowed_stops_all_ranks(
    harm: Callable[[Path], set[int]], folder: Path, make_world: Callable[..., World]
) -> None:
    harm(folder)
    with pytest.raises(ShardError, match=rf"^\d samples .* data\.max_damaged \(1\), .*/{FIRST}: "):
        make_world(max_damaged=1).train()


def test_a_missing_shard_stops_all_ranks(folder: Path, make_world: Callable[..., World]) -> None:
    (folder / FIRST).unlink()
    with pytest.raises(ShardError, match=rf"/{FIRST}: "):
        make_world().train()


def test_the_index_of_another_shard(folder: Path, pristine: Path, make_world: Callable[..., World]) -> None:
    index, other = folder / "train-000000.json", folder / "train-000001.json"
    shutil.copy(other, index)
    with pytest.raises(ShardError, match=r"train-000000\.json: .* 'train-000001\.tar', not of train-000000"):
        make_world()
    # An index that names the wrong shard has the checksums of other samples.
    index.write_text(other.read_text().replace("train-000001.tar", FIRST))
    with pytest.raises(ShardError, match=r"train-000000\.json: index is damaged .*checksum in the manifest"):
        make_world()
    tie(folder)
    _, news = make_world().train()
    assert {damage.number for damage in news} == set(range(PER_SHARD))
    with pytest.raises(ShardError, match=r"6 samples .* data\.max_damaged \(5\)"):
        make_world(max_damaged=5).train()
    index.write_text("{")
    with pytest.raises(ShardError, match=r"train-000000\.json: index"):
        make_world()


@pytest.mark.parametrize("fault", ["500", "hang", "half"])
@pytest.mark.parametrize("place", ["server", "cache"], indirect=True)
def test_a_server_that_fails_for_a_while_loses_nothing(
    fault: str, server: Server, pristine: Path, make_world: Callable[..., World]
) -> None:
    world = make_world()
    for number in range(3):
        server.faults[f"train-{number:06d}.tar"] = (fault, 1)
    rows, news = world.train()
    assert news == []
    assert rows == expected(pristine, set())


@pytest.mark.parametrize("fault", ["500", "hang", "half"])
@pytest.mark.parametrize("place", ["server", "cache"], indirect=True)
def test_a_server_that_fails_for_good_stops_all_ranks(
    fault: str, server: Server, make_world: Callable[..., World]
) -> None:
    world = make_world()
    server.faults[FIRST] = (fault, 1e9)
    with pytest.raises(ShardError, match=rf"^{server.address}/{FIRST}: (.* 2 attempts|broke off)"):
        world.train()


@pytest.mark.parametrize("limit", [1, 1_000_000])
def test_a_cache_that_is_too_small_falls_back_to_ranges(
    limit: int, server: Server, pristine: Path, tmp_path: Path
) -> None:
    """Too small for a single shard, or for all."""
    world = World(server.address, Cache(tmp_path / "cache", limit))
    with pytest.warns(UserWarning, match=r"\(data\.cache_bytes is 1, ") if limit == 1 else nullcontext():
        rows, news = world.train()
    world.close()
    assert news == []
    assert rows == expected(pristine, set())
    assert sum(path.stat().st_size for path in (tmp_path / "cache").iterdir()) <= limit


@pytest.mark.parametrize("cached", [False, True])
def test_s3_gives_the_same_batches(cached: bool, folder: Path, pristine: Path, tmp_path: Path) -> None:
    damaged = one_bit(folder)
    with serve_s3(folder) as address:
        world = World(address, Cache(tmp_path / "cache") if cached else None, workers=1)
        rows, news = world.train()
        world.close()
    assert {damage.number for damage in news} == damaged
    assert rows == expected(pristine, damaged)


def test_a_killed_worker_changes_no_batch(folder: Path, pristine: Path, make_world: Callable[..., World]) -> None:
    damaged = one_bit(folder)
    world = make_world(workers=1)
    rows, _ = world.train(2)
    for loader in world.loaders:
        crew = loader._ring._crew
        assert isinstance(crew, Processes)
        for worker in crew.workers:
            os.kill(worker.process.pid, signal.SIGKILL)
    more, _ = world.train(3)
    assert rows | more == expected(pristine, damaged)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_validation_sample_counts_for_nothing_and_is_reported(workers: int, folder: Path) -> None:
    damaged = cut_in_half(folder)
    reader = SampleReader(select_from([open_set(str(folder))], "train"))
    damages = []
    for rank in range(RANKS):
        passes = ValidationLoader(reader, LAYOUT, Share(rank, RANKS, 4 * RANKS, 4), workers)
        for _ in range(2):
            for batch, count in passes:
                for row, number in enumerate(batch.place[:count].tolist()):
                    labelled = bool((batch.lab[row] != 255).any())
                    valid = bool(batch.hh[row].any() or batch.hv[row].any())
                    assert labelled == valid == (number not in damaged)
        damages += passes.damages
    assert sorted(damage.number for damage in damages) == sorted(damaged)


def test_the_error_of_a_rank_ends_all_ranks(folder: Path, tmp_path: Path) -> None:
    """With the same message."""
    world = World(str(folder))
    whole = world.loaders[1]
    elsewhere = replace(whole.selection, sources=(Folder(tmp_path / "not mounted here"),))
    world.loaders[1] = Loader(SampleReader(elsewhere), LAYOUT, whole.order, Share(1, RANKS, BATCH, 3))
    with pytest.raises(ShardError, match=r"not mounted here/train-\d+\.tar: "):
        world.train()
    world.close()
    whole.close()
