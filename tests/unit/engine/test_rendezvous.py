"""How ranks meet."""

from __future__ import annotations

import socket
import threading

import pytest

pytest.importorskip("torch")

from arcticseg.engine import process_group, rendezvous
from arcticseg.engine.rendezvous import longest_wait, meet
from arcticseg.errors import ConfigError
from arcticseg.ranks import free_port


@pytest.fixture(autouse=True)
def port(monkeypatch: pytest.MonkeyPatch) -> int:
    number = free_port()
    for name in ("TORCHELASTIC_USE_AGENT_STORE", "TORCHELASTIC_RESTART_COUNT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(number))
    return number


def test_ranks_that_meet_share_a_store() -> None:
    stores = {}
    other = threading.Thread(target=lambda: stores.update({1: meet(1, 2, 20)}))
    other.start()
    stores[0] = meet(0, 2, 20)
    other.join()
    stores[1].set("what", "ice")
    assert stores[0].get("what") == b"ice"


def test_one_machine_listens_on_loopback_only(port: int) -> None:
    store = meet(0, 1, 20)
    with open("/proc/net/tcp") as file:
        local = [line.split()[1] for line in file if line.split()[3] == "0A"]
    assert [place for place in local if place.endswith(f":{port:04X}")] == [f"0100007F:{port:04X}"]
    del store


def test_ipv6_is_an_address_like_another(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    # As it stands in addresses; the libraries below want it without brackets.
    monkeypatch.setenv("MASTER_ADDR", "[::1]")
    for name, value in (("RANK", "0"), ("LOCAL_RANK", "0"), ("WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    process_group._environment()
    stores = {}
    other = threading.Thread(target=lambda: stores.update({1: meet(1, 2, 20)}))
    other.start()
    stores[0] = meet(0, 2, 20)
    other.join()
    stores[1].set("what", "ice")
    assert stores[0].get("what") == b"ice"
    with open("/proc/net/tcp6") as file:
        local = [line.split()[1] for line in file if line.split()[3] == "0A"]
    assert [place for place in local if place.endswith(f":{port:04X}")] == [f"{'0' * 24}01000000:{port:04X}"]


def test_ranks_that_do_not_come_are_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(rendezvous, "_TELL", 0.2)
    with pytest.raises(ConfigError, match=r"ranks 1, 2 of 3"):
        meet(0, 3, 1)
    assert "rank 0 waits for ranks 1, 2 of 3" in capsys.readouterr().err


def test_rank_0_that_does_not_come_is_named(
    port: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(rendezvous, "_TELL", 0.2)
    with pytest.raises(ConfigError, match=f"MASTER_PORT {port}: rank 0 does not answer rank 1"):
        meet(1, 2, 1)
    assert "rank 1 waits for rank 0" in capsys.readouterr().err


def test_a_port_in_use_is_an_error_of_one_line(port: int) -> None:
    with socket.create_server(("127.0.0.1", port)), pytest.raises(ConfigError, match=f"MASTER_PORT {port}"):
        meet(0, 1, 5)


def test_the_longest_wait_can_be_set(monkeypatch: pytest.MonkeyPatch) -> None:
    assert longest_wait() == 600
    monkeypatch.setenv("ARCTICSEG_WAIT", "30")
    assert longest_wait() == 30
    monkeypatch.setenv("ARCTICSEG_WAIT", "soon")
    with pytest.raises(ConfigError, match="ARCTICSEG_WAIT is 'soon'"):
        longest_wait()


@pytest.mark.parametrize("text", ["abc", "", "0", "65536", "-1"])
def test_what_is_no_port_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASTER_PORT", text)
    with pytest.raises(ConfigError, match=rf"MASTER_PORT is '{text}'; set a port"):
        meet(0, 1, 1)
