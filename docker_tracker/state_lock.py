"""A lock on a state directory: one tracker uses it at a time. The kernel lets go of it when its holder ends.

Layer: config.
"""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path
from typing import Final

from docker_tracker.errors import ConfigurationError

NAME: Final = "lock"
_TRIES: Final = 5
_PAUSE: Final = 0.01  # seconds between two tries: whoever only looks is gone by then


def hold(directory: Path) -> int:
    """Lock a directory until the descriptor that is returned is closed, or its last copy in a child is.

    :raises ConfigurationError: another process holds it, or it cannot be locked.
    """
    path = directory / NAME
    try:
        # It is never removed while anybody may use the directory: two files of one name would be two locks.
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise ConfigurationError(str(path), f"cannot be used: {error.strerror}") from error
    try:
        _lock(descriptor)
    except BlockingIOError:
        os.close(descriptor)
        raise ConfigurationError(
            str(directory), "another docker-tracker uses this state directory; give each a --state-dir of its own"
        ) from None
    except OSError as error:
        os.close(descriptor)
        raise ConfigurationError(str(path), f"cannot be locked: {error.strerror}") from error
    return descriptor


def _lock(descriptor: int) -> None:
    for _ in range(_TRIES - 1):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            time.sleep(_PAUSE)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def is_held(directory: Path) -> bool:
    """Say whether a tracker uses a directory; one that is not there, or was never used, is free.

    :raises ConfigurationError: it cannot be told.
    """
    path = directory / NAME
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise ConfigurationError(str(path), f"cannot be used: {error.strerror}") from error
    try:
        # Shared: two that look at the same time do not see each other.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError as error:
        raise ConfigurationError(str(path), f"cannot be locked: {error.strerror}") from error
    finally:
        os.close(descriptor)
    return False
