"""One round: strangers, two jobs, a failure, what comes back after it; then a look at what is left."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import attrs

from tests.support.dockerd import IMAGE
from tests.torture import steps
from tests.torture.client import LOADED, OTHERS_VOLUME, SLEEP, Maker, tar_of
from tests.torture.engines import Engine, Things, things
from tests.torture.nursery import Child, Nursery
from tests.torture.plans import Plan
from tests.torture.wire import BROKEN, Connection, ask

_LONG: Final = 90.0  # seconds: a reap may take 60, see below; a round that needs more has failed
_NO_NAMES: Final = ("", "[]", "['<none>:<none>']")
_ANONYMOUS: Final = 64  # characters of a volume's name that the engine made up
_STEP: Final = "#(nop)"  # stands in the command of a build's container that runs nothing
_OVER: Final = ("gone", "failed")
_LAST_SECONDS: Final = 3.0  # in which the tracker has done what a process that is gone had asked for
_KILLS_TRACKER: Final = (steps.KILL_TRACKER, steps.STOP_TRACKER, steps.FILL_DISK)  # a full disk may stop a start

_SETTINGS: Final = """\
engine = "unix://{engine}"
state-dir = "{directory}/state"
run-dir = "{directory}/run"
control = "unix://{directory}/control.sock"
listen = ["unix://{directory}/docker.sock"]
interceptors = ["labels", "recorder"]

[reap]
seconds = 60
stop-seconds = 0
drain-seconds = 0.5

[reconcile]
enabled = {enabled}
period = 1
creation-grace = 0
allow-short-grace = true
"""


@attrs.frozen
class Verdict:
    """How a round ended.

    :ivar plan: What it was.
    :ivar hit: Whether the failure came about.
    :ivar problems: What is not as it should be; nothing, if all is well.
    :ivar seconds: How long it took.
    :ivar log: What the tracker wrote, if there is a problem.
    """

    plan: Plan
    hit: bool
    problems: tuple[str, ...]
    seconds: float
    log: str = ""

    def __str__(self) -> str:
        state = "FAILED" if self.problems else "ok" if self.hit else "ok, not reached"
        lines = [f"{state} ({self.seconds:.1f} s) {self.plan}", *(f"    {problem}" for problem in self.problems)]
        return "\n".join(lines)


class Failure(Exception):
    """The round cannot go on: something did not happen within its time."""


class Round:
    """Plays a plan once.

    :param plan: Which one.
    :param engine: Up, and perhaps other rounds' after this.
    :param nursery: Of the processes.
    """

    def __init__(self, plan: Plan, engine: Engine, nursery: Nursery) -> None:
        self.plan = plan
        self.engine = engine
        self._nursery = nursery
        self._directory = Path(tempfile.mkdtemp(prefix="dt-round-", dir="/tmp"))
        self._control = self._directory / "control.sock"
        self._log = self._directory / "tracker.log"
        self._plan_path = self._directory / "plan"
        self._answers = self._directory / "answers"
        self._problems: list[str] = []
        self._tracker: Child | None = None
        self._client: Child | None = None
        self._lease: socket.socket | None = None
        self._prefix = f"t{plan.seed}-{os.getpid()}"
        self._strange: list[tuple[str, str]] = []
        self._excused: set[tuple[str, str]] = set()
        self._at_first: Things | None = None
        self._deaths = 0
        self._handler = _Handler(self._directory / "harness.sock", self._carry_out)

    def play(self) -> Verdict:
        """Play it."""
        began = time.monotonic()
        try:
            self._begin()
            self._go()
        except Failure as failure:
            self._problems.append(str(failure))
        except BROKEN as error:
            self._problems.append(f"broken: {error!r}")
        finally:
            self._end()
        log = self._log.read_text(errors="replace") if self._problems and self._log.exists() else ""
        hit = self._is_hit()
        shutil.rmtree(self._directory)
        return Verdict(self.plan, hit, tuple(self._problems), time.monotonic() - began, log)

    # Its course

    def _begin(self) -> None:
        self._at_first = things(self.engine.path, self.engine.swarm)
        self._make_strangers()
        self._before_jobs = things(self.engine.path, self.engine.swarm)
        enabled = "true" if self.plan.seed % 2 else "false"
        settings = _SETTINGS.format(engine=self.engine.path, directory=self._directory, enabled=enabled)
        path = self._directory / "settings.toml"
        path.touch(0o600)
        path.write_text(settings)
        self._start_tracker()

    def _go(self) -> None:
        plan = self.plan
        other = self._start_job(f"{self._prefix}-other", {})
        assert other is not None
        self._fill(other)
        self._before = things(self.engine.path, self.engine.swarm)
        name = f"{self._prefix}-job"
        answers = self._answers
        stays = plan.ending in ("process", "client killed", "run")
        socket_path = self._directory / "run" / "jobs" / f"{name}.sock"
        arguments: tuple[Any, ...] = (str(socket_path), self._prefix, plan.acts, str(answers), stays)
        if plan.phase == "job":
            self._arm()
        if plan.ending == "run":
            if plan.phase == "make":
                self._arm()
            arguments = (f"unix://{self._control}", name, *arguments)
        function = "tests.torture.client:run" if plan.ending == "run" else "tests.torture.client:main"
        self._client = self._nursery.start(function, *arguments, log=self._log)
        endings: dict[str, dict[str, Any]] = {"process": {"process": self._client.pid}, "lease": {"lease": 0.3}}
        ends = endings.get(plan.ending, {})
        if plan.phase == "make" and plan.ending != "run":
            self._arm()  # its client begins when the job's socket is there
        job = self._find_job(name) if plan.ending == "run" else self._start_job(name, ends)
        if job is None:
            self._disarm()
            self._handler.settle()
            self._check_never(name)
            self._end_other(other)
            return
        if plan.ending == "lease":
            self._hold(job["id"])
        self._wait_for(lambda: Path(f"{answers}.done").exists() or not self._is_alive(self._client), "the client's end")
        self._disarm("make", "job")
        self._check_answers(answers, job["id"])
        if plan.phase in ("start", "stop"):
            self._arm()
            assert self._tracker is not None
            self._tracker.kill(signal.SIGTERM)
            if not self._tracker.wait(_LONG):
                raise Failure("the tracker does not stop")
            self._make_beside(job["id"])
            self._planned_death()
            self._start_tracker()
        if plan.phase == "end":
            self._arm()
        self._end_job(job["id"])
        if plan.phase == "reconcile":
            self._arm()
            self.call("POST", "/reconcile")
        self._disarm()
        self._handler.settle()
        self._recover(job["id"])
        self._check_left(job["id"], other["id"])
        self._end_other(other)

    def _recover(self, job_id: str | None) -> None:
        """After the failure: all is up again, the job has ended, if there is one; one reconcile."""
        if not wait_until(lambda: ask(self.engine.path, "GET", "/_ping")[0] == 200, _LONG):
            raise Failure("the engine does not come back")
        if self.plan.deed == steps.FILL_DISK:
            time.sleep(self.plan.seconds)
        if job_id is not None:
            self._end_job(job_id)
        status, report = self.call("POST", "/reconcile")
        if status != 200 or report.get("problem") or [item for item in report["items"] if item["outcome"] == "left"]:
            self._problems.append(f"the reconcile says {status} {report}")

    def _end(self) -> None:
        """Take all away that is still there."""
        self._handler.close()
        for child in (self._client, self._tracker):
            if child is not None:
                child.discard()
        if self._lease is not None:
            self._lease.close()
        try:
            self._remove_strangers()
            nameless = {f"{kind} {identifier}" for kind, identifier in self._excused}
            at_first = self._at_first
            left = sweep(self.engine.path, self.engine.swarm, at_first) if at_first is not None else []
        except BROKEN as error:
            left = [f"the engine: {error}"]
        if not self._problems and (left := [each for each in left if each not in nameless]):
            self._problems.append(f"left in the end: {left}")

    # The tracker

    def _start_tracker(self) -> None:
        command = ["twistd", "--nodaemon", "--pidfile=", "docker-tracker", f"--config={self._directory}/settings.toml"]
        arguments = (command, str(self._plan_path), str(self._handler.path))
        self._tracker = self._nursery.start("tests.torture.hooked:main", *arguments, log=self._log)

    def _is_alive(self, child: Child | None) -> bool:
        return child is not None and child.is_alive()

    def _planned_death(self) -> None:
        """Whatever died of the plan or was told to stop is started anew; any other death is a problem."""
        assert self._tracker is not None
        self._tracker.discard()
        self._tracker = None

    def _keep_up(self) -> None:
        """Start the tracker again, if it died of the plan."""
        if self._tracker is not None and self._tracker.is_alive():
            return
        self._deaths += 1
        planned = self.plan.deed in _KILLS_TRACKER and self._is_hit()
        # A full disk stops each start until there is room again.
        if not planned or self._deaths > (100 if self.plan.deed == steps.FILL_DISK else 1):
            raise Failure("the tracker died by itself")
        if self._deaths > 1:
            time.sleep(0.05)
        self._planned_death()
        self._start_tracker()

    def call(self, method: str, target: str, body: Any = None) -> tuple[int, Any]:
        """Call the control API, as often as it takes while things die."""
        end = time.monotonic() + _LONG
        while True:
            self._keep_up()
            try:
                status, answer = ask(self._control, method, target, body)
            except BROKEN:
                status, answer = 0, None
            if status not in (0, 503):
                return status, answer
            if time.monotonic() > end:
                raise Failure(f"no answer to {method} {target}: {status} {answer}")
            time.sleep(0.02)

    def _wait_for(self, condition: Callable[[], bool], what: str, seconds: float = _LONG) -> None:
        end = time.monotonic() + seconds
        while not condition():
            self._keep_up()
            if time.monotonic() > end:
                raise Failure(f"waited {seconds:g} s in vain for {what}")
            time.sleep(0.02)

    # The plan

    def _arm(self) -> None:
        plan = self.plan
        table = {"step": plan.step, "nth": plan.nth, "deed": plan.deed, "seconds": plan.seconds}
        places = {"engine": str(self.engine.path), "client": f"{self._directory}/run/jobs/{self._prefix}-job.sock"}
        new = self._plan_path.with_suffix(".new")
        new.write_text(json.dumps({**table, **places}))
        new.rename(self._plan_path)

    def _disarm(self, *phases: str) -> None:
        """What did not come about until now does not any more."""
        if not phases or self.plan.phase in phases:
            self._plan_path.unlink(missing_ok=True)

    def _carry_out(self, deed: str) -> Callable[[], None] | None:
        """Do what a hook asks for; what is returned is done when the tracker goes on."""
        if deed in (steps.KILL_CLIENT, steps.KILL_RUN):
            assert self._client is not None
            self._client.kill()
            self._client.wait(10)
            return None
        number = signal.SIGKILL if deed == steps.KILL_ENGINE else signal.SIGTERM
        self.engine.fall(number)

        def rise() -> None:
            time.sleep(self.plan.seconds)
            self.engine.rise()

        return rise

    # Jobs

    def _start_job(self, name: str, ends: dict[str, Any]) -> dict[str, Any] | None:
        """Make a job. :returns: None, if the process whose end is to be the job's was killed before."""
        end = time.monotonic() + _LONG
        while time.monotonic() < end:
            status, answer = self.call("POST", "/jobs", {"name": name, "ends": ends})
            if status == 201:
                return dict(answer)
            if found := self._jobs_named(name):  # the answer was lost
                return found[-1]
            if "process" in ends and not self._is_alive(self._client) and self._is_hit():
                return None
            time.sleep(0.05)
        raise Failure(f"the job {name} cannot be made: {status} {answer}")

    def _find_job(self, name: str) -> dict[str, Any] | None:
        """Give the job that ``run`` made; None, if ``run`` came to its end before there was one."""
        found: list[dict[str, Any]] = []
        ended = float("inf")

        def is_decided() -> bool:
            nonlocal ended
            if self._is_hit() and not self._is_alive(self._client):
                ended = min(ended, time.monotonic())
            found.extend(self._jobs_named(name))
            # What the tracker was asked for before that it may still be doing.
            return bool(found) or time.monotonic() > ended + _LAST_SECONDS

        self._wait_for(is_decided, "the job of run")
        return found[0] if found else None

    def _jobs_named(self, name: str) -> list[dict[str, Any]]:
        status, jobs = self.call("GET", "/jobs?all=1")
        return [dict(job) for job in jobs if job["name"] == name] if status == 200 else []

    def _hold(self, job_id: str) -> None:
        """Hold the job's lease, until the tracker dies or we let it go: then its grace begins."""
        self._lease = socket.socket(socket.AF_UNIX)
        self._lease.settimeout(10)
        try:
            self._lease.connect(str(self._control))
            self._lease.sendall(f"GET /jobs/{job_id}/lease HTTP/1.1\r\nHost: t\r\n\r\n".encode())
            self._lease.recv(1000)
        except BROKEN:  # it just died, or the job has ended: there is nothing to hold
            self._keep_up()

    def _end_job(self, job_id: str) -> None:
        """Let it come to its end in its way, and if that does not help, by order."""
        plan = self.plan
        assert self._client is not None
        if plan.ending == "run":
            Path(f"{self._answers}.go").touch()
        if plan.ending in ("process", "client killed"):
            self._client.kill()
        if self._lease is not None:
            self._lease.close()
        began = time.monotonic()

        def is_over() -> bool:
            status, job = self.call("GET", f"/jobs/{job_id}")
            if status == 404 or (status == 200 and job["state"] in _OVER):
                return True
            by_itself = plan.ending in ("process", "lease", "run") and time.monotonic() - began < 10
            if status == 200 and job["state"] == "open" and not by_itself:
                self.call("POST", f"/jobs/{job_id}/end", {"reason": "the round's end", "failed": False})
            return False

        self._wait_for(is_over, "the job's end")

    def _end_other(self, other: dict[str, Any]) -> None:
        """The other job still works; with it, all is gone but what is the strangers'."""
        made = Maker(other["socket"], f"{self._prefix}-late", self._directory / "late")
        made.act("anonymous")
        if not (self._directory / "late").exists():
            self._problems.append("the other job does not work any more")
        self.call("POST", f"/jobs/{other['id']}/end?wait=1", {"reason": "over", "failed": False})
        self._same(self._before_jobs, "after the other job's end")
        self._excused = self._nameless() | self._forgotten()

    # Things

    def _make_strangers(self) -> None:
        prefix = self._prefix
        theirs = {"docker-tracker.instance": "0" * 32, "docker-tracker.job-id": "1" * 32, "docker-tracker.job": "x"}
        with Connection(self.engine.path) as engine:
            for number, labels in enumerate(({}, theirs)):
                body = {"Image": IMAGE, "Cmd": SLEEP, "Labels": labels, "StopSignal": "SIGKILL"}
                body["HostConfig"] = {"Binds": [f"{OTHERS_VOLUME}:/s"]}
                status, made = engine.ask("POST", f"/containers/create?name={prefix}-stranger-{number}", body)
                assert status == 201, made
                self._strange.append(("containers", made["Id"]))
                engine.ask("POST", f"/containers/{made['Id']}/start")
                name = f"{prefix}-strange-{number}"
                engine.ask("POST", "/volumes/create", {"Name": name, "Labels": labels})
                self._strange.append(("volumes", name))
                status, made = engine.ask("POST", "/networks/create", {"Name": name, "Labels": labels})
                self._strange.append(("networks", made["Id"]))
            engine.ask("POST", f"/images/create?fromSrc=-&repo={prefix}-strange&tag=1", data=tar_of({"s": b"s"}))
            self._strange.append(("images", f"{prefix}-strange:1"))
            self._strange.append(("volumes", OTHERS_VOLUME))

    def _remove_strangers(self) -> None:
        with Connection(self.engine.path) as engine:
            for kind, identifier in self._strange:
                engine.ask("DELETE", f"/{kind}/{identifier}?force=1" + "&v=1" * (kind == "containers"))

    def _fill(self, other: dict[str, Any]) -> None:
        """Let the other job make things, and wait until all of them are recorded."""
        maker = Maker(other["socket"], f"{self._prefix}-o", self._directory / "others")
        for act in ("named", "network", "volume", "tag"):
            maker.act(act)
        self._wait_for(lambda: not self._unrecorded(other["id"], self._before_jobs), "the other job's ledger")

    def _recorded(self, job_id: str, everything: bool = False) -> set[tuple[str, str]]:
        """Give what the ledger has as made by a job, which may be gone."""
        status, answer = self.call("GET", "/resources" + "?all=1" * everything)
        if status != 200:
            raise Failure(f"the resources: {status} {answer}")
        made = [row for row in answer if row["job_id"] == job_id and row["relation"] == "made"]
        return {(row["kind"], row["id"]) for row in made}

    def _unrecorded(self, job_id: str, before: Things) -> set[tuple[str, str]]:
        now = things(self.engine.path, self.engine.swarm)
        new = {("image" if kind == "tag" else kind, name) for kind, name in now.keys() - before.keys()}
        return new - self._recorded(job_id)

    def _make_beside(self, job_id: str) -> None:
        """Make a thing of the job's while the tracker is down, as a create whose answer is lost does."""
        labels = {
            "docker-tracker.job-id": job_id,
            "docker-tracker.job": "job",
            "docker-tracker.instance": self._instance,
        }
        body = {"Image": IMAGE, "Cmd": SLEEP, "Labels": labels}
        if not wait_until(lambda: ask(self.engine.path, "POST", "/containers/create", body)[0] == 201, _LONG):
            raise Failure("the engine does not come back")

    @property
    def _instance(self) -> str:
        return (self._directory / "state" / "instance").read_text().strip()

    def _check_answers(self, answers: Path, job_id: str) -> None:
        """What a client was told is in the ledger, whatever died since.

        An answer with an ID is held until that is recorded. What is told without one, a name that the intent has, is
        recorded as soon as that can be done, unless it is gone. A load's intent has no name: if the tracker is killed
        when the name was just told, nobody knows whose that image is.
        """
        told: set[tuple[str, str]] = set()
        if answers.exists():
            told = {(kind, identifier) for kind, identifier in map(json.loads, answers.read_text().splitlines())}
        if self.plan.deed == steps.KILL_TRACKER and self._is_hit():
            told = {(kind, identifier) for kind, identifier in told if not identifier.endswith(LOADED)}
        by_name = {
            (kind, name)
            for kind, name in told
            if kind == "plugin" or (kind == "image" and not name.startswith("sha256:"))
        }
        self._wait_for(lambda: self._is_known(by_name, job_id), f"the ledger to know of {sorted(by_name)}")
        for kind, identifier in told - by_name - self._recorded(job_id, everything=True):
            self._problems.append(f"the client was told of {kind} {identifier}, and the ledger does not know it")

    def _is_known(self, made: set[tuple[str, str]], job_id: str) -> bool:
        unknown = made - self._recorded(job_id, everything=True)
        if not unknown:
            return True
        try:
            now = things(self.engine.path, self.engine.swarm)
        except BROKEN:
            return False  # it comes back
        return not unknown.intersection(("image" if kind == "tag" else kind, name) for kind, name in now)

    def _check_never(self, name: str) -> None:
        """Of a job that could not be made, as its client had died, there is nothing."""
        if self.plan.phase != "job":
            self._problems.append("there is no job")
        self._recover(None)
        self._same(self._before, "of a job that was not made")
        if found := self._jobs_named(name):
            self._problems.append(f"a job that was not made: {found}")

    def _check_left(self, job_id: str, other_id: str) -> None:
        self._same(self._before, "after the reconcile")
        if self._problems:
            self._problems.append(f"its report: {self.call('GET', f'/jobs/{job_id}/report')}")
        recorded = self._recorded(job_id) - self._nameless()  # what those were built on is kept for them
        if recorded:
            self._problems.append(f"the ledger still has of the job: {sorted(recorded)}")
            self._problems.append(f"why: {[self.call('GET', f'/why/{each[1]}') for each in recorded]}")
        missing = self._unrecorded(other_id, self._before_jobs) - self._nameless() - self._forgotten()
        if missing:
            self._problems.append(f"the ledger has lost of the other job: {sorted(missing)}")

    def _same(self, expected: Things, when: str) -> None:
        found = things(self.engine.path, self.engine.swarm)
        left = {key: found[key] for key in found.keys() - expected.keys() - self._nameless() - self._forgotten()}
        torn = {key: expected[key] for key in expected.keys() - found.keys()}
        if self.engine.forgot_networks:
            torn = {key: name for key, name in torn.items() if key[0] != "network"}
        if left:
            self._problems.append(f"{when} there is left: {left}")
        if torn:
            self._problems.append(f"{when} there is torn away: {torn}")

    def _nameless(self) -> set[tuple[str, str]]:
        """Give the images that may be left: nobody knows whose they are, as the answer that told of them was lost.

        What an archive has in it, what a build without a tag makes and the steps of a build have no name that a request
        tells. They might be anybody's: the ledger says of them that the job used them, or nothing.
        """
        if self.plan.deed == steps.FILL_DISK:  # what could not be written is written later
            return set()
        if not {"load", "build", "build untagged"}.intersection(self.plan.acts) or not self._is_hit():
            return set()
        status, rows = self.call("GET", "/resources")
        if status != 200:
            raise Failure(f"the resources: {status} {rows}")
        used = {row["id"] for row in rows if row["kind"] == "image" and row["relation"] == "used"}
        now = things(self.engine.path, self.engine.swarm)
        no_names = {key for key, name in now.items() if key[0] == "image" and name in _NO_NAMES}
        return no_names | {(kind, identifier) for kind in ("image", "tag") for identifier in used}

    def _forgotten(self) -> set[tuple[str, str]]:
        """Give the volumes and containers that may be left, as an engine that ended has forgotten whose they were.

        If it ends while it makes a container, or while it removes one that removes itself, it may leave anonymous
        volumes that no container has. If it is killed while it makes a volume of any name, that may never be finished:
        it is of the year 1. If it ends within a step of a build, that step's container stays. None of them bears a
        job's label, and nothing tells of them.
        """
        if self.plan.deed not in (steps.KILL_ENGINE, steps.RESTART_ENGINE) or not self._is_hit():
            return set()
        volumes = ask(self.engine.path, "GET", "/volumes")[1]["Volumes"] or ()
        containers = ask(self.engine.path, "GET", "/containers/json?all=1")[1]
        used = {mount.get("Name") for container in containers for mount in container["Mounts"]}
        nobodys = {
            ("volume", volume["Name"])
            for volume in volumes
            if (len(volume["Name"]) == _ANONYMOUS or volume["CreatedAt"].startswith("0001-"))
            and not volume["Labels"]
            and volume["Name"] not in used
        }
        for container in containers:
            labels = container["Labels"] or {}
            if _STEP in container["Command"] and "docker-tracker.job-id" not in labels:
                nobodys.add(("container", container["Id"]))
        return nobodys - self._before.keys()

    def _is_hit(self) -> bool:
        return Path(f"{self._plan_path}.done").exists()


class _Handler:
    """Takes what hooks ask for, one after the other, in a thread of its own."""

    def __init__(self, path: Path, carry_out: Callable[[str], Callable[[], None] | None]) -> None:
        self.path = path
        self._carry_out = carry_out
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(path))
        self._listening.listen()
        self._busy = threading.Lock()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            client, _ = self._listening.accept()
            with client, self._busy:
                deed = client.recv(100).decode()
                if deed == "end":
                    return
                try:
                    later = self._carry_out(deed)
                    client.sendall(b"d")
                    if later is not None:
                        later()
                except BaseException as error:  # told to whoever waits
                    self._error = error

    def settle(self) -> None:
        """Wait until all is done."""
        with self._busy:
            if self._error is not None:
                raise Failure(f"the harness failed: {self._error!r}")

    def close(self) -> None:
        """End the thread."""
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(self.path))
            client.sendall(b"end")
        self._thread.join()
        self._listening.close()


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    """Wait until a condition holds that asks what may be down. :returns: whether it does."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if condition():
                return True
        except BROKEN:
            pass
        time.sleep(0.02)
    return False


def sweep(path: Path, swarm: bool, keep: Things) -> list[str]:
    """Remove what an engine has beyond what is to be kept. :returns: what that was."""
    found = [key for key in things(path, swarm) if key not in keep]
    order = ("service", "container", "network", "volume", "secret", "config", "tag", "image", "plugin")
    for kind, identifier in sorted(found, key=lambda key: order.index(key[0])):
        plural = "images" if kind == "tag" else f"{kind}s"
        ask(path, "DELETE", f"/{plural}/{identifier}" + "?force=1" * (kind != "network"))
    return [f"{kind} {identifier}" for kind, identifier in found]
