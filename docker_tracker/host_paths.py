"""Paths as the engine sees them: symbolic links are followed in its mount name space, where that can be looked into.

Layer: beside the interceptors' base. It blocks (a file system may be slow): not for the reactor's thread.
"""

from __future__ import annotations

import os
import posixpath
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import attrs

from docker_tracker.addresses import is_loopback
from docker_tracker.connections import EngineAddress
from docker_tracker.processes import PROC

_UCRED: Final = struct.Struct("3i")
_SECONDS: Final = 2.0  # that the engine's socket may take
_MOST_LINKS: Final = 40  # as the kernel follows (path_resolution(7))

Identity = tuple[int, int]


def clean(path: str) -> str:
    """Return a path without ``.``, ``..`` and double slashes, as the engine writes it before it looks at it."""
    return posixpath.normpath("/" + path.lstrip("/"))


def above(path: str) -> Iterator[str]:
    """Return the directories above a path, the nearest first."""
    while path != "/":
        path = posixpath.dirname(path)
        yield path


@attrs.frozen
class HostPaths:
    """A mount name space.

    :ivar root: Where its root is seen; "/": it is our own. None: it is another machine's.
    """

    root: str | None

    @classmethod
    def of_engine(cls, engine: EngineAddress, proc: Path = PROC) -> HostPaths:
        """Return that of the engine, or our own where it cannot be looked into.

        The process is who listens on the engine's socket: where that is a helper of the engine's (systemd, a proxy),
        it is the helper's.
        """
        if engine.kind != "unix":
            return cls("/" if is_loopback(engine.host) else None)
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(_SECONDS)
            try:
                connection.connect(engine.path)
                credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
                root = str(proc / str(_UCRED.unpack(credentials)[0]) / "root")
                os.lstat(f"{root}/.")
            except OSError:  # it is not there, in another pid name space, or hidden from us
                return cls("/")
        return cls(root)

    def _seen(self, path: str) -> str:
        return path if self.root == "/" else f"{self.root}{path}"

    def resolve(self, path: str) -> str:
        """Return a path with all links in it followed; what is not there stays as it is."""
        waiting, done, links = clean(path).split("/")[::-1], "/", 0
        while waiting and self.root is not None:
            part = waiting.pop()
            if part in ("", "."):
                continue
            if part == "..":
                done = posixpath.dirname(done)
                continue
            here = posixpath.join(done, part)
            try:
                target = os.readlink(self._seen(here))
            except OSError:  # no link, or nothing at all
                done = here
                continue
            links += 1
            if links > _MOST_LINKS:  # the engine will not find it either
                return clean(path)
            done = "/" if target.startswith("/") else done
            waiting += target.split("/")[::-1]
        return clean(path) if self.root is None else done

    def identity(self, path: str) -> Identity | None:
        """Return what tells a file from all others, whatever its paths are; None: it is not there."""
        if self.root is None:
            return None
        try:
            found = os.stat(self._seen(path))
        except OSError:
            return None
        return found.st_dev, found.st_ino
