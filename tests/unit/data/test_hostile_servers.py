"""Servers that send too much, too slowly, or on to others; and what others put into a shared cache."""

from __future__ import annotations

import os
import time
import tracemalloc
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("obstore")

from arcticseg.data.cache import Cache
from arcticseg.data.manifest import ShardEntry, hash_file
from arcticseg.data.source import Folder, Patience, open_source
from arcticseg.errors import ConfigError, ShardError
from tests.served import Server, serve

HASTE = Patience(seconds=0.5, retries=1)
DATA = np.random.default_rng(0).bytes(100_000)
TOKEN = "t0ken"

pytestmark = pytest.mark.filterwarnings("ignore:.*trying again")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a.tar").write_bytes(DATA)
    with serve(tmp_path / "set") as server:
        yield server


@pytest.fixture(params=["plain", "user", "query"])
def address(request: pytest.FixtureRequest, server: Server) -> str:
    host = server.address.removeprefix("http://")
    return {
        "plain": f"http://{host}/set",
        "user": f"http://me:a%20secret%2Fword@{host}/set",
        "query": f"http://{host}/set?X-Amz-Signature={TOKEN}&v=1",
    }[request.param]


def shard(server: Server) -> ShardEntry:
    return ShardEntry("a.tar", len(DATA), hash_file(server.folder / "a.tar"), 1, "0" * 16)


def test_all_addresses_give_the_same_bytes(address: str) -> None:
    source = open_source(address, HASTE)
    assert source.read("a.tar", 1 << 20) == DATA
    assert b"".join(source.stream("a.tar")) == DATA
    assert source.read_range("a.tar", 50, 500) == DATA[50:550]
    assert source.read_range("a.tar", len(DATA) - 3, 10) == DATA[-3:]
    assert source.read_range("a.tar", len(DATA) + 3, 10) == b""
    with pytest.raises(ShardError, match=r"b\.tar: is not there"):
        source.read("b.tar", 1 << 20)


def test_user_and_password_reach_their_server_alone(server: Server, tmp_path: Path) -> None:
    address = f"http://me:a%20secret%2Fword@{server.address.removeprefix('http://')}/set"
    with serve(server.folder) as other:
        server.elsewhere = other.address
        server.faults["a.tar"] = ("elsewhere", 1)
        source = open_source(address, HASTE)
        assert source.read("a.tar", 1 << 20) == DATA
        assert "authorization: Basic bWU6YSBzZWNyZXQvd29yZA==" in server.said[0]  # base64 of me:a secret/word
        (said,) = other.said
    assert not any(word in said for word in ("bWU6", "secret", "authorization"))


def test_a_signature_does_not_follow_to_another_server(server: Server) -> None:
    with serve(server.folder) as other:
        server.elsewhere = other.address
        server.faults["a.tar"] = ("elsewhere", 9)
        source = open_source(f"{server.address}/set?sig={TOKEN}", HASTE)
        for read in (lambda: source.read("a.tar", 1 << 20), lambda: list(source.stream("a.tar"))):
            with pytest.raises(ShardError, match=r"a\.tar: the server redirects; .*give the other address") as caught:
                read()
            assert TOKEN not in str(caught.value)
        assert not other.said


def test_no_redirection_reads_a_file(address: str, server: Server) -> None:
    server.faults["a.tar"] = ("file", 9)
    with pytest.raises(ShardError, match=r"a\.tar: ") as caught:
        open_source(address, HASTE).read("a.tar", 1 << 20)
    assert "root:" not in str(caught.value)


@pytest.mark.parametrize("fault", ["drip", "head", "terabyte", "endless", "gzip"])
def test_a_whole_file(address: str, server: Server, fault: str) -> None:
    """In one line, within the patience of each attempt, in little memory; and what is compressed stays so."""
    server.faults["a.tar"] = (fault, 9)
    source = open_source(address, HASTE)
    tracemalloc.start()
    began = time.monotonic()
    try:
        if fault == "gzip":
            assert source.read("a.tar", 1 << 20)[:2] == b"\x1f\x8b"
        else:
            with pytest.raises(ShardError, match=r"/a\.tar: ") as caught:
                source.read("a.tar", 1 << 20)
            assert str(caught.value).isprintable()
        assert tracemalloc.get_traced_memory()[1] < 9_000_000
    finally:
        tracemalloc.stop()
    assert time.monotonic() - began < 6


@pytest.mark.parametrize("fault", ["more", "drip", "head"])
def test_a_range(address: str, server: Server, fault: str) -> None:
    server.faults["a.tar"] = (fault, 9)
    began = time.monotonic()
    with pytest.raises(ShardError, match=r"/a\.tar: "):
        open_source(address, HASTE).read_range("a.tar", 0, 1000)
    assert time.monotonic() - began < 6


@pytest.mark.parametrize("fault", ["drip", "terabyte", "gzip"])
def test_a_shard_for_the_cache(server: Server, tmp_path: Path, fault: str) -> None:
    server.faults["a.tar"] = (fault, 9)
    began = time.monotonic()
    cache, source = Cache(tmp_path / "cache"), open_source(f"{server.address}/set", HASTE)
    if fault == "drip":
        with pytest.raises(ShardError, match=r"a\.tar: broke off .*bytes a second"):
            cache.read_range(source, shard(server), 0, 10)
    else:
        with pytest.warns(UserWarning, match=r"a\.tar: is not cached \(.*the manifest"):
            assert cache.read_range(source, shard(server), 0, 10) is None
    assert time.monotonic() - began < 6
    assert sum(path.stat().st_size for path in (tmp_path / "cache").iterdir()) == 0


@pytest.mark.parametrize(
    "address",
    [
        "http://me:secretword@{}/set",
        "http://{}/set?X-Amz-Credential=me&X-Amz-Signature=secretword",
        "http://{}/set?sv=2023-01-03&sig=secretword",
        "http://me:secretword@{}/set?token=secretword",
    ],
)
@pytest.mark.parametrize("fault", ["500", "401", "404", "hang", "drip", "terabyte", "half", "elsewhere", "file"])
def test_no_error_shows_credentials(server: Server, address: str, fault: str) -> None:
    server.faults["a.tar"] = (fault, 9)
    server.elsewhere = "http://127.0.0.1:9"
    source = open_source(address.format(server.address.removeprefix("http://")), Patience(0.2, 1))
    with warnings.catch_warnings(record=True) as warned, pytest.raises(ShardError) as caught:
        source.read("a.tar", 1 << 20)
    shown = "\n".join([str(caught.value), source.address, *(str(item.message) for item in warned)])
    assert "***" in shown
    assert "secretword" not in shown
    assert "\n" not in str(caught.value)


def test_s3_takes_keys_from_its_address(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "ice").mkdir()
    (tmp_path / "ice" / "a.tar").write_bytes(DATA)
    with serve(tmp_path / "ice") as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.address)
        monkeypatch.setenv("AWS_REGION", "us-east-1")
        source = open_source("s3://AKIAKEY:secret%2Fword@ice", HASTE)
        server.contents["ice/a.tar"] = DATA
        assert source.read("a.tar", 1 << 20) == DATA
        assert source.address == "s3://***@ice"
        assert "Credential=AKIAKEY/" in server.said[0]
        assert "word" not in server.said[0]


@pytest.mark.parametrize("address", ["http://", "http://:80/x", "https://[1/x", "http://a:port/x", "s3://"])
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(ConfigError, match=r"key 'data\.shards' .*not an address"):
        open_source(address, HASTE).read("a.tar", 10)


@pytest.mark.parametrize("name", ["tar", "part", "lock"])
@pytest.mark.parametrize("kind", ["symlink", "hard link", "pipe"])
def test_what_others_put_into_a_shared_cache_is_not_used(server: Server, tmp_path: Path, name: str, kind: str) -> None:
    """No link is written through, and no pipe is waited for."""
    precious = tmp_path / "precious"
    precious.write_bytes(b"precious")
    cache, entry = Cache(tmp_path / "cache"), shard(server)
    place = cache.path(entry).with_suffix(f".{name}")
    if kind == "pipe":
        os.mkfifo(place)
    else:
        (place.symlink_to if kind == "symlink" else place.hardlink_to)(precious)
    before = precious.stat().st_mtime_ns
    with pytest.warns(UserWarning, match=r"a\.tar: is not cached \("):
        assert cache.read_range(Folder(server.folder), entry, 0, 10) is None
    assert precious.read_bytes() == b"precious"
    assert precious.stat().st_mtime_ns == before


def test_a_shard_that_no_disk_holds_pushes_nothing_out(server: Server, tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")
    source = Folder(server.folder)
    assert cache.read_range(source, shard(server), 0, 3) == DATA[:3]
    cache.close()
    kept = cache.path(shard(server))
    os.utime(kept, (0, 0))
    with pytest.warns(UserWarning, match=r"b\.tar: is not cached \(data\.cache: No space left"):
        assert cache.read_range(source, ShardEntry("b.tar", 1 << 47, "ab" * 8, 1, "0" * 16), 0, 3) is None
    assert kept.exists()
