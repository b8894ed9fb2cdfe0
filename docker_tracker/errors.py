"""Everything that can go wrong, by who is at fault. The lowest layer: imports nothing of ours."""

from __future__ import annotations

import attrs


class TrackerError(Exception):
    """The root of all errors that this package raises on purpose."""


@attrs.define(auto_exc=True, slots=False)
class RefusedError(TrackerError):
    """A client asked for what it cannot have; it is answered, and nothing reaches the engine.

    :ivar message: One sentence for the user's screen; says what to do.
    :ivar status: The HTTP status of the answer.
    :ivar by: The interceptor that refused; filled in by the proxy.
    """

    message: str
    status: int = 400
    by: str = attrs.field(default="", kw_only=True)

    def __str__(self) -> str:
        return self.message


class BadHeadError(RefusedError):
    """The client sent a head that is not HTTP/1.1, or that two readers could read differently."""


class BadBodyError(RefusedError):
    """The client sent a body whose framing is broken (a bad chunk line, too long a trailer)."""


class BadTargetError(RefusedError):
    """The client sent a path that the engine's router would clean, redirect or read as another."""


class BadDocumentError(RefusedError):
    """The client sent JSON that is broken, ambiguous, too large or too deep."""


@attrs.define(auto_exc=True, slots=False)
class EngineError(TrackerError):
    """The engine is not there, or broke HTTP.

    :ivar message: One sentence that names the engine's address.
    :ivar status: The HTTP status for the client that waits for an answer.
    """

    message: str
    status: int = 502

    def __str__(self) -> str:
        return self.message


class EngineUnavailableError(EngineError):
    """Nobody answers at the engine's address (the client gets a 503)."""


class EngineProtocolError(EngineError):
    """What the engine sent is not HTTP/1.1."""


@attrs.define(auto_exc=True, slots=False)
class EngineAnswerError(EngineError):
    """The engine answered a call of our own with an error.

    :ivar answered: The status of its answer.
    """

    answered: int = 500

    def __str__(self) -> str:
        return self.message


@attrs.define(auto_exc=True, slots=False)
class ConfigurationError(TrackerError):
    """An option, a file or a plug-in is not usable; the daemon does not start.

    :ivar where: The flag, variable, file and key, or plug-in that is at fault.
    :ivar problem: What is wrong with it, and what would be right.
    """

    where: str
    problem: str

    def __str__(self) -> str:
        return f"{self.where}: {self.problem}"


@attrs.define(auto_exc=True, slots=False)
class LedgerError(TrackerError):
    """The ledger could not be read or written.

    :ivar path: The ledger's file.
    :ivar problem: What the database said.
    """

    path: str
    problem: str

    def __str__(self) -> str:
        return f"the ledger {self.path}: {self.problem}"


@attrs.define(auto_exc=True, slots=False)
class BadFrameError(TrackerError):
    """One side broke HTTP/2, or used of it what gRPC does not: its connection ends with a GOAWAY.

    :ivar message: One sentence that says which rule was broken.
    :ivar code: HTTP/2's number for it (RFC 9113 section 7).
    """

    message: str
    code: int = 1

    def __str__(self) -> str:
        return self.message


@attrs.define(auto_exc=True, slots=False)
class BadGrpcError(TrackerError):
    """A gRPC message cannot be read: compressed, cut off, or no protobuf as the engine would read it.

    :ivar message: One sentence that says what is wrong with it.
    """

    message: str

    def __str__(self) -> str:
        return self.message
