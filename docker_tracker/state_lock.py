"""One process at a time has a state directory: a lock on a file in it, which ends with the process. Layer: config."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Final

from docker_tracker.errors import ConfigurationError

NAME: Final = "lock"


def hold(directory: Path) -> int:
    """Lock a state directory, which is there, for this process.

    :return: A descriptor; the lock is held until it is closed.
    :raises ConfigurationError: another process holds it, or the file cannot be had.
    """
    path = directory / NAME
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise ConfigurationError(str(path), f"cannot be used: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise ConfigurationError(
            str(directory), "another docker-tracker uses this state directory; give each a --state-dir of its own"
        ) from None
    return descriptor


def is_held(directory: Path) -> bool:
    """Whether a process holds the lock of a state directory.

    :raises OSError: the file is there, and cannot be opened.
    """
    try:
        descriptor = os.open(directory / NAME, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
