"""The watcher, with a real ledger, an engine in memory and a clock."""

from __future__ import annotations

import json
from typing import Any

from twisted.internet.defer import Deferred, fail
from twisted.internet.testing import EventLoggingObserver
from twisted.logger import LogLevel, formatEvent, globalLogPublisher

from docker_tracker.errors import EngineAnswerError, EngineError, EngineProtocolError, LedgerError
from docker_tracker.records import ALL_IMAGES, Intent, Reference, Relation, Resource, State
from docker_tracker.tracking.watcher import Watcher
from tests.support.tracking import UNAVAILABLE, TrackingCase, no_swarm

ID = "c" * 64
OTHER = "d" * 64
IMAGE = "sha256:" + "a" * 64
BASE = "sha256:" + "b" * 64
NOW = 10_000_000
LIST_PATHS = {
    "container": "/containers/json",
    "image": "/images/json",
    "network": "/networks",
    "volume": "/volumes",
    "service": "/services",
    "secret": "/secrets",
    "config": "/configs",
    "plugin": "/plugins",
}


class WatcherCase(TrackingCase):
    def setUp(self) -> None:
        super().setUp()
        self.events = EventLoggingObserver()
        globalLogPublisher.addObserver(self.events)
        self.addCleanup(globalLogPublisher.removeObserver, self.events)
        for path in LIST_PATHS.values():
            self.engine.answers[path] = []
        self.engine.answers["/volumes"] = {"Volumes": None, "Warnings": None}
        for swarm in ("service", "secret", "config"):
            self.engine.answers[LIST_PATHS[swarm]] = no_swarm()
        self.watcher = self.watch(labelled=True)
        self.addCleanup(self.stop)
        self.ours = {"docker-tracker.job-id": self.job_id}

    def watch(self, labelled: bool) -> Watcher:
        return Watcher(
            self.engine,
            self.ledger,
            self.clock,
            self.clock.seconds,
            labelled=labelled,
            backoff=lambda failures: 1.0 + failures,
        )

    def start(self) -> None:
        self.watcher.startService()

    def stop(self) -> None:
        self.successResultOf(self.watcher.stopService())
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def make(self, *resources: Resource, state: State | None = State.DONE, **fields: Any) -> int:
        """Write down an intent and what it led to."""
        fields = {"job_id": self.job_id, "operation": "container_create", "kind": "container", **fields}
        number = self.successResultOf(self.ledger.intend(Intent(**fields), "ENGINE"))
        self.successResultOf(self.ledger.record(number, resources, state))
        return number

    def event(self, kind: str, action: str, identifier: Any = ID, **attributes: str) -> Any:
        assert self.engine.say is not None
        event = {"Type": kind, "Action": action, "Actor": {"ID": identifier, "Attributes": attributes}}
        return self.engine.say(json.dumps(event).encode())

    def logged(self, level: LogLevel) -> list[str]:
        """Give what was logged, formatted."""
        return [formatEvent(event) for event in self.events if event["log_level"] is level]

    def identifiers(self) -> list[str]:
        return [row.identifier for row in self.recorded()]


class StoppingTests(WatcherCase):
    def test_call_under_way(self) -> None:
        """A call that is under way when the watcher stops, and ends as broken off, is not tried again."""
        answer: Deferred[str] = Deferred(lambda _: answer.errback(EngineError("the engine broke off")))
        self.patch(self.engine, "identity", lambda: answer)
        self.start()
        self.stop()
        self.assertEqual(self.logged(LogLevel.error), [])


class EventTests(WatcherCase):
    def test_gone(self) -> None:
        """A thing whose ID never comes back is gone with its event; the rest is as it was."""
        things = {
            kind: Resource(kind=kind, identifier=f"{kind}-id", name=f"{kind}-name")
            for kind in ("container", "network", "service", "secret", "config")
        }
        self.engine.answers |= {LIST_PATHS[kind]: [{"Id": f"{kind}-id"}] for kind in things}
        self.make(*things.values(), Resource(kind="exec", identifier="e", parent="container-id"))
        self.start()
        for kind, action, identifier, wanted in (
            ("container", "die", "container-id", set()),
            ("container", "destroy", "container-name", set()),  # events have IDs
            ("container", "destroy", 7, set()),
            ("network", "disconnect", "network-id", set()),
            ("nonsense", "destroy", "container-id", set()),
            ("container", "destroy", "container-id", {"container-id", "e"}),
            ("network", "destroy", "network-id", {"network-id"}),
            ("service", "update", "service-id", set()),
            ("service", "remove", "service-id", {"service-id"}),
            ("secret", "remove", "secret-id", {"secret-id"}),
            ("config", "remove", "config-id", {"config-id"}),
        ):
            before = set(self.identifiers())
            self.event(kind, action, identifier)
            self.assertEqual(before - set(self.identifiers()), wanted, (kind, action))

    def test_execs(self) -> None:
        """An exec is gone when its process ends, in Docker's word and in Podman's."""
        for action in ("exec_die", "exec_died"):
            self.make(Resource(kind="exec", identifier="e", parent=ID))
            if self.engine.say is None:
                self.start()
            self.event("container", "exec_start", execID="e")
            self.event("container", action)
            self.assertEqual(self.identifiers(), ["e"])
            self.event("container", action, execID="e")
            self.assertEqual(self.identifiers(), [])

    def test_renamed(self) -> None:
        """A rename that did not pass by is seen."""
        self.engine.answers["/containers/json"] = [{"Id": ID}]
        self.make(Resource(kind="container", identifier=ID, name="web"))
        self.start()
        self.event("container", "rename", ID, name="api", oldName="/web")
        self.assertEqual([row.name for row in self.recorded()], ["api"])

    def test_looked_at(self) -> None:
        """What may come back under its name is looked at before it is taken for gone."""
        self.make(
            Resource(kind="volume", identifier="v"),
            Resource(kind="plugin", identifier="p:latest"),
            Resource(kind="image", identifier=IMAGE),
            Resource(kind="image", identifier="mine:1", parent=IMAGE),
        )
        self.engine.answers |= {
            "/volumes": {"Volumes": [{"Name": "v"}]},
            "/plugins": [{"Id": "x", "Name": "p:latest"}],
            "/images/json": [{"Id": IMAGE, "RepoTags": ["mine:1"]}],
        }
        self.start()
        self.clock.advance(1)
        for kind, action, path, answer, wanted in (
            ("volume", "destroy", "/volumes", {"Volumes": [{"Name": "v"}]}, set()),  # it was made anew
            ("volume", "destroy", "/volumes", {"Volumes": None}, {"v"}),
            ("volume", "mount", "/volumes", {"Volumes": None}, set()),
            ("image", "pull", "/images/json", [{"Id": IMAGE, "RepoTags": None}], set()),
            ("image", "untag", "/images/json", [{"Id": IMAGE, "RepoTags": None}], {"mine:1"}),
            ("image", "delete", "/images/json", [], {IMAGE}),
            ("plugin", "remove", "/plugins", [], {"p:latest"}),
        ):
            before = set(self.identifiers())
            self.engine.answers[path] = answer
            self.event(kind, action, "whatever")
            self.assertEqual(before - set(self.identifiers()), wanted, (kind, action))
            self.clock.advance(1)

    def test_not_too_often(self) -> None:
        """A burst of events makes two looks, a second apart."""
        self.make(Resource(kind="volume", identifier="v"))
        self.engine.answers["/volumes"] = {"Volumes": [{"Name": "v"}]}
        self.start()
        self.clock.advance(1)
        self.engine.asked.clear()
        for _ in range(100):
            self.event("volume", "destroy", "x")
        self.assertEqual(self.engine.asked.count("/volumes"), 1)
        self.clock.advance(1)
        self.assertEqual(self.engine.asked.count("/volumes"), 2)
        self.clock.advance(1)
        self.clock.advance(1)
        self.assertEqual(self.engine.asked.count("/volumes"), 2)

    def test_odd_lines(self) -> None:
        """What is no event is passed by."""
        self.make(Resource(kind="container", identifier=ID))
        self.engine.answers["/containers/json"] = [{"Id": ID}]
        self.start()
        say: Any = self.engine.say
        for line in (
            b"nonsense",
            b"7",
            b"[" * 100_000,
            b"{}",
            b'{"Type":["container"]}',
            b'{"Type":"container","Action":"destroy"}',
            b'{"Type":"container","Action":7,"Actor":{"ID":"x"}}',
            b'{"Type":"container","Action":"exec_die","Actor":{"ID":"x","Attributes":null}}',
        ):
            self.assertIsNone(say(line), line[:40])
        self.assertEqual(self.identifiers(), [ID])

    def test_asked_for(self) -> None:
        """Only events that mean something are asked for, from this second on."""
        self.start()
        (parameters,) = self.engine.events_parameters
        filters = json.loads(parameters["filters"])
        self.assertEqual(parameters["since"], str(NOW))
        self.assertEqual(
            filters["type"],
            ["config", "container", "image", "network", "plugin", "pod", "secret", "service", "volume"],
        )
        self.assertEqual(filters["event"], ["delete", "destroy", "exec_die", "exec_died", "remove", "rename", "untag"])

    def test_backpressure(self) -> None:
        """The next event is not read before the ledger has this one."""
        self.start()
        self.assertIsInstance(self.event("container", "destroy"), Deferred)


class LookTests(WatcherCase):
    def test_all_kinds(self) -> None:
        """What the engine does not have any more is gone; only what is recorded, or can bear a label, is asked for."""
        bear_labels = {*LIST_PATHS.values()} - {"/images/json", "/plugins", "/info", "/version"}
        for kind, path in LIST_PATHS.items():
            self.make(Resource(kind=kind, identifier="kept:1"), Resource(kind=kind, identifier="gone:1"))
            entry = {"Names": ["/n"], "RepoTags": ["kept:1"], "Name": "kept:1", "Id": "kept:1", "Spec": {"Name": "n"}}
            if kind in ("service", "secret", "config"):
                entry["ID"] = entry.pop("Id")
            answer = [entry, {}, 7]
            self.engine.answers[path] = {"Volumes": answer} if kind == "volume" else answer
            self.start()
            self.assertEqual(self.identifiers(), ["kept:1"], kind)
            self.assertEqual({*self.engine.asked} - {"/info", "/version"}, bear_labels | {path})
            self.stop()
            self.engine.asked.clear()
            self.successResultOf(self.ledger.removed(kind, ["kept:1"]))

    def test_without_swarm(self) -> None:
        """A node that is no manager can't say; one that is in no swarm has nothing of it."""
        self.make(Resource(kind="service", identifier="s"), Resource(kind="secret", identifier="t"))
        for info, wanted in (
            (None, ["s", "t"]),
            ({"Swarm": {"LocalNodeState": "active"}}, ["s", "t"]),
            ({"Swarm": {"LocalNodeState": "inactive"}}, []),
        ):
            self.engine.answers["/info"] = info
            self.start()
            self.assertEqual(self.identifiers(), wanted, info)
            self.stop()

    def test_unknown_list(self) -> None:
        """A kind that the engine does not know at all is left alone."""
        self.make(Resource(kind="plugin", identifier="p"))
        self.engine.answers["/plugins"] = None
        self.start()
        self.assertEqual(self.identifiers(), ["p"])

    def test_failing_list(self) -> None:
        """A list that fails is no reason to take anything for gone."""
        self.make(Resource(kind="container", identifier=ID))
        self.engine.answers["/containers/json"] = EngineAnswerError("broken", 502, 500)
        self.start()
        self.assertEqual(self.identifiers(), [ID])
        self.assertEqual(self.logged(LogLevel.error), ["the engine is not watched: broken; trying again"])

    def test_made_during_the_look(self) -> None:
        """What was made after the list was taken is not taken for gone."""
        self.make(Resource(kind="volume", identifier="v"))
        listing: Deferred[Any] = Deferred()
        self.engine.answers["/volumes"] = listing
        self.start()
        self.make(Resource(kind="volume", identifier="v"), Resource(kind="volume", identifier="w"))
        listing.callback({"Volumes": []})
        self.assertEqual(self.identifiers(), ["v", "w"])

    def test_every_now_and_then(self) -> None:
        """Everything is looked at from time to time, as events can be dropped."""
        self.make(Resource(kind="container", identifier=ID))
        self.engine.answers["/containers/json"] = [{"Id": ID}]
        self.start()
        self.engine.answers["/containers/json"] = []
        self.clock.pump([1, 298])
        self.assertEqual(self.identifiers(), [ID])
        self.clock.advance(2)
        self.assertEqual(self.identifiers(), [])

    def test_pruning(self) -> None:
        """The ledger is pruned at the start, and every hour."""
        pruned: list[float] = []
        prune = self.ledger.prune

        def seen() -> Deferred[None]:
            pruned.append(self.clock.seconds() - NOW)
            return prune()

        self.patch(self.ledger, "prune", seen)
        self.start()
        self.clock.pump([60] * 130)
        self.assertEqual(len(pruned), 3)
        self.assertEqual(pruned[0], 0)


class LabelTests(WatcherCase):
    """What bears the label of one of the ledger's jobs is that job's, without any intent."""

    def entry(self, owner: str, **more: Any) -> dict[str, Any]:
        return {"Id": ID, "Names": ["/web"], "Name": "n", "Labels": {"docker-tracker.job-id": owner}, **more}

    def test_found(self) -> None:
        """Of each kind that bears labels; an image inherits them, so it is not believed."""
        for kind, path in LIST_PATHS.items():
            entry = self.entry(self.job_id, RepoTags=["x:1"], Spec={"Name": "n", "Labels": self.ours})
            if kind == "volume":
                del entry["Id"], entry["Spec"]
            self.engine.answers[path] = {"Volumes": [entry]} if kind == "volume" else [entry]
        self.start()
        wanted = [
            (kind, "n" if kind == "volume" else ID, "made") for kind in LIST_PATHS if kind not in ("image", "plugin")
        ]
        self.assertEqual(self.shown(), sorted(wanted))
        self.assertEqual({row.job_id for row in self.recorded()}, {self.job_id})

    def test_inherited(self) -> None:
        """A container that may have the label from its image is nobody's, whatever the label says."""
        self.engine.answers["/containers/json"] = [self.entry(self.job_id, ImageID="sha256:1")]
        self.engine.answers["/images/sha256:1/json"] = {"Id": "sha256:1", "Config": {"Labels": self.ours}}
        self.start()
        self.assertEqual(self.shown(), [])

    def test_others(self) -> None:
        """What another tracker's job made, or what has an odd label, is not ours."""
        for owner in ("another", "", None, 7):
            self.engine.answers["/containers/json"] = [self.entry(owner)]  # type: ignore[arg-type]
            self.start()
            self.assertEqual(self.shown(), [], owner)
            self.stop()

    def test_labels_are_off(self) -> None:
        """Where jobs label nothing, nothing is found by labels."""
        self.watcher = self.watch(labelled=False)
        self.engine.answers["/containers/json"] = [self.entry(self.job_id)]
        self.start()
        self.assertEqual((self.shown(), self.engine.asked), ([], ["/version"]))

    def test_volumes(self) -> None:
        """A container's volumes are used, but for those that bear the label themselves, now or later."""
        mounts = [{"Type": "volume", "Name": name} for name in ("a", "b")]
        self.engine.answers["/containers/json"] = [self.entry(self.job_id, Mounts=mounts)]
        volumes: list[Any] = [{"Name": "a", "Labels": self.ours}, {"Name": "b"}]
        self.engine.answers["/volumes"] = {"Volumes": volumes}
        self.start()
        self.assertEqual(self.shown(), [("container", ID, "made"), ("volume", "a", "made"), ("volume", "b", "used")])
        volumes[1]["Labels"] = self.ours
        self.clock.pump([1] * 310)
        self.assertEqual(self.shown()[2], ("volume", "b", "made"))

    def test_already_gone(self) -> None:
        """One whose end was told before it was recorded is looked at again, and gone a second later."""
        self.engine.answers["/containers/json"] = [self.entry(self.job_id)]
        self.start()
        self.assertEqual(self.identifiers(), [ID])
        self.engine.answers["/containers/json"] = []
        self.clock.advance(1)
        self.assertEqual(self.identifiers(), [])


class ConnectionTests(WatcherCase):
    def test_engine_comes_and_goes(self) -> None:
        """One line when it is away, one when it is back, and a look at once; the wait grows meanwhile."""
        self.engine.name = UNAVAILABLE
        self.start()
        attempts: list[int] = []
        for second in range(20):
            attempts += [second] * (self.engine.forgotten - len(attempts))
            self.clock.advance(1)
        self.assertEqual(attempts, [0, 1, 3, 6, 10, 15])
        self.engine.name = "ENGINE"
        self.make(Resource(kind="container", identifier=ID))
        self.clock.pump([1] * 10)
        self.assertEqual(self.identifiers(), [])
        assert self.engine.ended is not None
        self.engine.ended.callback(None)
        self.clock.advance(1)  # the wait is short again
        self.assertIsNotNone(self.engine.say)
        self.assertEqual(
            self.logged(LogLevel.error),
            [
                f"the engine is not watched: {UNAVAILABLE}; trying again",
                "the engine is not watched: the engine at unix:///engine ended its events; trying again",
            ],
        )
        self.assertEqual(self.logged(LogLevel.info), ["the engine at unix:///engine is back"] * 2)

    def test_broken_off(self) -> None:
        """An engine that dies during a look is followed again later, and asked anew who it is."""
        self.start()
        assert self.engine.ended is not None
        self.engine.ended.errback(EngineError("broke off"))
        self.assertEqual(self.engine.forgotten, 1)
        self.clock.advance(1)
        self.assertIsNotNone(self.engine.say)

    def test_refused(self) -> None:
        """An engine that has no events is tried again."""
        self.engine.refuses_events = EngineError("no events")
        self.start()
        self.engine.refuses_events = None
        self.clock.advance(1)
        self.assertIsNotNone(self.engine.say)

    def test_no_version(self) -> None:
        """What answers no version is no engine."""
        self.engine.answers["/version"] = None
        self.start()
        self.assertIn("knows no GET /version", self.logged(LogLevel.error)[0])
        self.assertIsInstance(EngineProtocolError("x"), EngineError)

    def test_other_engine(self) -> None:
        """Another engine is not looked at: all would seem to be gone."""
        self.make(Resource(kind="container", identifier=ID))
        self.engine.name = "ANOTHER"
        self.start()
        self.clock.pump([1] * 30)
        self.assertEqual((self.identifiers(), self.engine.asked), ([ID], []))
        (line,) = self.logged(LogLevel.error)
        self.assertIn("belongs to the engine ENGINE, but the engine that answers is ANOTHER", line)

    def test_ledger_fails(self) -> None:
        """An event that can't be written down ends the connection, so that a look makes up for it."""
        self.make(Resource(kind="container", identifier=ID))
        self.engine.answers["/containers/json"] = [{"Id": ID}]
        self.start()
        self.patch(self.ledger, "removed", lambda *_: fail(LedgerError("/l", "full")))
        failing: Deferred[None] = self.event("container", "destroy")
        assert self.engine.ended is not None
        self.engine.ended.errback(self.failureResultOf(failing, LedgerError))
        self.engine.answers["/containers/json"] = []
        self.clock.advance(1)
        self.assertEqual(self.identifiers(), [])

    def test_defect(self) -> None:
        """A defect is logged with its traceback."""
        self.engine.name = ValueError("unexpected")
        self.start()
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def test_stopped_before_it_began(self) -> None:
        """It can be stopped in any state; setUp's own stop is the other half of this test."""
        self.stop()

    def test_stopped_while_away(self) -> None:
        """It can be stopped while it waits for the engine, and started again."""
        self.engine.name = UNAVAILABLE
        self.start()
        self.stop()
        self.engine.name = "ENGINE"
        self.start()
        self.assertIsNotNone(self.engine.say)

    def test_stopped_during_a_look(self) -> None:
        """It can be stopped while the engine is asked."""
        self.make(Resource(kind="container", identifier=ID))
        self.engine.answers["/containers/json"] = Deferred()
        self.start()
        self.stop()
        self.assertIsNone(self.engine.say)

    def test_default_backoff(self) -> None:
        """Without another rule the wait grows up to half a minute, and differs from tracker to tracker."""
        engine, self.engine.name = self.engine, UNAVAILABLE
        watcher = Watcher(engine, self.ledger, self.clock, self.clock.seconds, labelled=True)
        watcher.startService()
        waits = []
        for _ in range(20):
            (call,) = self.clock.getDelayedCalls()
            waits.append(call.getTime() - self.clock.seconds())
            self.clock.advance(waits[-1])
        self.successResultOf(watcher.stopService())
        self.assertTrue(0.4 < waits[0] < 2.0, waits)
        self.assertTrue(all(wait <= 40 for wait in waits), waits)
        self.assertEqual(len(set(waits)), 20)


class LostTests(WatcherCase):
    def lose(self, *names: Reference, **fields: Any) -> int:
        return self.make(state=State.LOST, names=names, **fields)

    def state(self, number: int) -> str:
        row = self.successResultOf(
            self.ledger._database.run(
                lambda database: database.execute("SELECT state FROM intents WHERE number = ?", (number,)).fetchone()
            )
        )
        return str(row[0])

    def test_by_label(self) -> None:
        """What bears the job's label and is younger than the intent is the job's."""
        ours = {"docker-tracker.job-id": self.job_id}
        for kind, more in (
            ("container", {"Id": ID, "Names": ["/quiet"], "Created": NOW, "Labels": ours}),
            ("network", {"Id": ID, "Name": "n", "Created": "1970-04-26T19:46:40.123456789+02:00", "Labels": ours}),
            ("volume", {"Name": ID, "CreatedAt": "1970-04-26T17:46:40Z", "Labels": ours}),
            ("service", {"ID": ID, "CreatedAt": "1970-04-26T17:46:40.5Z", "Spec": {"Name": "s", "Labels": ours}}),
            ("secret", {"ID": ID, "CreatedAt": "1970-04-26T17:46:40.5Z", "Spec": {"Name": "s", "Labels": ours}}),
        ):
            number = self.lose(kind=kind)
            for created in (None, "1970-04-26T17:46:39Z", "nonsense"):  # the engine's clock may be behind ours
                entry: dict[str, Any] = dict(more)
                if created is not None:
                    entry["Created" if "Created" in entry else "CreatedAt"] = created
                    number = self.lose(kind=kind)
                self.engine.answers[LIST_PATHS[kind]] = {"Volumes": [entry]} if kind == "volume" else [entry]
                self.start()
                self.assertEqual((self.state(number), self.shown()), ("done", [(kind, ID, "made")]), (kind, created))
                self.stop()
                self.successResultOf(self.ledger.removed(kind, [ID]))
            self.engine.answers[LIST_PATHS[kind]] = {"Volumes": []} if kind == "volume" else []

    def container(self, identifier: str, name: str, created: float = NOW, *volumes: str) -> dict[str, Any]:
        """Give a labelled container as the engine lists it, and have the engine inspect it."""
        mounts = [{"Type": "volume", "Name": volume} for volume in volumes]
        self.engine.answers[f"/containers/{identifier}/json"] = {"Mounts": mounts}
        return {"Id": identifier, "Names": [f"/{name}"], "Created": created, "Labels": self.ours, "Mounts": mounts}

    def test_two_at_once(self) -> None:
        """Each of two lost creates waits for its own container, whether it names it or not."""
        a, b = self.container(ID, "a"), self.container(OTHER, "b", NOW + 2)
        for names in (("a", "b"), ("b", "a"), ("a", ""), ("", "a"), ("", "b"), ("", "")):
            numbers = [self.lose(*([("container", name)] if name else [])) for name in names]
            self.engine.answers["/containers/json"] = [a]
            self.start()
            self.clock.advance(2)
            if "a" in names:
                self.assertEqual(self.state(numbers[1 - names.index("a")]), "lost", names)
            self.assertEqual(sorted(map(self.state, numbers)), ["done", "lost"], names)
            self.engine.answers["/containers/json"] = [a, b]
            self.clock.pump([1] * 10)
            self.assertEqual(sorted(self.identifiers()), [ID, OTHER], names)
            self.assertEqual([self.state(number) for number in numbers], ["done", "done"], names)
            self.stop()
            self.successResultOf(self.ledger.removed("container", [ID, OTHER]))

    def test_recorded_has_its_own(self) -> None:
        """A lost intent whose container is recorded takes no other one's; that is found by its label."""
        first = self.make(Resource(kind="container", identifier=ID), state=State.LOST)
        self.engine.answers["/containers/json"] = [self.container(ID, "a"), self.container(OTHER, "b")]
        self.start()
        self.assertEqual(self.state(first), "done")
        self.assertEqual({row.identifier: row.intent for row in self.recorded()}, {ID: first, OTHER: 0})

    def test_look_now(self) -> None:
        """Somebody who cannot wait for the next look has one of his own; each waits for the other."""
        number = self.lose(("container", "web"))
        self.engine.answers["/containers/json"] = [self.container(ID, "web")]
        blocked: Deferred[Any] = Deferred()
        self.engine.answers["/version"] = blocked
        first, second = (Deferred.fromCoroutine(self.watcher.look_now()) for _ in range(2))
        self.assertEqual(self.engine.asked, ["/version"])
        self.engine.answers["/version"] = {}
        blocked.callback({})
        self.successResultOf(first)
        self.successResultOf(second)
        self.assertEqual((self.shown(), self.state(number)), ([("container", ID, "made")], "done"))

    def test_volumes_first(self) -> None:
        """Volumes that are there before their container are recorded, and the container is waited for."""
        number = self.lose(("container", "web"), ("volume", "v"))
        self.engine.answers["/volumes"] = {"Volumes": [{"Name": "v", "CreatedAt": "1970-04-26T17:46:41Z"}]}
        self.start()
        self.assertEqual((self.shown(), self.state(number)), ([("volume", "v", "made")], "lost"))
        self.engine.answers["/containers/json"] = [self.container(ID, "web", NOW, "v")]
        self.clock.pump([1] * 10)
        self.assertEqual(self.shown(), [("container", ID, "made"), ("volume", "v", "made")])
        self.assertEqual(self.state(number), "done")

    def test_by_name(self) -> None:
        """If jobs label nothing, the name that was asked for and the time tell."""
        self.watcher = self.watch(labelled=False)
        for labels, created, wanted in (
            ({}, NOW, [("container", ID, "made")]),
            (None, NOW + 5, [("container", ID, "made")]),
            ({}, NOW - 1, []),  # the name was taken: the create has failed
            ({"docker-tracker.job-id": "another"}, NOW, []),
        ):
            number = self.lose(("container", "web"))
            self.engine.answers["/containers/json"] = [
                {"Id": OTHER, "Names": ["/other"], "Created": NOW, "Labels": {}},
                {"Id": ID, "Names": ["/web"], "Created": created, "Labels": labels},
            ]
            self.start()
            self.assertEqual(self.shown(), wanted, (labels, created))
            self.stop()
            self.successResultOf(self.ledger.settle(number, State.FAILED))
            self.successResultOf(self.ledger.removed("container", [ID]))

    def test_unlabelled(self) -> None:
        """If jobs label what they make, a stranger's thing is not a job's, whatever its name; its volume is used."""
        time = "1970-04-26T17:46:41Z"
        self.engine.answers |= {
            "/containers/json": [{"Id": ID, "Names": ["/x"], "Created": NOW + 1, "Labels": {}}],
            "/networks": [{"Id": ID, "Name": "x", "Created": time}],
            "/services": [{"ID": ID, "CreatedAt": time, "Spec": {"Name": "x"}}],
            "/volumes": {"Volumes": [{"Name": "x", "CreatedAt": time}]},
        }
        for kind, wanted in (
            ("container", []),
            ("network", []),
            ("service", []),
            ("volume", [("volume", "x", "used")]),
        ):
            self.lose((kind, "x"), kind=kind)
            self.start()
            self.assertEqual(self.shown(), wanted, kind)
            self.stop()

    def test_volume_without_its_label(self) -> None:
        """One that was not there before, and came while it was asked for, has lost its label with an engine that ended.

        What is older, was made after the answer was lost, or is of unknown age, may be anybody's.
        """
        for created, before, wanted in (
            ("1970-04-26T17:46:40Z", (), "made"),
            ("1970-04-26T17:46:42Z", (), "made"),
            ("1970-04-26T17:46:42Z", (("volume", "x"),), "used"),
            ("1970-04-26T17:46:39Z", (), "used"),
            ("1970-04-26T17:46:43Z", (), "used"),
            ("0001-01-01T00:00:00Z", (), "used"),
            (None, (), "used"),
        ):
            number = self.make(state=None, names=(("volume", "x"),), kind="volume", before=before)
            self.clock.advance(2)
            self.successResultOf(self.ledger.settle(number, State.LOST))
            self.engine.answers["/volumes"] = {"Volumes": [{"Name": "x", "CreatedAt": created}]}
            self.start()
            self.assertEqual(self.shown(), [("volume", "x", wanted)], (created, before))
            self.stop()
            self.successResultOf(self.ledger.removed("volume", ["x"]))
            self.clock.rightNow = NOW

    def test_named_volumes_and_plugins(self) -> None:
        """What was there before, or is another's, is used; the rest is made. Plugins bear no labels."""
        self.watcher = self.watch(labelled=False)
        old, young = "1970-04-26T17:46:39Z", "1970-04-26T17:46:40Z"
        for kind, before, labels, created, wanted in (
            ("volume", (), {}, young, "made"),
            ("volume", (), {}, old, "used"),
            ("volume", (("volume", "x:1"),), {}, young, "used"),
            ("volume", (), {"docker-tracker.job-id": "another"}, young, "used"),
            ("plugin", (), {}, None, "made"),
            ("plugin", (("plugin", "x:1"),), {}, None, "used"),
        ):
            entry = {"Id": "some", "Name": "x:1", "Labels": labels, "CreatedAt": created}
            if kind == "volume":
                del entry["Id"]
            self.engine.answers[LIST_PATHS[kind]] = {"Volumes": [entry]} if kind == "volume" else [entry]
            self.lose((kind, "x:1"), kind=kind, before=before)
            self.start()
            self.assertEqual(self.shown(), [(kind, "x:1", wanted)], (kind, before, labels, created))
            self.stop()
            self.successResultOf(self.ledger.removed(kind, ["x:1"]))

    def test_container_with_volumes(self) -> None:
        """A container that is found brings its volumes; those of a failed create are found by name."""
        self.engine.answers |= {
            "/containers/json": [{"Id": ID, "Names": ["/web"], "Created": NOW, "Labels": self.ours}],
            f"/containers/{ID}/json": {"Mounts": [{"Type": "volume", "Name": name} for name in ("old", "new", OTHER)]},
            "/volumes": {"Volumes": [{"Name": name, "CreatedAt": "1970-04-26T17:46:41Z"} for name in ("old", "new")]},
        }
        self.lose(("container", "web"), ("volume", "old"), ("volume", "new"), before=(("volume", "old"),))
        self.start()
        self.assertEqual(
            self.shown(),
            [
                ("container", ID, "made"),
                ("volume", OTHER, "made"),
                ("volume", "new", "made"),
                ("volume", "old", "used"),
            ],
        )

    def test_recorded_but_not_looked_at(self) -> None:
        """A container that was recorded when the tracker died still gets its volumes."""
        number = self.make(Resource(kind="container", identifier=ID), state=State.LOST)
        self.engine.answers |= {
            "/containers/json": [{"Id": ID, "Created": NOW}],
            f"/containers/{ID}/json": {"Mounts": [{"Type": "volume", "Name": OTHER}]},
        }
        self.start()
        self.assertEqual((self.shown()[1:], self.state(number)), ([("volume", OTHER, "made")], "done"))

    def test_images(self) -> None:
        """Tags that were asked for, and labels; what is new of an archive, or without a name, is used only."""
        image = {"Id": IMAGE, "RepoTags": ["mine:1", "other:1"], "RepoDigests": ["mine@sha256:1"], "Created": NOW}
        ours = {"docker-tracker.image-job-id": self.job_id}
        tag, named = ("image", "mine:1"), ("image", IMAGE)
        both = [(*tag, "made"), (*named, "made")]
        loaded = [(*tag, "used"), ("image", "other:1", "used"), (*named, "used")]
        for operation, names, before, more, wanted in (
            ("image_build", (tag,), (ALL_IMAGES,), {}, both),
            ("image_create", (tag,), (ALL_IMAGES, tag, named), {}, [(*tag, "used"), (*named, "used")]),
            ("image_create", (tag,), (ALL_IMAGES, named), {}, [(*tag, "made"), (*named, "used")]),
            ("image_tag", (tag,), (), {}, [(*tag, "made")]),
            ("image_build", (tag,), (), {"RepoTags": ["mine:1"]}, [(*tag, "made"), (*named, "used")]),  # not listed
            ("image_build", (tag,), (), {"Labels": ours, "Created": NOW - 1}, both),
            ("image_build", (tag,), (tag,), {"Labels": ours}, [(*tag, "used"), (*named, "made")]),
            ("image_build", (), (ALL_IMAGES,), {"Labels": ours, "Created": NOW - 1}, [(*named, "made")]),
            ("image_build", (), (), {"Labels": ours, "Created": NOW - 1}, [(*named, "made")]),
            ("image_build", (), (), {}, []),
            ("image_build", (), (ALL_IMAGES, named), {"Labels": ours}, []),
            ("image_build", (), (named,), {"Labels": ours}, []),
            ("image_build", (("image", "its:1"),), (ALL_IMAGES,), {}, []),
            ("image_build", (), (ALL_IMAGES,), {"RepoTags": None}, [(*named, "used")]),  # may be anybody's
            ("container_commit", (), (ALL_IMAGES,), {"RepoTags": None}, [(*named, "used")]),
            ("container_commit", (), (), {}, []),
            ("image_load", (), (ALL_IMAGES,), {}, loaded),
            ("image_load", (), (ALL_IMAGES,), {"Labels": ours}, loaded),
            ("image_load", (), (ALL_IMAGES, named), {}, []),
            ("image_load", (), (), {}, []),  # it is not known what was there
        ):
            self.engine.answers["/images/json"] = [{**image, **more}, {"Id": BASE, "RepoTags": None}]
            number = self.lose(*names, operation=operation, kind="image", before=(*before, ("image", BASE)))
            self.start()
            self.assertEqual(self.shown(), wanted, (operation, names, before, more))
            self.stop()
            self.successResultOf(self.ledger.settle(number, State.FAILED))
            self.successResultOf(self.ledger.removed("image", [IMAGE, "mine:1", "other:1"]))

    def test_steps(self) -> None:
        """The nameless steps of a build go with its image, told of or asked for by name; those before it do not."""
        old, first, second = (f"sha256:{digit * 64}" for digit in "123")
        told = Resource(kind="image", identifier=IMAGE)
        steps = [("image", first, "made"), ("image", second, "made")]
        asked = (("image", "mine:1"),)
        for names, tags, recorded, before, wanted in (
            (asked, ["mine:1"], (), (ALL_IMAGES,), [("image", "mine:1", "made"), *steps, ("image", IMAGE, "made")]),
            ((), None, (told,), (ALL_IMAGES,), [*steps, ("image", IMAGE, "made")]),
            ((), None, (), (ALL_IMAGES,), [(*step[:2], "used") for step in (*steps, ("image", IMAGE))]),
            ((), None, (told,), (), [("image", IMAGE, "made")]),
        ):
            self.engine.answers["/images/json"] = [
                {"Id": BASE, "RepoTags": ["base:1"]},
                {"Id": old, "RepoTags": None, "ParentId": BASE},
                {"Id": first, "RepoTags": None, "ParentId": old},
                {"Id": second, "RepoTags": None, "ParentId": first},
                {"Id": IMAGE, "RepoTags": tags, "ParentId": second},
            ]
            there = (("image", BASE), ("image", old))
            number = self.make(
                *recorded,
                state=State.LOST,
                operation="image_build",
                kind="image",
                names=names,
                before=(*before, *there),
            )
            self.start()
            self.assertEqual(self.shown(), wanted, (names, before))
            self.stop()
            self.successResultOf(self.ledger.settle(number, State.FAILED))
            self.successResultOf(self.ledger.removed("image", [first, second, IMAGE, "mine:1"]))

    def test_step_is_no_end(self) -> None:
        """A build of which a step is known may yet come to the image that was asked for."""
        step = Resource(kind="image", identifier=BASE)
        self.engine.answers["/images/json"] = [{"Id": BASE, "RepoTags": None}]
        for operation in ("image_build", "libpod_image_build"):
            names = (("image", "mine:1"),)
            number = self.make(
                step, state=State.LOST, operation=operation, kind="image", names=names, before=(ALL_IMAGES,)
            )
            self.start()
            self.assertEqual(self.state(number), "lost", operation)
            self.engine.answers["/images/json"].append({"Id": IMAGE, "RepoTags": ["mine:1"], "ParentId": BASE})
            self.clock.pump([1] * 10)
            self.assertEqual(self.state(number), "done", operation)
            self.assertEqual([name for _, name, _ in self.shown()], ["mine:1", IMAGE, BASE])
            self.stop()
            self.engine.answers["/images/json"].pop()
            self.successResultOf(self.ledger.removed("image", [IMAGE, "mine:1", BASE]))

    def test_old_tag_is_no_end(self) -> None:
        """A tag that is still where it was before a build may yet move to what that comes to."""
        tag, old = ("image", "mine:1"), ("image", BASE)
        step = Resource(kind="image", identifier=OTHER)
        images: list[dict[str, Any]] = [
            {"Id": BASE, "RepoTags": ["mine:1"]},
            {"Id": OTHER, "RepoTags": None},
        ]
        self.engine.answers["/images/json"] = images
        before = (ALL_IMAGES, tag, old)
        number = self.make(step, state=State.LOST, operation="image_build", kind="image", names=(tag,), before=before)
        self.start()
        self.assertEqual(self.state(number), "lost")
        images[0]["RepoTags"] = None
        images.append({"Id": IMAGE, "RepoTags": ["mine:1"], "ParentId": OTHER})
        self.clock.pump([1] * 10)
        self.assertEqual(self.state(number), "done")
        self.assertIn(("image", IMAGE, "made"), self.shown())

    def test_no_end(self) -> None:
        """What an archive had in it comes in one by one, and an image that may be a stranger's ends nothing."""
        for operation in ("image_load", "image_build", "container_commit"):
            self.engine.answers["/images/json"] = []
            number = self.lose(operation=operation, kind="image", before=(ALL_IMAGES,))
            self.start()
            for image in (BASE, IMAGE):
                self.engine.answers["/images/json"].append({"Id": image, "RepoTags": None, "Created": NOW})
                self.clock.pump([1] * 20)
                self.assertEqual(self.state(number), "lost", operation)
            self.clock.pump([1] * 40)
            self.assertEqual((self.state(number), len(self.shown())), ("done", 2), operation)
            self.stop()
            self.successResultOf(self.ledger.removed("image", [BASE, IMAGE]))

    def test_loaded_by_another(self) -> None:
        """An image that another exchange recorded is not a lost load's."""
        self.make(Resource(kind="image", identifier=IMAGE))
        self.engine.answers["/images/json"] = [{"Id": IMAGE, "RepoTags": None}]
        number = self.lose(operation="image_load", kind="image", before=(ALL_IMAGES,))
        self.start()
        self.assertEqual(self.state(number), "lost")

    def test_loaded_and_told(self) -> None:
        """An image is a lost load's if the part of the answer that was seen named it; the others may be anybody's."""
        other = f"sha256:{'f' * 64}"
        images = [{"Id": IMAGE, "RepoTags": ["told:1", "more:1"]}, {"Id": other, "RepoTags": ["strange:1"]}]
        self.engine.answers["/images/json"] = images
        number = self.lose(operation="image_load", kind="image", before=(ALL_IMAGES,))
        told = Resource(kind="image", identifier="told:1", name="told:1")
        self.successResultOf(self.ledger.record(number, [told]))
        self.start()
        made = {row.identifier for row in self.recorded() if row.relation is Relation.MADE}
        self.assertEqual(made, {IMAGE, "told:1"})
        self.assertEqual(self.state(number), "lost")
        last = "sha256:" + "e" * 64
        images.append({"Id": last, "RepoTags": []})
        self.clock.pump([1] * 20)
        self.assertIn(("image", last, "used"), self.shown())

    def test_grace(self) -> None:
        """What led to nothing is looked for again for a minute, then it has failed."""
        number = self.lose(("container", "web"))
        self.start()
        self.clock.pump([1] * 50)
        self.assertEqual(self.state(number), "lost")
        self.engine.asked.clear()
        self.clock.pump([1] * 20)
        self.assertEqual(self.state(number), "failed")
        self.assertLess(self.engine.asked.count("/containers/json"), 6)
        self.engine.asked.clear()
        self.clock.pump([1] * 200)
        self.assertEqual(self.engine.asked, [])

    def test_clock_set_back(self) -> None:
        """A clock that was set back does not have it looked for until it has caught up."""
        number = self.lose(("container", "web"))
        self.watcher = Watcher(self.engine, self.ledger, self.clock, lambda: NOW - 3600, labelled=True)
        self.start()
        self.clock.pump([1] * 10)
        self.assertEqual(self.state(number), "failed")

    def test_comes_late(self) -> None:
        """An engine that finishes a create after its client has left is seen to."""
        number = self.lose(("container", "web"))
        self.start()
        self.clock.advance(1)
        self.engine.answers["/containers/json"] = [
            {"Id": ID, "Names": ["/web"], "Created": NOW + 1, "Labels": self.ours}
        ]
        self.clock.pump([1] * 6)
        self.assertEqual((self.shown(), self.state(number)), ([("container", ID, "made")], "done"))

    def test_lost_while_watching(self) -> None:
        """An intent that is lost now is looked for now."""
        self.start()
        self.clock.advance(1)
        self.engine.answers["/networks"] = [
            {"Id": ID, "Name": "net", "Created": "1970-04-26T17:46:41Z", "Labels": self.ours}
        ]
        number = self.lose(("network", "net"), kind="network")
        self.assertEqual((self.shown(), self.state(number)), ([("network", ID, "made")], "done"))
        self.assertIn("found 1 resources of a container_create whose answer was lost", self.logged(LogLevel.info))

    def test_execs(self) -> None:
        """An exec can't be found, and ends with its container: it is given up at once."""
        number = self.lose(kind="exec", operation="exec_create")
        self.start()
        self.assertEqual(self.state(number), "failed")

    def test_settlement_failed(self) -> None:
        """An intent whose loss could not be written down is looked for once it can be."""
        number = self.make(state=None, names=(("container", "web"),))
        self.engine.answers["/containers/json"] = [self.container(ID, "web")]
        self.start()
        self.clock.advance(1)
        self.successResultOf(self.ledger.removed("container", [ID]))
        patched = self.patch(self.ledger._database, "run", lambda work: fail(LedgerError("/l", "disk full")))
        self.failureResultOf(self.ledger.settle(number, State.LOST), LedgerError)
        self.clock.pump([1] * 5)
        patched.restore()
        self.clock.pump([1] * 40)
        self.assertEqual((self.identifiers(), self.state(number)), ([ID], "done"))

    def test_used_by_two_jobs(self) -> None:
        """What another job made meanwhile is only used."""
        other = self.successResultOf(self.ledger.job("other"))
        self.make(Resource(kind="volume", identifier="v", relation=Relation.MADE), job_id=other.id)
        self.engine.answers["/volumes"] = {"Volumes": [{"Name": "v", "CreatedAt": "1970-04-26T17:46:41Z"}]}
        self.lose(("volume", "v"), kind="volume")
        self.start()
        self.assertEqual(self.shown(), [("volume", "v", "made"), ("volume", "v", "used")])
