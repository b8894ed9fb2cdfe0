"""The recorder, called as the proxy calls it, with a real ledger and an engine in memory."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import attrs
from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

import docker_tracker.plugins.recorder as recorder_module
from docker_tracker.engine.catalogue import OPERATIONS, UNKNOWN
from docker_tracker.engine.document import MISSING, Change, Document
from docker_tracker.errors import (
    BadDocumentError,
    BadTargetError,
    EngineAnswerError,
    EngineError,
    LedgerError,
    RefusedError,
)
from docker_tracker.exchange import Answer, Edit, Exchange, Outcome, Peer, Stage
from docker_tracker.http1.head import RequestHead, ResponseHead
from docker_tracker.image_work import ImageWork, ImageWorks
from docker_tracker.interfaces import IInterceptor
from docker_tracker.job_settings import ReapSettings
from docker_tracker.plugins.recorder import Recorder, recorder
from docker_tracker.records import ALL_IMAGES, Intent, Resource
from docker_tracker.testing import FakeDaemon, FakeJob, make_settings
from tests.support.exchanges import exchange
from tests.support.tracking import UNAVAILABLE, TrackingCase

ID = "c" * 64
OTHER = "d" * 64
IMAGE = "sha256:" + "a" * 64
BASE = "sha256:" + "b" * 64


class RecorderCase(TrackingCase):
    def setUp(self) -> None:
        super().setUp()
        self.patch(Peer, "_read", lambda peer, name: "")  # no process of this machine is meant
        self.works = ImageWorks()
        self.recorder = self.make(self.job_id, "default")

    def make(self, job_id: str, job: str, **more: Any) -> Recorder:
        return Recorder(job_id, job, self.ledger, self.engine, self.clock, self.clock.seconds, self.works, **more)

    def exchange(self, method: str, target: str, peer: Peer | None = None) -> Exchange:
        return attrs.evolve(exchange(method, target, peer), job_id=self.job_id)

    def ask(self, method: str, target: str, body: Any = None) -> tuple[Exchange, Deferred[Any]]:
        """Begin an exchange up to the point where it is forwarded."""
        asked = self.exchange(method, target)
        if self.recorder.wants(asked.call.operation) & Stage.REQUEST_JSON:
            document = Document.of({} if body is None else body)
            return asked, Deferred.fromCoroutine(self.recorder.request_json(asked, document))
        return asked, Deferred.fromCoroutine(self.recorder.request_head(asked, asked.received))

    def forward(self, method: str, target: str, body: Any = None) -> Exchange:
        asked, deciding = self.ask(method, target, body)
        self.assertIsNone(self.successResultOf(deciding))
        asked.sent = asked.received
        return asked

    def answer(
        self,
        asked: Exchange,
        body: Any = None,
        lines: tuple[Any, ...] = (),
        status: int = 200,
        outcome: Outcome = Outcome.COMPLETED,
        wait: float = 0.1,
    ) -> Exchange:
        """Give the engine's answer, as the proxy would tell of it, to the end; then wait for the look at containers."""
        wanted = self.recorder.wants(asked.call.operation)
        asked.response = head = ResponseHead.parse(f"HTTP/1.1 {status} X\r\n\r\n".encode())
        if wanted & Stage.RESPONSE_HEAD:
            self.recorder.response_head(asked, head)
        if wanted & Stage.RESPONSE_JSON and status < 300 and body is not None:
            self.successResultOf(Deferred.fromCoroutine(self.recorder.response_json(asked, Document.of(body))))
        for line in lines:
            self.recorder.response_line(asked, Document.of(line))
        if wanted & Stage.FINISHED:
            self.recorder.finished(asked, outcome)
        if asked.call.operation.name == "container_create":
            self.clock.advance(wait)
        return asked

    def do(self, method: str, target: str, body: Any = None, answer: Any = None, **more: Any) -> Exchange:
        return self.answer(self.forward(method, target, body), answer, **more)

    def settled(self) -> None:
        """Check that no intent is open: a restart finds none lost."""
        self.ledger.close()
        self.ledger.open("instance")
        self.assertEqual(self.lost(), [])


class WantsTests(RecorderCase):
    def test_interface(self) -> None:
        """It is an interceptor, and guards."""
        verifyObject(IInterceptor, self.recorder)
        self.assertTrue(self.recorder.fail_closed)
        self.assertEqual(recorder.name, "recorder")

    def test_table(self) -> None:
        """It takes part in all creates, removals and prunes of resources, in renames, builds and our page."""
        wanted = {row.name: self.recorder.wants(row) for row in (*OPERATIONS, UNKNOWN)}
        creates = {row.name for row in OPERATIONS if row.effect.value == "create"}
        for name in creates:
            self.assertTrue(wanted[name] & (Stage.REQUEST_HEAD | Stage.REQUEST_JSON), name)
            self.assertTrue(wanted[name] & Stage.FINISHED, name)
        removals = {row.name for row in OPERATIONS if row.effect.value in ("remove", "prune") and row.kind is not None}
        for name in removals:
            self.assertTrue(wanted[name] & (Stage.RESPONSE_HEAD | Stage.RESPONSE_JSON), name)
        pages = {
            "tracker_page",
            "tracker_other",
            "container_rename",
            "libpod_container_rename",
            "container_start",
            "grpc",
        }
        self.assertEqual(wanted["grpc"], Stage.BUILD_REQUEST | Stage.BUILD_FINISHED)
        self.assertEqual({name for name, stages in wanted.items() if stages}, creates | removals | pages)
        self.assertGreaterEqual(len(creates), 14)
        self.assertGreater(len(removals), 10)


class CreateTests(RecorderCase):
    def test_json_answers(self) -> None:
        """The ID is in the ledger before the answer is released, with its name, its job and who asked."""
        for target, body, answer, kind, identifier, name in (
            ("/containers/create?name=web", {}, {"Id": ID}, "container", ID, "web"),
            ("/v1.41/containers/create?name=%2Fapi", {}, {"Id": OTHER, "Warnings": None}, "container", OTHER, "api"),
            ("/networks/create", {"Name": "net"}, {"Id": ID}, "network", ID, "net"),
            ("/volumes/create", {}, {"Name": OTHER}, "volume", OTHER, OTHER),
            ("/services/create", {"Name": "s"}, {"ID": "s1"}, "service", "s1", "s"),
            ("/secrets/create", {"Name": "t"}, {"ID": "t1"}, "secret", "t1", "t"),
            ("/configs/create", {"name": "c"}, {"ID": "c1"}, "config", "c1", "c"),
            ("/commit?container=web", {}, {"Id": IMAGE}, "image", IMAGE, ""),
        ):
            asked = self.forward("POST", target, body)
            self.assertEqual(self.recorded(kind=kind)[1:] if kind == "container" else self.recorded(kind=kind), [])
            self.successResultOf(Deferred.fromCoroutine(self.recorder.response_json(asked, Document.of(answer))))
            found = self.recorded(kind=kind)[-1]
            self.assertEqual(
                (found.identifier, found.name, found.relation.value, found.job_id),
                (identifier, name, "made", self.job_id),
                target,
            )
            who = {"listener": "unix:///s", "uid": "1000", "gid": "100", "pid": "7"}
            path = target.partition("?")[0].removeprefix("/v1.41")
            self.assertEqual(found.attributes, {**who, "request": f"POST {path}"}, target)
            self.assertEqual(asked.notes["resource"], identifier)
            self.answer(asked)
            self.settled() if kind != "container" else None
            if kind == "container":
                self.successResultOf(self.ledger.removed("container", [identifier]))

    def test_who_asked(self) -> None:
        """Whatever is known of the peer is written down, with the request and what was changed in it."""
        self.patch(Peer, "_read", lambda peer, name: {1: f"{name}\0-e\0A=b", None: ""}[peer.pid])
        changes = (Change(("Labels", "a"), MISSING, "b"), Change(("Labels", "c"), "secret", MISSING))
        for peer, wanted in (
            (Peer(address="10.0.0.1:7", certificate="ci"), {"peer": "10.0.0.1:7", "certificate": "ci"}),
            (
                Peer(pid=1, uid=0, gid=0),
                {"uid": "0", "gid": "0", "pid": "1", "command": "cmdline -e A=***", "cgroup": "cgroup\0-e\0A=b"},
            ),
            (Peer(), {}),
        ):
            asked = self.exchange("POST", "/networks/create", peer)
            asked.edits += [Edit("labels", changes), Edit("theirs", changes[:1])]
            body = Document.of({"Name": "n"})
            self.successResultOf(Deferred.fromCoroutine(self.recorder.request_json(asked, body)))
            answer = Document.of({"Id": ID})
            self.successResultOf(Deferred.fromCoroutine(self.recorder.response_json(asked, answer)))
            request = {"request": "POST /networks/create", "changed": "Labels.a, Labels.c"}
            self.assertEqual(self.recorded()[0].attributes, {"listener": "unix:///s", **request, **wanted})
            self.successResultOf(self.ledger.removed("network", [ID]))

    def test_exec(self) -> None:
        """An exec is recorded with its container, and goes with it."""
        self.do("POST", "/containers/create?name=web", {}, {"Id": ID})
        self.do("POST", "/containers/web/exec", {"Cmd": ["true"]}, {"Id": OTHER}, status=201)
        (found,) = self.recorded(kind="exec")
        self.assertEqual((found.identifier, found.parent), (OTHER, ID))
        self.answer(self.exchange("DELETE", "/containers/web"), status=204)
        self.assertEqual(self.recorded(), [])

    def test_volumes(self) -> None:
        """A named volume is the job's only if it bears the job's label."""
        ours = {"docker-tracker.job-id": self.job_id}
        for labels, wanted in (
            (ours, "made"),
            ({"docker-tracker.job-id": "another"}, "used"),
            ({}, "used"),
            (None, "used"),
        ):
            self.do("POST", "/volumes/create", {"Name": "v"}, {"Name": "v", "Labels": labels}, status=201)
            self.assertEqual(self.shown(), [("volume", "v", wanted)], labels)
            self.successResultOf(self.ledger.removed("volume", ["v"]))

    def test_commit_with_tag(self) -> None:
        """The tag is the job's, unless it was there before; the image always is."""
        self.engine.answers["/images/json"] = [{"Id": BASE, "RepoTags": ["taken:latest"]}]
        for repository, wanted in (
            ("new&tag=2", ("new:2", "made")),
            ("docker.io/library/taken", ("taken:latest", "used")),
        ):
            self.do("POST", f"/commit?container=c&repo={repository}", {}, {"Id": IMAGE}, status=201)
            self.assertEqual(self.shown(), sorted([("image", IMAGE, "made"), ("image", *wanted)]))
            self.successResultOf(self.ledger.removed("image", [IMAGE, wanted[0]]))

    def test_tag(self) -> None:
        """A tag that was there before is not the job's."""
        self.engine.answers["/images/taken:1/json"] = {"Id": BASE}
        self.do("POST", "/images/busybox/tag?repo=mine&tag=1", status=201)
        self.do("POST", "/images/busybox/tag?repo=taken&tag=1", status=201)
        self.do("POST", "/images/busybox/tag?repo=failed&tag=1", status=404)
        self.assertEqual(self.shown(), [("image", "mine:1", "made"), ("image", "taken:1", "used")])
        self.settled()

    def test_tags_image(self) -> None:
        """It is known which image a tag leads to, so that it is not taken off another one."""
        self.engine.answers["/images/mine:1/json"] = {"Id": BASE}
        self.do("POST", "/images/busybox/tag?repo=mine&tag=1", status=201)
        self.assertEqual([resource.parent for resource in self.recorded()], [BASE])
        self.settled()

    def test_without_an_id(self) -> None:
        """An answer that tells no ID leaves the intent to the watcher."""
        answers: tuple[Any, ...] = ({}, {"Id": 7}, {"Id": ""}, [])
        for answer in answers:
            self.do("POST", "/networks/create", {"Name": "n"}, answer, status=201)
        self.assertEqual((self.recorded(), len(self.lost())), ([], 4))

    def test_failed(self) -> None:
        """What was not made is not looked for."""
        for status in (304, 404, 409, 500):
            self.do("POST", "/containers/create", {}, status=status)
        asked, deciding = self.ask("POST", "/networks/create", {"Name": "n"})
        self.successResultOf(deciding)
        self.recorder.finished(asked, Outcome.REFUSED)  # another interceptor's doing: nothing was sent
        self.assertEqual(self.recorded(), [])
        self.settled()

    def test_lost(self) -> None:
        """An answer that nobody saw leaves the intent to the watcher."""
        for outcome in (Outcome.ENGINE_FAILED, Outcome.CLIENT_GONE):
            self.recorder.finished(self.forward("POST", "/networks/create", {"Name": "n"}), outcome)
        asked = self.forward("POST", "/build?t=x")
        self.answer(asked, outcome=Outcome.CLIENT_GONE)
        self.assertEqual(len(self.lost()), 3)

    def test_nothing_of_an_exchange_that_was_refused_before(self) -> None:
        """An exchange that never came to the recorder leaves nothing."""
        self.recorder.finished(self.exchange("POST", "/containers/create"), Outcome.REFUSED)
        self.settled()


class ContainerTests(RecorderCase):
    def create(self, body: Any, mounts: tuple[str, ...] = (), name: str = "/quiet_cat") -> Exchange:
        self.engine.answers[f"/containers/{ID}/json"] = {
            "Name": name,
            "Mounts": [{"Type": "bind", "Source": "/etc"}, *({"Type": "volume", "Name": mount} for mount in mounts)],
        }
        for mount in mounts:
            self.engine.answers.setdefault(f"/volumes/{mount}", {"Name": mount})
        return self.do("POST", "/containers/create", body, {"Id": ID}, status=201)

    def test_brief(self) -> None:
        """A container that the engine removes at its end is looked at without delay: it may be gone in a moment."""
        mounts = [{"Type": "volume", "Name": "anonymous"}]
        self.engine.answers[f"/containers/{ID}/json"] = {"Id": ID, "Name": "/web", "Mounts": mounts}
        self.engine.answers["/volumes/anonymous"] = {"Name": "anonymous"}
        asked = self.forward("POST", "/containers/create", {"HostConfig": {"AutoRemove": True}})
        self.successResultOf(Deferred.fromCoroutine(self.recorder.response_json(asked, Document.of({"Id": ID}))))
        self.answer(asked, wait=0)
        self.assertIn(("volume", "anonymous", "made"), self.shown())

    def test_one_look(self) -> None:
        """Without named volumes the only call is one inspect, after the answer; it gives the name, too."""
        asked = self.forward("POST", "/containers/create", {"HostConfig": {"Binds": ["/etc:/e", "/anonymous"]}})
        self.assertEqual(self.engine.asked, [])
        self.engine.answers[f"/containers/{ID}/json"] = {"Name": "/quiet_cat", "Mounts": []}
        self.successResultOf(Deferred.fromCoroutine(self.recorder.response_json(asked, Document.of({"Id": ID}))))
        self.assertEqual(self.engine.asked, [])
        self.answer(asked)
        self.assertEqual(self.engine.asked, [f"/containers/{ID}/json"])
        self.assertEqual([row.name for row in self.recorded()], ["quiet_cat"])
        self.settled()

    def test_named_volumes(self) -> None:
        """A named volume that was there is used, one that was not is made; each is asked for once."""
        self.engine.answers["/volumes/old"] = {"Name": "old"}
        for body in (
            {"HostConfig": {"Binds": ["old:/o", "new:/n:ro", "/etc:/e"]}},
            {"HostConfig": {"Mounts": [{"Type": "volume", "Source": name} for name in ("old", "new", "new")]}},
            {"hostconfig": {"binds": ["old:/o"], "mounts": [{"type": "volume", "source": "new"}]}},
            {"Binds": ["old:/o", "new:/n"]},  # as 20.10 reads it
        ):
            self.engine.asked.clear()
            self.create(body)
            self.assertEqual(sorted(self.engine.asked[:2]), ["/volumes/new", "/volumes/old"])
            wanted = [("container", ID, "made"), ("volume", "new", "made"), ("volume", "old", "used")]
            self.assertEqual(self.shown(), wanted, body)
            self.successResultOf(self.ledger.removed("container", [ID]))
            self.successResultOf(self.ledger.removed("volume", ["old", "new"]))
        self.settled()

    def test_odd_bodies(self) -> None:
        """What the engine will refuse does not trouble us."""
        bodies: tuple[Any, ...] = (
            {"HostConfig": {"Binds": 7, "Mounts": {"Type": "volume"}, "VolumesFrom": "x"}},
            {
                "HostConfig": {
                    "Binds": [7, None, ":x"],
                    "Mounts": [7, {"Type": "volume"}, {"Type": "bind", "Source": "s"}],
                }
            },
            {"HostConfig": None},
            [],
        )
        for body in bodies:
            self.do("POST", "/containers/create", body, status=400)
        self.assertEqual(self.engine.asked, [])

    def test_anonymous_volumes(self) -> None:
        """Volumes that nobody named are the job's, found by the look after the answer."""
        self.create({"Volumes": {"/data": {}}}, mounts=(OTHER,))
        self.assertEqual(self.shown(), [("container", ID, "made"), ("volume", OTHER, "made")])
        self.settled()

    def test_volumes_from(self) -> None:
        """Another container's volumes are used, not made."""
        self.engine.answers["/containers/donor/json"] = {"Mounts": [{"Type": "volume", "Name": "d1"}]}
        self.create({"HostConfig": {"VolumesFrom": ["donor:ro"]}}, mounts=("d1", OTHER))
        self.assertEqual(self.shown(), [("container", ID, "made"), ("volume", "d1", "used"), ("volume", OTHER, "made")])

    def test_in_a_pod(self) -> None:
        """Podman's own: volumes of a pod are not those of a container in it; its own are, by name or without one."""
        self.engine.answers["/v4.0.0/libpod/pods/p/json"] = {"InfraContainerID": "infra"}
        self.engine.answers["/containers/infra/json"] = {"Mounts": [{"Type": "volume", "Name": "ofpod"}]}
        mounts = [{"Type": "volume", "Name": name} for name in ("ofpod", "own", OTHER)]
        self.engine.answers[f"/containers/{ID}/json"] = {"Id": ID, "Name": "/c", "Mounts": mounts}
        self.engine.answers[f"/volumes/{OTHER}"] = self.engine.answers["/volumes/ofpod"] = {}
        body = {"name": "c", "pod": "p", "volumes": [{"Name": "own", "Dest": "/o"}]}
        self.do("POST", "/v4.0.0/libpod/containers/create", body, {"Id": ID}, status=201)
        self.clock.advance(0.1)
        made = [("container", ID, "made"), ("volume", OTHER, "made"), ("volume", "ofpod", "used")]
        self.assertEqual(self.shown(), [*made, ("volume", "own", "made")])
        self.settled()

    def test_odd_pods(self) -> None:
        """A pod that nobody has, or could have, has no volumes; in Docker's API the key means nothing."""
        for path, pod in (("/v4.0.0/libpod", "none"), ("/v4.0.0/libpod", ["p"]), ("/v4.0.0/libpod", "../x"), ("", "p")):
            self.engine.asked.clear()
            self.do("POST", f"{path}/containers/create", {"pod": pod}, status=400)
            self.assertEqual(self.engine.asked, ["/v4.0.0/libpod/pods/none/json"] if pod == "none" else [])

    def test_pod(self) -> None:
        """A pod is recorded with the volumes that it brings along, and is gone when it is removed."""
        body = {"name": "p", "volumes": [{"Name": "v", "Dest": "/v"}]}
        self.do("POST", "/v4.0.0/libpod/pods/create", body, {"Id": ID}, status=201)
        self.assertEqual(self.shown(), [("pod", ID, "made"), ("volume", "v", "made")])
        self.do("DELETE", "/v4.0.0/libpod/pods/p?force=true", answer={"Id": ID})
        self.assertEqual(self.shown(), [("volume", "v", "made")])
        self.settled()

    def test_gone_at_once(self) -> None:
        """A container that removed itself before the look is settled; its volumes went with it."""
        self.do("POST", "/containers/create", {}, {"Id": ID}, status=201)
        self.assertEqual(self.shown(), [("container", ID, "made")])
        self.settled()

    def test_volume_gone_before_it_was_recorded(self) -> None:
        """A volume whose removal was seen before it was recorded does not stay in the ledger."""
        self.engine.answers[f"/volumes/{OTHER}"] = None
        self.create({}, mounts=(OTHER,))
        self.assertEqual(self.shown(), [("container", ID, "made")])

    def test_look_fails(self) -> None:
        """If the look fails, the container is recorded, and the rest is left to the watcher."""
        self.engine.answers[f"/containers/{ID}/json"] = UNAVAILABLE
        self.do("POST", "/containers/create", {}, {"Id": ID}, status=201)
        self.assertEqual((self.shown(), len(self.lost())), ([("container", ID, "made")], 1))

    def test_defect_in_the_look(self) -> None:
        """A defect is logged with its traceback, and the intent is left to the watcher."""
        self.engine.answers[f"/containers/{ID}/json"] = ValueError("unexpected")
        self.do("POST", "/containers/create", {}, {"Id": ID}, status=201)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
        self.assertEqual(len(self.lost()), 1)

    def test_start_with_a_body(self) -> None:
        """A start that old engines would take a HostConfig from, volumes included, is refused."""
        asked = self.exchange("POST", "/v1.23/containers/cat/start")
        refused = Deferred.fromCoroutine(self.recorder.request_json(asked, Document.of({"Binds": ["sneaky:/x"]})))
        self.failureResultOf(refused, BadDocumentError)
        self.successResultOf(Deferred.fromCoroutine(self.recorder.request_json(asked, Document.of({}))))

    def test_failed_late(self) -> None:
        """A create that fails after its volumes were made leaves them to the watcher."""
        self.do("POST", "/containers/create", {"HostConfig": {"Binds": ["new:/n"]}}, status=400)
        self.engine.answers["/volumes/old"] = {"Name": "old"}
        self.do("POST", "/containers/create", {"HostConfig": {"Binds": ["old:/o"]}}, status=400)
        self.assertEqual(self.lost(), [1])

    def test_volume_failed_late(self) -> None:
        """An engine that is told to stop makes a volume and then says that it could not: that is the watcher's."""
        self.do("POST", "/volumes/create", {"Name": "new"}, status=500)
        self.engine.answers["/volumes/old"] = {"Name": "old"}
        self.do("POST", "/volumes/create", {"Name": "old"}, status=500)
        self.assertEqual(self.lost(), [1])

    def test_bounded(self) -> None:
        """Looks that pile up are left to the watcher; when the job ends, those that wait are, too."""
        waiting: Deferred[Any] = Deferred()
        self.patch(recorder_module, "_MOST_NEW", 256)
        for number in range(258):
            identifier = f"{number:064}"
            self.engine.answers[f"/containers/{identifier}/json"] = waiting if number == 0 else Deferred()
            self.do("POST", "/containers/create", {}, {"Id": identifier}, status=201)
        self.assertEqual(len(self.lost()), 1)
        self.successResultOf(Deferred.fromCoroutine(self.recorder.stop()))
        self.assertTrue(waiting.called)
        self.assertEqual(len(self.lost()), 258)

    def test_shared_look(self) -> None:
        """Containers that are made while a look is under way share the next one; those that are gone add nothing."""
        waiting: Deferred[Any] = Deferred()
        made = [f"{number:064}" for number in range(70)]
        self.engine.answers[f"/containers/{made[0]}/json"] = waiting
        self.engine.answers["/containers/json"] = [
            {
                "Id": identifier,
                "Names": [f"/other/link{number}", f"/cat{number}"],
                "Mounts": [{"Type": "volume", "Name": f"volume{number}"}, {"Type": "bind", "Name": ""}],
            }
            for number, identifier in enumerate(made[:69])
        ]
        for number in range(70):
            self.engine.answers[f"/volumes/volume{number}"] = {"Name": f"volume{number}"}
            self.do("POST", "/containers/create", {}, {"Id": made[number]}, status=201)
        self.assertEqual(self.engine.asked, [f"/containers/{made[0]}/json"])
        waiting.callback({"Name": "/cat0", "Mounts": []})
        self.clock.advance(0.1)
        lists = [path for path in self.engine.asked if path == "/containers/json"]
        self.assertEqual(len(lists), 2)
        names = {row.identifier: row.name for row in self.recorded(kind="container")}
        self.assertEqual((names[made[0]], names[made[68]], names[made[69]]), ("cat0", "cat68", ""))
        self.assertEqual(len(self.recorded(kind="volume")), 68)
        self.assertEqual(self.lost(), [])

    def listed(self, *identifiers: str) -> None:
        """Let the engine have containers, each with a volume of its own."""
        self.engine.answers["/containers/json"] = [
            {"Id": identifier, "Names": ["/x"], "Mounts": [{"Type": "volume", "Name": identifier[-8:]}]}
            for identifier in identifiers
        ]
        self.engine.answers |= {f"/volumes/{identifier[-8:]}": {} for identifier in identifiers}

    def test_waits_for_others(self) -> None:
        """Containers that are made within a moment share one look; as many as it takes do not wait."""
        made = [f"{number:064}" for number in range(66)]
        self.listed(*made)
        for identifier in made[:2]:
            self.do("POST", "/containers/create", {}, {"Id": identifier}, status=201, wait=0.04)
        self.assertEqual((self.engine.asked, self.recorded(kind="volume")), ([], []))
        self.clock.advance(0.03)
        self.assertEqual(self.engine.asked.count("/containers/json"), 1)
        self.assertEqual(len(self.recorded(kind="volume")), 2)
        for identifier in made[2:]:
            self.do("POST", "/containers/create", {}, {"Id": identifier}, status=201, wait=0)
        self.assertEqual(self.engine.asked.count("/containers/json"), 2)
        self.settled()

    def test_crash_before_the_look(self) -> None:
        """Until the look the intent is open: whoever starts after a crash looks for the volumes."""
        self.do("POST", "/containers/create", {}, {"Id": ID}, status=201, wait=0)
        self.assertEqual(self.shown(), [("container", ID, "made")])
        self.ledger.close()
        self.ledger.open("instance")
        self.assertEqual(self.lost(), [1])

    def removal(self, method: str, target: str) -> Deferred[Any]:
        """Ask for a removal."""
        asked = self.exchange(method, target)
        self.assertTrue(self.recorder.wants(asked.call.operation) & Stage.REQUEST_HEAD)
        return Deferred.fromCoroutine(self.recorder.request_head(asked, asked.received))

    def test_removal_waits_for_the_look(self) -> None:
        """A container's removal is forwarded when its volumes are recorded: nobody could tell of them afterwards."""
        for method, target in (("DELETE", f"/containers/{ID}?force=1"), ("POST", "/containers/prune")):
            first, second, third = (f"{letter * 64}" for letter in "123")
            looking: list[Deferred[Any]] = [Deferred(), Deferred()]
            self.engine.answers |= {
                f"/containers/{first}/json": looking[0],
                f"/containers/{second}/json": looking[1],
                "/volumes/v": {},
            }
            self.assertIsNone(self.successResultOf(self.removal(method, target)))
            self.do("POST", "/containers/create", {}, {"Id": first}, status=201)
            self.do("POST", "/containers/create", {}, {"Id": second}, status=201, wait=0)
            removing, leaving = self.removal(method, target), self.removal(method, target)
            leaving.cancel()
            self.failureResultOf(leaving, CancelledError)
            looking[0].callback({"Name": "/x", "Mounts": []})
            self.assertNoResult(removing)
            self.do("POST", "/containers/create", {}, {"Id": third}, status=201, wait=0)  # not waited for
            looking[1].callback({"Name": "/y", "Mounts": [{"Type": "volume", "Name": "v"}]})
            self.assertIsNone(self.successResultOf(removing))
            self.assertIn(("volume", "v", "made"), self.shown())
            self.clock.advance(0.1)
            self.settled()

    def test_removal_if_the_look_fails(self) -> None:
        """What cannot be looked at is the watcher's, and keeps nobody from removing it."""
        self.engine.answers[f"/containers/{ID}/json"] = UNAVAILABLE
        self.do("POST", "/containers/create", {}, {"Id": ID}, status=201, wait=0)
        self.assertIsNone(self.successResultOf(self.removal("DELETE", f"/containers/{ID}")))
        self.assertEqual(self.lost(), [1])

    def test_no_list(self) -> None:
        """If the engine does not list its containers, nothing is concluded: the watcher looks for their volumes."""
        self.engine.answers["/containers/json"] = None
        for identifier in (ID, OTHER):
            self.do("POST", "/containers/create", {}, {"Id": identifier}, status=201, wait=0)
        self.clock.advance(0.1)
        self.assertEqual(self.lost(), [1, 2])

    def test_known_name(self) -> None:
        """A container of which the look tells nothing new is settled as it is."""
        self.engine.answers[f"/containers/{ID}/json"] = {"Name": "/web", "Mounts": []}
        self.do("POST", "/containers/create?name=web", {}, {"Id": ID}, status=201)
        self.assertEqual([row.name for row in self.recorded()], ["web"])
        self.settled()

    def test_stopped_before_the_look(self) -> None:
        """A job that ends does not wait for the look: the watcher has it."""
        self.do("POST", "/containers/create", {}, {"Id": ID}, status=201, wait=0)
        self.successResultOf(Deferred.fromCoroutine(self.recorder.stop()))
        self.assertEqual((self.clock.getDelayedCalls(), self.engine.asked), ([], []))
        self.assertEqual(self.lost(), [1])


STEP = "sha256:" + "e" * 64
RUNNING = {"stream": f" ---> Running in {ID[:12]}\n"}


def told(image: str) -> dict[str, str]:
    """Give the line by which a build tells of an image."""
    return {"stream": f" ---> {image[7:19]}\n"}


class StepTests(RecorderCase):
    """What a classic build goes through, while it does and at its end."""

    def setUp(self) -> None:
        super().setUp()
        self.engine.answers["/images/json"] = [{"Id": BASE, "RepoTags": ["busybox:latest"]}]
        self.asked = self.forward("POST", "/build?t=mine:1")
        self.container: dict[str, Any] = {
            "Id": ID,
            "Name": "/its_name",
            "Created": self.later(1),
            "Image": BASE,
            "Mounts": [{"Type": "volume", "Name": "anonymous"}],
            "Config": {"Labels": {}},
        }
        self.engine.answers[f"/containers/{ID}/json"] = self.container
        self.engine.answers[f"/containers/{ID[:12]}/json"] = self.container
        self.engine.answers["/volumes/anonymous"] = {"Name": "anonymous"}
        self.step: dict[str, Any] = {"Id": STEP, "RepoTags": []}
        self.engine.answers[f"/images/{STEP}/json"] = self.step
        self.engine.answers[f"/images/{STEP[7:19]}/json"] = self.step

    def later(self, seconds: float) -> str:
        """Give a time so much after the build began, as the engine does."""
        return datetime.fromtimestamp(self.clock.seconds() + seconds, UTC).isoformat()

    def tell(self, *lines: Any) -> None:
        for line in lines:
            self.recorder.response_line(self.asked, Document.of(line))

    def test_container(self) -> None:
        """A step's container is recorded at once, with its volume and who asked."""
        self.tell(told(BASE), RUNNING)
        self.assertEqual(self.shown(), [("container", ID, "made"), ("volume", "anonymous", "made")])
        (row,) = [row for row in self.recorded() if row.kind == "container"]
        self.assertEqual((row.name, row.attributes["request"]), ("its_name", "POST /build"))

    def test_eleven_digits(self) -> None:
        """Podman 4 tells eleven digits of an image's ID: enough to look at it, or to know that it was there."""
        self.engine.answers[f"/images/{STEP[7:18]}/json"] = self.step
        before = len(self.engine.asked)
        self.tell({"stream": f"--> {BASE[7:18]}\n"}, {"stream": f"--> {STEP[7:18]}\n"}, RUNNING)
        self.assertEqual(self.shown()[1], ("image", STEP, "made"))
        self.assertEqual([kind for kind, *_ in self.shown()], ["container", "image", "volume"])
        self.assertNotIn(BASE[7:18], str(self.engine.asked[before:]))

    def test_from_nothing(self) -> None:
        """So is that of a step without an image."""
        self.container["Image"] = ""
        self.tell(RUNNING)
        self.assertEqual(self.shown()[0], ("container", ID, "made"))

    def test_another_hosts_clock(self) -> None:
        """That of an engine elsewhere may be some seconds behind ours."""
        self.container["Created"] = self.later(-20)
        self.patch(type(self.engine), "address", "tcp://builder:2375")
        self.tell(told(BASE), RUNNING)
        self.assertEqual(self.shown()[0], ("container", ID, "made"))

    def test_image(self) -> None:
        """So is a step's image, but none that was there, has a name, or comes of the cache."""
        self.tell(told(BASE), told(STEP))
        self.assertEqual(self.shown(), [("image", STEP, "made")])
        self.successResultOf(self.ledger.removed("image", [STEP]))
        self.assertNotIn(f"/images/{BASE[7:19]}/json", self.engine.asked)

    def test_other_images(self) -> None:
        """None that has a name, or comes of the cache, is the job's."""
        self.tell({"stream": " ---> Using cache\n"}, told(STEP))
        self.assertEqual(self.shown(), [])
        self.step["RepoTags"] = ["other:1"]
        self.tell(told(STEP))
        self.assertEqual(self.shown(), [])

    def test_not_believed(self) -> None:
        """What a step wrote may name any container: not one that was there, has another image, or is somebody's."""
        for change in (
            {"Created": self.later(-1)},
            {"Image": STEP},
            {"Config": {"Labels": {"docker-tracker.job-id": "other"}}},
        ):
            self.engine.answers[f"/containers/{ID[:12]}/json"] = {**self.container, **change}
            self.tell(told(BASE), RUNNING)
            self.assertEqual(self.shown(), [], change)
        self.engine.answers[f"/containers/{ID[:12]}/json"] = None
        self.tell(RUNNING)
        self.assertEqual(self.shown(), [])

    def test_removed_meanwhile(self) -> None:
        """One that the engine removed while it was looked at is not there."""
        del self.engine.answers[f"/containers/{ID}/json"]
        del self.engine.answers["/volumes/anonymous"]
        self.tell(told(BASE), RUNNING)
        self.assertEqual(self.shown(), [])

    def test_failed(self) -> None:
        """The end of a build that failed settles it."""
        self.tell(told(BASE), RUNNING)
        self.answer(self.asked, lines=({"error": "non-zero code"},))
        self.assertEqual(self.shown()[0], ("container", ID, "made"))
        self.settled()

    def test_look_fails(self) -> None:
        """A look that failed is made once more at the end; if that fails, too, the rest is the watcher's."""
        path = f"/containers/{ID[:12]}/json"
        for fails in (False, True):
            self.engine.answers[path] = UNAVAILABLE
            self.tell(told(BASE), RUNNING)
            self.assertEqual(self.shown(), [])
            self.assertEqual(len(self.flushLoggedErrors()), 0)
            if not fails:
                self.engine.answers[path] = self.container
            self.answer(self.asked)
            self.assertEqual(bool(self.shown()), not fails)
            self.assertEqual(len(self.lost()), int(fails))
            self.successResultOf(self.ledger.removed("container", [ID]))
            self.successResultOf(self.ledger.removed("volume", ["anonymous"]))
            self.asked = self.forward("POST", "/build?t=mine:1")

    def test_one_look_fails(self) -> None:
        """One of which the engine cannot say anything keeps no other from being recorded."""
        self.engine.answers[f"/images/{STEP[7:19]}/json"] = EngineAnswerError("the engine answered 500", 502, 500)
        self.tell(told(BASE), told(STEP), RUNNING)
        self.assertEqual(self.shown(), [("container", ID, "made"), ("volume", "anonymous", "made")])
        self.engine.answers[f"/images/{STEP[7:19]}/json"] = self.step
        self.answer(self.asked)
        self.assertIn(("image", STEP, "made"), self.shown())
        self.settled()

    def test_stop_after_a_failure(self) -> None:
        """The end of the job waits for what is looked at once more, too."""
        path = f"/containers/{ID[:12]}/json"
        self.engine.answers[path] = UNAVAILABLE
        self.tell(told(BASE), RUNNING)
        answer: Deferred[Any] = Deferred()
        self.engine.answers[path] = answer
        self.answer(self.asked, outcome=Outcome.CLIENT_GONE)
        stopped = Deferred.fromCoroutine(self.recorder.stop())
        self.assertNoResult(stopped)
        answer.callback(self.container)
        self.successResultOf(stopped)
        self.assertEqual(self.shown()[0], ("container", ID, "made"))
        self.assertEqual(len(self.lost()), 1)

    def test_broken_off(self) -> None:
        """What only we know of a build that was given up is recorded before the watcher gets it."""
        path = f"/containers/{ID[:12]}/json"
        self.engine.answers[path] = UNAVAILABLE
        self.tell(told(BASE), RUNNING)
        self.engine.answers[path] = self.container
        self.answer(self.asked, outcome=Outcome.CLIENT_GONE)
        self.assertEqual(self.shown()[0], ("container", ID, "made"))
        self.assertEqual(len(self.lost()), 1)

    def test_stop(self) -> None:
        """The end of the job waits for a look, but not for long."""
        for answers in (True, False):
            answer: Deferred[Any] = Deferred()
            self.engine.answers[f"/containers/{ID[:12]}/json"] = answer
            self.tell(told(BASE), RUNNING)
            stopped = Deferred.fromCoroutine(self.recorder.stop())
            self.assertNoResult(stopped)
            if answers:
                answer.callback(self.container)
            else:
                self.clock.advance(2)
            self.successResultOf(stopped)
            self.assertEqual(bool(self.shown()), answers)
            self.successResultOf(self.ledger.removed("container", [ID]))
            self.successResultOf(self.ledger.removed("volume", ["anonymous"]))
            self.asked = self.forward("POST", "/build?t=mine:1")

    def test_many(self) -> None:
        """A step that writes without end has no endless number of things looked at."""
        self.patch(recorder_module, "_MOST_STEPS", 3)
        self.engine.answers[f"/containers/{ID[:12]}/json"] = Deferred()
        self.tell(told(BASE), *[RUNNING] * 10)
        self.assertEqual(len(self.asked.notes["recorder"].steps), 3)


class PodmanBuildTests(RecorderCase):
    """Podman's containers for the steps of a build are on no list."""

    def sent(self, target: str) -> str:
        asked, deciding = self.ask("POST", target)
        head = self.successResultOf(deciding)
        return asked.received.target if head is None else str(head.target)

    def test_removed(self) -> None:
        """It is told to remove them also when the build fails, whatever the client says."""
        self.engine.name = "podman 5.4.2 host"
        for target, wanted in (
            ("/build", "/build?forcerm=1"),
            ("/build?t=a&forcerm=0&rm=1", "/build?t=a&forcerm=1&rm=1"),
            ("/v5.0.0/libpod/build?t=a", "/v5.0.0/libpod/build?t=a&forcerm=1"),
            ("/images/load", "/images/load"),
        ):
            self.assertEqual(self.sent(target), wanted)

    def test_docker(self) -> None:
        """Docker's are left to be looked at."""
        self.assertEqual(self.sent("/build?t=a"), "/build?t=a")


class ImageTests(RecorderCase):
    def listed(self, *images: tuple[str, list[str]]) -> list[Any]:
        return [{"Id": identifier, "RepoTags": tags or None} for identifier, tags in images]

    def lines(self, target: str, *lines: Any, before: Any = (), after: Any = (), **more: Any) -> Exchange:
        self.engine.answers["/images/json"] = self.listed(*before)
        asked = self.forward("POST", target)
        self.engine.answers["/images/json"] = self.listed(*after)
        for identifier, tags in after:
            for name in (identifier, *tags):
                self.engine.answers[f"/images/{name}/json"] = {"Id": identifier}
        return self.answer(asked, lines=lines, **more)

    def test_build(self) -> None:
        """The image and its tags are the job's; base images are not."""
        base = (BASE, ["busybox:latest"])
        asked = self.lines(
            "/build?t=mine:1&t=docker.io/library/mine",
            {"stream": "Step 1/1"},
            {"aux": {"ID": IMAGE}},
            {"stream": f"Successfully built {IMAGE[7:19]}\n"},
            before=[base],
            after=[base, (IMAGE, ["mine:1", "mine:latest"])],
        )
        self.assertEqual(
            self.shown(),
            [("image", "mine:1", "made"), ("image", "mine:latest", "made"), ("image", IMAGE, "made")],
        )
        self.assertEqual([row.parent for row in self.recorded()], ["", IMAGE, IMAGE])
        self.assertEqual(asked.notes["resource"], IMAGE)
        self.settled()

    def test_steps_of_a_build(self) -> None:
        """The nameless images that a build went through are the job's, but for those that were there before."""
        steps = [f"sha256:{number}" * 8 for number in range(3)]
        self.engine.answers["/images/json"] = [{"Id": steps[0]}]
        asked = self.forward("POST", "/build?t=mine:1")
        parents = zip([IMAGE, steps[2], steps[1], steps[0]], [steps[2], steps[1], steps[0], ""], strict=True)
        images = [{"Id": identifier, "ParentId": parent} for identifier, parent in parents]
        images[0]["RepoTags"] = ["mine:1"]  # type: ignore[assignment]
        self.engine.answers["/images/json"] = images
        for image in images:
            self.engine.answers[f"/images/{image['Id']}/json"] = image
        self.engine.answers["/images/mine:1/json"] = images[0]
        self.answer(asked, lines=({"aux": {"ID": IMAGE}},))
        made = [("image", "mine:1", "made"), *(("image", identifier, "made") for identifier in (IMAGE, *steps[1:]))]
        self.assertEqual(self.shown(), sorted(made))
        self.settled()

    def test_recorded_at_once(self) -> None:
        """What a line tells of is recorded when the line goes by."""
        asked = self.forward("POST", "/build")
        self.recorder.response_line(asked, Document.of({"aux": {"ID": IMAGE}}))
        self.assertEqual(self.shown(), [("image", IMAGE, "made")])

    def test_quiet_build(self) -> None:
        """By an old API a quiet build tells its ID as output; a step of another one that prints one is not believed."""
        line = {"stream": f"{IMAGE}\n"}
        after: list[tuple[str, list[str]]] = [(IMAGE, [])]
        self.lines("/build", line, before=after, after=after)
        self.assertEqual(self.shown(), [])
        self.lines("/v1.24/build?q=1", line, after=after)
        self.assertEqual(self.shown(), [("image", IMAGE, "made")])

    def test_failed(self) -> None:
        """What failed uses nothing of the names that it asked for; those of an image that it told of count."""
        error = {"errorDetail": {"message": "no"}, "error": "no"}
        old = (BASE, ["old:1"])
        self.lines("/build?t=old:1", {"stream": "Step 1/2"}, error, before=[old], after=[old])
        self.lines("/images/load", error, before=[old], after=[old])
        self.assertEqual(self.shown(), [])
        lines = [{"aux": {"ID": IMAGE}}, error]
        self.lines("/build?t=new:1&t=old:1", *lines, before=[old], after=[old, (IMAGE, ["new:1"])])
        self.assertEqual(self.shown(), [("image", "new:1", "made"), ("image", IMAGE, "made")])
        self.settled()

    def test_there_before(self) -> None:
        """An image or tag that was there before is used, whatever the answer says."""
        before = [(IMAGE, ["old:1"])]
        after = [(IMAGE, ["old:1", "new:1"])]
        for target, lines, wanted in (
            ("/build?t=old:1&t=new:1", [{"aux": {"ID": IMAGE}}], {"old:1": "used", "new:1": "made", IMAGE: "used"}),
            ("/images/load", [{"stream": "Loaded image: old:1\n"}], {"old:1": "used", IMAGE: "used"}),
            ("/images/load", [{"stream": f"Loaded image ID: {IMAGE}\n"}], {IMAGE: "used"}),
            ("/images/create?fromImage=old&tag=1", [{"status": "Status: Image is up to date for old:1"}],
             {"old:1": "used", IMAGE: "used"}),
            ("/images/create?fromSrc=-&repo=new&tag=1", [{"status": IMAGE}], {"new:1": "made", IMAGE: "used"}),
        ):  # fmt: skip
            self.lines(target, *lines, before=before, after=after)
            self.assertEqual({name: relation for _, name, relation in self.shown()}, wanted, target)
            self.successResultOf(self.ledger.removed("image", [*wanted]))
        self.settled()

    def test_new(self) -> None:
        """A new image is the job's, unless it was pulled: then it is only used."""
        after = [(IMAGE, ["new:1"]), (BASE, ["other:1"])]
        pulled = "Status: Downloaded newer image for new:1"
        for target, lines, wanted, relation in (
            ("/images/load", [{"stream": "Loaded image: new:1\n"}], ["new:1", IMAGE], "made"),
            ("/images/create?fromImage=docker.io/library/new:1", [{"status": pulled}], ["new:1", IMAGE], "used"),
            ("/images/create?fromImage=new&tag=1", [{"status": "Pulling"}], ["new:1", IMAGE], "used"),
            ("/images/create?fromSrc=-", [{"status": IMAGE}], [IMAGE], "made"),
        ):
            self.lines(target, *lines, before=after[1:], after=after)
            self.assertEqual(self.shown(), [("image", name, relation) for name in wanted], target)
            self.successResultOf(self.ledger.removed("image", wanted))
        self.settled()

    def test_owns_pulled(self) -> None:
        """If jobs own what they pull, it is theirs unless it was there before."""
        self.recorder = self.make(self.job_id, "default", owns_pulled=True)
        for target in ("/images/create?fromImage=new&tag=1", "/libpod/images/pull?reference=new:1"):
            for before, relation in (([], "made"), ([(IMAGE, ["new:1"])], "used")):
                self.lines(target, {"id": IMAGE}, before=before, after=[(IMAGE, ["new:1"])])
                self.assertEqual({each for *_, each in self.shown()}, {relation}, target)
                self.successResultOf(self.ledger.removed("image", ["new:1", IMAGE]))

    def test_nothing_came(self) -> None:
        """A pull or build that failed in its lines leaves nothing."""
        self.lines("/images/create?fromImage=x&tag=1", {"errorDetail": {"message": "no"}, "error": "no"})
        self.assertEqual(self.shown(), [])
        self.settled()

    def test_bounded(self) -> None:
        """Looks for images that pile up are left to the watcher, too."""
        asked = [self.forward("POST", "/build") for _ in range(257)]
        self.engine.answers["/images/json"] = Deferred()
        for one in asked:
            self.answer(one)
        self.assertEqual(len(self.lost()), 1)
        self.successResultOf(Deferred.fromCoroutine(self.recorder.stop()))

    def test_removed_meanwhile(self) -> None:
        """A tag that is gone when it was just recorded does not stay in the ledger."""
        self.engine.answers["/images/json"] = []
        asked = self.forward("POST", "/build?t=mine:1")
        self.engine.answers["/images/json"] = self.listed((IMAGE, ["mine:1"]))
        self.engine.answers[f"/images/{IMAGE}/json"] = {"Id": IMAGE}
        self.answer(asked)
        self.assertEqual(self.shown(), [("image", IMAGE, "made")])

    def test_many_lines(self) -> None:
        """An answer can't fill the memory with what it tells of."""
        asked = self.forward("POST", "/images/load")
        for number in range(1005):
            self.recorder.response_line(asked, Document.of({"stream": f"Loaded image: i:{number}\n"}))
        self.assertEqual(len(self.recorded()), 1000)

    def before_of(self, target: str, images: list[Any]) -> tuple[Any, ...]:
        """Give what the ledger has as there before."""
        self.engine.answers["/images/json"] = images
        self.recorder.finished(self.forward("POST", target), Outcome.ENGINE_FAILED)
        intent: Intent = self.successResultOf(self.ledger.lost())[-1][0]
        return tuple(sorted(intent.before))

    def test_before(self) -> None:
        """The intent says which images were there, however many they are."""
        few = self.before_of("/build?t=a", [{"Id": IMAGE, "RepoTags": ["a:latest", "<none>:<none>"]}])
        self.assertEqual(few, (ALL_IMAGES, ("image", "a:latest"), ("image", IMAGE)))
        many = self.before_of("/build?t=a", self.listed(*((f"sha256:{n}", [f"i{n}"]) for n in range(10_000))))
        self.assertEqual(len(many), 20_001)
        commit = self.before_of("/commit?container=c", [{"Id": IMAGE, "RepoTags": None}])
        self.assertEqual(commit, (ALL_IMAGES, ("image", IMAGE)))

    def test_age(self) -> None:
        """What was listed before decides which of many images are the job's; when they were created tells nothing."""
        many = [(f"sha256:{n:064}", [f"i{n}:1"]) for n in range(5000)]
        now = int(self.clock.seconds())
        mine, aux = (IMAGE, ["mine:1"]), [{"aux": {"ID": IMAGE}}]
        for before, target, lines, tag, wanted in (
            (many, "/build?t=mine:1", aux, "mine:1", ["made", "made"]),
            ([*many, (IMAGE, [])], "/build?t=mine:1", aux, "mine:1", ["made", "used"]),  # from the cache
            ([*many, mine], "/build?t=mine:1", aux, "mine:1", ["used", "used"]),
            (many, "/build?t=i5:1", aux, "i5:1", ["used", "made"]),
            (many, "/images/load", [{"stream": "Loaded image: i6:1\n"}], "i6:1", ["used", "made"]),
            (many, "/images/create?fromSrc=-&repo=new&tag=1", [], "new:1", ["made", "made"]),
            (many, "/images/create?fromImage=new&tag=1", [], "new:1", ["used", "used"]),
        ):
            for created in (now - 1, now + 1):
                self.engine.answers["/images/json"] = self.listed(*before)
                asked = self.forward("POST", target)
                self.engine.answers["/images/json"] = [{"Id": IMAGE, "RepoTags": [tag], "Created": created}]
                for name in (IMAGE, tag):
                    self.engine.answers[f"/images/{name}/json"] = {"Id": IMAGE}
                self.answer(asked, lines=tuple(lines))
                found = {row.identifier: row.relation.value for row in self.recorded()}
                self.assertEqual(found, dict(zip((tag, IMAGE), wanted, strict=True)), (target, created))
                self.successResultOf(self.ledger.removed("image", [*found]))


class WorkTests(RecorderCase):
    """Builds and loads, as those are told of them that remove images."""

    BUILD = "/build?t=mine:1"

    def under_way(self) -> list[ImageWork]:
        return self.works.beside("")

    def test_begin(self) -> None:
        """Classic builds and loads are known before they are forwarded; BuildKit's builds and all else are not."""
        self.patch(self.ledger, "intend", lambda *_: Deferred())
        for target, is_work in (
            ("/build", True),
            ("/v1.41/build?t=a&version=1", True),
            ("/v5.0.0/libpod/build?t=a", True),
            ("/images/load", True),
            ("/v5.0.0/libpod/images/load", True),
            ("/build?version=2", False),
            ("/images/create?fromImage=a", False),
            ("/images/create?fromSrc=-", False),
            ("/images/a/tag?repo=b", False),
            ("/commit?container=a", False),
        ):
            _, deciding = self.ask("POST", target)
            self.assertNoResult(deciding)
            works = [(work.job_id, work.job) for work in self.under_way()]
            self.assertEqual(works, [(self.job_id, "default")] * is_work, target)
            for work in self.under_way():
                self.works.end(work)

    def test_end(self) -> None:
        """They are over when what they led to is recorded."""
        for target, line in ((self.BUILD, {}), ("/images/load", {"stream": "Loaded image: mine:1\n"})):
            asked = self.forward("POST", target)
            looking: Deferred[Any] = Deferred()
            self.engine.answers["/images/json"] = looking
            self.engine.answers["/images/mine:1/json"] = self.engine.answers[f"/images/{IMAGE}/json"] = {"Id": IMAGE}
            self.answer(asked, lines=(line,))
            self.assertEqual(len(self.under_way()), 1, target)
            looking.callback([{"Id": IMAGE, "RepoTags": ["mine:1"]}])
            self.assertEqual(self.under_way(), [])
            self.assertIn(("image", IMAGE, "made"), self.shown())
            self.successResultOf(self.ledger.removed("image", ["mine:1", IMAGE]))
            self.engine.answers["/images/json"] = []
        self.assertEqual(self.works.ended, 2)

    def test_broken_off(self) -> None:
        """So they are after whatever else ends them, and if what they led to cannot be looked up."""
        for outcome in Outcome:
            self.answer(self.forward("POST", self.BUILD), outcome=outcome)
            self.assertEqual(self.under_way(), [], outcome)
        self.answer(self.forward("POST", self.BUILD), status=500)
        self.assertEqual(self.under_way(), [])
        asked, deciding = self.ask("POST", self.BUILD)
        self.successResultOf(deciding)
        self.recorder.finished(asked, Outcome.REFUSED)  # by the next interceptor
        self.assertEqual(self.under_way(), [])
        asked = self.forward("POST", self.BUILD)
        self.engine.answers["/images/json"] = UNAVAILABLE
        self.answer(asked)
        self.assertEqual(self.under_way(), [])

    def test_refused(self) -> None:
        """So are those that are refused, as they cannot be recorded, or whose query cannot be read."""
        self.engine.name = EngineError("the engine is away")
        for target in (self.BUILD, "/build?t=%zz"):
            asked, deciding = self.ask("POST", target)
            self.failureResultOf(deciding, RefusedError, BadTargetError)
            self.recorder.finished(asked, Outcome.REFUSED)
            self.assertEqual(self.under_way(), [])

    def test_client_leaves(self) -> None:
        """So is one whose client leaves while it waits; one that was broken off is over when its steps are recorded."""
        with self.works.removal():
            asked, deciding = self.ask("POST", self.BUILD)
            self.assertEqual(len(self.under_way()), 1)
            deciding.cancel()
            self.failureResultOf(deciding, CancelledError)
            self.recorder.finished(asked, Outcome.CLIENT_GONE)
            self.assertEqual(self.under_way(), [])
        asked = self.forward("POST", self.BUILD)
        looking: Deferred[Any] = Deferred()
        self.engine.answers[f"/containers/{ID[:12]}/json"] = looking
        self.answer(asked, lines=(RUNNING,), outcome=Outcome.CLIENT_GONE)
        self.assertEqual(len(self.under_way()), 1)
        looking.callback(None)
        self.assertEqual(self.under_way(), [])

    def test_stop(self) -> None:
        """So are those whose images are looked at when the job ends."""
        asked = self.forward("POST", self.BUILD)
        self.engine.answers["/images/json"] = Deferred()
        self.answer(asked)
        self.assertEqual(len(self.under_way()), 1)
        self.successResultOf(Deferred.fromCoroutine(self.recorder.stop()))
        self.assertEqual(self.under_way(), [])

    def test_waits(self) -> None:
        """They wait for images that are being removed, but not for long, and look only then what is there."""
        for ends in (True, False):
            with self.works.removal():
                self.engine.asked.clear()
                _, deciding = self.ask("POST", self.BUILD)
                self.clock.advance(1.5)
                self.assertNoResult(deciding)
                self.assertEqual(self.engine.asked, [])
                if not ends:
                    self.clock.advance(0.5)
                    self.successResultOf(deciding)
            if ends:
                self.successResultOf(deciding)
            self.assertEqual(self.engine.asked, ["/images/json"])


class PluginTests(RecorderCase):
    def test_pull(self) -> None:
        """A plugin is recorded by its name if it is there after the pull; as used if it was before."""
        for target, there, wanted in (
            ("/plugins/pull?remote=vieux/sshfs&name=ssh", False, [("plugin", "ssh:latest", "made")]),
            ("/plugins/pull?remote=ssh", True, [("plugin", "ssh:latest", "used")]),
        ):
            self.engine.answers["/plugins/ssh:latest/json"] = {} if there else None
            asked = self.forward("POST", target, [])
            self.engine.answers["/plugins/ssh:latest/json"] = {"Id": "p"}
            self.answer(asked)
            self.assertEqual(self.shown(), wanted)
            self.successResultOf(self.ledger.removed("plugin", ["ssh:latest"]))
        self.do("POST", "/plugins/pull?remote=absent", [])
        self.do("POST", "/plugins/pull", [])
        self.assertEqual(self.shown(), [])
        self.settled()

    def test_create_and_remove(self) -> None:
        """One that was made of a tar, and removed."""
        self.do("POST", "/plugins/create?name=mine", status=204)
        self.assertEqual(self.shown(), [("plugin", "mine:latest", "made")])
        self.answer(self.exchange("DELETE", "/plugins/mine"))
        self.assertEqual(self.shown(), [])


class RefusalTests(RecorderCase):
    def refusal(self, method: str, target: str, body: Any = None) -> RefusedError:
        _, deciding = self.ask(method, target, body)
        error: RefusedError = self.failureResultOf(deciding, RefusedError).value
        return error

    def test_odd_names(self) -> None:
        """A name that the engine will refuse is its to refuse: it is not asked for, or its answer does not matter."""
        for path in ("/images/UPPER:latest/json", "/plugins/bad:latest/json"):
            self.engine.answers[path] = EngineAnswerError("the engine answered 500", 502, 500)
        self.engine.answers["/volumes/bad"] = EngineAnswerError("the engine answered 400", 502, 400)
        self.engine.answers["/containers/moved/json"] = EngineAnswerError("the engine answered 301", 502, 301)
        self.engine.answers["/containers/donor/json"] = {"Mounts": [{"Type": "volume", "Name": "d"}]}
        names = ("../x", "a/../b", "a//b", ".", "", "a\nb", "/", "moved", "/donor")
        odd = {"HostConfig": {"VolumesFrom": [*names], "Binds": ["a/../b:/x", "bad:/y"]}}
        for target, body, asked in (
            ("/images/x/tag?repo=UPPER", None, ["/images/UPPER:latest/json"]),
            ("/images/x/tag?repo=a/../b", None, []),
            ("/plugins/create?name=a/../b", None, []),
            ("/plugins/pull?remote=bad", [], ["/plugins/bad:latest/json"]),
            ("/plugins/pull?remote=a%0Ab", [], []),
            ("/containers/create", odd, ["/volumes/bad", "/containers/moved/json", "/containers/donor/json"]),
        ):
            self.engine.asked.clear()
            self.forward("POST", target, body)
            self.assertEqual(self.engine.asked, asked, target)
        self.do("POST", "/plugins/pull?remote=a/../b", [])  # nor afterwards
        self.do("POST", "/volumes/create", {"Name": "v"}, {"Name": "v"})
        self.assertNotIn("/plugins/a/../b:latest/json", self.engine.asked)

    def test_may_be_there(self) -> None:
        """What the engine won't tell of is not claimed, if the create is done all the same."""
        self.engine.answers["/volumes/odd"] = EngineAnswerError("the engine answered 400", 502, 400)
        self.do("POST", "/containers/create", {"HostConfig": {"Binds": ["odd:/x"]}}, {"Id": ID})
        self.assertEqual(self.shown(), [("container", ID, "made"), ("volume", "odd", "used")])

    def test_stopping_engine(self) -> None:
        """If the engine can't say what it has, nothing is made: a new volume would be taken for an old one."""
        self.engine.answers["/volumes/v"] = EngineAnswerError("get v: database not open", 502, 500)
        for target, body in (
            ("/volumes/create", {"Name": "v"}),
            ("/containers/create", {"HostConfig": {"Binds": ["v:/x"]}}),
        ):
            self.assertEqual(str(self.refusal("POST", target, body)), "nothing was made: get v: database not open")

    def test_donor_fails(self) -> None:
        """If a donor's volumes can't be known, nothing is made: they would be taken for the new container's."""
        self.engine.answers["/containers/donor/json"] = EngineAnswerError("the engine answered 500", 502, 500)
        error = self.refusal("POST", "/containers/create", {"HostConfig": {"VolumesFrom": ["donor"]}})
        self.assertEqual(str(error), "nothing was made: the engine answered 500")

    def test_ledger_fails(self) -> None:
        """What can't be written down is not made; the client is told."""
        self.patch(self.ledger, "intend", lambda *_: fail(LedgerError("/l", "database or disk is full")))
        for target in ("/containers/create", "/build"):
            error = self.refusal("POST", target)
            self.assertEqual(error.status, 503)
            self.assertEqual(
                str(error), "nothing was made, as it could not be recorded: the ledger /l: database or disk is full"
            )

    def test_other_engine(self) -> None:
        """Nothing is made on an engine that is not the ledger's."""
        self.successResultOf(self.ledger.check_engine("ANOTHER"))
        self.assertIn("belongs to the engine ANOTHER", str(self.refusal("POST", "/networks/create")))

    def test_engine_absent(self) -> None:
        """An engine that does not answer is named, with its status."""
        for place in ("name", "images"):
            if place == "name":
                self.engine.name = UNAVAILABLE
            else:
                self.engine.name = "ENGINE"
                self.engine.answers["/images/json"] = EngineError("the engine at unix:///engine is slow", 504)
            error = self.refusal("POST", "/build")
            self.assertEqual(error.status, 503 if place == "name" else 504)
            self.assertRegex(str(error), "nothing was made: the engine at unix:///engine")

    def test_bad_query(self) -> None:
        """A query that the engine would not read is refused as such."""
        _, deciding = self.ask("POST", "/build?t=%zz")
        self.failureResultOf(deciding, BadTargetError)

    def test_client_leaves_while_writing(self) -> None:
        """An intent that is written only after its client left is settled as failed."""
        writing: Deferred[int] = Deferred()
        intend = self.ledger.intend
        self.patch(self.ledger, "intend", lambda *_: writing)
        _, deciding = self.ask("POST", "/networks/create", {"Name": "n"})
        deciding.cancel()
        self.failureResultOf(deciding)
        number = self.successResultOf(intend(Intent(job_id=self.job_id, operation="o", kind="network"), "ENGINE"))
        writing.callback(number)
        self.settled()

    def test_client_leaves_and_writing_fails(self) -> None:
        """A write that fails after its client left is nobody's trouble."""
        writing: Deferred[int] = Deferred()
        self.patch(self.ledger, "intend", lambda *_: writing)
        _, deciding = self.ask("POST", "/networks/create", {"Name": "n"})
        deciding.cancel()
        self.failureResultOf(deciding)
        writing.errback(LedgerError("/l", "full"))

    def test_id_cannot_be_written(self) -> None:
        """An ID that can't be recorded is not released; the intent stays for the watcher."""
        asked = self.forward("POST", "/networks/create", {"Name": "n"})
        self.patch(self.ledger, "record", lambda *_: fail(LedgerError("/l", "full")))
        writing = Deferred.fromCoroutine(self.recorder.response_json(asked, Document.of({"Id": ID})))
        self.failureResultOf(writing, LedgerError)
        asked.answer = Answer.error(500, "x")
        self.answer(asked)
        self.assertEqual(len(self.lost()), 1)


class RemovalTests(RecorderCase):
    def setUp(self) -> None:
        super().setUp()
        number = self.successResultOf(
            self.ledger.intend(Intent(job_id=self.job_id, operation="x", kind="container"), "ENGINE")
        )
        things = [
            ("container", ID, "web"),
            ("network", "e" * 64, "net"),
            ("volume", "vol", "vol"),
            ("volume", "volume-1234567890", "volume-1234567890"),
            ("service", "serviceid0123456789", "svc"),
            ("secret", "secretid00123456789", "sec"),
            ("config", "configid00123456789", "cfg"),
            ("plugin", "plug:latest", "plug:latest"),
            ("image", IMAGE, ""),
            ("image", "mine:1", "mine:1"),
        ]
        made = [Resource(kind=kind, identifier=identifier, name=name) for kind, identifier, name in things]
        self.successResultOf(self.ledger.record(number, made))
        self.everything = set(self.shown())

    def gone(self) -> set[str]:
        """Give what is gone since the last call, and bring it back."""
        gone = {identifier for _, identifier, _ in self.everything - set(self.shown())}
        self.ledger.close()
        self.setUp()
        return gone

    def test_requests(self) -> None:
        """A removal that passes by is written down before the client sees the answer, by whatever name it was asked."""
        for target, status, wanted in (
            (f"/containers/{ID}?force=1", 204, {ID}),
            ("/containers/web", 204, {ID}),
            (f"/v1.41/containers/{ID[:12]}?v=1", 204, {ID}),
            ("/containers/web", 409, set()),
            ("/containers/other", 204, set()),
            ("/networks/net", 204, {"e" * 64}),
            ("/volumes/vol", 204, {"vol"}),
            ("/volumes/volume-12345", 204, set()),  # no prefix of anything
            ("/services/svc", 200, {"serviceid0123456789"}),
            ("/secrets/secretid00123", 204, {"secretid00123456789"}),
            ("/configs/cfg", 204, {"configid00123456789"}),
            ("/plugins/plug", 200, {"plug:latest"}),
        ):
            self.answer(self.exchange("DELETE", target), status=status)
            self.assertEqual(self.gone(), wanted, target)

    def test_answers(self) -> None:
        """What an answer says is gone is gone."""
        for method, target, answer, wanted in (
            ("DELETE", "/images/mine:1", [{"Untagged": "mine:1"}, {"Deleted": IMAGE}], {"mine:1", IMAGE}),
            ("DELETE", "/images/mine:1", [{"Untagged": "docker.io/library/mine:1"}], {"mine:1"}),
            ("DELETE", "/images/mine:1", None, set()),
            ("DELETE", "/images/mine:1", [{"Untagged": 7}, 7, {}], set()),
            ("POST", "/images/prune", {"ImagesDeleted": [{"Deleted": IMAGE}], "SpaceReclaimed": 1}, {IMAGE}),
            ("POST", "/containers/prune", {"ContainersDeleted": [ID, OTHER]}, {ID}),
            ("POST", "/containers/prune", {"ContainersDeleted": None}, set()),
            ("POST", "/volumes/prune", {"VolumesDeleted": ["vol"]}, {"vol"}),
            ("POST", "/networks/prune", {"NetworksDeleted": ["net", "other"]}, {"e" * 64}),
        ):
            self.answer(self.exchange(method, target), answer)
            self.assertEqual(self.gone(), wanted, target)

    def test_rename(self) -> None:
        """A container is known by its new name."""
        self.answer(self.exchange("POST", f"/containers/{ID}/rename?name=%2Fapi"), status=204)
        self.answer(self.exchange("POST", "/containers/api/rename?name=taken"), status=409)
        self.assertEqual([row.name for row in self.recorded(kind="container")], ["api"])

    def test_unwritable(self) -> None:
        """A removal that can't be written down is logged; the next look at the engine finds it."""
        self.patch(self.ledger, "removed_reference", lambda *_: fail(ValueError("defect")))
        self.answer(self.exchange("DELETE", "/containers/web"), status=204)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)


class PageTests(RecorderCase):
    def page(self, target: str = "/tracker", method: str = "GET", accept: str = "*/*") -> Answer:
        asked = self.exchange(method, target)
        head = RequestHead.parse(f"{method} {target} HTTP/1.1\r\nHost: d\r\nAccept: {accept}\r\n\r\n".encode())
        answer = self.successResultOf(Deferred.fromCoroutine(self.recorder.request_head(asked, head)))
        assert isinstance(answer, Answer)
        return answer

    def test_empty(self) -> None:
        """Nothing is nothing: not even a newline."""
        self.assertEqual(self.page(), Answer(200, b"", "text/plain; charset=utf-8"))

    def test_text(self) -> None:
        """The full IDs of the job's containers that exist, sorted, one on a line; nothing of other jobs."""
        self.do("POST", "/containers/create", {}, {"Id": OTHER})
        self.do("POST", "/containers/create", {}, {"Id": ID})
        self.do("POST", "/networks/create", {"Name": "n"}, {"Id": "e" * 64})
        theirs = self.make("another", "another")
        ours, self.recorder = self.recorder, theirs
        self.do("POST", "/containers/create", {}, {"Id": "f" * 64})
        self.recorder = ours
        self.assertEqual(self.page().body.decode(), f"{ID}\n{OTHER}\n")
        self.answer(self.exchange("DELETE", f"/containers/{ID}"), status=204)
        self.assertEqual(self.page().body.decode(), f"{OTHER}\n")
        self.assertEqual(self.page("/tracker?all=0").body.decode(), f"{OTHER}\n")
        self.assertEqual(self.page("/tracker?all=1").body.decode(), f"{ID}\n{OTHER}\n")

    def test_json(self) -> None:
        """All resources, with all that is known of them, for who accepts JSON."""
        self.do("POST", "/networks/create", {"Name": "n"}, {"Id": ID})
        self.clock.advance(1.5)
        self.answer(self.exchange("DELETE", "/networks/n"), status=204)
        self.do("POST", "/volumes/create", {"Name": "v"}, {"Name": "v"})
        asker = {"listener": "unix:///s", "uid": "1000", "gid": "100", "pid": "7"}
        network = {
            "kind": "network",
            "id": ID,
            "name": "n",
            "relation": "made",
            "parent": "",
            "created": "1970-04-26T17:46:40.000Z",
            "removed": "1970-04-26T17:46:41.500Z",
            "attributes": {**asker, "request": "POST /networks/create"},
        }
        volume = {
            **network,
            "attributes": {**asker, "request": "POST /volumes/create"},
            "kind": "volume",
            "id": "v",
            "name": "v",
            "relation": "used",
            "created": "1970-04-26T17:46:41.500Z",
            "removed": None,
        }
        for accept in ("application/json", "text/html, Application/JSON;q=0.5"):
            for target, wanted in (("/tracker", [volume]), ("/tracker?all=true", [network, volume])):
                answer = self.page(target, accept=accept)
                self.assertEqual(answer.content_type, "application/json")
                self.assertEqual(
                    json.loads(answer.body), {"job": {"id": self.job_id, "name": "default"}, "resources": wanted}
                )

    def test_other_pages(self) -> None:
        """Nothing else is served there: no job reaches the control API."""
        for method, target in (
            ("GET", "/tracker/jobs"),
            ("POST", "/tracker"),
            ("HEAD", "/tracker"),
            ("GET", "/tracker/"),
        ):
            answer = self.page(target, method)
            self.assertEqual((answer.status, answer.content_type), (404, "application/json"), (method, target))
            self.assertIn("page not found", json.loads(answer.body)["message"])

    def test_ledger_fails(self) -> None:
        """A ledger that can't be read is said."""
        self.patch(self.ledger, "resources", lambda *_: fail(LedgerError("/l", "malformed")))
        answer = self.page()
        self.assertEqual((answer.status, json.loads(answer.body)), (503, {"message": "the ledger /l: malformed"}))


class PlugInTests(SynchronousTestCase):
    def test_build(self) -> None:
        """The plug-in takes the ledger, the engine and the settings from the daemon."""
        for pulled in (False, True):
            daemon = FakeDaemon(settings=make_settings(reap=ReapSettings(pulled_images=pulled)))
            built = recorder.build(recorder.settings(), FakeJob(), daemon)
            assert isinstance(built, Recorder)
            self.assertEqual(built._owns_pulled, pulled)
