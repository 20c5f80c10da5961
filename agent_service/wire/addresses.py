"""Addresses of services: HOST:PORT, [IPv6]:PORT, unix:PATH; replicas by dns:, ipv4: or ipv6:.

Parses and validates addresses to listen on and to call. Knows no transport.
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from dataclasses import dataclass

from agent_service.domain.errors import invalid

AGENT_PORT, TRAINER_PORT = 50051, 50052
"""Default ports of gRPC."""

_RESOLVER = re.compile(r"dns:(?://[^/]*/)?|ipv[46]:")
_PLACE = re.compile(r"(?:\[(?P<six>.*)\]|(?P<host>[^:\[\]/]*))(?::(?P<port>[^:/]*))?")
_LABEL = r"\w(?:[\w-]*\w)?"
_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\.?")
_DIGITS = re.compile(r"[0-9]{1,5}")
_PORT = re.compile(r":[0-9]+$")


@dataclass(frozen=True, slots=True)
class Address:
    """The address of a service or its replicas."""

    target: str
    """gRPC's target string."""
    places: tuple[tuple[str, int], ...]
    """Host and port of each listed replica; empty for a Unix socket."""

    @property
    def host(self) -> str:
        """The first replica's host; the loopback address for a Unix socket."""
        return self.places[0][0] if self.places else "127.0.0.1"

    @property
    def is_of_replicas(self) -> bool:
        """Whether it has the form of an address of replicas."""
        return self.target.startswith("dns:") or len(self.places) > 1

    @property
    def is_loopback(self) -> bool:
        """Whether all hosts are written as loopback; resolves no names."""
        return all(is_loopback(host) for host, _port in self.places)

    @property
    def is_private(self) -> bool:
        """Whether only this machine can reach it; resolves names."""
        return all(is_loopback(each) for host, _port in self.places for each in _resolved(host))

    def announced(self, port: int, metrics_port: int) -> str:
        """Return the text with which a service announces its addresses, given its actual ports."""
        listening = at(self.host, port) if self.places else self.target
        return f"{listening}, metrics at http://{at(self.host, metrics_port)}/metrics"


def at(host: str, port: int) -> str:
    """Return HOST:PORT, with an IPv6 host in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def address_to_listen(text: str, field: str, *, port: int = AGENT_PORT) -> Address:
    """Parse the address of a server; port 0 stands for any free one.

    Raises:
        InvalidArgument: the address is invalid; names `field` and an example with `port`.
    """
    text = str(text or "").strip()  # a script may give a number, or None
    if text.startswith("unix:"):
        return _socket(text, field)
    if _RESOLVER.match(text):
        fix = f"a service listens on one HOST:PORT, such as {at('127.0.0.1', port)}"
        raise invalid(field, f"{_shown(text)} is for clients; {fix}")
    return Address(text, (_place(text, field, port, lowest=0),))


def address_to_call(text: str, field: str = "address", *, port: int = AGENT_PORT) -> Address:
    """Parse the address of a service, or of replicas: dns:///NAME:PORT, ipv4:HOST:PORT,HOST:PORT.

    Raises:
        InvalidArgument: the address is invalid; names `field` and an example with `port`.
    """
    text = str(text or "").strip()  # a script may give a number, or None
    if text.startswith("unix:"):
        return _socket(text, field)
    resolver = _RESOLVER.match(text)
    listed = text[resolver.end() :] if resolver else text
    fix = "for replicas write dns:///NAME:PORT, or ipv4:HOST:PORT,HOST:PORT"
    if resolver and (not listed or listed.startswith("/")):
        raise invalid(field, f"{_shown(text)} names no host; {fix}")
    if "," in listed and not text.startswith("ipv"):
        raise invalid(field, f"{_shown(text)} is not HOST:PORT; {fix}")
    return Address(text, tuple(_place(one, field, port, lowest=1) for one in listed.split(",")))


def _socket(text: str, field: str) -> Address:
    path = text.removeprefix("unix:")
    if path.startswith("//") and not path.startswith("///"):
        raise invalid(field, f"{_shown(text)} names a host; write unix:PATH, or unix:///PATH")
    if not 0 < len(os.fsencode(path.removeprefix("//"))) < 108:
        raise invalid(field, f"{_shown(text)}: a socket's path must have 1 to 107 bytes")
    return Address(text, ())


def _place(text: str, field: str, port: int, *, lowest: int) -> tuple[str, int]:
    """Return the host and port of HOST:PORT, or of [IPv6]:PORT."""
    found = _PLACE.fullmatch(text)
    if found is None or not _is_host(found):
        raise invalid(field, _wrong(text, port))
    host, given = found["six"] or found["host"], found["port"]
    fix = f"write {at(host, port)}"
    if given is None:
        raise invalid(field, f"{_shown(text)} is not HOST:PORT; {fix}")
    if not _DIGITS.fullmatch(given) or not lowest <= int(given) < 2**16:
        raise invalid(field, f"the PORT of {_shown(text)} is not from {lowest} to 65535; {fix}")
    return host, int(given)


def _wrong(text: str, port: int) -> str:
    """Return the error message for a text that is not an address, with the likely fix."""
    head, _, last = text.rpartition(":")
    fix = f"e.g. {at('127.0.0.1', port)}, [::1]:{port} or unix:PATH"
    scheme, _, rest = text.partition("://")
    place = rest.strip("/").partition("/")[0]
    if place:
        place = place if _PORT.search(place) else f"{place}:{port}"
        fix = f"it without {_shown(scheme + '://')}: {place:.99}"
    elif text.startswith("unix"):
        fix = "unix:PATH"
    elif _DIGITS.fullmatch(text) and int(text) < 2**16:
        fix = at("127.0.0.1", int(text))
    elif _as_ip(head) is not None and _DIGITS.fullmatch(last):
        fix = f"[{head}]:{last}"
    elif _as_ip(text) is not None:
        fix = at(text, port)
    return f"{_shown(text)} is not HOST:PORT; write {fix}"


def _shown(text: str) -> str:
    return repr(text if len(text) < 300 else f"{text[:99]}...")


def _is_host(found: re.Match[str]) -> bool:
    if found["six"] is not None:
        return isinstance(_as_ip(found["six"]), ipaddress.IPv6Address)
    host = found["host"]
    if host == "unix-abstract" or host.replace(".", "").isdecimal():
        return _as_ip(host) is not None
    return _NAME.fullmatch(host) is not None


def _as_ip(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def is_loopback(host: str) -> bool:
    """Whether a host is written as loopback; resolves no names."""
    ip = _as_ip(host)
    if ip is None:
        return host == "localhost" or host.endswith(".localhost")
    return (getattr(ip, "ipv4_mapped", None) or ip).is_loopback


def _resolved(host: str) -> list[str]:
    """Return the IP addresses of a host name; the name itself if it does not resolve."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return [host]
    return [str(address[0]) for *_, address in found]
