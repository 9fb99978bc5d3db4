from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import made
import pytest

pytest.importorskip("torch")

from arcticseg.data.reader import SampleReader
from arcticseg.data.select import open_set, select_from
from arcticseg.data.share import Share
from arcticseg.data.webdataset_reader import WebDatasetLoader
from arcticseg.errors import ShardError
from tests.served import serve


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    shards = tmp_path_factory.mktemp("shards")
    made.write(shards, [made.tile(i) for i in range(12)])
    return shards


@pytest.fixture
def address(folder: Path) -> Iterator[str]:
    with serve(folder) as server:
        yield server.address


@pytest.mark.parametrize("remote", [False, True])
def test_batches_hold_the_samples_of_the_shards(remote: bool, folder: Path, address: str) -> None:
    selection = select_from([open_set(address if remote else str(folder))], "train")
    reader = SampleReader(selection)
    known = {reader.read(i).hh.tobytes() for i in range(len(selection))}
    loader = WebDatasetLoader(selection, Share(1, 2, 16, 4))
    places = []
    for _ in range(2):
        for batch in loader.step():
            assert len(batch) == 4
            assert {plane.numpy().tobytes() for plane in batch.hh} <= known
            places += batch.place.tolist()
        assert not loader.trouble
    assert places == [4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31]


def test_a_damaged_sample_is_an_error_of_all_ranks(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loader = WebDatasetLoader(select_from([open_set(str(folder))], "train"), Share(0, 1, 4, 4))
    monkeypatch.setattr("arcticseg.data.sample.SCHEMA_VERSION", 99)
    assert loader.step() == []
    assert loader.trouble
    with pytest.raises(ShardError, match=r"schema version 3, .* 99"):
        loader.settle(lambda value: [None, value])


def first_error(folder: Path, workers: int = 0, steps: int = 40) -> str:
    """What reading comes to."""
    loader = WebDatasetLoader(select_from([open_set(str(folder))], "train"), Share(0, 1, 4, 4), workers)
    try:
        for _ in range(steps):
            if not loader.step():
                break
        with pytest.raises(ShardError) as caught:
            loader.settle(lambda value: [value])
    finally:
        loader.close()
    return str(caught.value)


def rewrite(folder: Path, copy: Path, change: Callable[[bytes], bytes], hide_size: bool = False) -> Path:
    """Copy shards, the first changed; `hide_size`: the manifest agrees with the new size. Its path."""
    shutil.copytree(folder, copy)
    shard = min(copy.glob("train-*.tar"))
    size = shard.stat().st_size
    shard.write_bytes(change(shard.read_bytes()))
    if hide_size:
        manifest = copy / "manifest.json"
        manifest.write_text(manifest.read_text().replace(str(size), str(shard.stat().st_size), 1))
    return shard


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda data: data[: len(data) * 7 // 10], id="cut"),
        pytest.param(lambda data: b"\xff" * 512 + data[512:], id="first-header"),
        pytest.param(lambda data: data.replace(b"ustar", b"\xff" * 5)[: len(data)], id="all-headers"),
    ],
)
def test_a_damaged_shard_is_named_in_one_line(
    change: Callable[[bytes], bytes], workers: int, folder: Path, tmp_path: Path
) -> None:
    shard = rewrite(folder, tmp_path / "set", change)
    error = first_error(tmp_path / "set", workers)
    assert error.startswith(f"{shard}: ") or ": member " in error
    assert "\n" not in error
    assert "Traceback" not in error


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda data: data[: len(data) * 7 // 10], id="cut"),
        pytest.param(lambda data: data[: len(data) // 1024 * 512], id="cut-at-a-block"),
        pytest.param(lambda data: b"", id="emptied"),
    ],
)
def test_a_cut_shard_that_the_manifest_agrees_with_is_noticed_by_its_index(
    change: Callable[[bytes], bytes], folder: Path, tmp_path: Path
) -> None:
    rewrite(folder, tmp_path / "set", change, hide_size=True)
    with pytest.raises(ShardError, match=r"(index|manifest) is damaged"):
        first_error(tmp_path / "set")


def test_a_shard_that_ends_early_for_tarfile_is_noticed(folder: Path, tmp_path: Path) -> None:
    def damage_a_header(data: bytes) -> bytes:
        """The header of the first member of the fourth sample."""
        place = data.index(b"made-3" if b"made-3" in data else made.tile(3).key.encode())
        return data[:place] + b"\xff" * 512 + data[place + 512 :]

    shard = rewrite(folder, tmp_path / "set", damage_a_header)
    assert first_error(tmp_path / "set").startswith(f"{shard}: cannot be read to its end (3 of ")


def test_a_missing_shard_is_named(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "set")
    shard = min((tmp_path / "set").glob("train-*.tar"))
    shard.unlink()
    assert first_error(tmp_path / "set").startswith(f"{shard}: ")
