"""The instance ID: one installed tracker, by a random ID in a file of its own in the state directory. Layer: config."""

from __future__ import annotations

import os
import re
import secrets
from contextlib import suppress
from pathlib import Path
from typing import Final

from docker_tracker.errors import ConfigurationError

NAME: Final = "instance"
_ID = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,62}")
_LONGEST = 200  # bytes of the file that are read


def read_or_make(state_directory: Path, wanted: str = "") -> str:
    """Return the ID that the file has; make the file, with a random ID, if there is none.

    :param state_directory: Made with mode 0700 if it is missing.
    :param wanted: What ``--instance`` says: it is written to the file and returned.
    :raises ConfigurationError: the ID or the file's content is none, or the file can't be read or written.
    """
    path = state_directory / NAME
    if wanted:
        check(wanted, "--instance")
    try:
        state_directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = _read(path)
        if found is None or (wanted and found != wanted):
            _write(path, wanted or secrets.token_hex(16), replace=bool(wanted))
            found = _read(path)
    except OSError as error:
        raise ConfigurationError(str(path), f"cannot be used: {error.strerror}") from error
    assert found is not None
    return found


def _read(path: Path) -> str | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    with open(descriptor, "rb") as file:
        content = file.read(_LONGEST).decode("ascii", "replace")
    return check(content.removesuffix("\n"), str(path))


def check(text: str, where: str) -> str:
    """Return an instance ID.

    :param where: What it was given by.
    :raises ConfigurationError: it is none.
    """
    if not _ID.fullmatch(text):
        raise ConfigurationError(
            where,
            f"{text[:80]!r} is not an instance ID; one has 1 to 63 letters, digits, '_', '.' or '-' "
            "and begins with a letter or a digit",
        )
    return text


def _write(path: Path, text: str, replace: bool) -> None:
    """Make the file at once with its content; without ``replace`` another process's wins."""
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(descriptor, "wb") as file:
            file.write(text.encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        if replace:
            os.replace(temporary, path)
        else:
            with suppress(FileExistsError):
                os.link(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
