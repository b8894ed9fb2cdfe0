"""The durable record of jobs, intents and resources: SQLite, one thread, answers only what is on the disk."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import attrs
from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from docker_tracker.counts import Counts
from docker_tracker.engine.reference import familiar
from docker_tracker.errors import LedgerError, RefusedError
from docker_tracker.interfaces import IJob, ILedger
from docker_tracker.job import JobRequest, JobState, ReapReport
from docker_tracker.records import PULL, Intent, Reference, Relation, Resource, State
from docker_tracker.tracking import job_table
from docker_tracker.tracking.database import CallFromThread, Database, Migrations

_DAY: Final = 86400.0
_MOST_OWED: Final = 100_000  # settlements, and resources, that are kept in mind; what is more waits for the next start
_SHORT_ID: Final = 12  # characters: what the engine's clients show of an ID
_SHORTEST_ID: Final = 4  # characters of an ID that people may look for
_MOST_FOUND: Final = 100

# A step is never edited once it was released: the next one mends it.
MIGRATIONS: Final[Migrations] = (
    (
        "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
        "CREATE TABLE jobs (id TEXT PRIMARY KEY, name TEXT NOT NULL, created REAL NOT NULL, ended REAL) WITHOUT ROWID",
        "CREATE UNIQUE INDEX jobs_open ON jobs (name) WHERE ended IS NULL",
        """CREATE TABLE intents (
            number INTEGER PRIMARY KEY AUTOINCREMENT,
            job TEXT NOT NULL,
            operation TEXT NOT NULL,
            kind TEXT NOT NULL,
            names TEXT NOT NULL,  -- JSON: [[kind, name], ...]
            before TEXT NOT NULL,  -- likewise; emptied when the intent is settled
            exchange INTEGER NOT NULL,
            started REAL NOT NULL,
            state TEXT NOT NULL,
            settled REAL
        )""",
        "CREATE INDEX intents_unsettled ON intents (state) WHERE state IN ('open', 'lost')",
        "CREATE INDEX intents_settled ON intents (settled) WHERE state IN ('done', 'failed')",
        """CREATE TABLE resources (
            number INTEGER PRIMARY KEY AUTOINCREMENT,
            kind TEXT NOT NULL,
            identifier TEXT NOT NULL,
            name TEXT NOT NULL,
            relation TEXT NOT NULL,
            parent TEXT NOT NULL,
            attributes TEXT NOT NULL,  -- JSON: an object of strings
            job TEXT NOT NULL,
            intent INTEGER NOT NULL,  -- the last one that led to it
            created REAL NOT NULL,
            removed REAL
        )""",
        "CREATE UNIQUE INDEX resources_existing ON resources (kind, identifier, job) WHERE removed IS NULL",
        "CREATE INDEX resources_names ON resources (kind, name) WHERE removed IS NULL",
        "CREATE INDEX resources_children ON resources (parent) WHERE removed IS NULL AND parent <> ''",
        "CREATE INDEX resources_jobs ON resources (job, kind)",
        "CREATE INDEX resources_intents ON resources (intent)",
        "CREATE INDEX resources_removed ON resources (removed) WHERE removed IS NOT NULL",
    ),
    job_table.STEP,
)

_MOST_UNKNOWN: Final = 4096  # that are remembered to be gone: more than go while the engine is asked once

_RESOURCE_COLUMNS = "kind, identifier, name, relation, parent, attributes, job, intent, created, removed, number"
_INTENT_COLUMNS = "job, operation, kind, names, before, exchange, number, started, state, settled"


@attrs.frozen(kw_only=True)
class Keeping:
    """How much of what is over stays in the ledger.

    :ivar seconds: How long removed resources, settled intents, events and jobs that are gone are kept.
    :ivar most: How many of each of them are kept at most.
    """

    seconds: float = 30 * _DAY
    most: int = 1_000_000


@implementer(ILedger)
class Ledger:
    """The ledger of one state directory and one engine.

    :param path: The database file.
    :param call_from_thread: `reactor.callFromThread`, or None: everything in the caller's thread (tests).
    :param keeping: Limits on what is over.
    :param now: Seconds since the epoch.
    :param counts: Where calls that failed are counted.
    """

    log = Logger()

    def __init__(
        self,
        path: Path,
        call_from_thread: CallFromThread | None,
        keeping: Keeping | None = None,
        now: Callable[[], float] = time.time,
        counts: Counts | None = None,
    ) -> None:
        self._database = Database(path, MIGRATIONS, call_from_thread, counts=counts)
        self._path = path
        self._keeping = keeping or Keeping()
        self._now = now
        self._when_lost: Callable[[], None] | None = None
        self._owed: dict[int, State] = {}
        self._owed_resources: dict[tuple[int, str, str], tuple[Resource, float]] = {}
        #: When those went of which nothing was recorded, the latest of them last; for the database's thread only.
        self._unknown: dict[tuple[str, str], float] = {}
        self.moved: Path | None = None
        #: Why a new file was begun where there should have been one ("was missing"); the empty string: it was not.
        self.replaced = ""
        self.found: list[IJob] = []

    def open(self, instance: str, job: str = "default", used: bool = False) -> IJob:
        """Open the file; intents that an earlier process left open are lost. Blocks for some milliseconds.

        A file that is broken or empty is moved aside (`moved` says where to), and a new one begun (`replaced` says
        why): what jobs there were is then told by labels only. `found` are the jobs that are not gone.

        :param instance: This tracker's ID, written down beside the engine's.
        :param job: The name of the job that is there from the start.
        :param used: Whether there must be a file, as the state directory was in use before.
        :return: That job.
        :raises LedgerError: see `Database.open`.
        """
        now = self._now()
        first: list[IJob] = []

        def begin(database: sqlite3.Connection) -> None:
            first.append(job_table.named(database, job, now))
            self.found = job_table.listed(database, everything=False)
            database.execute("INSERT OR REPLACE INTO meta VALUES ('instance', ?)", (instance,))
            database.execute("UPDATE intents SET state = 'lost', settled = ? WHERE state = 'open'", (now,))

        aside = datetime.fromtimestamp(now, UTC).strftime(".corrupt-%Y%m%dT%H%M%SZ")
        self.moved = self._database.open(begin, aside)
        if self.moved is not None or used:
            self.replaced = self._database.problem
        if self.replaced:
            self.log.error(
                "the ledger {path} {problem}{moved}, and a new one was begun: no job that was open is any more;"
                " what jobs made is found by its labels, images and unlabelled volumes are not",
                path=str(self._path),
                problem=self.replaced,
                moved="" if self.moved is None else f", is now {self.moved}",
            )
            data = {"problem": self.replaced, "moved_to": str(self.moved or "")}
            self.add_event("ledger-replaced", None, data).addErrback(
                lambda failure: self.log.failure("could not be recorded", failure)
            )
        return first[-1]

    def close(self) -> Deferred[None]:
        """Finish what was asked for, then close."""
        return self._database.close()

    def on_lost(self, callback: Callable[[], None]) -> None:
        """Have a callback called whenever an intent was lost: the engine has to be looked at."""
        self._when_lost = callback

    def job(self, name: str) -> Deferred[IJob]:
        """Return the job of that name that did not end; make it if there is none."""
        now = self._now()
        return self._database.run(lambda database: job_table.named(database, name, now))

    def jobs(self, everything: bool = False) -> Deferred[list[IJob]]:
        """Return the jobs that are not gone, or all, oldest first."""
        return self._database.run(lambda database: job_table.listed(database, everything))

    def some_jobs(self, job_ids: Collection[str]) -> Deferred[list[IJob]]:
        """Return the jobs of these IDs, as far as they are known."""
        found = (*job_ids,)
        return self._database.run(
            lambda database: [job for each in found if (job := job_table.get(database, each)) is not None]
        )

    def past_jobs(self, most: int) -> Deferred[list[IJob]]:
        """Return at most so many jobs that are gone: those that ended last, oldest first."""
        return self._database.run(lambda database: job_table.past(database, most))

    def make_job(self, request: JobRequest, owner: int | None, socket: str) -> Deferred[IJob]:
        """Write down a new job; fail with `RefusedError` (409) if one of that name has not ended."""
        now = self._now()
        return self._database.run(lambda database: job_table.make(database, request, owner, socket, now))

    def forget_job(self, job_id: str) -> Deferred[None]:
        """Forget a job that could not be made, so that nobody ever reached it."""
        return self._database.run(lambda database: job_table.drop(database, job_id))

    def restore_job(self, job_id: str, name: str, created: float, reason: str) -> Deferred[IJob]:
        """Return a job that labels tell of; one that is unknown is written down as failed."""
        now = self._now()
        return self._database.run(lambda database: job_table.restore(database, job_id, name, created, reason, now))

    def set_job(
        self, job_id: str, state: JobState | None, *, reason: str | None = None, report: ReapReport | None = None
    ) -> Deferred[IJob]:
        """Write down where a job stands, and return it as it is then; see `ILedger.set_job`."""
        now, path = self._now(), str(self._path)
        return self._database.run(lambda database: job_table.change(database, job_id, state, reason, report, now, path))

    def add_event(self, event: str, job: IJob | None, data: Mapping[str, Any]) -> Deferred[int]:
        """Write down what happened; return its number."""
        now = self._now()
        return self._database.run(lambda database: job_table.add_event(database, event, job, data, now))

    def events(self, since: int, most: int = 1000) -> Deferred[list[dict[str, Any]]]:
        """Return at most so many events after a number, oldest first."""
        return self._database.run(lambda database: job_table.events(database, since, most))

    def adopt_instance(self, instance: str) -> Deferred[None]:
        """Write down that we answer for what a lost tracker made."""
        now = self._now()
        return self._database.run(lambda database: job_table.adopt_instance(database, instance, now))

    def adopted_instances(self) -> Deferred[list[str]]:
        """Return the lost trackers that we answer for."""
        return self._database.run(job_table.adopted_instances)

    def check_engine(self, engine: str) -> Deferred[None]:
        """Write down the engine's ID at its first sight; fail with `LedgerError` for any other one."""
        return self._database.run(lambda database: self._check_engine(database, engine))

    def intend(self, intent: Intent, engine: str) -> Deferred[int]:
        """Write down that a create is about to be forwarded; return the intent's number."""
        values = (intent.job_id, intent.operation, intent.kind, _references(intent.names), _references(intent.before))
        now = self._now()

        def work(database: sqlite3.Connection) -> int:
            self._check_engine(database, engine)
            row = database.execute(
                "INSERT INTO intents (job, operation, kind, names, before, exchange, started, state)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, 'open') RETURNING number",
                (*values, intent.exchange, now),
            ).fetchone()
            return int(row[0])

        return self._database.run(work)

    def record(self, intent: int, resources: Sequence[Resource], state: State | None = None) -> Deferred[None]:
        """Write down what an intent led to, and settle it if a state is given."""
        now = self._now()

        def work(database: sqlite3.Connection) -> None:
            row = database.execute("SELECT job FROM intents WHERE number = ?", (intent,)).fetchone()
            if row is None:
                raise LedgerError(str(self._path), f"it has no intent {intent}")
            for resource in resources:
                _put(database, _with_parent(database, resource), row[0], intent, now)
            if state is not None:
                _settle(database, intent, state, now)

        return self._told(self._owing(self._database.run(work), intent, State.LOST, resources, now), state)

    def settle(self, intent: int, state: State) -> Deferred[None]:
        """Write down what became of an intent."""
        now = self._now()
        settling = self._database.run(lambda database: _settle(database, intent, state, now))
        return self._told(self._owing(settling, intent, state), state)

    def settle_owed(self) -> Deferred[None]:
        """Write down what could not be written when it was due; see `ILedger.settle_owed`."""
        owed, resources, now = {**self._owed}, {**self._owed_resources}, self._now()
        if not owed and not resources:
            return succeed(None)

        def work(database: sqlite3.Connection) -> None:
            for (intent, kind, identifier), (resource, since) in resources.items():
                row = database.execute("SELECT job FROM intents WHERE number = ?", (intent,)).fetchone()
                if row is not None and self._unknown.get((kind, identifier), -1.0) < since:  # it did not go since
                    _put_late(database, _with_parent(database, resource), row[0], intent, since)
            for intent, state in owed.items():
                row = database.execute("SELECT state FROM intents WHERE number = ?", (intent,)).fetchone()
                if row is not None and row[0] == State.OPEN.value:  # it was not settled meanwhile
                    _settle(database, intent, state, now)

        def settled(_: None) -> None:
            self._owed = {intent: state for intent, state in self._owed.items() if owed.get(intent) is not state}
            rest = {key: each for key, each in self._owed_resources.items() if resources.get(key) is not each}
            self._owed_resources = rest

        return self._database.run(work).addCallback(settled)

    def removed(self, kind: str, identifiers: Sequence[str]) -> Deferred[None]:
        """Write down that resources exist no more, whoever's they were; unknown ones are remembered for a while."""
        now = self._now()

        def work(database: sqlite3.Connection) -> None:
            for identifier in _removed(database, kind, identifiers, now):
                self._unknown.pop((kind, identifier), None)
                self._unknown[kind, identifier] = now
            while len(self._unknown) > _MOST_UNKNOWN:
                del self._unknown[next(iter(self._unknown))]

        return self._database.run(work)

    def removed_reference(self, kind: str, reference: str) -> Deferred[None]:
        """As `removed`, for what the engine knew by a name, an ID or a unique, long enough beginning of an ID."""
        now = self._now()

        def work(database: sqlite3.Connection) -> None:
            _removed(database, kind, _resolve(database, kind, reference), now)

        return self._database.run(work)

    def renamed(self, kind: str, reference: str, name: str) -> Deferred[None]:
        """Write down that what the engine knew by ``reference`` has another name now."""

        def work(database: sqlite3.Connection) -> None:
            database.executemany(
                "UPDATE resources SET name = ? WHERE kind = ? AND identifier = ? AND removed IS NULL",
                [(name, kind, identifier) for identifier in _resolve(database, kind, reference)],
            )

        return self._database.run(work)

    def gone(self, resources: Sequence[Resource]) -> Deferred[None]:
        """Write down that resources exist no more, but for those that an intent led to after they were read."""
        now = self._now()

        def work(database: sqlite3.Connection) -> None:
            for resource in resources:
                changed = database.execute(
                    "UPDATE resources SET removed = ? WHERE number = ? AND intent = ? AND removed IS NULL",
                    (now, resource.number, resource.intent),
                ).rowcount
                if changed and resource.kind == "container":
                    _removed_execs(database, resource.identifier, now)

        return self._database.run(work)

    def resources(
        self, job_id: str | None = None, kind: str | None = None, everything: bool = False
    ) -> Deferred[list[Resource]]:
        """Return resources that exist (``everything``: removed ones, too), of one job or all, of one kind or all."""

        def work(database: sqlite3.Connection) -> list[Resource]:
            conditions = {"job = ?": job_id, "kind = ?": kind}
            given = {condition: value for condition, value in conditions.items() if value is not None}
            where = " AND ".join([*given, "1" if everything else "removed IS NULL"])
            rows = database.execute(
                f"SELECT {_RESOURCE_COLUMNS} FROM resources WHERE {where} ORDER BY number", [*given.values()]
            )
            return [_resource(row) for row in rows]

        return self._database.run(work)

    def hand_over(self, resources: Sequence[Resource], job_id: str) -> Deferred[bool]:
        """Write down that what a job made is an open job's from now on; see `ILedger.hand_over`."""
        now = self._now()

        def work(database: sqlite3.Connection) -> bool:
            open_ = "SELECT 1 FROM jobs WHERE id = ? AND state = ?"
            if database.execute(open_, (job_id, JobState.OPEN.value)).fetchone() is None:
                return False
            for resource in resources:
                used = Relation.USED.value
                database.execute("UPDATE resources SET relation = ? WHERE number = ?", (used, resource.number))
                _put(database, resource, job_id, resource.intent, now)
            return True

        return self._database.run(work)

    def adopt(self, resources: Sequence[Resource], since: float) -> Deferred[list[Resource]]:
        """Write down what the engine's labels say is a job's; see `ILedger.adopt`."""
        now = self._now()

        def work(database: sqlite3.Connection) -> list[Resource]:
            there = [each for each in resources if self._unknown.get((each.kind, each.identifier), -1.0) < since]
            new = [resource for resource in there if _is_new(database, resource, since)]
            for resource in new:
                _put(database, resource, resource.job_id, 0, now)
            return new

        return self._database.run(work)

    def lost(self) -> Deferred[list[tuple[Intent, list[Resource]]]]:
        """Return the intents whose answer nobody saw, each with what is recorded of it."""

        def work(database: sqlite3.Connection) -> list[tuple[Intent, list[Resource]]]:
            intents = database.execute(f"SELECT {_INTENT_COLUMNS} FROM intents WHERE state = 'lost' ORDER BY number")
            return [
                (
                    intent,
                    [
                        _resource(row)
                        for row in database.execute(
                            f"SELECT {_RESOURCE_COLUMNS} FROM resources WHERE intent = ?", (intent.number,)
                        )
                    ],
                )
                for intent in map(_intent, intents.fetchall())
            ]

        return self._database.run(work)

    def lost_of(self, job_id: str) -> Deferred[list[Intent]]:
        """Return a job's intents that are open or lost."""

        def work(database: sqlite3.Connection) -> list[Intent]:
            rows = database.execute(
                f"SELECT {_INTENT_COLUMNS} FROM intents WHERE job = ? AND state IN ('open', 'lost') ORDER BY number",
                (job_id,),
            )
            return [_intent(row) for row in rows]

        return self._database.run(work)

    def find(self, reference: str) -> Deferred[list[tuple[Resource, IJob | None, Intent | None]]]:
        """Return what a reference means, removed things included; see `ILedger.find`."""

        def work(database: sqlite3.Connection) -> list[tuple[Resource, IJob | None, Intent | None]]:
            return [
                (resource, job_table.get(database, resource.job_id), _intent_of(database, resource.intent))
                for resource in _find(database, reference)
            ]

        return self._database.run(work)

    def prune(self) -> Deferred[None]:
        """Forget what is over and older than is to be kept."""
        oldest = self._now() - self._keeping.seconds

        def work(database: sqlite3.Connection) -> None:
            for table, when, over in (
                ("resources", "removed", "removed IS NOT NULL"),
                ("intents", "settled", "state IN ('done', 'failed')"),
            ):
                database.execute(f"DELETE FROM {table} WHERE {over} AND {when} < ?", (oldest,))
                database.execute(
                    f"DELETE FROM {table} WHERE number IN"
                    f" (SELECT number FROM {table} WHERE {over} ORDER BY {when} DESC LIMIT -1 OFFSET ?)",
                    (self._keeping.most,),
                )
            job_table.forget(database, oldest, self._keeping.most)

        return self._database.run(work)

    def _owing(
        self,
        answer: Deferred[None],
        intent: int,
        state: State,
        resources: Sequence[Resource] = (),
        since: float = 0.0,
    ) -> Deferred[None]:
        """Keep in mind what a writing that fails would have said; an intent must not stay open for ever.

        :param since: When the resources were seen.
        """

        def failed(failure: Failure) -> Failure:
            if len(self._owed) < _MOST_OWED or intent in self._owed:
                self._owed[intent] = state
                if failure.check(LedgerError):  # type: ignore[no-untyped-call]  # any other would fail with all, ever after
                    for resource in resources[: _MOST_OWED - len(self._owed_resources)]:
                        self._owed_resources[intent, resource.kind, resource.identifier] = (resource, since)
                if self._when_lost is not None:
                    self._when_lost()
            return failure

        return answer.addErrback(failed)

    def _told(self, answer: Deferred[None], state: State | None) -> Deferred[None]:
        """Tell that there is something to look for, once it is on the disk."""

        def tell(_: None) -> None:
            if self._when_lost is not None:
                self._when_lost()

        return answer.addCallback(tell) if state is State.LOST else answer

    def _check_engine(self, database: sqlite3.Connection, engine: str) -> None:
        row = database.execute("SELECT value FROM meta WHERE key = 'engine'").fetchone()
        if row is None:
            database.execute("INSERT INTO meta VALUES ('engine', ?)", (engine,))
        elif row[0] != engine:
            raise LedgerError(
                str(self._path),
                f"it belongs to the engine {row[0]}, but the engine that answers is {engine}; "
                "give this one a --state-dir of its own",
            )


def _references(references: Iterable[Reference]) -> str:
    return json.dumps([*references])


def _resource(row: Sequence[object]) -> Resource:
    values = dict(zip(_RESOURCE_COLUMNS.split(", "), row, strict=True))
    values["job_id"] = values.pop("job")
    values["relation"] = Relation(values["relation"])
    values["attributes"] = json.loads(str(values["attributes"]))
    return Resource(**values)  # type: ignore[arg-type]  # the columns are the fields


def _intent(row: Sequence[object]) -> Intent:
    values = dict(zip(_INTENT_COLUMNS.split(", "), row, strict=True))
    values["job_id"] = values.pop("job")
    values["state"] = State(values["state"])
    for field in ("names", "before"):
        values[field] = tuple((kind, name) for kind, name in json.loads(str(values[field])))
    return Intent(**values)  # type: ignore[arg-type]  # the columns are the fields


def _with_parent(database: sqlite3.Connection, resource: Resource) -> Resource:
    """Return an exec with the full ID of its container, which may be known by any reference."""
    if resource.kind != "exec":
        return resource
    found = _resolve(database, "container", resource.parent)
    return attrs.evolve(resource, parent=found[0]) if found else resource


def _put(database: sqlite3.Connection, resource: Resource, job: str, intent: int, now: float) -> None:
    """Insert or update a resource. One job at most has made a thing; what a job made and uses, it made.

    A tag that a job made is another job's from when that moves it to another image. What an intent found there is its
    job's if it was made by a job and went while the intent was open: it is there anew.
    """
    rows = database.execute(
        "SELECT number, job, relation, parent FROM resources WHERE kind = ? AND identifier = ? AND removed IS NULL",
        (resource.kind, resource.identifier),
    ).fetchall()
    own = next(((number, relation) for number, owner, relation, _ in rows if owner == job), None)
    relation = resource.relation.value
    made = next((row for row in rows if row[1] != job and row[2] == Relation.MADE.value), None)
    if made is not None and _moves(database, resource, intent, made[3]):
        database.execute("UPDATE resources SET removed = ? WHERE number = ?", (now, made[0]))
        relation = Relation.MADE.value
    elif made is not None:
        relation = Relation.USED.value
    elif (own is not None and own[1] == Relation.MADE.value) or _came_anew(database, resource, intent):
        relation = Relation.MADE.value
    if own is None:
        # Not if it is gone already: then what is told of it now was seen before it went.
        database.execute(
            "INSERT INTO resources (kind, identifier, name, relation, parent, attributes, job, intent, created)"
            " SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9 WHERE ?8 = 0 OR NOT EXISTS (SELECT 1 FROM resources"
            " WHERE intent = ?8 AND kind = ?1 AND identifier = ?2 AND removed IS NOT NULL)",
            (
                resource.kind,
                resource.identifier,
                resource.name,
                relation,
                resource.parent,
                json.dumps(dict(resource.attributes)),
                job,
                intent,
                now,
            ),
        )
        return
    database.execute(
        "UPDATE resources SET name = coalesce(nullif(?, ''), name), parent = coalesce(nullif(?, ''), parent),"
        " attributes = CASE attributes WHEN '{}' THEN ? ELSE attributes END, relation = ?, intent = ? WHERE number = ?",
        (resource.name, resource.parent, json.dumps(dict(resource.attributes)), relation, intent, own[0]),
    )


def _put_late(database: sqlite3.Connection, resource: Resource, job: str, intent: int, since: float) -> None:
    """Put what was seen some time ago. A tag that a later intent led to another image went over to that one's job."""
    later = database.execute(
        "SELECT number FROM resources WHERE kind = 'image' AND identifier = ? AND removed IS NULL"
        " AND intent > ? AND parent NOT IN ('', ?) ORDER BY intent DESC",
        (resource.identifier, intent, resource.parent),
    ).fetchone()
    if later is None or resource.kind != "image":
        _put(database, resource, job, intent, since)
    elif resource.relation is Relation.MADE:
        database.execute(
            "UPDATE resources SET relation = ?1 WHERE number = ?2 AND NOT EXISTS (SELECT 1 FROM resources"
            " WHERE kind = 'image' AND identifier = ?3 AND relation = ?1 AND removed IS NULL)",
            (Relation.MADE.value, later[0], resource.identifier),
        )


def _moves(database: sqlite3.Connection, resource: Resource, intent: int, parent: str) -> bool:
    """Return whether a tag leads to another image than it did, and was not taken by another one since.

    :param parent: The image that it led to.
    """
    if resource.kind != "image" or not parent or resource.parent in ("", parent):
        return False
    lost = "SELECT 1 FROM resources WHERE intent = ? AND kind = 'image' AND identifier = ? AND removed IS NOT NULL"
    return database.execute(lost, (intent, resource.identifier)).fetchone() is None


def _came_anew(database: sqlite3.Connection, resource: Resource, intent: int) -> bool:
    """Return whether a thing is used only as one was there before, which was a job's and went since.

    What is asked for as a volume is told by its label, and what is pulled is nobody's. If an intent is lost, somebody
    else may have come between.
    """
    if resource.relation is Relation.MADE:
        return False
    row = database.execute(
        "SELECT before FROM intents WHERE number = ? AND state <> ? AND operation <> ? AND kind <> 'volume'"
        " AND EXISTS (SELECT 1 FROM resources"
        " WHERE kind = ? AND identifier = ? AND relation = ? AND removed > intents.started)",
        (intent, State.LOST.value, PULL, resource.kind, resource.identifier, Relation.MADE.value),
    ).fetchone()
    return row is not None and [resource.kind, resource.identifier] in json.loads(row[0])


def _is_new(database: sqlite3.Connection, resource: Resource, since: float) -> bool:
    """Return whether a resource is of a job that is known, and there is no record of it that says as much."""
    relation, made = resource.relation.value, Relation.MADE.value
    known = (
        ("SELECT 1 FROM jobs WHERE id = ?", (resource.job_id,), True),
        (
            "SELECT 1 FROM resources WHERE kind = ? AND identifier = ? AND removed IS NULL"
            " AND (relation = ? OR job = ? AND relation = ?)",
            (resource.kind, resource.identifier, made, resource.job_id, relation),
            False,
        ),
        (
            "SELECT 1 FROM resources WHERE removed >= ? AND kind = ? AND identifier = ?",
            (since, resource.kind, resource.identifier),
            False,
        ),
    )
    return all((database.execute(query, values).fetchone() is not None) is wanted for query, values, wanted in known)


def _settle(database: sqlite3.Connection, intent: int, state: State, now: float) -> None:
    # What is done does not get lost: that a look was given up may be told after it was through.
    rest = "WHERE number = ? AND settled IS NULL" if state is State.LOST else ", before = '[]' WHERE number = ?"
    database.execute(f"UPDATE intents SET state = ?, settled = ? {rest}", (state.value, now, intent))


def _resolve(database: sqlite3.Connection, kind: str, reference: str) -> list[str]:
    """Return the identifier that the engine takes a reference for: a full ID, a name, a unique beginning of an ID.

    A short beginning could as well be the name of something that is not recorded (``db``), so it stands for nothing.
    """
    existing = "SELECT DISTINCT identifier FROM resources WHERE removed IS NULL AND kind = ? AND "
    for condition, values in (
        ("identifier = ?", (reference,)),
        ("name = ?", (reference,)),
        ("identifier >= ? AND identifier < ?", (reference, reference + "\U0010ffff")),
    )[: 3 if len(reference) >= _SHORT_ID else 2]:
        found = database.execute(existing + condition + " LIMIT 2", (kind, *values)).fetchall()
        if found:
            return [found[0][0]] if len(found) == 1 else []
    return []


def _find(database: sqlite3.Connection, reference: str) -> list[Resource]:
    """Return what people mean by an ID, a name or a unique beginning of an ID, the newest first.

    :raises RefusedError: it is the beginning of several IDs.
    """
    for prefix in ("", "sha256:"):  # an image's ID is often shown without it
        beginning = prefix + reference
        exact = ("identifier = ? OR name = ?", (beginning, beginning))
        tagged = ("name = ?", (familiar(reference),))
        begun = ("identifier >= ? AND identifier < ?", (beginning, beginning + "\U0010ffff"))
        for condition, values in (exact, tagged, begun)[: 3 if len(reference) >= _SHORTEST_ID else 2]:
            rows = database.execute(
                f"SELECT {_RESOURCE_COLUMNS} FROM resources WHERE {condition} ORDER BY number DESC LIMIT ?",
                (*values, _MOST_FOUND),
            )
            found = [_resource(row) for row in rows]
            if (condition, values) == begun and len({resource.identifier for resource in found}) > 1:
                raise RefusedError(f"{reference!r} is the beginning of several IDs: write more of it")
            if found:
                return found
    return []


def _intent_of(database: sqlite3.Connection, number: int) -> Intent | None:
    row = database.execute(f"SELECT {_INTENT_COLUMNS} FROM intents WHERE number = ?", (number,)).fetchone()
    return None if row is None else _intent(row)


def _removed(database: sqlite3.Connection, kind: str, identifiers: Sequence[str], now: float) -> list[str]:
    """Write down that resources exist no more; return those of which there was no record that they do."""
    unknown = []
    for identifier in identifiers:
        changed = database.execute(
            "UPDATE resources SET removed = ? WHERE kind = ? AND identifier = ? AND removed IS NULL",
            (now, kind, identifier),
        ).rowcount
        if not changed:
            unknown.append(identifier)
        if kind == "container":
            _removed_execs(database, identifier, now)
    return unknown


def _removed_execs(database: sqlite3.Connection, container: str, now: float) -> None:
    database.execute(
        "UPDATE resources SET removed = ? WHERE parent = ? AND parent <> '' AND kind = 'exec' AND removed IS NULL",
        (now, container),
    )
