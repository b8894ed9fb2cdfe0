"""The ledger: jobs, intents and resources across restarts."""

from __future__ import annotations

import os
import sqlite3
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import attrs
from twisted.internet.defer import Deferred, fail
from twisted.internet.task import Clock
from twisted.logger import LogLevel, capturedLogs
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from docker_tracker.errors import LedgerError, RefusedError
from docker_tracker.interfaces import IJob, ILedger
from docker_tracker.job import Ends, JobRequest, JobState, Keep, ReapItem, ReapReport
from docker_tracker.records import PULL, Intent, Relation, Resource, State
from docker_tracker.tracking import ledger
from docker_tracker.tracking.ledger import Keeping, Ledger

ENGINE = "ENGINE:1"
CONTAINER = "c" * 64
DAY = 86400


class LedgerCase(SynchronousTestCase):
    def setUp(self) -> None:
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.path = Path(directory.name) / "ledger.sqlite"
        self.clock = Clock()
        self.clock.advance(10_000_000)
        self.ledger = self.opened()

    def opened(self, keeping: Keeping | None = None) -> Ledger:
        ledger = Ledger(self.path, None, keeping, self.clock.seconds)
        ledger.open("instance")
        self.addCleanup(ledger.close)
        return ledger

    def reopened(self, keeping: Keeping | None = None) -> None:
        self.ledger.close()
        self.ledger = self.opened(keeping)

    def names(self) -> list[str]:
        return sorted(job.name for job in self.successResultOf(self.ledger.jobs(everything=True)))

    def job(self, name: str = "default") -> str:
        return self.successResultOf(self.ledger.job(name)).id

    def intend(self, job_id: str = "", **fields: Any) -> int:
        fields = {"operation": "container_create", "kind": "container", **fields}
        return self.successResultOf(self.ledger.intend(Intent(job_id=job_id or self.job(), **fields), ENGINE))

    def make(self, *resources: Resource, job_id: str = "") -> int:
        """Record resources under an intent of their own."""
        number = self.intend(job_id)
        self.successResultOf(self.ledger.record(number, resources, State.DONE))
        return number

    def existing(self, *arguments: Any, **named: Any) -> Sequence[Resource]:
        return self.successResultOf(self.ledger.resources(*arguments, **named))

    def identifiers(self, *arguments: Any, **named: Any) -> list[str]:
        return [resource.identifier for resource in self.existing(*arguments, **named)]


class JobTests(LedgerCase):
    def test_interface(self) -> None:
        """It is what plug-ins are promised."""
        verifyObject(ILedger, self.ledger)
        verifyObject(IJob, self.successResultOf(self.ledger.job("default")))

    def test_persists(self) -> None:
        """A job keeps its ID across restarts; another name is another job."""
        first = self.successResultOf(self.ledger.job("default"))
        self.ledger.close()
        self.assertEqual(self.ledger.open("instance"), first)
        self.failureResultOf(self.ledger.record(1, []), LedgerError)
        self.assertRegex(first.id, r"\A[0-9a-f]{32}\Z")
        other = self.job("other")
        self.clock.advance(5)
        self.reopened()
        self.assertEqual(self.successResultOf(self.ledger.job("default")), first)
        self.assertEqual(self.job("other"), other)
        self.assertNotEqual(first.id, other)


class EngineTests(LedgerCase):
    def test_other_engine(self) -> None:
        """The first engine that is seen is the ledger's, for ever; nothing is made on another one."""
        self.successResultOf(self.ledger.check_engine(ENGINE))
        self.successResultOf(self.ledger.check_engine(ENGINE))
        self.reopened()
        intent = Intent(job_id=self.job(), operation="container_create", kind="container")
        for answer in (self.ledger.check_engine("ENGINE:2"), self.ledger.intend(intent, "ENGINE:2")):
            problem = str(self.failureResultOf(answer, LedgerError).value)
            self.assertIn("belongs to the engine ENGINE:1, but the engine that answers is ENGINE:2", problem)
            self.assertIn("--state-dir", problem)
        self.assertEqual(self.successResultOf(self.ledger.intend(intent, ENGINE)), 1)

    def test_first_create(self) -> None:
        """A create before any other look at the engine writes the engine down, too."""
        self.intend()
        self.failureResultOf(self.ledger.check_engine("ENGINE:2"), LedgerError)


class IntentTests(LedgerCase):
    def lost(self) -> list[tuple[Intent, list[Resource]]]:
        return self.successResultOf(self.ledger.lost())

    def test_lost_by_a_crash(self) -> None:
        """What was in flight when the process ended is lost at the next start, with all that was known of it."""
        names = (("container", "web"), ("volume", "cache"))
        job_id = self.job()
        number = self.intend(names=names, before=names[1:], exchange=7)
        done = self.make(Resource(kind="container", identifier=CONTAINER))
        self.assertEqual(self.lost(), [])
        self.clock.advance(10)
        self.reopened()
        self.assertEqual(
            self.lost(),
            [
                (
                    Intent(
                        job_id=job_id,
                        operation="container_create",
                        kind="container",
                        names=names,
                        before=names[1:],
                        exchange=7,
                        number=number,
                        started=10_000_000,
                        state=State.LOST,
                        settled=10_000_010,
                    ),
                    [],
                )
            ],
        )
        self.assertEqual((number, done), (1, 2))

    def test_lost_by_a_connection(self) -> None:
        """An answer that nobody saw calls whoever looks at the engine, once it is written down."""
        calls: list[int] = []
        number, other = self.intend(), self.intend()
        self.successResultOf(self.ledger.settle(number, State.LOST))
        self.ledger.on_lost(lambda: calls.append(len(self.lost())))
        self.successResultOf(self.ledger.settle(other, State.FAILED))
        self.assertEqual(calls, [])
        self.successResultOf(self.ledger.record(self.intend(), [], State.LOST))
        self.assertEqual(calls, [2])

    def test_lost_with_what_is_recorded(self) -> None:
        """A lost intent comes with the resources that it led to."""
        number = self.intend()
        self.successResultOf(self.ledger.record(number, [Resource(kind="container", identifier=CONTAINER)]))
        self.reopened()
        self.assertEqual([[found.identifier for found in resources] for _, resources in self.lost()], [[CONTAINER]])
        self.successResultOf(self.ledger.settle(number, State.DONE))
        self.assertEqual(self.lost(), [])

    def test_late_answer(self) -> None:
        """An answer that comes after its intent was given up is recorded all the same."""
        number = self.intend()
        self.successResultOf(self.ledger.settle(number, State.FAILED))
        self.successResultOf(self.ledger.record(number, [Resource(kind="container", identifier=CONTAINER)], State.DONE))
        self.assertEqual(self.identifiers(), [CONTAINER])

    def test_unknown(self) -> None:
        """Nothing is recorded without an intent."""
        answer = self.ledger.record(99, [Resource(kind="container", identifier=CONTAINER)])
        self.assertIn("no intent 99", self.failureResultOf(answer, LedgerError).value.problem)
        self.assertEqual(self.identifiers(), [])


class OwedTests(LedgerCase):
    """Settlements that could not be written."""

    def break_disk(self) -> None:
        problem = LedgerError("/l", "database or disk is full")
        self.patched = self.patch(self.ledger._database, "run", lambda work: fail(problem))

    def states(self) -> list[str]:
        connection = sqlite3.connect(self.path)
        self.addCleanup(connection.close)
        return [state for (state,) in connection.execute("SELECT state FROM intents ORDER BY number")]

    def test_owed(self) -> None:
        """They are written as soon as the disk takes them; a record that failed has to be looked for."""
        heard: list[None] = []
        self.ledger.on_lost(lambda: heard.append(None))
        settled, lost, recorded, noted, other = [self.intend() for _ in range(5)]
        self.break_disk()
        for failing in (
            self.ledger.settle(settled, State.FAILED),
            self.ledger.settle(lost, State.LOST),
            self.ledger.record(recorded, [Resource(kind="container", identifier="c")], State.DONE),
            self.ledger.record(noted, [Resource(kind="container", identifier="d")]),
            self.ledger.settle_owed(),
        ):
            self.failureResultOf(failing, LedgerError)
        self.assertEqual(len(heard), 4)
        self.patched.restore()
        self.assertEqual(self.states(), ["open"] * 5)
        self.successResultOf(self.ledger.settle_owed())
        self.assertEqual(self.states(), ["failed", "lost", "lost", "lost", "open"])
        self.successResultOf(self.ledger.settle(other, State.DONE))
        self.assertEqual(self.states()[-1], "done")

    def test_owed_resources(self) -> None:
        """What a record that failed had is not forgotten, unless that went or its intent is unknown."""
        number, done = self.intend(), self.intend()
        there, gone = (Resource(kind="image", identifier=each, attributes={"user": "1"}) for each in ("i", "j"))
        self.break_disk()
        for failing in (
            self.ledger.record(number, [there, gone]),
            self.ledger.record(done, [Resource(kind="image", identifier="k")]),
            self.ledger.record(4711, [Resource(kind="image", identifier="l")]),
            self.ledger.settle_owed(),
        ):
            self.failureResultOf(failing, LedgerError)
        self.patched.restore()
        self.successResultOf(self.ledger.removed("image", ["j"]))
        self.successResultOf(self.ledger.settle(done, State.DONE))
        for _ in range(2):
            self.successResultOf(self.ledger.settle_owed())
            found = self.successResultOf(self.ledger.resources())
            self.assertEqual([(each.identifier, each.intent) for each in found], [("i", number), ("k", done)])
            self.assertEqual(found[0].attributes, {"user": "1"})
        self.assertEqual(self.states(), ["lost", "done"])

    def test_owed_meanwhile(self) -> None:
        """What another record of the same intent had, which failed while the first was written, is written next."""
        number = self.intend()
        run = self.ledger._database.run
        self.break_disk()
        self.failureResultOf(self.ledger.record(number, [Resource(kind="image", identifier="i")]), LedgerError)
        written: Deferred[None] = Deferred()
        self.patch(self.ledger._database, "run", lambda work: written.addCallback(lambda _: run(work)))
        settling = self.ledger.settle_owed()
        self.break_disk()
        self.failureResultOf(self.ledger.record(number, [Resource(kind="image", identifier="j")]), LedgerError)
        written.callback(None)
        self.successResultOf(settling)
        self.patch(self.ledger._database, "run", run)
        self.successResultOf(self.ledger.settle_owed())
        found = self.successResultOf(self.ledger.resources())
        self.assertEqual([each.identifier for each in found], ["i", "j"])

    def owe(self, *resources: Resource, job_id: str = "") -> int:
        """Have a full disk not take resources. :returns: their intent."""
        number = self.intend(job_id)
        self.break_disk()
        self.failureResultOf(self.ledger.record(number, resources), LedgerError)
        self.patched.restore()
        return number

    def test_owed_for_long(self) -> None:
        """What is written late is of the time when it was seen: a volume that came later is told by that."""
        seen = self.clock.seconds()
        self.owe(Resource(kind="volume", identifier="v"))
        self.clock.advance(600)
        self.successResultOf(self.ledger.settle_owed())
        self.assertEqual([each.created for each in self.existing()], [seen])

    def test_gone_before_it_is_owed(self) -> None:
        """What went before its record had failed is not written."""
        number = self.intend()
        writing: Deferred[None] = Deferred()
        patched = self.patch(self.ledger._database, "run", lambda work: writing)
        recording = self.ledger.record(number, [Resource(kind="image", identifier="i")])
        patched.restore()
        self.clock.advance(1)
        self.successResultOf(self.ledger.removed("image", ["i"]))
        self.clock.advance(1)
        writing.errback(LedgerError("/l", "database or disk is full"))
        self.failureResultOf(recording, LedgerError)
        self.successResultOf(self.ledger.settle_owed())
        self.assertEqual(self.existing(), [])

    def test_never_to_be_written(self) -> None:
        """What no disk would take is not tried again with what is owed."""
        number = self.intend()
        odd = Resource(kind="network", identifier="n", name="\ud800")
        self.failureResultOf(self.ledger.record(number, [odd], State.DONE), UnicodeEncodeError)
        self.owe(Resource(kind="image", identifier="i"))
        self.successResultOf(self.ledger.settle_owed())
        self.assertEqual((self.states(), self.identifiers()), (["lost", "lost"], ["i"]))

    def test_owed_tags(self) -> None:
        """A tag that a later intent led elsewhere before it could be written is that one's, and leads there."""
        ours, theirs = self.job("ours"), self.job("theirs")
        made, used = Relation.MADE, Relation.USED
        for job_id, relation, parent, owner in (
            (theirs, made, "sha256:2", theirs),
            (theirs, used, "sha256:2", theirs),
            (ours, used, "sha256:2", ours),
            (theirs, used, "sha256:1", ours),
        ):
            tag = Resource(kind="image", identifier="x:1", parent="sha256:1")
            self.owe(tag, job_id=ours)
            self.make(attrs.evolve(tag, relation=relation, parent=parent), job_id=job_id)
            self.successResultOf(self.ledger.settle_owed())
            found = [(each.job_id, each.parent) for each in self.existing() if each.relation is made]
            self.assertEqual(found, [(owner, parent)])
            self.successResultOf(self.ledger.removed("image", ["x:1"]))
            self.clock.advance(1)

    def test_done_stays_done(self) -> None:
        """An intent that is settled does not get lost by what is told later."""
        number = self.intend()
        self.successResultOf(self.ledger.record(number, [], State.DONE))
        self.successResultOf(self.ledger.settle(number, State.LOST))
        self.assertEqual(self.successResultOf(self.ledger.lost()), [])

    def test_settled_meanwhile(self) -> None:
        """One that was settled after all is left so; the last thing said of one counts."""
        first, second = self.intend(), self.intend()
        self.break_disk()
        self.failureResultOf(self.ledger.settle(first, State.LOST), LedgerError)
        self.failureResultOf(self.ledger.record(second, []), LedgerError)
        self.failureResultOf(self.ledger.settle(second, State.FAILED), LedgerError)
        self.patched.restore()
        self.successResultOf(self.ledger.settle(first, State.DONE))
        self.successResultOf(self.ledger.settle_owed())
        self.assertEqual(self.states(), ["done", "failed"])

    def test_bounded(self) -> None:
        """No more than a number are kept in mind."""
        self.patch(ledger, "_MOST_OWED", 1)
        first, second = self.intend(), self.intend()
        self.break_disk()
        for number in (first, second, first):
            self.failureResultOf(self.ledger.settle(number, State.LOST), LedgerError)
        resources = [Resource(kind="image", identifier=each) for each in "ij"]
        self.failureResultOf(self.ledger.record(first, resources), LedgerError)
        self.patched.restore()
        self.successResultOf(self.ledger.settle_owed())
        self.assertEqual(self.states(), ["lost", "open"])
        self.assertEqual([each.identifier for each in self.successResultOf(self.ledger.resources())], ["i"])


class ResourceTests(LedgerCase):
    def test_fields(self) -> None:
        """All that is known of a resource comes back after a restart."""
        resource = Resource(
            kind="exec", identifier="e" * 64, name="n", parent=CONTAINER, attributes={"uid": "1000", "pid": "7"}
        )
        number = self.make(resource)
        job_id = self.job()
        self.reopened()
        (found,) = self.existing()
        self.assertEqual(
            (found.kind, found.identifier, found.name, found.relation, found.parent, found.attributes),
            ("exec", "e" * 64, "n", Relation.MADE, CONTAINER, {"uid": "1000", "pid": "7"}),
        )
        self.assertEqual(
            (found.job_id, found.intent, found.created, found.removed), (job_id, number, 10_000_000.0, None)
        )

    def test_choice(self) -> None:
        """A job's, a kind's, and removed ones on demand."""
        other = self.job("other")
        self.make(Resource(kind="container", identifier="a"), Resource(kind="volume", identifier="v"))
        self.make(Resource(kind="container", identifier="b"), job_id=other)
        self.successResultOf(self.ledger.removed("volume", ["v"]))
        for arguments, wanted in (
            ({}, ["a", "b"]),
            ({"everything": True}, ["a", "v", "b"]),
            ({"job_id": other}, ["b"]),
            ({"job_id": self.job(), "kind": "container"}, ["a"]),
            ({"job_id": self.job(), "kind": "volume", "everything": True}, ["v"]),
        ):
            self.assertEqual(self.identifiers(**arguments), wanted, arguments)

    def test_relations(self) -> None:
        """One job at most has made a thing; what it made it does not come to have only used."""
        other = self.job("other")
        for kind, steps, wanted in (
            ("made, then used", (("", "made"), ("", "used")), [("default", "made")]),
            ("used, then made", (("", "used"), ("", "made")), [("default", "made")]),
            ("made twice", (("", "made"), ("", "made")), [("default", "made")]),
            ("made by two", (("", "made"), (other, "made")), [("default", "made"), ("other", "used")]),
            ("used by two", (("", "used"), (other, "used")), [("default", "used"), ("other", "used")]),
            ("other uses", (("", "used"), (other, "made")), [("default", "used"), ("other", "made")]),
        ):
            for job_id, relation in steps:
                self.make(Resource(kind=kind, identifier="x", relation=Relation(relation)), job_id=job_id)
            found = [
                ("other" if row.job_id == other else "default", row.relation.value) for row in self.existing(kind=kind)
            ]
            self.assertEqual(found, wanted, kind)

    def test_moved_tags(self) -> None:
        """A tag of one job is that of another job, from when it leads to its image; for the same image it stays."""
        other = self.job("other")

        def tag(image: str, relation: Relation = Relation.MADE) -> Resource:
            return Resource(kind="image", identifier="web:ci", name="web:ci", parent=image, relation=relation)

        def owners() -> list[tuple[bool, str]]:
            return [(row.job_id == other, row.parent) for row in self.existing() if row.relation is Relation.MADE]

        first = self.make(tag("sha256:1"))
        self.make(tag("sha256:1", Relation.USED), job_id=other)
        self.make(tag("", Relation.USED), job_id=other)
        self.assertEqual(owners(), [(False, "sha256:1")])
        self.make(tag("sha256:2", Relation.USED), job_id=other)
        self.assertEqual(owners(), [(True, "sha256:2")])
        self.successResultOf(self.ledger.record(first, [tag("sha256:1")], State.DONE))  # a late look
        self.assertEqual(owners(), [(True, "sha256:2")])
        self.make(tag("sha256:3"))
        self.assertEqual(owners(), [(False, "sha256:3")])

    def test_came_anew(self) -> None:
        """What was there as a job's before a create, and went meanwhile, is made anew; a stranger's is not."""
        other = self.job("other")
        made, used = Relation.MADE, Relation.USED
        for kind, operation, relation, there, wanted in (
            ("image", "image_build", made, True, made),
            ("volume", "container_create", made, True, made),
            ("image", "image_build", used, True, used),
            ("image", "image_build", made, False, used),
            ("image", PULL, made, True, used),
            ("volume", "volume_create", made, True, used),
        ):
            for meanwhile in (True, False):
                name = f"{kind} {operation} {relation} {there} {meanwhile}"
                self.make(Resource(kind=kind, identifier=name, relation=relation), job_id=other)
                self.clock.advance(1)
                before = ((kind, name if there else "another"),)
                if not meanwhile:
                    self.successResultOf(self.ledger.removed(kind, [name]))
                    self.clock.advance(1)
                number = self.intend(operation=operation, kind=operation.partition("_")[0], before=before)
                self.clock.advance(1)
                self.successResultOf(self.ledger.removed(kind, [name]))
                self.successResultOf(
                    self.ledger.record(number, [Resource(kind=kind, identifier=name, relation=used)], State.DONE)
                )
                found = [row.relation for row in self.existing() if row.identifier == name]
                self.assertEqual(found, [wanted if meanwhile else used], name)

    def test_came_anew_to_nobody(self) -> None:
        """What is there after an intent was lost may be a stranger's by then."""
        other = self.job("other")
        self.make(Resource(kind="volume", identifier="data"), job_id=other)
        number = self.intend(operation="container_create", before=(("volume", "data"),))
        self.clock.advance(1)
        self.successResultOf(self.ledger.removed("volume", ["data"]))
        self.successResultOf(self.ledger.settle(number, State.LOST))
        used = Resource(kind="volume", identifier="data", relation=Relation.USED)
        self.successResultOf(self.ledger.record(number, [used], State.DONE))
        self.assertEqual([row.relation for row in self.existing() if row.identifier == "data"], [Relation.USED])

    def test_brought_up_to_date(self) -> None:
        """A name that is learned later is kept; one that is not known does not erase it."""
        for name, wanted in (("", ""), ("web", "web"), ("", "web"), ("api", "api")):
            self.make(Resource(kind="container", identifier=CONTAINER, name=name))
            self.assertEqual([row.name for row in self.existing()], [wanted])

    def test_removed(self) -> None:
        """A removed thing is no job's any more, and may come anew; unknown things are passed by."""
        other = self.job("other")
        for job_id in ("", other):
            self.make(Resource(kind="volume", identifier="v", relation=Relation.USED), job_id=job_id)
        self.clock.advance(5)
        self.successResultOf(self.ledger.removed("volume", ["nothing", "v"]))
        self.assertEqual(self.identifiers(), [])
        self.assertEqual([row.removed for row in self.existing(everything=True)], [10_000_005.0] * 2)
        self.make(Resource(kind="volume", identifier="v"))
        self.assertEqual([(row.identifier, row.relation) for row in self.existing()], [("v", Relation.MADE)])

    def test_told_of_after_its_removal(self) -> None:
        """What was looked at before it went does not come back; what another create makes of that name does."""
        resource = Resource(kind="volume", identifier="cache")
        number = self.make(resource)
        self.successResultOf(self.ledger.removed("volume", ["cache"]))
        self.successResultOf(self.ledger.record(number, [attrs.evolve(resource, name="late")], State.DONE))
        self.assertEqual(self.identifiers(), [])
        self.make(resource)
        self.assertEqual(self.identifiers(), ["cache"])

    def test_execs_go_with_their_container(self) -> None:
        """The parent of an exec is found by any reference; when it is gone, so is the exec."""
        for way in ("removed", "gone"):
            self.make(Resource(kind="container", identifier=CONTAINER, name="web"))
            for number, reference in enumerate(("web", CONTAINER, CONTAINER[:12], "unknown")):
                self.make(Resource(kind="exec", identifier=f"e{number}", parent=reference))
            if way == "removed":
                self.successResultOf(self.ledger.removed("container", [CONTAINER]))
            else:
                self.successResultOf(self.ledger.gone(self.existing(kind="container")))
            self.assertEqual(self.identifiers(), ["e3"], way)
            self.successResultOf(self.ledger.removed("exec", ["e3"]))

    def test_references(self) -> None:
        """A reference means what the engine takes it for: an ID, else a name, else a unique beginning of an ID."""
        one, two, three = "abcdef0123456789", "abcdef012345ffff", "abcdef9876543210"
        for reference, wanted in (
            (one, one),
            ("one", one),
            ("abcdef012345", two),  # a name wins over a beginning
            ("abcdef0123456", one),
            ("abcdef9", None),  # too short to be anything but a name
            ("abcdef9876543", three),
            ("abcdef01234", None),
            ("ABCDEF9876543", None),
            ("nothing", None),
            ("", None),
            ("%", None),
        ):
            self.make(
                Resource(kind="container", identifier=one, name="one"),
                Resource(kind="container", identifier=two, name="abcdef012345"),
                Resource(kind="container", identifier=three, name="three"),
                Resource(kind="network", identifier="nothing", name="nothing"),
            )
            self.successResultOf(self.ledger.removed_reference("container", reference))
            left = self.identifiers(kind="container")
            self.assertEqual({one, two, three} - set(left), {wanted} - {None}, reference)

    def test_ambiguous_references(self) -> None:
        """What could mean two things means neither."""
        for number in range(2):
            self.make(Resource(kind="network", identifier=f"abcdef0123456{number}", name="twin"))
        for reference in ("abcdef0123456", "twin"):
            self.successResultOf(self.ledger.removed_reference("network", reference))
        self.assertEqual(len(self.existing()), 2)

    def test_renamed(self) -> None:
        """A name that was given anew is the one by which a thing is found."""
        self.make(Resource(kind="container", identifier=CONTAINER, name="web"))
        self.successResultOf(self.ledger.renamed("container", "web", "api"))
        self.successResultOf(self.ledger.removed_reference("container", "web"))
        self.assertEqual([row.name for row in self.existing()], ["api"])
        self.successResultOf(self.ledger.renamed("container", "nothing", "x"))

    def test_gone_but_made_anew(self) -> None:
        """What an intent led to after the look began is not marked as gone by that look."""
        self.make(Resource(kind="volume", identifier="v"), Resource(kind="volume", identifier="w"))
        seen = self.existing()
        self.make(Resource(kind="volume", identifier="v"))
        self.successResultOf(self.ledger.gone(seen))
        self.assertEqual(self.identifiers(), ["v"])


class AdoptionTests(LedgerCase):
    def adopt(self, identifier: str, since: float = 0.0, **more: Any) -> list[str]:
        """Give what was new of one thing that bears a label."""
        values = {"kind": "volume", "job_id": self.job(), **more}
        adopting = self.ledger.adopt([Resource(identifier=identifier, **values)], since)
        return [resource.identifier for resource in self.successResultOf(adopting)]

    def test_known(self) -> None:
        """What is known as much of is not new; what was only used, or used by another job, is."""
        self.make(Resource(kind="volume", identifier="mine"), Resource(kind="container", identifier="used"))
        self.make(Resource(kind="volume", identifier="used", relation=Relation.USED))
        other = self.job("other")
        self.make(Resource(kind="volume", identifier="theirs", relation=Relation.USED), job_id=other)
        self.assertEqual(self.adopt("mine"), [])
        self.assertEqual(self.adopt("mine", job_id=other), [])
        self.assertEqual(self.adopt("used", relation=Relation.USED), [])
        self.assertEqual(self.adopt("used"), ["used"])
        self.assertEqual(self.adopt("theirs"), ["theirs"])
        self.assertEqual(self.adopt("strange", job_id="unknown"), [])
        made = [(row.identifier, row.job_id) for row in self.existing(kind="volume") if row.relation is Relation.MADE]
        self.assertEqual(made, [("mine", self.job()), ("used", self.job()), ("theirs", self.job())])

    def test_handed_over(self) -> None:
        """What a job made is an open job's then, also if that used it before, and no other job's."""
        image, step = (Resource(kind="image", identifier=name) for name in ("image", "step"))
        self.make(image, step)
        made = self.existing()
        heir = self.job("heir")
        self.make(attrs.evolve(image, relation=Relation.USED), job_id=heir)
        for job_id, handed in ((heir, True), ("unknown", False)):
            self.assertIs(self.successResultOf(self.ledger.hand_over(made, job_id)), handed)
        self.assertEqual(
            [row.identifier for row in self.existing(heir) if row.relation is Relation.MADE], ["image", "step"]
        )
        self.assertEqual({row.relation for row in self.existing(self.job())}, {Relation.USED})
        self.successResultOf(self.ledger.set_job(heir, JobState.DRAINING))
        self.assertIs(self.successResultOf(self.ledger.hand_over(made, heir)), False)

    def test_removed(self) -> None:
        """What went after the engine was asked is not new; what came back since is, however often."""
        for _ in range(3):
            began = self.clock.seconds()
            self.assertEqual(self.adopt("v", began), ["v"])
            self.clock.advance(1)
            self.successResultOf(self.ledger.removed("volume", ["v"]))
            self.assertEqual(self.adopt("v", began), [])
            self.assertEqual(self.identifiers(), [])
            self.clock.advance(1)

    def test_removed_before_it_was_known(self) -> None:
        """What went while a look at the engine was under way is not recorded by what that saw; the latest thousands."""
        began = self.clock.seconds()
        for identifier in ("v", *map(str, range(3000)), "v", *map(str, range(3000, 6000)), "w"):
            self.successResultOf(self.ledger.removed("volume", [identifier]))
        for identifier, new in (("w", False), ("v", False), ("5999", False), ("0", True)):
            self.assertEqual(self.adopt(identifier, began), [identifier] * new)
        self.assertEqual(self.adopt("w", began, kind="network"), ["w"])
        self.clock.advance(1)
        self.assertEqual(self.adopt("w", self.clock.seconds()), ["w"])

    def test_who_asked(self) -> None:
        """The answer of the create, if it comes after all, says the name and who asked."""
        self.adopt("c", kind="container")
        for who in ("first", "second"):
            self.make(Resource(kind="container", identifier="c", name="web", attributes={"uid": who}))
        (found,) = self.existing()
        self.assertEqual((found.name, found.attributes), ("web", {"uid": "first"}))


class KeepingTests(LedgerCase):
    def counted(self) -> dict[str, int]:
        connection = sqlite3.connect(self.path)
        self.addCleanup(connection.close)
        return {
            table: connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
            for table in ("jobs", "intents", "resources")
        }

    def test_age(self) -> None:
        """What is over is forgotten after thirty days; what exists or is not settled never is."""
        self.make(Resource(kind="container", identifier="a"), Resource(kind="container", identifier="b"))
        self.intend()
        self.successResultOf(self.ledger.settle(self.intend(), State.LOST))
        self.successResultOf(self.ledger.removed("container", ["a"]))
        for days, wanted in ((29, (1, 3, 2)), (2, (1, 2, 1))):
            self.clock.advance(days * DAY)
            self.successResultOf(self.ledger.prune())
            self.assertEqual(tuple(self.counted().values()), wanted)
        self.assertEqual(self.identifiers(), ["b"])

    def test_number(self) -> None:
        """The newest of what is over are kept, up to a number."""
        self.reopened(Keeping(most=2))
        for number in range(5):
            self.make(Resource(kind="container", identifier=f"{number}"))
            self.successResultOf(self.ledger.removed("container", [f"{number}"]))
            self.clock.advance(1)
        self.successResultOf(self.ledger.prune())
        self.assertEqual(self.identifiers(everything=True), ["3", "4"])
        self.assertEqual(self.counted()["intents"], 2)

    def test_jobs_that_are_gone(self) -> None:
        """One is forgotten when nothing of it is left; one that failed, or has things left, is not."""
        jobs = {}
        for name in ("over", "left", "lost", "failed", "later"):
            jobs[name] = self.job(name)
        self.make(Resource(kind="volume", identifier="v"), job_id=jobs["left"])
        self.successResultOf(self.ledger.settle(self.intend(job_id=jobs["lost"]), State.LOST))
        for name, state in (("over", "gone"), ("left", "gone"), ("lost", "gone"), ("failed", "failed")):
            self.successResultOf(self.ledger.set_job(jobs[name], JobState(state)))
        self.clock.advance(31 * DAY)
        self.successResultOf(self.ledger.set_job(jobs["later"], JobState.GONE))
        self.successResultOf(self.ledger.prune())
        self.assertEqual(self.names(), ["default", "failed", "later", "left", "lost"])

    def test_number_of_jobs(self) -> None:
        """Of those that are gone, the last are kept, up to a number; so are events."""
        self.reopened(Keeping(most=2))
        for number in range(4):
            job = self.successResultOf(self.ledger.make_job(JobRequest(name=f"j{number}"), None, ""))
            self.successResultOf(self.ledger.set_job(job.id, JobState.GONE))
            self.successResultOf(self.ledger.add_event("gone", job, {}))
            self.clock.advance(1)
        self.successResultOf(self.ledger.prune())
        self.assertEqual(self.names(), ["default", "j2", "j3"])
        events = self.successResultOf(self.ledger.events(0))
        self.assertEqual([(event["number"], event["job"]) for event in events], [(3, "j2"), (4, "j3")])

    def test_age_of_events(self) -> None:
        """They are forgotten as everything is."""
        self.successResultOf(self.ledger.add_event("x", None, {}))
        self.clock.advance(31 * DAY)
        self.successResultOf(self.ledger.prune())
        self.assertEqual(self.successResultOf(self.ledger.events(0)), [])


class LifeTests(LedgerCase):
    """Jobs from their beginning to their end."""

    def made(self, **request: Any) -> IJob:
        return self.successResultOf(self.ledger.make_job(JobRequest(**{"name": "web", **request}), 1000, "/run/s"))

    def set(self, job: IJob, state: str, **more: Any) -> IJob:
        return self.successResultOf(self.ledger.set_job(job.id, JobState(state), **more))

    def test_persists(self) -> None:
        """All that is known of a job is there again after a restart."""
        job = self.made(labels={"a": "b"}, keep=(Keep("volume", "cache-*"),), ends=Ends(ttl=5.0, container="c"))
        report = ReapReport(job_id=job.id, job="web", items=(ReapItem(kind="volume", identifier="v"),), problem="late")
        self.clock.advance(3)
        failed = self.set(job, "failed", reason="its time was over", report=report)
        self.reopened()
        found = next(each for each in self.successResultOf(self.ledger.jobs()) if each.name == "web")
        self.assertEqual(found, failed)
        self.assertEqual(found.request, job.request)
        self.assertEqual((found.owner, found.socket, found.created), (1000, "/run/s", 10_000_000.0))
        self.assertEqual((found.ended, found.reason, found.report), (10_000_003.0, "its time was over", report))

    def test_ended(self) -> None:
        """A job has ended when it leaves its first state; later ones change neither that nor what is not said."""
        job = self.made()
        self.assertIsNone(self.set(job, "open").ended)
        ended = []
        report = ReapReport(job_id=job.id, job="web")
        for state in ("draining", "reaping", "failed", "reaping", "gone"):
            self.clock.advance(1)
            said = {"reason": "asked for", "report": report} if state == "draining" else {}
            changed = self.set(job, state, **said)
            self.assertEqual((changed.state.value, changed.reason, changed.report), (state, "asked for", report))
            ended.append(changed.ended)
        self.assertEqual(ended, [10_000_001.0] * 5)
        problem = self.failureResultOf(self.ledger.set_job(job.id, JobState.OPEN), LedgerError).value.problem
        self.assertIn("cannot be open again", problem)
        problem = self.failureResultOf(self.ledger.set_job("nobody", JobState.GONE), LedgerError).value.problem
        self.assertIn("no job nobody", problem)

    def test_names(self) -> None:
        """A name is taken until its job has ended, then it is another job's; the gone are listed on demand."""
        job = self.made()
        error = self.failureResultOf(self.ledger.make_job(JobRequest(name="web"), None, ""), RefusedError).value
        self.assertEqual(error.status, 409)
        self.assertIn(job.id, error.message)
        self.assertEqual(self.job("web"), job.id)
        self.set(job, "draining")
        other = self.made()
        self.assertNotEqual(other.id, job.id)
        self.set(job, "gone")
        self.assertEqual({found.id for found in self.successResultOf(self.ledger.jobs())}, {self.job(), other.id})
        everything = {found.id for found in self.successResultOf(self.ledger.jobs(everything=True))}
        self.assertEqual(everything, {self.job(), other.id, job.id})

    def test_oldest_first(self) -> None:
        """Jobs are listed in the order in which they were made."""
        names = [f"job-{number}" for number in range(9)]
        for name in names:
            self.clock.advance(1)
            self.made(name=name)
        self.assertEqual([job.name for job in self.successResultOf(self.ledger.jobs())], ["default", *names])

    def test_some(self) -> None:
        """Jobs can be read by their IDs, whatever their state, and those that are gone by how long that is ago."""
        first, second, third = (self.made(name=name) for name in ("a", "b", "c"))
        for job in (second, first):
            self.set(job, "gone")
            self.clock.advance(1)
        some = self.successResultOf(self.ledger.some_jobs({third.id, first.id, "0" * 32}))
        self.assertEqual({job.id: job.state.value for job in some}, {third.id: "open", first.id: "gone"})
        past = [[job.name for job in self.successResultOf(self.ledger.past_jobs(most))] for most in (0, 1, 9)]
        self.assertEqual(past, [[], ["a"], ["b", "a"]])

    def test_restored(self) -> None:
        """A job that only labels tell of has failed; one that is known stays as it is."""
        job = self.made()
        restoring = self.ledger.restore_job(job.id, "other", 5.0, "found by its labels")
        self.assertEqual(self.successResultOf(restoring), job)
        for created, wanted in ((5.0, 5.0), (0.0, 10_000_000.0), (2e7, 10_000_000.0)):
            restoring = self.ledger.restore_job(f"id{created}", "web", created, "found by its labels")
            found = self.successResultOf(restoring)
            self.assertEqual(
                (found.id, found.name, found.state, found.created, found.ended, found.reason),
                (f"id{created}", "web", JobState.FAILED, wanted, 10_000_000.0, "found by its labels"),
            )

    def test_from_the_first_schema(self) -> None:
        """Jobs of a ledger that knew only their names are open, or gone."""
        path = self.path.with_name("old")
        connection = sqlite3.connect(path)
        for statement in ledger.MIGRATIONS[0]:
            connection.execute(statement)
        connection.execute("INSERT INTO jobs VALUES ('i1', 'default', 3.0, NULL), ('i2', 'x', 4.0, 5.0)")
        connection.execute("PRAGMA user_version = 1")
        connection.commit()
        connection.close()
        old = Ledger(path, None, None, self.clock.seconds)
        self.addCleanup(old.close)
        self.assertEqual(old.open("instance").id, "i1")
        found = self.successResultOf(old.jobs(everything=True))
        shown = [(job.id, job.name, job.state.value, job.created, job.ended) for job in found]
        self.assertEqual(shown, [("i1", "default", "open", 3.0, None), ("i2", "x", "gone", 4.0, 5.0)])

    def test_events(self) -> None:
        """They are numbered, in order, and can be had from any number on."""
        job = self.made()
        self.successResultOf(self.ledger.add_event("started", None, {"a": [1]}))
        self.clock.advance(0.25)
        self.assertEqual(self.successResultOf(self.ledger.add_event("job-open", job, {})), 2)
        first, second = self.successResultOf(self.ledger.events(0))
        self.assertEqual(
            first,
            {
                "number": 1,
                "time": "1970-04-26T17:46:40.000Z",
                "event": "started",
                "job_id": "",
                "job": "",
                "data": {"a": [1]},
            },
        )
        self.assertEqual((second["time"], second["job_id"], second["job"]), ("1970-04-26T17:46:40.250Z", job.id, "web"))
        self.assertEqual(self.successResultOf(self.ledger.events(1)), [second])
        self.assertEqual(self.successResultOf(self.ledger.events(0, most=1)), [first])
        self.assertEqual(self.successResultOf(self.ledger.events(2)), [])

    def test_event_of_another_ledger(self) -> None:
        """A number that no event has had yet is of a ledger that was lost: whoever asks would miss what came since."""
        self.assertEqual(self.successResultOf(self.ledger.events(0)), [])
        self.successResultOf(self.ledger.add_event("ledger-replaced", None, {}))
        error = self.failureResultOf(self.ledger.events(2), RefusedError).value
        self.assertEqual(error.status, 404)
        self.assertIn("no event 2 here yet, the last one is 1", error.message)
        self.clock.advance(40 * 86400.0)
        self.successResultOf(self.ledger.prune())
        self.assertEqual(self.successResultOf(self.ledger.events(1)), [])

    def test_instances(self) -> None:
        """Whose things became ours is known for ever."""
        for instance in ("lost", "lost", "found"):
            self.successResultOf(self.ledger.adopt_instance(instance))
        self.reopened()
        self.assertEqual(self.successResultOf(self.ledger.adopted_instances()), ["found", "lost"])

    def test_lost_of(self) -> None:
        """A job's intents that are not settled, nobody else's."""
        job = self.made()
        numbers = [self.intend(job.id) for _ in range(4)]
        self.intend()
        for number, state in zip(numbers, (State.DONE, State.FAILED, State.LOST), strict=False):
            self.successResultOf(self.ledger.settle(number, state))
        found = self.successResultOf(self.ledger.lost_of(job.id))
        self.assertEqual([(intent.number, intent.state.value) for intent in found], [(3, "lost"), (4, "open")])


class FindTests(LedgerCase):
    def found(self, reference: str) -> list[str]:
        return [resource.identifier for resource, _, _ in self.successResultOf(self.ledger.find(reference))]

    def test_references(self) -> None:
        """An ID, a name, or the beginning of one ID; removed things, too, and the newest first."""
        one, two = "abcdef0123456789", "abcdef9876543210"
        self.make(
            Resource(kind="container", identifier=one, name="web"),
            Resource(kind="container", identifier=two, name="db"),
            Resource(kind="image", identifier="sha256:1234567890", name=""),
            Resource(kind="image", identifier="app:latest", name="app:latest"),
        )
        self.successResultOf(self.ledger.removed("container", [one]))
        self.make(Resource(kind="network", identifier="n" * 8, name="web"))
        for reference, wanted in (
            (one, [one]),
            ("web", ["n" * 8, one]),
            ("abcdef98", [two]),
            ("abcdef0", [one]),
            ("abc", []),
            ("sha256:1234567890", ["sha256:1234567890"]),
            ("123456", ["sha256:1234567890"]),
            ("app", ["app:latest"]),
            ("docker.io/library/app:latest", ["app:latest"]),
            ("nothing", []),
            ("%", []),
        ):
            self.assertEqual(self.found(reference), wanted, reference)
        error = self.failureResultOf(self.ledger.find("abcdef"), RefusedError).value
        self.assertEqual((error.status, "write more" in error.message), (400, True))

    def test_with_job_and_intent(self) -> None:
        """It is said whose a thing is, and which request led to it; what was adopted has no request."""
        number = self.make(Resource(kind="volume", identifier="asked"))
        self.successResultOf(self.ledger.adopt([Resource(kind="volume", identifier="seen", job_id=self.job())], 0.0))
        ((_, job, intent),) = self.successResultOf(self.ledger.find("asked"))
        assert job is not None
        assert intent is not None
        self.assertEqual((job.id, intent.number), (self.job(), number))
        self.assertIsNone(self.successResultOf(self.ledger.find("seen"))[0][2])
        # Its job was forgotten, if the record is older than that.
        connection = sqlite3.connect(self.path)
        connection.execute("UPDATE resources SET job = 'nobody'")
        connection.commit()
        connection.close()
        self.assertIsNone(self.successResultOf(self.ledger.find("seen"))[0][1])


class BrokenTests(LedgerCase):
    def test_moved_aside(self) -> None:
        """A broken or empty file is kept under another name, a new one begun, and both are said loudly."""
        self.ledger.close()
        for content in (b"no database, for sure", self.torn(), self.torn(beginning=True), b""):
            self.path.write_bytes(content)
            self.ledger = Ledger(self.path, None, None, self.clock.seconds)
            self.addCleanup(self.ledger.close)
            with capturedLogs() as logs:
                job = self.ledger.open("instance")
            self.assertEqual([event["log_level"] for event in logs], [LogLevel.error])
            moved = self.ledger.moved
            assert moved is not None
            self.assertRegex(moved.name, r"\Aledger\.sqlite\.corrupt-1970\d{4}T\d{6}Z\Z")
            self.assertEqual(moved.read_bytes(), content)
            self.assertEqual(self.successResultOf(self.ledger.jobs()), [job])
            (event,) = self.successResultOf(self.ledger.events(0))
            problem = "was broken" if content else "was empty"
            self.assertEqual(event["event"], "ledger-replaced")
            self.assertEqual(event["data"], {"problem": problem, "moved_to": str(moved)})
            self.assertEqual(self.ledger.replaced, problem)
            self.ledger.close()
            self.clock.advance(1)
        self.ledger = self.opened()
        self.assertEqual((self.ledger.moved, self.ledger.replaced), (None, ""))

    def test_missing(self) -> None:
        """Where there should be a file and is none, that is said, too; at the very first start it is not."""
        self.ledger.close()
        for used in (False, True):
            self.path.unlink()
            ledger = Ledger(self.path, None, None, self.clock.seconds)
            with capturedLogs() as logs:
                ledger.open("instance", used=used)
            self.assertEqual([event["log_level"] for event in logs], [LogLevel.error] * used)
            told = [(each["event"], each["data"]) for each in self.successResultOf(ledger.events(0))]
            self.assertEqual(told, [("ledger-replaced", {"problem": "was missing", "moved_to": ""})] * used)
            self.assertEqual((ledger.moved, ledger.replaced), (None, "was missing" * used))
            ledger.close()
            ledger = Ledger(self.path, None, None, self.clock.seconds)
            ledger.open("instance", used=True)
            self.assertEqual(ledger.replaced, "")
            ledger.close()

    def torn(self, beginning: bool = False) -> bytes:
        """Give a ledger's file with pages that are no pages."""
        path = self.path.with_name("torn")
        path.unlink(missing_ok=True)
        whole = Ledger(path, None, None, self.clock.seconds)
        whole.open("instance")
        whole.close()
        content = bytearray(path.read_bytes())
        start = 1024 if beginning else 8192
        content[start : start + 6000] = b"\x5a" * 6000
        return bytes(content)

    def test_newer(self) -> None:
        """A ledger of a later version is not broken: it is left as it is, and said what to do."""
        self.ledger.close()
        connection = sqlite3.connect(self.path)
        connection.execute("PRAGMA user_version = 99")
        connection.close()
        error = self.assertRaises(LedgerError, Ledger(self.path, None).open, "instance")
        self.assertIn("install the newer one again", str(error))
        self.assertEqual(
            sorted(path.name for path in self.path.parent.iterdir()), ["ledger.sqlite", "ledger.sqlite.lock"]
        )

    def test_cannot_be_moved(self) -> None:
        """What cannot be moved aside either is refused."""
        self.ledger.close()
        self.path.write_bytes(b"no database, for sure")
        self.patch(os, "rename", raiser(OSError(28, "No space left on device")))
        error = self.assertRaises(LedgerError, Ledger(self.path, None).open, "instance")
        self.assertIn("No space left", str(error))


def raiser(error: Exception) -> Callable[..., None]:
    def fails(*_: object) -> None:
        raise error

    return fails
