"""The operator's labels, whose values may name the job, the client's process, or the daemon's environment.

``{job}``, ``{uid}``, ``{pid}``, ``{gid}`` (of the client) and ``{env:NAME}`` (of the daemon) are replaced; a brace
itself is written twice. Layer: beside the interceptors' base.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any, Final

import attrs

from docker_tracker.errors import ConfigurationError, RefusedError
from docker_tracker.exchange import Exchange

_PEER: Final = ("uid", "gid", "pid")
_PART: Final = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]|[^{}]+")
_NOT_KNOWN: Final = ("tcp", "tls")  # kinds of listeners behind which nobody's process is known


@attrs.frozen
class Template:
    """A label's value.

    :ivar parts: Text, each followed by the name of what is put in after it, or None.
    """

    parts: tuple[tuple[str, str | None], ...]

    @property
    def of_client(self) -> frozenset[str]:
        """What of the client's process it names."""
        return frozenset(name for _, name in self.parts if name is not None)

    def render(self, exchange: Exchange) -> str:
        """Return the value for what one client creates.

        :raises RefusedError: the client's process is not known, though the value names it.
        """
        result = ""
        for text, name in self.parts:
            result += text
            if name is not None:
                value = getattr(exchange.peer, name)
                if value is None:
                    raise RefusedError(
                        f"a label needs the client's {name}, which is not known here: connect by a unix socket", 500
                    )
                result += str(value)
        return result


def parse_template(where: str, text: str, job: str, environ: Mapping[str, str]) -> Template:
    """Read a label's value; what holds for all of a job is put in at once.

    :param where: The label, for messages.
    :raises ConfigurationError: a name that is not known, a variable that is not set, a lone brace.
    """
    parts: list[tuple[str, str | None]] = []
    static = ""
    for match in _PART.finditer(text):
        piece, name = match[0], match[1]
        if piece in ("{", "}"):
            raise ConfigurationError(where, f"{text!r} has a lone {piece}; write {piece * 2} for the character itself")
        if name is None:
            static += piece[0] if piece in ("{{", "}}") else piece
        elif name == "job":
            static += job
        elif name.startswith("env:"):
            static += _variable(where, name[4:], environ)
        elif name in _PEER:
            parts.append((static, name))
            static = ""
        else:
            raise ConfigurationError(
                where, f"{{{name}}} is not known; there are {{job}}, {{uid}}, {{pid}}, {{gid}} and {{env:NAME}}"
            )
    _check_text(where, static + "".join(text for text, _ in parts))
    return Template((*parts, (static, None)))


def _variable(where: str, name: str, environ: Mapping[str, str]) -> str:
    if not environ.get(name):
        raise ConfigurationError(where, f"the daemon's environment has no {name or 'variable without a name'}; set it")
    return environ[name]


def _check_text(where: str, text: str) -> None:
    # A Dockerfile's line can't carry them, and nothing in JSON but half a surrogate.
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in text):
        raise ConfigurationError(where, "it has a control character, or bytes that are not UTF-8")


def parse_labels(labels: Mapping[str, str], job: str, environ: Mapping[str, str]) -> dict[str, Template]:
    """Read the operator's labels.

    :param job: The name of the job that they are for.
    :raises ConfigurationError: a name or a value is unusable.
    """
    result = {}
    for name, text in labels.items():
        where = f"label {name!r}"
        if not name.strip() or "=" in name:
            raise ConfigurationError(where, "a label needs a name, which has no = in it")
        if name.casefold().startswith("docker-tracker."):
            raise ConfigurationError(where, "labels under docker-tracker. are set by the tracker alone")
        _check_text(where, name)
        result[name] = parse_template(where, text, job, environ)
    return result


def plain_labels(labels: Mapping[str, str]) -> dict[str, Template]:
    """Take a job's own labels as they are: whoever makes a job must not read the daemon's environment by them.

    :raises ConfigurationError: a name or a value is unusable.
    """
    for name, text in labels.items():
        where = f"the job's label {name!r}"
        if not name.strip() or "=" in name:
            raise ConfigurationError(where, "a label needs a name, which has no = in it")
        _check_text(where, name + text)
    return {name: Template(((text, None),)) for name, text in labels.items()}


def check_listeners(labels: Mapping[str, Template], listeners: Iterable[Any]) -> None:
    """Refuse values that need the client's process where some listener can't know it.

    :param listeners: Each with a ``kind``; behind a socket of systemd's or of an endpoint the process may be known.
    :raises ConfigurationError: names the label and the listener.
    """
    blind = [listener for listener in listeners if listener.kind in _NOT_KNOWN]
    for name, template in labels.items():
        if template.of_client and blind:
            wanted = ", ".join(f"{{{part}}}" for part in sorted(template.of_client))
            raise ConfigurationError(
                f"label {name!r}", f"{wanted} is not known of clients of {blind[0]}; listen on unix sockets only"
            )
