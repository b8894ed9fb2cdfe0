"""What the engine would have answered to a quiet build, made of its answer to one that is not.

A quiet build tells of none of its steps, and so of none that it leaves: those of all stages but the last, and all of a
build that is broken off.
"""

from __future__ import annotations

import re
from collections import deque
from typing import Final

from docker_tracker.engine.document import Document
from docker_tracker.engine.lines import built
from docker_tracker.engine.operation import Call

_END: Final = b"\r\n"  # of a line, as the engine writes it
_LEFT_OUT: Final = b'{"stream":"(the beginning of the output is left out, as it is long)\\n"}' + _END
_BARE = re.compile(r"[0-9a-f]{64}\n")
_VERSION = re.compile(r"(\d{1,9})\.(\d{1,9})")
_FIRST_WITH_ID: Final = (1, 30)  # the API's version: earlier ones tell the image's full ID to quiet builds only


def tells_id(call: Call) -> bool:
    """Whether a build that is not quiet tells its image's full ID (moby: ``server/router/build``, ``wantAux``)."""
    version = _VERSION.fullmatch(call.version or "")
    return call.version is None or (version is not None and tuple(map(int, version.groups())) >= _FIRST_WITH_ID)


class QuietBuild:
    """Keeps what a build says until it is over, as the engine does (``build_routes.go`` there: ``notVerboseBuffer``).

    :param most: Bytes of it that are kept at most, where the engine keeps all.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._lines: deque[bytes] = deque()
        self._size = 0
        self._left_out = False
        self._identifier = ""
        self._failed = False

    def line(self, line: bytes, document: Document) -> None:
        """Take a line.

        :param line: Without its end.
        """
        self._lines.append(line)
        self._size += len(line)
        while self._size > self._most and len(self._lines) > 1:
            self._size -= len(self._lines.popleft())
            self._left_out = True
        self._identifier = built(document) or self._identifier
        self._failed |= isinstance(document.get("error"), str)

    def end(self) -> bytes:
        """Return the answer: the image's ID, or, if there is none, all that was said."""
        if self._identifier and not self._failed:
            return b'{"stream":"%s\\n"}' % self._identifier.encode() + _END
        return b"".join([_LEFT_OUT] * self._left_out + [line + _END for line in self._lines])


class PodmansQuietBuild:
    """The same for Podman, where a quiet build tells a bare ID, or the error alone (its ``compat/images_build.go``)."""

    def __init__(self) -> None:
        self._told = b""
        self._error = b""

    def line(self, line: bytes, document: Document) -> None:
        """Take a line: the last one with a bare ID is the engine's, which writes it when all steps are done.

        :param line: Without its end.
        """
        text = document.get("stream")
        if isinstance(text, str) and _BARE.fullmatch(text):
            self._told = line
        if isinstance(document.get("error"), str):
            self._error = line

    def end(self) -> bytes:
        """Return the answer."""
        told = self._error or self._told
        return told + b"\n" if told else b""
