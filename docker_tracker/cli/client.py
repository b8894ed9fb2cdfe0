"""Calls to the control socket: HTTP/1.1 over a unix socket, one connection for each call. Layer: the client command."""

from __future__ import annotations

import errno
import http.client
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any, Final
from urllib.parse import quote, urlencode

import attrs

from docker_tracker.addresses import LONGEST_SOCKET_PATH
from docker_tracker.errors import TrackerError

_SECONDS: Final = 60.0
#: What Docker and Podman say of a path that they do not have; a daemon of ours has other words.
_UNKNOWN_PATHS: Final = ("page not found", "not found")


@attrs.define(auto_exc=True, slots=False)
class ClientError(TrackerError):
    """A call did not come to an answer.

    :ivar message: One sentence that names the control socket.
    """

    message: str

    def __str__(self) -> str:
        return self.message


class NoDaemon(ClientError):
    """There is no control socket: no daemon runs, or it has none."""


class Refused(ClientError):
    """There is a control socket, but nobody listens, or this user may not connect."""


class NotControl(ClientError):
    """What listens there is an engine, or a job's socket, which leads to one."""


class ConnectionBroken(ClientError):
    """The connection ended, or nothing came for too long, before the answer was complete."""


@attrs.define(auto_exc=True, slots=False)
class ApiError(TrackerError):
    """The daemon answered with an error.

    :ivar status: The HTTP status.
    :ivar message: What it said: one sentence.
    """

    status: int
    message: str

    def __str__(self) -> str:
        return self.message


def target(*parts: str, **query: str | int | bool | None) -> str:
    """Return a request target: ``target("jobs", name, "end", wait=True)``.

    :param parts: The path's segments; what is no plain text in them is quoted.
    :param query: Parameters; ``_`` in a name is read as ``-``, True as 1; None, False and empty ones are left out.
    """
    path = "/" + "/".join(quote(part, safe="") for part in parts)
    given = {
        name.replace("_", "-"): "1" if value is True else str(value)
        for name, value in query.items()
        if value not in (None, "") and value is not False
    }
    return f"{path}?{urlencode(given)}" if given else path


class _Connection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: str, seconds: float | None) -> None:
        super().__init__("docker-tracker", timeout=seconds)
        self._path = path

    def connect(self) -> None:
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.settimeout(self.timeout)
            sock.connect(self._path)
        except BaseException:
            sock.close()
            raise
        self.sock = sock


class Held:
    """An answer that lasts as long as somebody holds it: a lease. Also a context manager that lets it go.

    Nothing has to be read from it: whoever wants to know that the daemon has gone waits for `fileno` to become
    readable, and calls `alive`.

    :ivar first: The first line, from JSON.
    """

    def __init__(self, connection: _Connection, response: http.client.HTTPResponse, first: Any) -> None:
        self.first = first
        self._connection = connection
        self._response = response
        self._sock: socket.socket | None = connection.sock
        connection.sock.setblocking(False)

    def fileno(self) -> int:
        """Return the descriptor to poll; -1 once it is closed."""
        return -1 if self._sock is None else self._sock.fileno()

    def alive(self) -> bool:
        """Read what is there (signs of life), without waiting; return whether the daemon still holds its end."""
        if self._sock is None:
            return False
        try:
            while self._sock.recv(4096):
                pass
        except BlockingIOError:
            return True
        except OSError:
            pass
        return False

    def close(self) -> None:
        """Let it go."""
        self._sock = None
        self._response.close()
        self._connection.close()

    def __enter__(self) -> Held:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Client:
    """A daemon, by its control socket. Opens nothing before the first call; safe to use from any thread.

    :param path: The control socket's.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)

    def call(self, method: str, path: str, body: Any = None, *, timeout: float | None = _SECONDS) -> Any:
        """Make a call and return the answer: from JSON, or text if it is none, or None if it is empty.

        :param path: The request's target; see `target`.
        :param body: Goes as JSON; None: no body.
        :param timeout: Seconds that the daemon may be silent; None: for ever (for calls that wait for a reap).
        :raises ApiError: the daemon answered with an error.
        :raises NoDaemon: nobody is there.
        :raises Refused: somebody is, or was, but we cannot connect.
        :raises ConnectionBroken: no complete answer came.
        """
        with self._errors():
            connection, response = self._request(method, path, body, timeout)
            try:
                data = response.read()
            finally:
                response.close()
                connection.close()
            if not data:
                return None
            return _json(data, self.path) if _is_json(response) else data.decode("utf-8", "replace")

    def stream(self, path: str) -> Iterator[str]:
        """Make a GET whose answer comes in lines; yield them as they come, without the empty ones.

        :raises ClientError: as `call`; also while lines are waited for.
        :raises ApiError: as `call`.
        """
        with self._errors():
            connection, response = self._request("GET", path, None, None)
            try:
                for line in _lines(response):
                    if line.strip():
                        yield line.decode("utf-8", "replace")
            finally:
                response.close()
                connection.close()

    def hold(self, path: str, *, timeout: float | None = _SECONDS) -> Held:
        """Make a GET that is held open, and return when its first line is there.

        :param timeout: Seconds until that.
        :raises ClientError: as `call`.
        :raises ApiError: as `call`.
        """
        with self._errors():
            connection, response = self._request("GET", path, None, timeout)
            try:
                line = next(_lines(response), None)
                if line is None:
                    raise ConnectionResetError(errno.ECONNRESET, "it ended before the first line")
                return Held(connection, response, _json(line, self.path))
            except BaseException:
                response.close()
                connection.close()
                raise

    def _request(
        self, method: str, path: str, body: Any, seconds: float | None
    ) -> tuple[_Connection, http.client.HTTPResponse]:
        """Send a request; return when the head of a good answer is there."""
        connection = _Connection(self.path, seconds)
        try:
            connection.connect()
        except OSError as error:
            raise self._not_connected(error) from error
        try:
            fields = {}
            data = None
            if body is not None:
                fields["Content-Type"] = "application/json"
                data = json.dumps(body, allow_nan=False).encode()
            with suppress(BrokenPipeError, ConnectionResetError):  # refused before all was sent: the answer says why
                connection.request(method, path, data, fields)
            response = connection.getresponse()
            message = _message(response) if response.status >= 400 else ""
            # An engine tells its version with all answers but that to a path that it does not know.
            if "Api-Version" in response.headers or message.lower() in _UNKNOWN_PATHS:
                raise NotControl(
                    f"{self.path} is not a control socket: it leads to an engine, as a job's does;"
                    " the control socket's name is control.sock unless the configuration gives another"
                )
            if message:
                raise ApiError(response.status, message)
        except BaseException:
            connection.close()
            raise
        return connection, response

    def _not_connected(self, error: OSError) -> ClientError:
        length = len(os.fsencode(self.path))
        if length > LONGEST_SOCKET_PATH:
            return NoDaemon(
                f"there is no control socket at {self.path}: the path has {length} bytes, and a socket's at most"
                f" {LONGEST_SOCKET_PATH}"
            )
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return NoDaemon(f"there is no control socket at {self.path}: is the daemon running?")
        if error.errno == errno.ECONNREFUSED:
            return Refused(f"nobody listens at the control socket {self.path}: the daemon has ended; start it again")
        if error.errno == errno.EACCES:
            return Refused(
                f"you may not connect to the control socket {self.path}: become a member of its group, or root"
            )
        return Refused(f"cannot connect to the control socket {self.path}: {error.strerror or error}")

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except TimeoutError as error:
            raise ConnectionBroken(f"the daemon at {self.path} does not answer") from error
        except (OSError, http.client.HTTPException) as error:
            raise ConnectionBroken(f"the daemon at {self.path} broke off: {error}") from error


def _lines(response: http.client.HTTPResponse) -> Iterator[bytes]:
    """Yield the lines of an answer as they come, without their ends.

    `http.client.HTTPResponse.readline` takes an answer that was cut off for a complete one.
    """
    rest = b""
    while data := response.read1(65536):
        *lines, rest = (rest + data).split(b"\n")
        yield from lines


def _is_json(response: http.client.HTTPResponse) -> bool:
    return response.headers.get_content_type() == "application/json"


def _json(data: bytes, path: str) -> Any:
    try:
        return json.loads(data)
    except ValueError as error:
        raise ConnectionBroken(f"what listens at {path} does not answer in JSON: it is no docker-tracker") from error


def _message(response: http.client.HTTPResponse) -> str:
    """Return what an error's answer says."""
    data = response.read(1 << 20)
    try:
        message = json.loads(data)["message"]
    except (ValueError, KeyError, TypeError):
        message = data.decode("utf-8", "replace").strip()[:500]
    return str(message) or f"{response.status} {response.reason}"
