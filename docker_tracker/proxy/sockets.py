"""Makes listening sockets: unix with owner and mode, TCP, and those that systemd passes."""

from __future__ import annotations

import contextlib
import fcntl
import grp
import os
import pwd
import socket
import stat
from collections.abc import Container, Iterator, Mapping
from pathlib import Path

from docker_tracker.errors import ConfigurationError

#: The first descriptor that systemd passes (sd_listen_fds(3)).
_FIRST_PASSED = 3
_BACKLOG = 4096
#: Of users and groups; the next one means none (chown(2)).
_MOST_ID = 2**32 - 2


def listen_unix(path: Path, mode: int, user: str | None, group: str | None, where: str) -> socket.socket:
    """Return a listening unix socket. A stale file is replaced; anything else that stands there is an error.

    :param mode: Of the file, as for chmod.
    :param user, group: Names or numbers of the file's owner; None: ours.
    :param where: What to name in errors.
    :raises ConfigurationError: the path is taken, the user is unknown, or we may not.
    """
    owner, owning_group = find_owner(user, group, where)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        with _locked(path.parent):
            _clear_stale(path, where)
            before = os.umask(0o177)  # nobody else may connect before owner and mode are right
            try:
                sock.bind(str(path))
            finally:
                os.umask(before)
            try:
                if (owner, owning_group) != (-1, -1):
                    os.chown(path, owner, owning_group)
                os.chmod(path, mode)
                sock.listen(_BACKLOG)
            except OSError:
                os.unlink(path)
                raise
    except OSError as error:
        sock.close()
        raise ConfigurationError(where, f"cannot listen on unix://{path}: {error.strerror or error}") from error
    except ConfigurationError:
        sock.close()
        raise
    return sock


def own_unix(path: Path, mode: int, user: str | None, group: str | None, where: str) -> None:
    """Give a socket's file that an earlier process made the mode and the owner that it is to have now.

    Its parameters are those of `listen_unix`.

    :raises ConfigurationError: we may not, or the user is unknown.
    """
    owner, owning_group = find_owner(user, group, where)
    wanted = (os.geteuid() if owner == -1 else owner, os.getegid() if owning_group == -1 else owning_group)
    try:
        status = os.lstat(path)
        if (status.st_uid, status.st_gid) != wanted:
            os.chmod(path, mode & stat.S_IMODE(status.st_mode))  # in between it is open to nobody to whom it was not
            os.chown(path, *wanted)
        if stat.S_IMODE(os.lstat(path).st_mode) != mode:
            os.chmod(path, mode)
    except OSError as error:
        raise ConfigurationError(where, f"cannot change the owner or mode of {path}: {error.strerror}") from error


def sweep_unix(directory: Path, ours: Container[int], given_up: Container[int]) -> None:
    """Remove the files of sockets at which nobody listens: their jobs ended, and nobody came to removing them.

    :param ours: Inodes of files that are not even looked at.
    :param given_up: Inodes of files whose sockets were given up just now: systemd may have them open for a moment yet.
    """
    if not directory.is_dir():
        return
    with _locked(directory):
        for entry in list(os.scandir(directory)):
            with contextlib.suppress(OSError):  # what cannot be looked at stays: it is in nobody's way
                status = entry.stat(follow_symlinks=False)
                if not stat.S_ISSOCK(status.st_mode) or status.st_ino in ours:
                    continue
                if status.st_ino in given_up or _is_stale(entry.path):
                    os.unlink(entry.path)


def remove_unix(path: Path, inode: int) -> None:
    """Remove the file of a socket that we made, unless another stands there now.

    :param inode: The file's number when it was made.
    """
    with contextlib.suppress(FileNotFoundError), _locked(path.parent):
        if os.stat(path).st_ino == inode:
            os.unlink(path)


def listen_tcp(host: str, port: int, where: str) -> socket.socket:
    """Return a listening TCP socket.

    :param host: A name or number; empty: all interfaces.
    :raises ConfigurationError: the address is taken or is not ours.
    """
    try:
        family, kind, _, _, address = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        sock = socket.socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    except OSError as error:
        raise ConfigurationError(where, f"cannot listen on {host}:{port}: {error.strerror or error}") from error
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(host != "::"))
        sock.bind(address)
        sock.listen(_BACKLOG)
    except OSError as error:
        sock.close()
        raise ConfigurationError(where, f"cannot listen on {host}:{port}: {error.strerror or error}") from error
    return sock


def passed_socket(
    index: int | None, name: str | None, environ: Mapping[str, str], where: str, first: int = _FIRST_PASSED
) -> socket.socket:
    """Return a socket that systemd passed, by index or by name (sd_listen_fds_with_names(3)).

    :raises ConfigurationError: there is none, or it is not a listening stream socket.
    """
    if environ.get("LISTEN_PID") != str(os.getpid()):
        raise ConfigurationError(where, "systemd passed no socket to this process (LISTEN_PID is not ours)")
    count = int(environ.get("LISTEN_FDS") or 0)
    names = environ.get("LISTEN_FDNAMES", "").split(":")
    if name is not None:
        if names.count(name) != 1:
            raise ConfigurationError(where, f"systemd passed {names.count(name)} sockets named {name!r}: {names}")
        index = names.index(name)
    assert index is not None
    if not 0 <= index < count:
        raise ConfigurationError(where, f"systemd passed {count} sockets; there is none with index {index}")
    try:
        sock = socket.socket(fileno=os.dup(first + index))
    except OSError as error:
        raise ConfigurationError(where, f"descriptor {first + index} is no socket: {error.strerror}") from error
    if sock.type != socket.SOCK_STREAM or not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        sock.close()
        raise ConfigurationError(where, f"descriptor {first + index} is not a listening stream socket")
    os.set_inheritable(sock.fileno(), False)
    sock.setblocking(False)
    return sock


def _clear_stale(path: Path, where: str) -> None:
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(status.st_mode):
        raise ConfigurationError(where, f"{path} exists and is no socket; move it away")
    if not _is_stale(str(path)):
        raise ConfigurationError(where, f"somebody listens on unix://{path} already")
    os.unlink(path)


def _is_stale(path: str) -> bool:
    """Whether nobody listens on a socket that stands at a path."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return True
        except BlockingIOError:
            pass  # its backlog is full: somebody listens
    return False


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Hold a lock of ours on a directory, so that two starting daemons cannot both take a file for stale."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def find_owner(user: str | None, group: str | None, where: str) -> tuple[int, int]:
    """Return the numbers of a user and a group for chown; -1 for None.

    :raises ConfigurationError: there is no such user or group.
    """
    return _user(user, where), _group(group, where)


def _user(user: str | None, where: str) -> int:
    if user is None:
        return -1
    try:
        return _number(user) if user.isdigit() else pwd.getpwnam(user).pw_uid
    except (KeyError, ValueError):
        raise ConfigurationError(where, f"there is no user {user[:80]!r}") from None


def _group(group: str | None, where: str) -> int:
    if group is None:
        return -1
    try:
        return _number(group) if group.isdigit() else grp.getgrnam(group).gr_gid
    except (KeyError, ValueError):
        raise ConfigurationError(where, f"there is no group {group[:80]!r}") from None


def _number(text: str) -> int:
    number = int(text)
    if number > _MOST_ID:
        raise ValueError
    return number
