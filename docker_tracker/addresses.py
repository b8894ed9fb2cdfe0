"""Addresses, in Docker's form and as Twisted endpoint strings, read into one value. Configuration's layer.

Opens nothing and resolves nothing: what an address says is all that is known here.
Docker's form is read as ``opts/hosts.go`` of moby reads it, with its defaults: an empty host is this machine.
"""

from __future__ import annotations

import ipaddress
import os
import re
from typing import Literal

import attrs

from docker_tracker.errors import ConfigurationError

Kind = Literal["unix", "tcp", "tls", "systemd", "endpoint"]

#: The longest path that fits into ``sockaddr_un`` with its final NUL, in bytes (unix(7)).
LONGEST_SOCKET_PATH = 107

_BARE = re.compile(r"(\[[^\[\]]*\]|[^\[\]:/@=\\]*):[0-9]+")
_HOST_PORT = re.compile(r"(?:\[([^\[\]]+)\]|([^\[\]:/@?#\s]*))(?::([0-9]{1,5}))?")
_PIECE = re.compile(r"(?:^|:)((?:[^:\\]|\\.)*)", re.DOTALL)
_PARAMETER = re.compile(r"((?:[^=\\]|\\.)+)=(.*)", re.DOTALL)
_ENDPOINT = re.compile(r"[A-Za-z][A-Za-z0-9_-]*:", re.DOTALL)
#: Endpoint types that are read here, each with the names that stand for its positional arguments and its parameters.
_READ = {
    "unix": (("address",), ("mode",)),
    "tcp": (("port",), ("interface",)),
    "tcp6": (("port",), ("interface",)),
    "ssl": (("port",), ("interface", "privateKey", "certKey")),
    "tls": (("port",), ("interface", "privateKey", "certKey")),
    "systemd": ((), ("domain", "index", "name")),
}
_CLIENT = {
    "unix": (("path",), ()),
    "tcp": (("host", "port"), ()),
    "tls": (("host", "port"), ()),
}
_ELSEWHERE = {
    "ssh": 'forward the socket yourself ("ssh -L /run/engine.sock:/var/run/docker.sock HOST") and name it as unix://',
    "npipe": "named pipes are Windows'; write unix:///path or tcp://host:port",
    "http": "write tcp://host:port",
    "https": "write tcp://host:port and give it certificates",
    "fd": "write systemd:index=0 or systemd:name=NAME for a socket that systemd passes",
}


@attrs.frozen
class Address:
    """One address; only the fields of its kind are filled.

    :ivar kind: ``endpoint`` is any endpoint string that is not read here.
    :ivar text: As it was written.
    :ivar path: ``unix``: absolute, at most `LONGEST_SOCKET_PATH` bytes.
    :ivar host: ``tcp`` and ``tls``: a name or a bare IP address; ``0.0.0.0`` and ``::`` are all interfaces.
    :ivar port: ``tcp`` and ``tls``: 0 to 65535; None if none was written.
    :ivar index, name: ``systemd``: which of the passed sockets; one of them is None.
    :ivar domain: ``systemd``: ``UNIX``, ``INET`` or ``INET6``, or None: whatever the socket is.
    :ivar parameters: What else a string said: ``mode`` of ``unix``, ``privateKey`` and ``certKey`` of ``tls``.
    """

    kind: Kind
    text: str
    path: str = ""
    host: str = ""
    port: int | None = None
    index: int | None = None
    name: str | None = None
    domain: str | None = None
    parameters: dict[str, str] = attrs.field(factory=dict, hash=False)

    def __str__(self) -> str:
        if self.kind == "unix":
            return f"unix://{self.path}"
        if self.kind in ("tcp", "tls"):
            host = f"[{self.host}]" if ":" in self.host else self.host
            return f"tcp://{host}" if self.port is None else f"tcp://{host}:{self.port}"
        return self.text


def parse(text: str, *, where: str = "address", client: bool = False) -> Address:
    """Read one address.

    :param where: The flag, variable or key that it stands in, for messages.
    :param client: Whether it is one to connect to, so that an endpoint string is a client's: ``tcp:host:port``.
    :raises ConfigurationError: it is none, or is of a kind that is not served.
    """
    if not text or not text.isprintable():
        raise ConfigurationError(where, f"{text!r} is not an address; write unix:///path or tcp://host:port")
    scheme, mark, rest = text.partition("://")
    if mark:
        return _docker(text, scheme, rest, where)
    known = _CLIENT if client else _READ
    if _BARE.fullmatch(text) and text.partition(":")[0] not in known:
        return _tcp(text, text, where)
    if not _ENDPOINT.match(text):
        hint = f"write unix://{text}" if text.startswith("/") else "write unix:///path or tcp://host:port"
        raise ConfigurationError(where, f"{text!r} is not an address; {hint} (contexts of the docker CLI are not read)")
    return _endpoint(text, where, client)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach what listens at a host; a name other than ``localhost`` never counts."""
    if host.lower() == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def same_file(first: str, second: str) -> bool:
    """Whether two paths lead to one file, or would if it were there."""
    if os.path.realpath(first) == os.path.realpath(second):
        return True
    try:
        return os.path.samefile(first, second)  # a bind mount, a hard link
    except OSError:  # one is not there yet
        return False


def meets(listening: Address, other: Address) -> bool:
    """Whether a connection to ``other`` could arrive at ``listening``, as far as the text of TCP addresses tells.

    A wildcard is met by every loopback address. A name is met only by itself: nothing is resolved.
    """
    if listening.port != other.port or not listening.port:
        return False
    ours, theirs = _hosts(listening.host), _hosts(other.host)
    wild = {"0.0.0.0", "::"}
    if ours & theirs:
        return True
    return (bool(ours & wild) and (is_loopback(other.host) or bool(theirs & wild))) or (
        bool(theirs & wild) and is_loopback(listening.host)
    )


def _hosts(host: str) -> set[str]:
    if host.lower() == "localhost":
        return {"127.0.0.1", "::1"}
    try:
        return {str(ipaddress.ip_address(host))}
    except ValueError:
        return {host.lower()}


def _docker(text: str, scheme: str, rest: str, where: str) -> Address:
    if scheme == "unix":
        if re.search(r":[a-zA-Z]+=", rest):
            raise ConfigurationError(
                where, f"{text!r} mixes two forms; with parameters write unix:/path:mode=660, without them unix:///path"
            )
        return _unix(text, rest, where)
    if scheme == "tcp":
        return _tcp(text, rest, where)
    hint = _ELSEWHERE.get(scheme, "write unix:///path or tcp://host:port")
    raise ConfigurationError(where, f"{scheme}:// addresses are not served; {hint}")


def _unix(text: str, path: str, where: str, parameters: dict[str, str] | None = None) -> Address:
    if not path.startswith("/") or path.endswith("/"):
        raise ConfigurationError(where, f"{text!r} names no absolute path of a socket; write unix:///path")
    length = len(path.encode("utf-8", "surrogateescape"))
    if length > LONGEST_SOCKET_PATH:
        raise ConfigurationError(
            where, f"the path {path} has {length} bytes, and a socket's path at most {LONGEST_SOCKET_PATH}"
        )
    return Address("unix", text, path=path, parameters=parameters or {})


def _tcp(text: str, rest: str, where: str) -> Address:
    match = _HOST_PORT.fullmatch(rest)
    if match is None:
        raise ConfigurationError(
            where, f"{text!r} is not host:port; an IPv6 address stands in brackets: tcp://[::1]:2375"
        )
    bracketed, host, port = match.groups()
    if bracketed is not None:
        _check_ip(bracketed, text, where)
    return Address("tcp", text, host=bracketed or host or "127.0.0.1", port=_port(port, text, where) if port else None)


def _check_ip(host: str, text: str, where: str) -> None:
    try:
        ipaddress.IPv6Address(host)
    except ValueError:
        raise ConfigurationError(where, f"{host!r} in {text!r} is not an IPv6 address") from None


def _port(port: str, text: str, where: str) -> int:
    if not re.fullmatch("[0-9]{1,5}", port) or int(port) > 65535:
        raise ConfigurationError(where, f"{port!r} in {text!r} is not a port from 0 to 65535")
    return int(port)


def _endpoint(text: str, where: str, client: bool) -> Address:
    kind = text.partition(":")[0]
    known = _CLIENT if client else _READ
    if kind not in known:
        if client:
            raise ConfigurationError(where, f"{text!r}: {kind}: endpoints are not served here; write unix, tcp or tls")
        return Address("endpoint", text)
    values = _values(text, *known[kind], where=where)
    if kind == "unix":
        path = values.pop("path" if client else "address", "")
        return _unix(text, path, where, values)
    if kind == "systemd":
        return _systemd(text, values, where)
    port = _port(values.pop("port", ""), text, where)
    if client:
        host = values.get("host") or "127.0.0.1"
    else:
        # Without an interface Twisted's server endpoints listen on all of them, unlike Docker's form.
        host = values.pop("interface", "") or ("::" if kind == "tcp6" else "0.0.0.0")
    if ":" in host:
        _check_ip(host, text, where)
    secure = kind in ("ssl", "tls")
    return Address("tls" if secure else "tcp", text, host=host, port=port, parameters={} if client else values)


def _systemd(text: str, values: dict[str, str], where: str) -> Address:
    domain, index, name = values.get("domain"), values.get("index"), values.get("name")
    if domain not in (None, "UNIX", "INET", "INET6"):
        raise ConfigurationError(where, f"{domain!r} in {text!r} is not a domain: UNIX, INET or INET6")
    if (index is None) == (name is None):
        raise ConfigurationError(where, f"{text!r} must name its socket by index=N or by name=NAME")
    if index is not None and not re.fullmatch("[0-9]{1,4}", index):
        raise ConfigurationError(where, f"{index!r} in {text!r} is not the index of a socket; they count from 0")
    return Address("systemd", text, index=None if index is None else int(index), name=name, domain=domain)


def _values(text: str, positional: tuple[str, ...], named: tuple[str, ...], *, where: str) -> dict[str, str]:
    """Take an endpoint string apart: colons part it, the first ``=`` names a value, a backslash quotes."""
    pieces = _PIECE.findall(text)
    if sum(len(piece) + 1 for piece in pieces) - 1 != len(text):
        raise ConfigurationError(where, f"{text!r} ends with a single backslash; write \\\\ for one")
    values: dict[str, str] = {}
    left = list(positional)
    for piece in pieces[1:]:
        match = _PARAMETER.fullmatch(piece)
        if match is not None:
            key, value = match.groups()
        elif left:
            key, value = left[0], piece
        else:
            hint = "; colons in a value are written \\:" if positional else ""
            raise ConfigurationError(where, f"{piece!r} in {text!r} has no name{hint}")
        if key in values or (key not in positional and key not in named):
            known = ", ".join((*positional, *named))
            what = "is there twice" if key in values else f"is not one that is read here: {known}"
            raise ConfigurationError(where, f"{key!r} in {text!r} {what}")
        if key in left:
            left.remove(key)
        values[key] = re.sub(r"\\(.)", r"\1", value, flags=re.DOTALL)
    return values
