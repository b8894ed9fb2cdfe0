"""Who can change what the daemon reads and runs: nobody but root and its own user. Configuration's layer.

POSIX access lists need no look of their own: where one lets others write, the group bits (its mask) show it (acl(5)).
"""

from __future__ import annotations

import os
import shlex
import stat
from collections.abc import Iterator
from pathlib import Path

from docker_tracker.errors import ConfigurationError

_OTHERS = stat.S_IWGRP | stat.S_IWOTH
_MOST_LINKS = 40  # as the kernel follows in one path (path_resolution(7))


def check_private(path: Path, uid: int) -> None:
    """Refuse a file or directory that others could change, or put another in the place of.

    All directories above it are looked at, and those above every symbolic link on the way. Above it one with the
    sticky bit (``/tmp``) is taken, since there nobody can replace what is another's; but not as the directory that
    a file itself stands in: before the file was made, anyone could have made it there.

    :param path: An absolute path; what is not there is not refused.
    :param uid: The daemon's user.
    :raises ConfigurationError: it names the path, and the command that mends it.
    """
    for place in _steps(path):
        _check(place, uid, sticky=True)
    if path.exists():
        # The place of the name and of what it leads to, these without exception for the sticky bit.
        real = path.resolve()
        for place in {real} if real.is_dir() else {real, real.parent, path.parent}:
            _check(place, uid, sticky=False)


def check_tree(path: Path, uid: int) -> None:
    """Refuse a directory as `check_private` does, with all that is in it.

    :raises ConfigurationError: it names the first bad path, and the command that mends it.
    """
    seen: set[Path] = set()
    waiting = [path]
    while waiting:
        place = waiting.pop()
        check_private(place, uid)
        real = place.resolve()
        if real.is_dir() and real not in seen:
            seen.add(real)
            try:
                waiting.extend(sorted(real.iterdir(), reverse=True))
            except OSError as error:
                raise ConfigurationError(str(real), f"cannot be looked at: {error.strerror}") from error


def _steps(path: Path) -> Iterator[Path]:
    """Yield every directory, link and file that is looked up on the way to a path, links followed."""
    waiting = list(reversed(path.parts[1:]))
    place, links = Path("/"), 0
    yield place
    while waiting:
        part = waiting.pop()
        if part == "..":
            place = place.parent
            continue
        step = place / part
        yield step
        if step.is_symlink() and links < _MOST_LINKS:
            links += 1
            target = Path(os.readlink(step))
            if target.is_absolute():
                place = Path("/")
            waiting.extend(reversed(target.parts[1:] if target.is_absolute() else target.parts))
        else:
            place = step


def _check(path: Path, uid: int, *, sticky: bool) -> None:
    try:
        found = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise ConfigurationError(str(path), f"cannot be looked at: {error.strerror}") from error
    quoted = shlex.quote(str(path))
    if found.st_uid not in (0, uid):
        owner = "root" if uid == 0 else f"root or uid {uid}"
        raise ConfigurationError(
            str(path),
            f"belongs to uid {found.st_uid}, who could change what the daemon runs; it must be {owner}'s: "
            f"chown --no-dereference {uid} {quoted}",
        )
    if stat.S_ISLNK(found.st_mode) or not found.st_mode & _OTHERS:
        return
    if not (sticky and stat.S_ISDIR(found.st_mode) and found.st_mode & stat.S_ISVTX):
        raise ConfigurationError(
            str(path), f"can be written by others than root and the daemon's user; run: chmod go-w {quoted}"
        )
