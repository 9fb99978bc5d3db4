from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import made
import numpy as np
import pytest

from arcticseg.data import cache as caches
from arcticseg.data.cache import Cache, Prefetch
from arcticseg.data.manifest import ShardEntry, hash_file, read_manifest
from arcticseg.data.reader import SampleReader
from arcticseg.data.select import select
from arcticseg.data.source import Folder
from arcticseg.errors import ShardError

SIZE = 100_000


@pytest.fixture(autouse=True)
def in_haste(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards may be removed as soon as nobody has them open, and are tried again at once."""
    monkeypatch.setattr("arcticseg.data.cache._LATELY", -1.0)
    monkeypatch.setattr("arcticseg.data.cache._AGAIN", 0.0)


class Counting(Folder):
    """Notes each download in a file, and pauses half-way."""

    seconds = 0.0

    def stream(self, name: str) -> Iterator[bytes]:
        with open(Path(self.address) / "downloads", "a") as log:
            log.write(f"{name}\n")
        for piece in super().stream(name):
            yield piece[: SIZE // 2]
            time.sleep(self.seconds)
            yield piece[SIZE // 2 :]


@pytest.fixture
def source(tmp_path: Path) -> Counting:
    (tmp_path / "source").mkdir()
    for i in range(6):
        (tmp_path / "source" / f"{i}.tar").write_bytes(np.random.default_rng(i).bytes(SIZE))
    return Counting(tmp_path / "source")


def entry(source: Folder, number: int) -> ShardEntry:
    path = Path(source.address) / f"{number}.tar"
    return ShardEntry(path.name, SIZE, hash_file(path), 1, "0" * 16)


def content(source: Folder, number: int) -> bytes:
    return (Path(source.address) / f"{number}.tar").read_bytes()


def downloads(source: Folder) -> list[str]:
    return (Path(source.address) / "downloads").read_text().split()


def held(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.tar"))


def test_a_shard_is_downloaded_once_and_then_read_from_the_disk(source: Counting, tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")
    shard = entry(source, 0)
    for start, size in ((0, 10), (5000, 300), (SIZE - 5, 10)):
        assert cache.read_range(source, shard, start, size) == content(source, 0)[start : start + size]
    copy = pickle.loads(pickle.dumps(cache))
    assert copy.read_range(source, shard, 7, 7) == content(source, 0)[7:14]
    assert downloads(source) == ["0.tar"]
    assert cache.path(shard).name == f"{shard.xxh3}-{SIZE}.tar"
    assert cache.path(shard).read_bytes() == content(source, 0)
    assert not list((tmp_path / "cache").glob("*.part"))


def read_in_process(source: Counting, folder: Path, limit: int, numbers: list[int], seconds: float) -> None:
    cache = Cache(folder, limit)
    for number in numbers:
        data = cache.read_range(source, entry(source, number), 10, 100)
        assert data in (None, content(source, number)[10:110])
        time.sleep(seconds)


def start(
    source: Counting, folder: Path, numbers: list[int], seconds: float = 0.0, limit: int = 0
) -> multiprocessing.process.BaseProcess:
    context = multiprocessing.get_context("fork")
    process = context.Process(target=read_in_process, args=(source, folder, limit, numbers, seconds))
    process.start()
    return process


def test_processes_share_a_download(source: Counting, tmp_path: Path) -> None:
    source.seconds = 0.3
    processes = [start(source, tmp_path / "cache", [0, 1]) for _ in range(4)]
    for process in processes:
        process.join(30)
        assert process.exitcode == 0
    assert sorted(downloads(source)) == ["0.tar", "1.tar"]


def test_another_process_replaces_a_killed_download(source: Counting, tmp_path: Path) -> None:
    source.seconds = 60
    first = start(source, tmp_path / "cache", [0])
    part = None
    while part is None or part.stat().st_size < SIZE:
        part = next((tmp_path / "cache").glob("*.part"), None)
    source.seconds = 0
    second = start(source, tmp_path / "cache", [0])
    time.sleep(0.3)
    assert second.is_alive()  # it waits
    os.kill(first.pid or 0, signal.SIGKILL)
    second.join(10)
    assert second.exitcode == 0
    first.join()
    assert len(held(tmp_path / "cache")) == 1
    assert not part.exists()


def test_the_longest_unused_makes_room(source: Counting, tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache", limit=int(2.5 * SIZE))
    for number in (0, 1, 0, 2, 3, 0):
        assert cache.read_range(source, entry(source, number), 3, 3) == content(source, number)[3:6]
        cache.close()
        time.sleep(0.01)
        assert sum(path.stat().st_size for path in (tmp_path / "cache").iterdir()) <= cache.limit
    # 2 takes the place of 1, 3 the place of 0, and 0 the place of 2.
    assert downloads(source) == ["0.tar", "1.tar", "2.tar", "3.tar", "0.tar"]
    assert held(tmp_path / "cache") == sorted(cache.path(entry(source, number)).name for number in (0, 3))


def test_room_for_fewer_than_are_used_in_turn(
    source: Counting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No shard is downloaded twice: shards without room are read at the source, until others have long been unused."""
    monkeypatch.setattr("arcticseg.data.cache._LATELY", 60.0)
    cache = Cache(tmp_path / "cache", limit=int(2.5 * SIZE))
    with pytest.warns(UserWarning, match="is not cached") as warned:
        parts = [cache.read_range(source, entry(source, number % 4), 3, 3) for number in range(40)]
    assert [part is not None for part in parts] == [True, True, False, False] * 10
    assert len(warned) == 2  # for each of the two shards
    assert downloads(source) == ["0.tar", "1.tar"]
    cache.close()
    for path in (tmp_path / "cache").glob("*.tar"):
        os.utime(path, (time.time() - 61, time.time() - 61))
    assert cache.read_range(source, entry(source, 2), 3, 3) == content(source, 2)[3:6]


def test_a_shard_gets_its_name_while_nobody_counts(
    source: Counting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a process that lists the folder and then looks at the files would miss the bytes of a renamed file."""
    shards, fill = Cache(tmp_path / "cache"), caches._fill
    named: list[bool] = []

    def count(counting: threading.Event) -> None:
        with caches._locked(tmp_path / "cache" / "lock"):
            counting.set()
            time.sleep(0.2)
            named.append(shards.path(entry(source, 0)).exists())

    def filled(*arguments: Any) -> None:
        fill(*arguments)
        counting = threading.Event()
        threading.Thread(target=count, args=(counting,)).start()
        counting.wait()

    monkeypatch.setattr(caches, "_fill", filled)
    assert shards.fetch(source, entry(source, 0))
    assert named == [False]
    assert held(tmp_path / "cache") == [shards.path(entry(source, 0)).name]


def test_a_shard_in_use_by_another_process_stays(source: Counting, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    other = start(source, folder, [0], seconds=5, limit=SIZE)
    while not held(folder):
        time.sleep(0.01)
    time.sleep(0.1)
    cache = Cache(folder, limit=SIZE)
    with pytest.warns(UserWarning, match=rf"1\.tar: .*\(data\.cache_bytes is {SIZE}, .*{SIZE} bytes"):
        assert cache.read_range(source, entry(source, 1), 3, 3) is None
    assert held(folder) == [cache.path(entry(source, 0)).name]
    other.kill()
    other.join()
    # Its lock has ended with it.
    assert cache.read_range(source, entry(source, 1), 3, 3) == content(source, 1)[3:6]
    assert held(folder) == [cache.path(entry(source, 1)).name]


def test_many_processes_in_little_room(source: Counting, tmp_path: Path) -> None:
    """Whatever the others do, each byte that a process reads is right (see `read_in_process`) and the limit holds."""
    order = [[int(n) for n in np.random.default_rng(i).integers(0, 6, 40)] for i in range(4)]
    processes = [start(source, tmp_path / "cache", numbers, limit=3 * SIZE) for numbers in order]
    most = 0
    while any(process.is_alive() for process in processes):
        sizes = []
        for path in (tmp_path / "cache").glob("*"):
            try:
                sizes.append(path.stat().st_size)
            except FileNotFoundError:
                continue
        most = max(most, sum(sizes))
    assert [process.exitcode for process in processes] == [0] * 4
    # Between the listing and the look at the sizes a shard may have been replaced by another.
    assert most <= 4 * SIZE
    assert len(held(tmp_path / "cache")) <= 3


def test_the_file_of_a_dead_process_is_removed(source: Counting, tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache", limit=SIZE)
    (tmp_path / "cache" / "0000-5.part").write_bytes(bytes(SIZE))
    assert cache.read_range(source, entry(source, 0), 0, 3) == content(source, 0)[:3]
    assert not list((tmp_path / "cache").glob("*.part"))


def test_a_source_that_differs_from_the_manifest_is_not_cached(source: Counting, tmp_path: Path) -> None:
    shard = entry(source, 0)
    (Path(source.address) / "0.tar").write_bytes(bytes(SIZE))
    cache = Cache(tmp_path / "cache")
    with pytest.warns(UserWarning, match=rf"0\.tar: .*manifest .*{shard.xxh3}"):
        assert cache.read_range(source, shard, 0, 3) is None
    assert cache.read_range(source, shard, 0, 3) is None
    assert downloads(source) == ["0.tar", "0.tar"]  # tried twice, and then never again
    assert held(tmp_path / "cache") == []
    # A build that replaces the shard has another hash, and so another file.
    assert cache.read_range(source, entry(source, 0), 0, 3) == bytes(3)


def test_a_source_that_fails_is_an_error(source: Counting, tmp_path: Path) -> None:
    shard = entry(source, 0)
    (Path(source.address) / "0.tar").unlink()
    with pytest.raises(ShardError, match=r"0\.tar: "):
        Cache(tmp_path / "cache").read_range(source, shard, 0, 3)
    assert not list((tmp_path / "cache").glob("*.part"))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 150 KB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=150k", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("needs the right to mount a file system")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_disk_is_emptied_or_not_used(source: Counting, small_disk: Path) -> None:
    cache = Cache(small_disk)
    assert cache.read_range(source, entry(source, 0), 0, 3) == content(source, 0)[:3]
    # There is room for a single shard: the other is removed.
    assert cache.read_range(source, entry(source, 1), 0, 3) == content(source, 1)[:3]
    assert held(small_disk) == [cache.path(entry(source, 1)).name]
    cache.drop(entry(source, 1))
    (small_disk / "another file").write_bytes(bytes(80_000))
    with pytest.warns(UserWarning, match=r"2\.tar: .*\(data\.cache: No space left"):
        assert cache.read_range(source, entry(source, 2), 0, 3) is None
    assert held(small_disk) == []


def test_a_cached_shard_that_the_disk_damages_is_fetched_again(tmp_path: Path) -> None:
    made.write(tmp_path / "shards", [made.tile(i) for i in range(3)])
    selection = select(tmp_path / "shards", read_manifest(tmp_path / "shards"), "train")
    cache = Cache(tmp_path / "cache")
    reader = SampleReader(selection, cache=cache)
    whole = [reader.fetch(number) for number in range(3)]
    (kept,) = (tmp_path / "cache").glob("*.tar")
    kept.write_bytes(bytes(kept.stat().st_size))
    assert [reader.fetch(number) for number in range(3)] == whole
    assert hash_file(kept) == selection.shards[0][1].xxh3


def test_shards_are_brought_before_they_are_needed(source: Counting, tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")
    ahead = Prefetch(
        cache, lambda places: ((source, entry(source, place // 10)) for place in places), consumed=10, ahead=20
    )

    def wait_for(count: int) -> list[str]:
        end = time.monotonic() + 10
        while len(held(tmp_path / "cache")) < count and time.monotonic() < end:
            time.sleep(0.01)
        time.sleep(0.1)
        return downloads(source)

    assert wait_for(2) == ["1.tar", "2.tar"]
    ahead.consumed = 21
    assert wait_for(4) == ["1.tar", "2.tar", "3.tar", "4.tar"]
    ahead.stop()
    ahead.consumed = 30
    assert wait_for(4) == ["1.tar", "2.tar", "3.tar", "4.tar"]
