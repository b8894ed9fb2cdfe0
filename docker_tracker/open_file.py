"""Reopens files after they were moved away: others' own, and twistd's log, which has no public way to it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from twisted.logger import Logger

log = Logger()

_DESCRIPTORS = Path("/proc/self/fd")


class Reopeners:
    """Those who have files open, to be told when it is time to reopen them."""

    def __init__(self) -> None:
        self._callbacks: dict[object, Callable[[], None]] = {}

    def __len__(self) -> int:
        return len(self._callbacks)

    def add(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Add one, and return what takes it away again."""
        key = object()
        self._callbacks[key] = callback

        def withdraw() -> None:
            self._callbacks.pop(key, None)

        return withdraw

    def clear(self) -> None:
        """Take all away."""
        self._callbacks.clear()

    def tell(self) -> None:
        """Tell all."""
        for callback in list(self._callbacks.values()):
            callback()


class OpenFile:
    """A file that this process has open under some descriptor.

    :param path: Its name while it was not moved.
    """

    def __init__(self, path: Path) -> None:
        self._path = path.absolute()
        self._descriptor: int | None = None

    def find(self) -> None:
        """Remember the descriptor; it can be found only while the file has its name."""
        for entry in _DESCRIPTORS.iterdir():
            try:
                target = os.readlink(entry)
            except FileNotFoundError:  # the descriptor of this very loop
                continue
            if target == str(self._path):
                self._descriptor = int(entry.name)

    def reopen(self) -> None:
        """Make the descriptor one of a new file of that name."""
        self.find()
        if self._descriptor is None:
            log.warn("{path} is not open, so it was not reopened", path=self._path)
            return
        try:
            opened = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
        except OSError as error:
            log.error("{path} was not reopened: {error}", path=self._path, error=error)
            return
        os.dup2(opened, self._descriptor, inheritable=False)
        os.close(opened)
