"""The command of ``docker-tracker run``: real processes, signals and terminals."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import termios

from twisted.trial.unittest import SynchronousTestCase

from tests.support.daemon import ROOT

_LOCAL = 3  # of termios.tcgetattr(): the local modes

RUN = """
import os, sys
from docker_tracker.cli.run_child import CannotRun, Signals, run
signals = Signals()
try:
    status = run(sys.argv[1:], dict(os.environ), signals)
except CannotRun as error:
    print(error, file=sys.stderr)
    status = error.status
signals.restore()
sys.exit(status)
"""

# Counts the signals that it gets until there is a line on its standard input. Python acts on a signal that comes just
# before a call that waits only after that: so it waits for a descriptor that signals write to, too.
COUNT = """
import os, select, signal, sys
got = []
def take(number, frame):
    got.append(signal.Signals(number).name)
    print(got[-1], flush=True)
told, tells = os.pipe()
os.set_blocking(tells, False)
signal.set_wakeup_fd(tells)
for name in sys.argv[1:]:
    signal.signal(getattr(signal, name), take)
print("ready", flush=True)
while 0 not in (readable := select.select([0, told], [], [])[0]):
    os.read(told, 100)
sys.stdin.readline()
print("all:", *got, flush=True)
sys.exit(7)
"""

# What a shell does for job control.
SHELL = """
import os, signal, sys
signal.signal(signal.SIGTTOU, signal.SIG_IGN)
job = os.fork()
if job == 0:
    os.setpgid(0, 0)
    os.tcsetpgrp(0, os.getpid())
    signal.signal(signal.SIGTTOU, signal.SIG_DFL)
    os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
while True:
    _, status = os.waitpid(job, os.WUNTRACED)
    os.tcsetpgrp(0, os.getpgrp())
    if not os.WIFSTOPPED(status):
        print("status", os.waitstatus_to_exitcode(status), flush=True)
        break
    print("stopped by", signal.Signals(os.WSTOPSIG(status)).name, flush=True)
    sys.stdin.readline()
    os.tcsetpgrp(0, job)
    os.killpg(job, signal.SIGCONT)
"""

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


class ChildTests(SynchronousTestCase):
    def begin(self, *command: str, before: tuple[str, ...] = ()) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*before, sys.executable, "-c", RUN, *command],
            env=ENVIRONMENT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.addCleanup(self.finish, process)
        return process

    def finish(self, process: subprocess.Popen[str]) -> None:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()

    def counting(self, *names: str, before: tuple[str, ...] = ()) -> subprocess.Popen[str]:
        process = self.begin(sys.executable, "-c", COUNT, *names, before=before)
        self.assertEqual(self.line(process), "ready\n")
        return process

    def line(self, process: subprocess.Popen[str]) -> str:
        assert process.stdout is not None
        return process.stdout.readline()

    def test_status(self) -> None:
        """The status is the command's; its standard streams are ours."""
        for script, status in (("cat; exit 0", 0), ("cat; exit 3", 3), ("cat; kill -KILL $$", 137)):
            process = self.begin("sh", "-c", script)
            self.assertEqual(process.communicate("hello", 60), ("hello", ""))
            self.assertEqual(process.returncode, status)

    def test_cannot_run(self) -> None:
        """What is not there, or is no program, has a status of its own."""
        for path, status in (("no-such-program", 127), ("/etc/passwd", 126), ("/", 126)):
            process = self.begin(path)
            _, said = process.communicate(timeout=60)
            self.assertEqual(process.returncode, status)
            self.assertIn(f"cannot run {path}: ", said)

    def test_passed_on(self) -> None:
        """What is sent to us alone the command gets, once, and its end is waited for."""
        names = ("SIGTERM", "SIGHUP", "SIGINT", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGWINCH")
        process = self.counting(*names)
        for name in names:
            process.send_signal(getattr(signal, name))
            self.assertEqual(self.line(process), f"{name}\n")
        said, _ = process.communicate("\n", 60)
        self.assertEqual((said, process.returncode), (f"all: {' '.join(names)}\n", 7))

    def test_kill_0(self) -> None:
        """What the command sends to its whole group is not passed on to it."""
        # We are stopped meanwhile: passed on at once, it would be one with the first, and nobody could tell.
        sends = """
ours = os.getppid()
os.kill(ours, signal.SIGSTOP)
os.kill(0, signal.SIGTERM)
os.kill(ours, signal.SIGCONT)
print("ready", flush=True)
"""
        count = COUNT.replace('print("ready", flush=True)\n', sends)
        process = self.begin(sys.executable, "-c", count, "SIGTERM", "SIGWINCH")
        self.assertEqual([self.line(process), self.line(process)], ["SIGTERM\n", "ready\n"])
        os.kill(process.pid, signal.SIGWINCH)  # is passed on, after all that came before
        self.assertEqual(self.line(process), "SIGWINCH\n")
        said, _ = process.communicate("\n", 60)
        self.assertEqual((said, process.returncode), ("all: SIGTERM SIGWINCH\n", 7))

    def test_dispositions(self) -> None:
        """The command begins with the signals as we found them: none blocked, ignored what was ignored."""
        process = self.begin("grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status", before=("env", "--ignore-signal=HUP"))
        said, _ = process.communicate(timeout=60)
        _, blocked, _, ignored = said.split()
        self.assertEqual(int(blocked, 16), 0)
        self.assertEqual(int(ignored, 16) & 0x7FFFFFFF, 1 << (signal.SIGHUP - 1))

    def test_ignored(self) -> None:
        """A signal that we were started to ignore is not passed on."""
        process = self.counting("SIGUSR1", before=("env", "--ignore-signal=HUP"))
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGUSR1)
        self.assertEqual(self.line(process), "SIGUSR1\n")
        said, _ = process.communicate("\n", 60)
        self.assertEqual(said, "all: SIGUSR1\n")

    def test_stopped_alone(self) -> None:
        """A command that somebody stops with SIGSTOP leaves us waiting, not stopped."""
        process = self.begin("sh", "-c", "echo $$; kill -STOP $$; echo on; exit 5")
        child = int(self.line(process))
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WSTOPPED | os.WNOHANG | os.WNOWAIT)
        while b"\nState:\tT" not in open(f"/proc/{child}/status", "rb").read():  # noqa: SIM115
            pass
        process.send_signal(signal.SIGCONT)  # is passed on
        said, _ = process.communicate(timeout=60)
        self.assertEqual((said, process.returncode), ("on\n", 5))


class TerminalTests(SynchronousTestCase):
    def begin(self, *line: str) -> None:
        child, self.terminal = pty.fork()
        if child == 0:
            os.execve(sys.executable, [sys.executable, *line], ENVIRONMENT)
        # What is said after Ctrl-Z may come before the kernel drops what nobody has read yet (n_tty.c, isig).
        modes = termios.tcgetattr(self.terminal)
        modes[_LOCAL] |= termios.NOFLSH
        termios.tcsetattr(self.terminal, termios.TCSANOW, modes)
        self.seen = ""
        self.addCleanup(os.waitpid, child, 0)
        self.addCleanup(os.close, self.terminal)  # which ends what is in the foreground

    def see(self, text: str) -> str:
        """Read until a text comes; give what came before."""
        while text not in self.seen:
            if not select.select([self.terminal], [], [], 60)[0]:
                self.fail(f"{text!r} does not come; there was {self.seen!r}")
            self.seen += os.read(self.terminal, 4096).decode()
        before, _, self.seen = self.seen.partition(text)
        return before

    def press(self, keys: str) -> None:
        os.write(self.terminal, keys.encode())

    def test_interrupt(self) -> None:
        """Ctrl-C reaches the command once, by the terminal."""
        self.begin("-c", SHELL, "-c", RUN, sys.executable, "-c", COUNT, "SIGINT")
        self.see("ready")
        self.press("\x03")
        self.see("SIGINT\r\n")
        self.press("\n")
        self.see("all: SIGINT\r\n")
        self.see("status 7")

    def test_stop(self) -> None:
        """Ctrl-Z stops the command and us, so that the shell goes on; both go on together."""
        self.begin("-c", SHELL, "-c", RUN, sys.executable, "-c", COUNT, "SIGCONT")
        self.see("ready")
        for _ in range(2):
            self.press("\x1a")
            self.see("stopped by SIGTSTP")
            self.press("\n")
            self.see("SIGCONT\r\n")
        self.press("\n")
        self.see("status 7")

    def test_command_goes_on(self) -> None:
        """A command that takes Ctrl-Z for something else keeps the terminal."""
        self.begin("-c", SHELL, "-c", RUN, sys.executable, "-c", COUNT, "SIGTSTP")
        self.see("ready")
        self.press("\x1a")
        self.see("SIGTSTP\r\n")
        self.press("\n")
        self.assertNotIn("stopped", self.see("status 7"))

    def test_is_terminal(self) -> None:
        """The command has our terminal, in the foreground."""
        program = "import os, sys; print(os.tcgetpgrp(0) == os.getpgrp(), sys.stdin.isatty())"
        self.begin("-c", SHELL, "-c", RUN, sys.executable, "-c", program)
        self.see("True True")
        self.see("status 0")
