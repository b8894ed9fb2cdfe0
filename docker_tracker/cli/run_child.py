r"""The command of ``docker-tracker run``: a child in our process group and on our terminal. Layer: the client command.

Signals are not handled but waited for, so that it is known who sent them. What the terminal sends (Ctrl-C, Ctrl-\,
Ctrl-Z, a change of size) goes to the whole process group, and so to the child, too; what is sent to us alone is passed
on. If the child is stopped from the terminal, so are we, since the shell waits for us.
"""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Sequence
from typing import Final

import attrs

NOT_FOUND: Final = 127
NOT_EXECUTABLE: Final = 126

_TERMINAL: Final = frozenset(
    {signal.SIGINT, signal.SIGQUIT, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU, signal.SIGWINCH}
)
_OTHERS: Final = frozenset({signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCONT})
_STOPS: Final = frozenset({signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU})
#: Python ignores these, and no program expects that.
_RESET: Final = (signal.SIGPIPE, signal.SIGXFSZ)
_MOST_PARENTS: Final = 64
_TURN: Final = 0.05  # seconds


@attrs.define(auto_exc=True, slots=False)
class CannotRun(Exception):
    """A command cannot be run.

    :ivar status: The exit status that says so: 126 or 127.
    :ivar message: One sentence.
    """

    status: int
    message: str

    def __str__(self) -> str:
        return self.message


class Signals:
    """Blocks the signals that are passed on, in this thread and those that it starts from then on.

    Those that whoever started us ignores (``nohup``, a shell's background) are left alone: the child ignores them, too.
    """

    def __init__(self) -> None:
        wanted = _TERMINAL | _OTHERS
        # A child's end must not go unseen if our parent ignored it.
        self._child = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self.passed = frozenset(each for each in wanted if signal.getsignal(each) is not signal.SIG_IGN)
        self.before = signal.pthread_sigmask(signal.SIG_BLOCK, self.passed | {signal.SIGCHLD})

    def restore(self) -> None:
        """Unblock them."""
        signal.signal(signal.SIGCHLD, self._child)
        signal.pthread_sigmask(signal.SIG_SETMASK, self.before)


def run(command: Sequence[str], environment: dict[str, str], signals: Signals) -> int:
    """Run a command to its end.

    :return: Its exit status, or 128 and the number of the signal that ended it.
    :raises CannotRun: it is not there, or no program.
    """
    try:
        if not command[0]:  # which Python refuses by itself, with another error
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        child = os.posix_spawnp(
            command[0], list(command), environment, setsigmask=signals.before, setsigdef=[*_RESET, signal.SIGCHLD]
        )
    except OSError as error:
        status = NOT_FOUND if error.errno == errno.ENOENT else NOT_EXECUTABLE
        raise CannotRun(status, f"cannot run {command[0] or repr('')}: {os.strerror(error.errno or 0)}") from error
    stopped = goes_on = False
    while True:
        # Looked for first, as one SIGCHLD may stand for several changes.
        pid, status = os.waitpid(child, os.WNOHANG | os.WUNTRACED | os.WCONTINUED)
        if pid and (os.WIFSTOPPED(status) or os.WIFCONTINUED(status)):
            stopped = os.WIFSTOPPED(status)
            if stopped and os.WSTOPSIG(status) in _STOPS & signals.passed:
                _stop(os.WSTOPSIG(status))
            continue
        if pid:
            return _exit_status(status)
        if goes_on and stopped:
            goes_on = False
            # If the whole group was let go on, its turn may come after ours; another one from us might then undo the
            # next stop.
            if signal.sigtimedwait({signal.SIGCHLD}, _TURN) is None:
                os.kill(child, signal.SIGCONT)
            continue
        information = signal.sigwaitinfo(signals.passed | {signal.SIGCHLD})
        goes_on = information.si_signo == signal.SIGCONT
        if not goes_on and _is_to_pass(information, child):
            os.kill(child, information.si_signo)


def _exit_status(status: int) -> int:
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _stop(number: int) -> None:
    """Be stopped as the child was; return when we go on. Where nobody could let us go on, the kernel passes it by."""
    os.kill(os.getpid(), number)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
    signal.pthread_sigmask(signal.SIG_BLOCK, {number})


def _is_to_pass(information: signal.struct_siginfo, child: int) -> bool:
    """Say whether a signal was sent to us alone."""
    number, pid = information.si_signo, information.si_pid
    if number == signal.SIGCHLD:
        return False
    if information.si_code > 0:  # the kernel's, for the terminal
        return number not in _TERMINAL
    # A shell's ``kill 0`` is sent to us by the child itself, or by one of its own.
    for _ in range(_MOST_PARENTS):
        if pid == child:
            return False
        if pid <= 1:
            break
        pid = _parent(pid)
    return True


def _parent(pid: int) -> int:
    """Return a process's parent; 0 if it has ended, or cannot be seen."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The name, in parentheses, may have anything in it; then come the state and the parent.
            return int(file.read().rpartition(b")")[2].split()[1])
    except (OSError, ValueError, IndexError):
        return 0
