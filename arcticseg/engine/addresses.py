"""How this machine reaches another, by IPv4 or IPv6: from which of its addresses, and by which network interface."""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import socket
import struct
from dataclasses import dataclass
from pathlib import Path

# Any port: nothing is sent.
_PORT = 9
# An address that is nobody's (RFC 5737), to see where packets for other machines go.
_ELSEWHERE = "192.0.2.1"
# Linux: get the address of a network interface.
_SIOCGIFADDR = 0x8915


@dataclass(frozen=True)
class Route:
    """The way to a host.

    Attributes:
        local: address of this machine that packets there bear.
        remote: address of the host.
    """

    family: socket.AddressFamily
    local: str
    remote: str

    @property
    def loopback(self) -> bool:
        """Whether it stays within this machine."""
        return is_loopback(self.local)

    @property
    def here(self) -> bool:
        """Whether the host is this machine."""
        return self.loopback or self.local == self.remote


def is_loopback(address: str) -> bool:
    """Whether a text is an address of the loopback device, or its name."""
    if address == "localhost":
        return True
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def loopback(family: socket.AddressFamily) -> str:
    """The address of the loopback device."""
    return "::1" if family == socket.AF_INET6 else "127.0.0.1"


def route(host: str) -> Route | None:
    """The way to a host by name or address; None: it is not known, or there is no way."""
    try:
        addresses = socket.getaddrinfo(host, _PORT, type=socket.SOCK_DGRAM)
    except (OSError, UnicodeError):
        return None
    for family, kind, protocol, _, address in addresses:
        with contextlib.suppress(OSError), socket.socket(family, kind, protocol) as probe:
            probe.connect(address)
            return Route(family, str(probe.getsockname()[0]), str(address[0]))
    return None


def interface_to(host: str) -> str | None:
    """The network interface by which ranks of other machines reach this one; None: it cannot be told.

    It is the one on the way to `host`, where rank 0 is. Where a name stands for the loopback device, as many systems
    have it for their own, it is the one on the way to other machines.
    """
    way = route(host)
    if way is not None and way.loopback and not is_loopback(host):
        way = route(_ELSEWHERE) or way
    return None if way is None else _interface_of(way.local)


def _interface_of(address: str) -> str | None:
    """The network interface that has an address."""
    if is_loopback(address):
        return "lo"
    names = [name for _, name in socket.if_nameindex()]
    return next((name for name in names if ipaddress.ip_address(address.partition("%")[0]) in _addresses(name)), None)


def _addresses(name: str) -> list[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    """The addresses of a network interface."""
    known: list[ipaddress.IPv4Address | ipaddress.IPv6Address] = []
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        answer = fcntl.ioctl(asked, _SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
        known.append(ipaddress.IPv4Address(answer[20:24]))
    with contextlib.suppress(OSError):
        rows = [line.split() for line in Path("/proc/net/if_inet6").read_text().splitlines()]
        known += [ipaddress.IPv6Address(bytes.fromhex(row[0])) for row in rows if row[-1] == name]
    return known
