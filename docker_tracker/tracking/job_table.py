"""Jobs and events in the ledger's database: functions that run inside its transactions. Layer: beside the ledger."""

from __future__ import annotations

import json
import secrets
import sqlite3
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from docker_tracker.errors import LedgerError, RefusedError
from docker_tracker.interfaces import IJob
from docker_tracker.job import DEFAULT, JobRequest, JobState, ReapReport
from docker_tracker.job_record import Job

#: The ledger's second step: what a job is beyond its name, and what happened.
STEP: Final[Sequence[str]] = (
    "ALTER TABLE jobs ADD COLUMN state TEXT NOT NULL DEFAULT 'open'",
    "ALTER TABLE jobs ADD COLUMN request TEXT NOT NULL DEFAULT '{}'",  # JSON: what it was asked to be
    "ALTER TABLE jobs ADD COLUMN owner INTEGER",
    "ALTER TABLE jobs ADD COLUMN socket TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE jobs ADD COLUMN reason TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE jobs ADD COLUMN report TEXT",  # JSON: of its last reap
    "UPDATE jobs SET state = 'gone' WHERE ended IS NOT NULL",
    "CREATE INDEX jobs_live ON jobs (state) WHERE state <> 'gone'",
    """CREATE TABLE events (
            number INTEGER PRIMARY KEY AUTOINCREMENT,
            time REAL NOT NULL,
            event TEXT NOT NULL,
            job_id TEXT NOT NULL,
            job TEXT NOT NULL,
            data TEXT NOT NULL  -- JSON: an object
        )""",
    "CREATE INDEX events_times ON events (time)",
    "CREATE TABLE instances (id TEXT PRIMARY KEY, adopted REAL NOT NULL) WITHOUT ROWID",
    "CREATE INDEX resources_identifiers ON resources (identifier)",
    "CREATE INDEX resources_called ON resources (name) WHERE name <> ''",
    "CREATE INDEX intents_live ON intents (job) WHERE state IN ('open', 'lost')",
)

_COLUMNS: Final = "id, name, state, request, owner, socket, created, ended, reason, report"


def named(database: sqlite3.Connection, name: str, now: float) -> Job:
    """Return the job of that name that did not end; make it if there is none."""
    return _open(database, name) or insert(database, JobRequest(name=name), None, "", now)


def _open(database: sqlite3.Connection, name: str) -> Job | None:
    row = database.execute(f"SELECT {_COLUMNS} FROM jobs WHERE name = ? AND ended IS NULL", (name,)).fetchone()
    return None if row is None else _job(row)


def make(database: sqlite3.Connection, request: JobRequest, owner: int | None, socket: str, now: float) -> Job:
    """Write down a new job.

    :raises RefusedError: another one has its name.
    """
    other = _open(database, request.name)
    if other is not None:
        raise RefusedError(
            f"there is a job {request.name!r} ({other.id}): end it first, or give this one another name", 409
        )
    return insert(database, request, owner, socket, now)


def insert(database: sqlite3.Connection, request: JobRequest, owner: int | None, socket: str, now: float) -> Job:
    """Write down a new job whose name is free."""
    job = Job(id=secrets.token_hex(16), request=request, owner=owner, socket=socket, created=now)
    _insert(database, job)
    return job


def _insert(database: sqlite3.Connection, job: Job) -> None:
    database.execute(
        f"INSERT INTO jobs ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, NULL)",
        (
            job.id,
            job.name,
            job.state.value,
            json.dumps(job.request.table()),
            job.owner,
            job.socket,
            job.created,
            job.ended,
            job.reason,
        ),
    )


def drop(database: sqlite3.Connection, job_id: str) -> None:
    """Forget a job that made nothing."""
    database.execute("DELETE FROM jobs WHERE id = ?", (job_id,))


def restore(database: sqlite3.Connection, job_id: str, name: str, created: float, reason: str, now: float) -> Job:
    """Return a job that only labels tell of: as the ledger has it, or as one whose end was not reached.

    An earlier job "default" had no end that could be reached: its things are listed, and stay.
    """
    known = get(database, job_id)
    if known is None:
        known = Job(
            id=job_id,
            request=JobRequest(name=name),
            state=JobState.GONE if name == DEFAULT else JobState.FAILED,
            created=min(created or now, now),
            ended=now,
            reason=reason,
        )
        _insert(database, known)
    return known


def get(database: sqlite3.Connection, job_id: str) -> Job | None:
    """Return a job by its ID; None: there is none."""
    row = database.execute(f"SELECT {_COLUMNS} FROM jobs WHERE id = ?", (job_id,)).fetchone()
    return None if row is None else _job(row)


def listed(database: sqlite3.Connection, everything: bool) -> list[IJob]:
    """Return the jobs that are not gone, or all, oldest first."""
    where = "1" if everything else "state <> 'gone'"
    return [_job(row) for row in database.execute(f"SELECT {_COLUMNS} FROM jobs WHERE {where} ORDER BY created, id")]


def past(database: sqlite3.Connection, most: int) -> list[IJob]:
    """Return at most so many jobs that are gone: those that ended last, oldest first."""
    rows = database.execute(
        f"SELECT {_COLUMNS} FROM jobs WHERE state = 'gone' ORDER BY ended DESC, id LIMIT ?", (most,)
    ).fetchall()
    return [_job(row) for row in reversed(rows)]


def change(
    database: sqlite3.Connection,
    job_id: str,
    state: JobState | None,
    reason: str | None,
    report: ReapReport | None,
    now: float,
    path: str,
) -> Job:
    """Write down where a job stands; return it as it is then.

    :param path: The ledger's, for errors.
    :raises LedgerError: there is no such job, or it has ended and is to be open.
    """
    job = get(database, job_id)
    if job is None:
        raise LedgerError(path, f"it has no job {job_id}")
    state = state or job.state
    if state is JobState.OPEN and job.ended is not None:
        raise LedgerError(path, f"the job {job.name!r} ({job_id}) has ended: it cannot be open again")
    ended = job.ended if state is JobState.OPEN or job.ended is not None else now
    database.execute(
        "UPDATE jobs SET state = ?, ended = ?, reason = coalesce(?, reason), report = coalesce(?, report) WHERE id = ?",
        (state.value, ended, reason, None if report is None else json.dumps(report.table()), job_id),
    )
    changed = get(database, job_id)
    assert changed is not None
    return changed


def forget(database: sqlite3.Connection, oldest: float, most: int) -> None:
    """Forget events, and jobs that are gone and have nothing in the ledger any more, by age and number."""
    database.execute("DELETE FROM events WHERE time < ?", (oldest,))
    database.execute("DELETE FROM events WHERE number <= (SELECT max(number) FROM events) - ?", (most,))
    database.execute(
        "DELETE FROM jobs WHERE state = 'gone' AND id NOT IN (SELECT job FROM resources)"
        " AND id NOT IN (SELECT job FROM intents) AND (ended < ? OR id IN"
        " (SELECT id FROM jobs WHERE state = 'gone' ORDER BY ended DESC LIMIT -1 OFFSET ?))",
        (oldest, most),
    )


def add_event(database: sqlite3.Connection, event: str, job: IJob | None, data: Mapping[str, Any], now: float) -> int:
    """Write down what happened; return its number."""
    row = database.execute(
        "INSERT INTO events (time, event, job_id, job, data) VALUES (?, ?, ?, ?, ?) RETURNING number",
        (now, event, job.id if job else "", job.name if job else "", json.dumps(dict(data))),
    ).fetchone()
    return int(row[0])


def events(database: sqlite3.Connection, since: int, most: int) -> list[dict[str, Any]]:
    """Return the events after a number, oldest first.

    :raises RefusedError: no event has had that number yet; who asks knows it from another ledger, and would miss some.
    """
    rows = database.execute(
        "SELECT number, time, event, job_id, job, data FROM events WHERE number > ? ORDER BY number LIMIT ?",
        (since, most),
    ).fetchall()
    last = database.execute("SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'events'").fetchone()[0]
    if since > last:
        raise RefusedError(
            f"there was no event {since} here yet, the last one is {last}: the ledger was begun anew or put back since,"
            " so take up events from 0 on",
            404,
        )
    return [
        {
            "number": number,
            "time": datetime.fromtimestamp(time, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "event": event,
            "job_id": job_id,
            "job": job,
            "data": json.loads(data),
        }
        for number, time, event, job_id, job, data in rows
    ]


def adopt_instance(database: sqlite3.Connection, instance: str, now: float) -> None:
    """Write down that we answer for what another tracker made."""
    database.execute("INSERT OR IGNORE INTO instances VALUES (?, ?)", (instance, now))


def adopted_instances(database: sqlite3.Connection) -> list[str]:
    """Return the trackers whose things are ours."""
    return [instance for (instance,) in database.execute("SELECT id FROM instances ORDER BY id")]


def _job(row: Sequence[Any]) -> Job:
    job_id, name, state, request, owner, socket, created, ended, reason, report = row
    return Job(
        id=job_id,
        request=JobRequest.of({"name": name, **json.loads(request)}, kept=True),  # an older ledger has the name only
        state=JobState(state),
        owner=owner,
        socket=socket,
        created=created,
        ended=ended,
        reason=reason,
        report=None if report is None else ReapReport.of(json.loads(report)),
    )
