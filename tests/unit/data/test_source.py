from __future__ import annotations

import pickle
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("obstore")

from arcticseg.data.source import Folder, Patience, Remote, is_remote, open_source
from arcticseg.errors import ConfigError, ShardError
from tests.served import Server, serve, serve_s3

HASTE = Patience(seconds=0.4, retries=1)
DATA = np.random.default_rng(0).bytes(10_000)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "a.tar").write_bytes(DATA)
    return tmp_path


@pytest.fixture
def server(folder: Path) -> Iterator[Server]:
    with serve(folder) as server:
        yield server


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("s3")
    (folder / "a.tar").write_bytes(DATA)
    with serve_s3(folder) as address:
        yield address


@pytest.fixture(params=["folder", "http", "s3"])
def place(request: pytest.FixtureRequest, folder: Path) -> str:
    if request.param == "http":
        server: Server = request.getfixturevalue("server")
        return server.address
    return str(folder) if request.param == "folder" else str(request.getfixturevalue("s3"))


def test_all_sources_give_the_same_bytes(place: str) -> None:
    source = open_source(place, HASTE)
    assert source.read("a.tar", 1 << 30) == DATA
    assert source.read_range("a.tar", 0, 10) == DATA[:10]
    assert source.read_range("a.tar", 1234, 5678) == DATA[1234 : 1234 + 5678]
    # At the end of the file there are fewer bytes, and beyond it none: a shard that was cut.
    assert source.read_range("a.tar", 9_990, 100) == DATA[9_990:]
    assert source.read_range("a.tar", 20_000, 100) == b""
    assert b"".join(source.stream("a.tar")) == DATA
    copy = pickle.loads(pickle.dumps(source))
    assert copy.read_range("a.tar", 5, 5) == DATA[5:10]
    copy.close()
    source.close()
    assert source.read_range("a.tar", 5, 5) == DATA[5:10]
    source.close()


def test_a_file_that_is_not_there(place: str) -> None:
    source = open_source(place, HASTE)
    for read in (
        lambda name: source.read(name, 99),
        lambda name: source.read_range(name, 0, 5),
        lambda name: list(source.stream(name)),
    ):
        with pytest.raises(ShardError, match=rf"^{place}/b\.tar: ") as caught:
            read("b.tar")
        assert "\n" not in str(caught.value)


def test_places() -> None:
    assert [is_remote(place) for place in ("s3://a/b", "http://a", "https://a", "a", "/a/b", "file://a")] == [
        True, True, True, False, False, False
    ]  # fmt: skip
    assert isinstance(open_source("a"), Folder)
    assert isinstance(open_source("s3://a/b/"), Remote)
    with pytest.raises(ConfigError, match=r"key 'data\.shards' .*'gs://a'.*s3://"):
        open_source("gs://a")


@pytest.mark.parametrize("fault", ["500", "503", "429", "hang", "half"])
def test_a_passing_fault_is_waited_out(server: Server, fault: str) -> None:
    source = open_source(server.address, HASTE)
    server.faults["a.tar"] = (fault, 1)
    with pytest.warns(UserWarning, match=r"a\.tar: .*trying again"):
        assert source.read_range("a.tar", 10, 500) == DATA[10:510]
    server.faults["a.tar"] = (fault, 1)
    with pytest.warns(UserWarning, match=r"a\.tar: .*trying again"):
        assert source.read("a.tar", 1 << 30) == DATA


@pytest.mark.filterwarnings("ignore:.*trying again")
@pytest.mark.parametrize("fault", ["500", "hang", "half"])
def test_a_lasting_fault_ends_with_the_address(server: Server, fault: str) -> None:
    source = open_source(server.address, HASTE)
    server.faults["a.tar"] = (fault, 100)
    began = time.monotonic()
    with pytest.raises(ShardError) as caught:
        source.read_range("a.tar", 10, 500)
    assert str(caught.value).startswith(f"{server.address}/a.tar: ")
    assert "2 attempts" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert time.monotonic() - began < 4
    assert len(server.requests) == 2


def test_a_server_that_does_not_answer(folder: Path) -> None:
    with serve(folder) as server:
        source = open_source(server.address, Patience(0.4, 0))
    with pytest.raises(ShardError, match=r"a\.tar: .* 1 attempts"):
        source.read("a.tar", 1 << 30)


@pytest.mark.parametrize("status", ["401", "403"])
def test_a_refusal_is_not_repeated(server: Server, status: str) -> None:
    server.faults["a.tar"] = (status, 100)
    with pytest.raises(ShardError, match=r"a\.tar: .*AWS_ACCESS_KEY_ID"):
        open_source(server.address, HASTE).read_range("a.tar", 0, 5)
    assert len(server.requests) == 1


def test_s3_without_keys(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A private bucket: both ways to read without keys are refused, and nothing is tried again."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", "http://127.0.0.1:9")
    for skip in ("false", "true"):
        monkeypatch.setenv("AWS_SKIP_SIGNATURE", skip)
        with pytest.raises(ShardError, match=r"a\.tar: .*AWS_ACCESS_KEY_ID .*AWS_SKIP_SIGNATURE=true"):
            open_source(s3, HASTE).read("a.tar", 1 << 30)


def test_a_server_without_ranges_is_named(server: Server) -> None:
    server.faults["a.tar"] = ("whole", 100)
    source = open_source(server.address, HASTE)
    with pytest.raises(ShardError, match=r"a\.tar: .* byte ranges; set data\.cache"):
        source.read_range("a.tar", 5, 5)
    assert b"".join(source.stream("a.tar")) == DATA


def test_a_stream_that_breaks_off(server: Server) -> None:
    server.faults["a.tar"] = ("half", 1)
    with pytest.raises(ShardError, match=r"a\.tar: broke off"):
        list(open_source(server.address, HASTE).stream("a.tar"))


def test_many_files_are_read_with_few_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("arcticseg.data.source._OPEN_FILES", 3)
    for i in range(9):
        (tmp_path / f"{i}.tar").write_bytes(bytes([i]))
    source = Folder(tmp_path)
    before = len(list(Path("/proc/self/fd").iterdir()))
    for i in [*range(9), 0, 8, 1]:
        assert source.read_range(f"{i}.tar", 0, 9) == bytes([i])
    assert len(list(Path("/proc/self/fd").iterdir())) == before + 3
    source.close()
    assert len(list(Path("/proc/self/fd").iterdir())) == before
