"""The two ends of the proxy: where it listens, and where its engine is. Configuration's layer."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import attrs

from docker_tracker.addresses import Address, Kind, is_loopback, meets, parse, same_file
from docker_tracker.errors import ConfigurationError
from docker_tracker.sources import Found, check_keys

_LISTENER_KEYS = ("address", "mode", "user", "group", "certificate", "key", "client-ca")
_ENGINE_KEYS = ("address", "ca", "certificate", "key", "verify")


@attrs.frozen
class Listener:
    """An address with its settings.

    :ivar kind: ``tls`` for a TCP address with a certificate, else the address's.
    :ivar mode: Of a unix socket's file.
    :ivar user, group: Owners of a unix socket's file: a name or a number; None: as the process's. Looked up at start.
    :ivar certificate, key: PEM files of the server, the chain in the first; for ``tls``, else None.
    :ivar client_ca: PEM file; a client must have a certificate that is signed by one of these.
    """

    address: Address
    kind: Kind
    mode: int = 0o660
    user: str | None = None
    group: str | None = None
    certificate: Path | None = None
    key: Path | None = None
    client_ca: Path | None = None

    def __str__(self) -> str:
        return str(self.address)

    @property
    def path(self) -> str:
        """The socket's path, of a unix listener."""
        return self.address.path

    @property
    def host(self) -> str:
        """Where a TCP or TLS listener binds: a name or an IP address."""
        return self.address.host

    @property
    def port(self) -> int:
        """Where a TCP or TLS listener binds; 0: any free port."""
        return self.address.port or 0

    @property
    def exposed(self) -> bool:
        """Whether others than this machine's users may reach it without TLS; an endpoint that is not read may be so."""
        return self.kind == "endpoint" or (self.kind == "tcp" and not is_loopback(self.host))

    @classmethod
    def of(cls, found: Found) -> Listener:
        """Read an address, or a table of the file with an address and settings.

        :raises ConfigurationError: it is neither, a setting is unknown or does not fit the address.
        """
        table = _table(found, _LISTENER_KEYS)
        values = {key: Found(value, f"{found.where}.{key}", found.typed) for key, value in table.items()}
        text = values["address"].text()
        address = parse(f"unix://{text}" if text.startswith("/") else text, where=found.where)
        said = {key: Found(value, found.where) for key, value in address.parameters.items()}
        if "mode" in said and "mode" in values:
            raise ConfigurationError(found.where, "has a mode in its address and one beside it; keep one")
        certificate = values.get("certificate") or said.get("certKey") or said.get("privateKey")
        files = {"certificate": certificate, "key": values.get("key") or said.get("privateKey")}
        files["client-ca"] = values.get("client-ca")
        kind = _kind(address, files, found.where)
        if kind != "unix" and (given := sorted({"mode", "user", "group"} & values.keys())):
            raise ConfigurationError(found.where, f"{given[0]} is for unix sockets, and {address} is none")
        mode = values.get("mode") or said.get("mode")
        if kind in ("tcp", "tls") and address.port is None:
            address = attrs.evolve(address, port=2376 if kind == "tls" else 2375)  # Docker's ports
        return cls(
            address,
            kind,
            0o660 if mode is None else _mode(mode),
            _owner(values.get("user")),
            _owner(values.get("group")),
            *(None if file is None else pem_file(file) for file in files.values()),
        )

    def table(self) -> str | dict[str, object]:
        """Return it as the file would have it, so that it is read again as the same."""
        result: dict[str, object] = {"address": self.address.text}
        if self.kind == "unix":
            result = {"address": str(self.address), "mode": f"{self.mode:04o}"}
        elif self.kind in ("tcp", "tls"):
            result = {"address": str(self.address)}
        result |= {"user": self.user, "group": self.group, "certificate": self.certificate, "key": self.key}
        result["client-ca"] = self.client_ca
        given = {key: value if isinstance(value, str) else str(value) for key, value in result.items() if value}
        return dict(given) if len(given) > 1 else given["address"]


@attrs.frozen
class EngineTls:
    """How to speak TLS with the engine.

    :ivar ca: PEM file of who may have signed its certificate; None: the system's.
    :ivar certificate, key: PEM files that we show, or both None.
    :ivar verify: Whether its certificate is checked.
    """

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    verify: bool = True

    @classmethod
    def of_environment(cls, environ: Mapping[str, str], home: Path | None) -> EngineTls | None:
        """Read ``DOCKER_TLS_VERIFY`` and ``DOCKER_CERT_PATH`` as Docker's SDKs do; None: no TLS.

        ``DOCKER_CERT_PATH`` alone means TLS without a look at the engine's certificate (``client/envvars.go``).

        :param home: Where ``.docker`` is, for ``DOCKER_TLS_VERIFY`` alone.
        :raises ConfigurationError: a file is missing.
        """
        verify = bool(environ.get("DOCKER_TLS_VERIFY"))
        given = environ.get("DOCKER_CERT_PATH")
        if not verify and not given:
            return None
        if given:
            directory: Path | None = Path(os.path.abspath(given))
            if not os.path.isdir(given):
                raise ConfigurationError("DOCKER_CERT_PATH", f"{given} is not a directory")
        else:
            directory = Path(environ["DOCKER_CONFIG"]) if environ.get("DOCKER_CONFIG") else home and home / ".docker"
        found = {name: directory / f"{name}.pem" for name in ("ca", "cert", "key")} if directory else {}
        files = {name: path if os.path.isfile(path) else None for name, path in found.items()}
        where = "DOCKER_CERT_PATH" if given else "DOCKER_TLS_VERIFY"
        for name, other in (("cert", "key"), ("key", "cert")):
            if files.get(name) and not files.get(other):
                raise ConfigurationError(where, f"{found[other]} is missing, and {found[name]} is of no use without it")
        for path in filter(None, files.values()):
            pem_file(Found(str(path), where))
        return cls(files.get("ca"), files.get("cert"), files.get("key"), verify)


@attrs.frozen
class EngineAddress:
    """Where the engine is; its text form is Docker's.

    :ivar path: Of ``unix``.
    :ivar host, port: Of ``tcp`` and ``tls``; the host is also the name that the certificate must have.
    :ivar ca, certificate, key, verify: As in `EngineTls`.
    """

    kind: Literal["unix", "tcp", "tls"]
    path: str = ""
    host: str = ""
    port: int = 0
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    verify: bool = True

    def __str__(self) -> str:
        return str(self.address)

    @property
    def address(self) -> Address:
        """The bare address."""
        kind: Kind = self.kind
        return Address(kind, "", path=self.path, host=self.host, port=self.port if kind != "unix" else None)

    def is_at(self, address: Address) -> bool:
        """Whether what listens at an address could be it."""
        if self.kind == "unix":
            return address.kind == "unix" and same_file(address.path, self.path)
        return address.kind in ("tcp", "tls") and meets(address, self.address)

    @classmethod
    def of(cls, found: Found, tls: EngineTls | None = None) -> EngineAddress:
        """Read an address, or a table of the file with an address and TLS settings.

        :param tls: What the environment says; for ``tcp://`` without settings of its own.
        :raises ConfigurationError: it is neither, or cannot be an engine's address.
        """
        table = _table(found, _ENGINE_KEYS)
        values = {key: Found(value, f"{found.where}.{key}", found.typed) for key, value in table.items()}
        address = parse(values.pop("address").text(), where=found.where, client=True)
        if address.kind == "unix":
            if values:
                raise ConfigurationError(found.where, f"{next(iter(values))} is for tcp addresses")
            return cls("unix", path=address.path)
        if values:
            verify = values.pop("verify").truth() if "verify" in values else True
            ca, certificate, key = (
                None if values.get(name) is None else pem_file(values[name]) for name in ("ca", "certificate", "key")
            )
            if (certificate is None) != (key is None):
                raise ConfigurationError(found.where, "certificate and key need each other")
            tls = EngineTls(ca, certificate, key, verify)
        elif address.kind == "tls" and tls is None:
            tls = EngineTls()
        # Docker's ports, where none is named.
        port = address.port if address.port is not None else 2375 if tls is None else 2376
        if not port:
            raise ConfigurationError(found.where, "an engine has no port 0")
        if tls is None:
            return cls("tcp", host=address.host, port=port)
        return cls("tls", "", address.host, port, tls.ca, tls.certificate, tls.key, tls.verify)

    def table(self) -> str | dict[str, object]:
        """Return it as the file would have it, so that it is read again as the same."""
        if self.kind != "tls":
            return str(self)
        files = {"ca": self.ca, "certificate": self.certificate, "key": self.key}
        given = {name: str(path) for name, path in files.items() if path is not None}
        return {"address": str(self), **given, "verify": self.verify}


def pem_file(found: Found) -> Path:
    """Return the path of a file that can be read.

    :raises ConfigurationError: it is not absolute, is no file, or cannot be read.
    """
    text = found.text()
    if not os.path.isabs(text):
        raise ConfigurationError(found.where, f"{text!r} is not an absolute path")
    if not os.path.isfile(text) or not os.access(text, os.R_OK):
        raise ConfigurationError(found.where, f"the file {text} is missing or cannot be read")
    return Path(text)


def _table(found: Found, known: tuple[str, ...]) -> Mapping[str, object]:
    if not isinstance(found.value, Mapping):
        if not isinstance(found.value, str):
            raise found.wrong("an address, or a table with one")
        return {"address": found.value}
    check_keys(found.value, known, f"{found.where}.")
    if "address" not in found.value:
        raise ConfigurationError(found.where, "has no address")
    return found.value


def _kind(address: Address, files: Mapping[str, Found | None], where: str) -> Kind:
    given = [name for name, file in files.items() if file is not None]
    if not given and address.kind != "tls":
        return address.kind
    if address.kind not in ("tcp", "tls"):
        raise ConfigurationError(where, f"{given[0]} is for tcp addresses, and {address} is none")
    if files["certificate"] is None or files["key"] is None:
        raise ConfigurationError(where, "TLS needs a certificate and its key")
    return "tls"


def _mode(found: Found) -> int:
    # An integer is refused: 660 without its octal sign would be another mode.
    if not isinstance(found.value, str) or not re.fullmatch("0?[0-7]{3}", found.value):
        raise ConfigurationError(found.where, f'the mode {found.value!r} is none: write "0660" or "660", as text')
    return int(found.value, 8)


def _owner(found: Found | None) -> str | None:
    if found is None:
        return None
    value = found.value
    if isinstance(value, bool) or not isinstance(value, (str, int)) or str(value).startswith("-") or value == "":
        raise found.wrong("a name or a number")
    return str(value)
