"""Ways to other machines, told by this machine's own tables."""

from __future__ import annotations

import socket

import pytest

from arcticseg.engine import addresses
from arcticseg.engine.addresses import Route, interface_to, is_loopback, loopback, route


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.1.1", "localhost", "::1"])
def test_the_loopback_device_is_known(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["node0", "10.0.0.1", "fd00::1", "fe80::1%eth0", ""])
def test_other_hosts_are_elsewhere(host: str) -> None:
    assert not is_loopback(host)


def test_the_way_to_this_machine_ends_here() -> None:
    assert route("127.0.0.1") == Route(socket.AF_INET, "127.0.0.1", "127.0.0.1")
    assert interface_to("127.0.0.1") == "lo"
    assert interface_to("::1") in ("lo", None)
    assert (loopback(socket.AF_INET), loopback(socket.AF_INET6)) == ("127.0.0.1", "::1")


def test_an_unknown_host_has_no_way() -> None:
    assert route("no-such-host.invalid") is None
    assert interface_to("no-such-host.invalid") is None
    assert route("a" * 300) is None


def test_a_name_of_the_loopback_device_leads_to_the_interface_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    ways = {
        "node0": Route(socket.AF_INET, "127.0.1.1", "127.0.1.1"),
        "192.0.2.1": Route(socket.AF_INET, "10.1.2.3", "192.0.2.1"),
    }
    names = {"10.1.2.3": "ib0", "127.0.1.1": "lo"}
    monkeypatch.setattr(addresses, "route", ways.get)
    monkeypatch.setattr(addresses, "_interface_of", names.get)
    assert interface_to("node0") == "ib0"
    # A machine without a network.
    del ways["192.0.2.1"]
    assert interface_to("node0") == "lo"


def test_the_interface_of_an_own_address_is_named() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("this machine has no network")
        address = probe.getsockname()[0]
    name = addresses._interface_of(address)
    assert name in {name for _, name in socket.if_nameindex()}
    assert address in map(str, addresses._addresses(name))
