"""The values that plug-ins are handed: an exchange, who asked, and what became of it."""

from __future__ import annotations

import enum
import os
import socket
from functools import cached_property
from typing import Any, Protocol

import attrs

from docker_tracker.engine.document import Change, Document
from docker_tracker.engine.operation import Call
from docker_tracker.http1.head import RequestHead, ResponseHead


class Stage(enum.Flag):
    """The points of an exchange at which an interceptor can be called; see `interfaces.IInterceptor`."""

    NOTHING = 0
    STARTED = enum.auto()
    REQUEST_HEAD = enum.auto()
    REQUEST_JSON = enum.auto()
    RESPONSE_HEAD = enum.auto()
    RESPONSE_JSON = enum.auto()
    RESPONSE_LINE = enum.auto()
    STREAM_DATA = enum.auto()
    BUILD_CALL = enum.auto()
    BUILD_REQUEST = enum.auto()
    BUILD_FINISHED = enum.auto()
    FINISHED = enum.auto()


@attrs.frozen
class Answer:
    """An answer given in the engine's stead; nothing is forwarded.

    :ivar status: HTTP status, 200 to 599.
    :ivar body: The body, as bytes.
    :ivar content_type: Of the body.
    """

    status: int
    body: bytes
    content_type: str = "application/json"

    @classmethod
    def error(cls, status: int, message: str) -> Answer:
        """Return a refusal in Docker's shape, which clients print."""
        return cls(status, Document.of({"message": message}).encode() + b"\n")


class Outcome(enum.Enum):
    """How an exchange ended."""

    COMPLETED = "completed"  #: the engine's answer was passed to its end
    ANSWERED = "answered"  #: an interceptor answered
    REFUSED = "refused"  #: the client was refused, by a rule or by a failing guard
    CLIENT_GONE = "client gone"
    ENGINE_FAILED = "engine failed"  #: absent, or it broke off


@attrs.define
class Peer:
    """Who is at the other end of a client's connection.

    :ivar pid, uid, gid: Of the connecting process, for unix sockets (``SO_PEERCRED``), else None.
    :ivar address: ``host:port`` for TCP, else the empty string.
    :ivar certificate: The subject's common name of a client's certificate, else the empty string.
    :ivar socket: The connection from it, as long as it is open: the kernel knows the process by it.
    """

    pid: int | None = None
    uid: int | None = None
    gid: int | None = None
    address: str = ""
    certificate: str = ""
    socket: socket.socket | None = attrs.field(default=None, eq=False, repr=False)

    @cached_property
    def words(self) -> tuple[str, ...]:
        """The process's command line as it is at the first look, at most 4096 bytes; none if it is gone."""
        read = self._read("cmdline")
        return tuple(read.removesuffix("\0").split("\0")) if read else ()

    @cached_property
    def command(self) -> str:
        """The command line as one text; it can hold secrets (``docker run -e TOKEN=…``)."""
        return " ".join(self.words).strip()

    @cached_property
    def cgroup(self) -> str:
        """The process's cgroup as it is at the first look; "" if it is gone.

        Of several hierarchies the last that the kernel names in which it is not at the top.
        """
        paths = [line.split(":", 2)[-1] for line in self._read("cgroup").splitlines()]
        return next((path for path in reversed(paths) if path != "/"), "/" if paths else "")

    def _read(self, name: str) -> str:
        if not self.pid:
            return ""
        try:
            descriptor = os.open(f"/proc/{self.pid}/{name}", os.O_RDONLY | os.O_CLOEXEC)
            try:
                raw = os.read(descriptor, 4096)
            finally:
                os.close(descriptor)
        except OSError:  # it ended, or it is another user's and hidden from us
            return ""
        return raw.decode("utf-8", "replace")


@attrs.frozen
class Edit:
    """What one interceptor changed in a request: for the audit.

    :ivar interceptor: Its name.
    :ivar changes: Of the JSON body; the target's change has the path ``("target",)``.
    """

    interceptor: str
    changes: tuple[Change, ...]


class Summary(Protocol):
    """What a client gets in place of an answer in lines, once that is whole."""

    def line(self, line: bytes, document: Document) -> None:
        """Take a line, without its end, and what it says."""

    def end(self) -> bytes:
        """Return the body of the answer."""


@attrs.define(eq=False)
class Exchange:
    """One request and its response, as far as they have come.

    :ivar id: Unique for the process's life; counts up.
    :ivar job_id, job: The job's ID and name.
    :ivar listener: The address that it came in on.
    :ivar peer: Who asked.
    :ivar call: What is asked.
    :ivar received: The request's head as the client sent it.
    :ivar sent: The head as the engine gets it; None until it is forwarded.
    :ivar started: Seconds, by `IDaemon.clock`.
    :ivar edits: What interceptors changed, in order.
    :ivar response: The final response's head, or None.
    :ivar answered_by: The interceptor that answered or refused, or "proxy"; "" if none did.
    :ivar answer: What it answered.
    :ivar bytes_from_client, bytes_to_client: As they crossed the client's connection.
    :ivar summary: Set by an interceptor before the request goes out: what the client gets of a good answer in lines.
    :ivar notes: For interceptors to keep their own state in, by their name.
    """

    id: int
    job_id: str
    job: str
    listener: str
    peer: Peer
    call: Call
    received: RequestHead
    started: float
    sent: RequestHead | None = None
    edits: list[Edit] = attrs.field(factory=list)
    response: ResponseHead | None = None
    answered_by: str = ""
    answer: Answer | None = None
    summary: Summary | None = None
    bytes_from_client: int = 0
    bytes_to_client: int = 0
    notes: dict[str, Any] = attrs.field(factory=dict)

    @property
    def status(self) -> int | None:
        """The status that the client got, or None: it got none."""
        if self.answer is not None:
            return self.answer.status
        return None if self.response is None else self.response.status
