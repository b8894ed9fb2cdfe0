"""What ends a job: with real processes, an engine in memory and a clock."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import threading
from collections.abc import Awaitable, Callable
from typing import Any
from unittest import mock

import attrs
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReadDescriptor
from twisted.internet.testing import EventLoggingObserver
from twisted.logger import LogLevel, formatEvent, globalLogPublisher
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase
from zope.interface.verify import verifyObject

from docker_tracker.errors import EngineError, RefusedError
from docker_tracker.interfaces import ILease
from docker_tracker.job import Ends, JobRequest, Process
from docker_tracker.job_record import Job
from docker_tracker.tracking import ends as module
from docker_tracker.tracking.ends import EndWatch, boot_id, resolve, start_time
from tests.support.hand_reactor import HandReactor
from tests.support.tracking import UNAVAILABLE, MemoryEngine

ID = "c" * 64
PATH = f"/containers/{ID}/json"
RUNS = {"Id": ID, "State": {"Running": True, "Restarting": False}}
ENDED = {"Id": ID, "State": {"Running": False, "Restarting": False}}


def child(*command: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command or ("sleep", "100"))


def this_process() -> Process:
    return Process(pid=os.getpid(), started=start_time(os.getpid()), boot=boot_id())


def pidfds() -> int:
    """Give how many there are in this process."""
    links = (f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd"))
    return sum("pidfd" in os.readlink(link) for link in links if os.path.lexists(link))


def end_process(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


class Case(SynchronousTestCase):
    def setUp(self) -> None:
        self.events = EventLoggingObserver()
        globalLogPublisher.addObserver(self.events)
        self.addCleanup(globalLogPublisher.removeObserver, self.events)
        self.clock = HandReactor()
        self.engine = MemoryEngine()
        self.over: list[str] = []
        self.busy = False
        self.now = 1_000_000.0

    def resolve(self, **ends: Any) -> Ends:
        return self.successResultOf(Deferred.fromCoroutine(resolve(Ends(**ends), self.engine)))

    def refused(self, **ends: Any) -> RefusedError:
        failure = self.failureResultOf(Deferred.fromCoroutine(resolve(Ends(**ends), self.engine)), RefusedError)
        error = failure.value
        assert isinstance(error, RefusedError)
        return error

    def watch(self, created: float = 1_000_000.0, start: bool = True, **ends: Any) -> EndWatch:
        job = Job(id="1" * 32, request=JobRequest(name="job", ends=Ends(**ends)), created=created)
        watch = EndWatch(
            self.clock,  # type: ignore[arg-type]
            self.engine,
            job,
            self.over.append,
            lambda: self.busy,
            lambda: self.now,
        )
        self.addCleanup(self.stop, watch)
        if start:
            watch.start()
            self.assertEqual(self.over, [], "never within start")
        return watch

    def stop(self, watch: EndWatch) -> None:
        watch.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(self.clock.getReaders(), [])

    def pass_seconds(self, seconds: float, step: float = 0.5) -> None:
        self.clock.pump([step] * int(seconds / step))

    def warned(self, level: LogLevel = LogLevel.warn) -> list[str]:
        return [formatEvent(event) for event in self.events if event["log_level"] is level]


class ResolveTests(Case):
    def test_process(self) -> None:
        """A pid becomes that process which has it now."""
        process = child()
        self.addCleanup(end_process, process)
        found = self.resolve(process=Process(pid=process.pid, started=0, boot=""), ttl=3.0)
        assert found.process is not None
        self.assertEqual(found.process.pid, process.pid)
        self.assertEqual(found.process.boot, boot_id())
        self.assertGreaterEqual(found.process.started, start_time(os.getpid()))
        self.assertEqual(found.ttl, 3.0)

    def test_odd_name(self) -> None:
        """A process may have parentheses and spaces in its name."""
        script = (
            "import ctypes,sys; ctypes.CDLL(None).prctl(15, b') R 1 (2', 0, 0, 0); print(flush=True); sys.stdin.read()"
        )
        process = subprocess.Popen(["python3", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.addCleanup(process.communicate)
        assert process.stdout is not None
        process.stdout.readline()
        with open(f"/proc/{process.pid}/stat", encoding="ascii") as file:
            self.assertIn("() R 1 (2)", file.read())
        self.assertGreaterEqual(start_time(process.pid), start_time(os.getpid()))

    def test_no_process(self) -> None:
        """What has ended, waited for or not, and what never was cannot be waited for."""
        process = child("true")
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        self.assertEqual(self.refused(process=Process(pid=process.pid, started=0, boot="")).status, 400)
        process.wait()
        for pid in (process.pid, 2**31 - 1):
            error = self.refused(process=Process(pid=pid, started=0, boot=""))
            self.assertIn(f"sees no process {pid}", str(error))

    def test_thread(self) -> None:
        """A thread is no process."""
        go_on = threading.Event()
        thread = threading.Thread(target=go_on.wait)
        thread.start()
        self.addCleanup(thread.join)
        self.addCleanup(go_on.set)
        assert thread.native_id is not None
        named = Process(pid=thread.native_id, started=0, boot="")
        self.assertEqual(self.refused(process=named).status, 400)
        for number in (errno.EINVAL, errno.ENOENT):  # as the kernel is older or newer
            with mock.patch.object(os, "pidfd_open", side_effect=OSError(number, "no")):
                self.assertEqual(self.refused(process=named).status, 400)

    def test_exact_process(self) -> None:
        """A client that tells all of a process gets that process, or none."""
        own = this_process()
        self.assertEqual(self.resolve(process=own).process, own)
        for other in (attrs.evolve(own, started=own.started + 1), attrs.evolve(own, boot="another")):
            self.assertIn("another one", str(self.refused(process=other)))

    def test_kernel_refuses(self) -> None:
        """Where no process can be watched, the client is told so."""
        with mock.patch.object(os, "pidfd_open", side_effect=OSError(38, "Function not implemented")):
            error = self.refused(process=this_process())
        self.assertEqual(error.status, 500)
        self.assertIn("Function not implemented; hold a lease", str(error))

    def test_gone_meanwhile(self) -> None:
        """A process that ends while it is looked at has ended, and no descriptor is left."""
        before = pidfds()
        for error in (FileNotFoundError(), ProcessLookupError()):
            with mock.patch.object(module, "start_time", side_effect=error):
                self.refused(process=this_process())
        with mock.patch.object(module, "start_time", side_effect=PermissionError(13, "Permission denied")):
            self.assertIn("Permission denied", str(self.refused(process=this_process())))
        self.assertEqual(pidfds(), before)

    def test_container(self) -> None:
        """A container's name becomes its full ID."""
        self.engine.answers["/containers/agent%2Fx/json"] = RUNS
        self.assertEqual(self.resolve(container="agent/x").container, ID)
        created = {"Running": False, "Restarting": False, "Status": "created"}
        for state in ({"Running": True, "Paused": True}, {"Running": False, "Restarting": True}, created):
            self.engine.answers["/containers/agent/json"] = {"Id": ID, "State": state}
            self.assertEqual(self.resolve(container="agent").container, ID)

    def test_no_container(self) -> None:
        """A container that is not there, or does not run, is refused."""
        self.assertIn("there is no container 'nothing'", str(self.refused(container="nothing")))
        self.assertIn("'../nothing' is no name", str(self.refused(container="../nothing")))
        self.engine.answers["/containers/odd/json"] = {"Id": 1}
        self.assertIn("there is no container 'odd'", str(self.refused(container="odd")))
        created = {"Running": False, "Status": "created", "ExitCode": 0, "Error": ""}
        for state in (ENDED["State"], {**created, "ExitCode": 127}, {**created, "Error": "no such file"}):
            self.engine.answers[PATH] = {"Id": ID, "State": state}
            self.assertIn("does not run", str(self.refused(container=ID)))

    def test_no_engine(self) -> None:
        """Without an engine nothing is guessed."""
        self.engine.answers[PATH] = UNAVAILABLE
        self.failureResultOf(Deferred.fromCoroutine(resolve(Ends(container=ID), self.engine)), EngineError)


class TimeTests(Case):
    def test_nothing(self) -> None:
        """A job that nothing ends waits for nothing, whoever holds it."""
        watch = self.watch()
        watch.lease().release()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_ttl(self) -> None:
        """A job ends so many seconds after it was made, once."""
        self.watch(created=self.now - 4, ttl=10.0, lease=8.0)
        self.pass_seconds(5.5)
        self.assertEqual(self.over, [])
        self.pass_seconds(5)
        self.assertEqual(self.over, ["its time of 10 s was over"])

    def test_ttl_over(self) -> None:
        """One whose time ended while the tracker was down ends at once, one from the future not after its time."""
        self.watch(created=self.now - 40, ttl=10.0)
        self.clock.advance(0)
        self.assertEqual(len(self.over), 1)
        self.over.clear()
        self.watch(created=self.now + 1000, ttl=10.0)
        self.pass_seconds(10)
        self.assertEqual(len(self.over), 1)

    def test_idle(self) -> None:
        """A job ends when nobody used it for so long; what comes and goes between two looks counts."""
        self.watch(idle=10.0)
        self.pass_seconds(8)
        self.busy = True
        self.pass_seconds(30)
        self.busy = False
        self.pass_seconds(9)
        self.assertEqual(self.over, [])
        self.pass_seconds(2)
        self.assertEqual(self.over, ["nobody used it for 10 s"])

    def test_how_often(self) -> None:
        """What may be idle for long is looked at often enough to end in time, what may not not all the time."""
        for idle, period in ((0.01, 0.1), (20.0, 2.0), (1000.0, 5.0)):
            watch = self.watch(idle=idle)
            (call,) = self.clock.getDelayedCalls()
            self.assertAlmostEqual(call.getTime() - self.clock.seconds(), period)
            watch.stop()

    def test_lease_never_taken(self) -> None:
        """A job whose lease nobody takes ends after the grace: so after a restart, too."""
        self.watch(lease=5.0)
        self.pass_seconds(4.5)
        self.assertEqual(self.over, [])
        self.pass_seconds(1)
        self.assertEqual(self.over, ["nobody held its lease for 5 s"])

    def test_lease(self) -> None:
        """The grace begins when the last of its holders goes, and anew when one comes back."""
        watch = self.watch(lease=5.0)
        first, second = watch.lease(), watch.lease()
        verifyObject(ILease, first)
        first.release()
        first.release()
        self.pass_seconds(20)
        second.release()
        self.pass_seconds(4)
        third = watch.lease()
        self.pass_seconds(20)
        self.assertEqual(self.over, [])
        third.release()
        self.pass_seconds(5)
        self.assertEqual(self.over, ["nobody held its lease for 5 s"])

    def test_release_afterwards(self) -> None:
        """A holder may go when all is over."""
        watch = self.watch(lease=5.0)
        lease = watch.lease()
        watch.stop()
        lease.release()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_many_leases(self) -> None:
        """However often a lease is taken and lost, one timer runs."""
        watch = self.watch(lease=5.0)
        for _ in range(100):
            lease = watch.lease()
            lease.release()
            lease.release()
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)


class ProcessTests(Case):
    def test_ended_unseen(self) -> None:
        """A process that ended while the tracker was down ends the job at once, and so it is said."""
        process = child("true")
        process.wait()
        self.watch(process=Process(pid=process.pid, started=1, boot=boot_id()))
        self.clock.advance(0)
        self.assertEqual(self.over, [f"process {process.pid} ended while nobody watched it"])

    def test_number_of_another(self) -> None:
        """A process that has the number now, or had it before the host was restarted, is not taken for it."""
        own = this_process()
        before = pidfds()
        for other in (attrs.evolve(own, started=own.started - 1), attrs.evolve(own, boot="another")):
            self.over.clear()
            self.watch(process=other)
            self.clock.advance(0)
            self.assertEqual(self.over, [f"process {own.pid} ended while nobody watched it"])
        self.assertEqual(pidfds(), before)

    def test_kernel_refuses(self) -> None:
        """If a process cannot be watched for now the job goes on, and it is tried again."""
        with mock.patch.object(os, "pidfd_open", side_effect=OSError(24, "Too many open files")):
            self.watch(process=this_process())
            self.pass_seconds(10)
        self.assertEqual((self.over, self.clock.getReaders()), ([], []))
        self.assertIn("Too many open files; trying again", self.warned(LogLevel.error)[0])
        self.pass_seconds(3)
        (reader,) = self.clock.getReaders()
        verifyObject(IReadDescriptor, reader)
        self.assertEqual(reader.logPrefix(), "process")

    def test_reactor_ends(self) -> None:
        """The end of the reactor is not the end of the process."""
        self.watch(process=this_process())
        (reader,) = self.clock.getReaders()
        reader.connectionLost(Failure(Exception("the reactor stops")))
        self.assertEqual((self.over, self.clock.getReaders()), ([], []))


class RealProcessTests(TestCase):
    """With the reactor itself."""

    def begin(self, process: Process, **ends: Any) -> tuple[EndWatch, Deferred[str]]:
        over: Deferred[str] = Deferred()
        job = Job(id="1" * 32, request=JobRequest(name="job", ends=Ends(process=process, **ends)))
        watch = EndWatch(reactor, MemoryEngine(), job, over.callback, lambda: False)  # type: ignore[arg-type]
        self.addCleanup(watch.stop)
        watch.start()
        return watch, over.addTimeout(30, reactor)

    async def ends(self, finish: Callable[[subprocess.Popen[bytes]], Any], wait: bool) -> None:
        process = child()
        self.addCleanup(end_process, process)
        named = Process(pid=process.pid, started=0, boot="")
        found = (await resolve(Ends(process=named), MemoryEngine())).process
        assert found is not None
        _, over = self.begin(found)
        finish(process)
        if wait:
            process.wait()
        self.assertEqual(await over, f"process {process.pid} ended")

    def test_killed(self) -> Deferred[None]:
        """A process that is killed ends the job, although nobody has waited for it."""
        return Deferred.fromCoroutine(self.ends(lambda process: process.kill(), wait=False))

    def test_reaped(self) -> Deferred[None]:
        """A process that has vanished altogether ends the job, too."""
        return Deferred.fromCoroutine(self.ends(lambda process: process.send_signal(signal.SIGTERM), wait=True))

    def test_stopped_watch(self) -> Deferred[None]:
        """Who stopped watching is told nothing, and no descriptor is left."""

        async def run() -> None:
            before = pidfds()
            process = child()
            self.addCleanup(end_process, process)
            watch, over = self.begin(Process(pid=process.pid, started=start_time(process.pid), boot=boot_id()))
            watch.stop()
            process.kill()
            _, second = self.begin(Process(pid=process.pid, started=start_time(process.pid), boot=boot_id()))
            await second
            self.assertFalse(over.called)
            over.callback("")
            self.assertEqual(pidfds(), before)

        return Deferred.fromCoroutine(run())


class ContainerTests(Case):
    def setUp(self) -> None:
        super().setUp()
        self.engine.answers[PATH] = RUNS

    def say(self, action: str) -> None:
        assert self.engine.say is not None
        self.engine.say(json.dumps({"Type": "container", "Action": action}).encode())

    def test_ends(self) -> None:
        """The end of the container is seen by its event."""
        self.watch(container=ID)
        (parameters,) = self.engine.events_parameters
        self.assertEqual(parameters["since"], "1000000")
        filters = json.loads(parameters["filters"])
        self.assertEqual((filters["container"], "exec_die" in filters["event"]), ([ID], False))
        self.assertLessEqual({"die", "died", "destroy", "remove"}, {*filters["event"]})
        self.say("die")
        self.clock.advance(0)
        self.assertEqual(self.over, [])
        self.engine.answers[PATH] = ENDED
        self.say("die")
        self.assertEqual(self.over, [])
        self.clock.advance(0)
        self.assertEqual(self.over, [f"container {ID[:12]} ended"])

    def test_starts_again(self) -> None:
        """One that the engine is to start again has its time for that each time; one that it is not to has none."""
        watch = self.watch(container=ID)
        for _ in range(3):
            self.engine.answers[PATH] = {**ENDED, "HostConfig": {"RestartPolicy": {"Name": "always"}}}
            self.say("die")
            self.pass_seconds(15)
            self.engine.answers[PATH] = RUNS
            self.pass_seconds(60)
        self.assertEqual(self.over, [])
        for policy in ("no", ""):
            self.stop(watch)
            self.engine.answers[PATH] = RUNS
            self.over.clear()
            watch = self.watch(container=ID)
            self.engine.answers[PATH] = {**ENDED, "HostConfig": {"RestartPolicy": {"Name": policy}}}
            self.say("die")
            self.clock.advance(0)
            self.assertEqual(len(self.over), 1, policy)

    def test_yet_to_be_started(self) -> None:
        """A container that is only created has not ended; once it has run, it has."""
        self.engine.answers[PATH] = {"Id": ID, "State": {"Running": False, "Status": "created"}}
        self.watch(container=ID)
        self.pass_seconds(100)
        self.assertEqual(self.over, [])
        self.engine.answers[PATH] = {"Id": ID, "State": {"Running": False, "Status": "exited"}}
        self.pass_seconds(31)
        self.assertEqual(self.over, [f"container {ID[:12]} ended"])

    def test_removed(self) -> None:
        """A container that is not there any more has ended."""
        self.engine.answers[PATH] = None
        self.watch(container=ID)
        self.clock.advance(0)
        self.assertEqual(self.over, [f"container {ID[:12]} ended"])

    def test_no_events(self) -> None:
        """What no event told is seen all the same, a little later; nobody is asked all the time."""
        self.watch(container=ID)
        asked = self.engine.asked.count(PATH)
        self.pass_seconds(29)
        self.assertEqual(self.engine.asked.count(PATH), asked)
        self.engine.answers[PATH] = ENDED
        self.pass_seconds(2)
        self.assertEqual(len(self.over), 1)

    def test_engine_restarts(self) -> None:
        """While the engine is not there, no container has ended; one that its restart started again goes on."""
        self.watch(container=ID)
        self.engine.answers[PATH] = self.engine.refuses_events = UNAVAILABLE
        assert self.engine.ended is not None
        self.engine.ended.errback(UNAVAILABLE)
        self.assertEqual(len(self.warned()), 1)
        self.pass_seconds(60)
        self.assertEqual(self.over, [])
        self.assertEqual(len(self.warned()), 1)
        self.assertIn("is not seen: the engine at unix:///engine", self.warned()[0])
        self.engine.refuses_events = None
        for times in (1, 2):
            self.engine.answers[PATH] = RUNS
            self.pass_seconds(60)
            self.assertEqual((self.over, len(self.warned())), ([], times))
            self.engine.answers[PATH] = UNAVAILABLE
            self.pass_seconds(60)
        self.engine.answers[PATH] = ENDED
        self.engine.ended.callback(None)
        self.pass_seconds(3)
        self.assertEqual(len(self.over), 1)

    def test_engine_stops(self) -> None:
        """An engine that is being stopped stops its containers first; what it will start again has not ended."""
        comes_back = {**ENDED, "HostConfig": {"RestartPolicy": {"Name": "always"}}}
        self.watch(container=ID)
        self.engine.answers[PATH] = comes_back
        self.say("die")
        self.pass_seconds(15)
        self.engine.answers[PATH] = UNAVAILABLE
        self.pass_seconds(30)
        self.engine.answers[PATH] = comes_back  # not yet
        self.pass_seconds(15)
        self.engine.answers[PATH] = RUNS
        self.pass_seconds(60)
        self.assertEqual(self.over, [])
        self.engine.answers[PATH] = comes_back
        self.say("die")
        self.pass_seconds(19)
        self.assertEqual(self.over, [])
        self.pass_seconds(2)
        self.assertEqual(len(self.over), 1)

    def test_engine_stops_and_starts(self) -> None:
        """An engine that was away in between, however shortly, has the time for its containers again."""
        comes_back = {**ENDED, "HostConfig": {"RestartPolicy": {"Name": "always"}}}
        self.watch(container=ID)
        self.engine.answers[PATH] = comes_back
        self.say("die")
        self.pass_seconds(15)
        assert self.engine.ended is not None
        self.engine.ended.errback(UNAVAILABLE)
        self.pass_seconds(15)
        self.engine.answers[PATH] = RUNS
        self.pass_seconds(60)
        self.assertEqual(self.over, [])

    def test_removed_in_doubt(self) -> None:
        """A container that is removed has ended, whatever was to start it again."""
        self.watch(container=ID)
        self.engine.answers[PATH] = {**ENDED, "HostConfig": {"RestartPolicy": {"Name": "always"}}}
        self.say("die")
        self.pass_seconds(1)
        self.assertEqual(self.over, [])
        self.engine.answers[PATH] = None
        self.say("destroy")
        self.pass_seconds(1)
        self.assertEqual(len(self.over), 1)

    def test_event_while_asked(self) -> None:
        """An event that comes while the engine is asked leads to another question."""
        answer: Deferred[Any] = Deferred()
        self.engine.answers[PATH] = answer
        self.watch(container=ID)
        self.say("die")
        self.engine.answers[PATH] = ENDED
        answer.callback(RUNS)
        self.clock.advance(0)
        self.assertEqual(len(self.over), 1)

    def test_stop_while_asked(self) -> None:
        """Stopping ends the calls to the engine, however they end."""
        for fault in (None, UNAVAILABLE):

            def end(deferred: Deferred[Any], fault: Exception | None = fault) -> None:
                if fault is not None:
                    deferred.errback(fault)

            waiting: Deferred[Any] = Deferred(end)
            self.engine.answers[PATH] = waiting
            watch = self.watch(container=ID)
            with mock.patch.object(self.engine, "refuses_events", fault):
                self.stop(watch)
            self.assertTrue(waiting.called)
        self.assertEqual(self.warned(LogLevel.critical), [])
        self.assertEqual(self.over, [])

    def test_events_break_off_when_stopped(self) -> None:
        """A stream of events that ends with an error as it is cancelled is not followed anew."""
        broken: Deferred[None] = Deferred(lambda deferred: deferred.errback(UNAVAILABLE))

        def lines(*arguments: Any) -> Awaitable[None]:
            return broken

        with mock.patch.object(self.engine, "lines", lines):
            self.stop(self.watch(container=ID))
        self.assertTrue(broken.called)

    def test_bug(self) -> None:
        """What nobody foresaw is logged, not lost."""
        self.engine.answers[PATH] = ZeroDivisionError("division")
        self.watch(container=ID)
        self.assertEqual(len(self.warned(LogLevel.critical)), 1)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
