"""HTTP over a unix socket, as plainly as can be: for clients, for the engine and for the control socket."""

from __future__ import annotations

import http.client
import json
import socket
from pathlib import Path
from types import TracebackType
from typing import Any

#: What goes wrong when the other side is killed.
BROKEN = (OSError, http.client.HTTPException)


class Connection(http.client.HTTPConnection):
    """A connection that is kept for some requests.

    :param path: Of the unix socket.
    :param seconds: For each wait.
    """

    def __init__(self, path: Path | str, seconds: float = 60) -> None:
        super().__init__("docker", timeout=seconds)
        self._path = str(path)

    def __enter__(self) -> Connection:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def connect(self) -> None:
        """See `http.client.HTTPConnection.connect`."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)

    def ask(self, method: str, target: str, body: Any = None, data: bytes | None = None) -> tuple[int, Any]:
        """Send a request.

        :param body: Is sent as JSON, if not None; ``data`` as it is.
        :return: The status, and the answer: read as JSON, or as text if it is none.
        :raises OSError, http.client.HTTPException: it broke.
        """
        headers = {"Content-Type": "application/x-tar" if data is not None else "application/json"}
        self.request(method, target, json.dumps(body).encode() if body is not None else data, headers)
        response = self.getresponse()
        text = response.read().decode("utf-8", "replace")
        try:
            return response.status, json.loads(text)
        except ValueError:
            return response.status, text


def ask(
    path: Path | str, method: str, target: str, body: Any = None, data: bytes | None = None, seconds: float = 60
) -> tuple[int, Any]:
    """Send one request; see `Connection.ask`."""
    with Connection(path, seconds) as connection:
        return connection.ask(method, target, body, data)
