"""One SQLite file, one thread that alone touches it, and group commit: the ledger's engine room.

What is queued runs in order, in one transaction with all that was queued beside it, and is answered once the
transaction is on the disk (WAL, ``synchronous=FULL``: one flush for each transaction, however many calls are in it).
"""

from __future__ import annotations

import fcntl
import os
import queue
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import attrs
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from docker_tracker.counts import Counts
from docker_tracker.errors import LedgerError

T = TypeVar("T")

Work = Callable[[sqlite3.Connection], T]
# What `IReactorFromThreads.callFromThread` is.
CallFromThread = Callable[..., object]
_Answer = tuple[Deferred[Any], Any]  # who asked, and the result or a Failure
# The statements of each schema version, in order; the first makes version 1 out of an empty file.
Migrations = Sequence[Sequence[str]]

_BUSY_SECONDS = 5.0

#: When so many calls shared a transaction, the next one waits so long for company. A single client never waits.
_CROWD = 4
_GATHER_SECONDS = 0.002

#: Each answer lets an exchange go on, which takes a while; so many do before the reactor looks round.
_AT_A_TIME = 4


@attrs.frozen(eq=False)
class _Request:
    work: Work[Any]
    answer: Deferred[Any]


class Database:
    """Runs pieces of work on a SQLite file, in the order in which they were asked for.

    :param path: The file; made with mode 0600, its directory with 0700.
    :param migrations: The schema.
    :param call_from_thread: `reactor.callFromThread`. None: no thread, each call is done when it returns (tests).
    :param most_waiting: How many calls may wait before further ones are refused.
    :param counts: Where calls that failed are counted.
    """

    def __init__(
        self,
        path: Path,
        migrations: Migrations,
        call_from_thread: CallFromThread | None,
        most_waiting: int = 10_000,
        counts: Counts | None = None,
    ) -> None:
        self.path = path
        #: What was wrong with the file when it was opened: "was broken", "was empty", "was missing"; or nothing.
        self.problem = ""
        self._counts = counts or Counts()
        self._migrations = migrations
        self._call_from_thread = call_from_thread
        self._most_waiting = most_waiting
        self._queue: queue.SimpleQueue[_Request | None] = queue.SimpleQueue()
        self._connection: sqlite3.Connection | None = None
        self._lock: int | None = None
        self._thread: threading.Thread | None = None
        self._answers: deque[_Answer] = deque()
        self._answering = False
        self._taking = False
        self._closed: Deferred[None] = Deferred()

    def open(self, begin: Work[None] | None = None, aside: str = "") -> Path | None:
        """Take the lock, open the file and bring its schema up to date; blocks for some milliseconds.

        :param begin: Run in a transaction of its own before anything else.
        :param aside: What the name of a broken or empty file gets appended, so that a new one takes its place; the
            empty string: a broken file is refused.
        :return: Where such a file is now, or None: it was whole, or is new.
        :raises LedgerError: another process has it, it is no ledger, it is of a newer version, or the disk said no.
        """
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = self._take_lock()
            size = self._size()
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        except OSError as error:
            self._release()
            raise self._error(f"cannot be opened: {error.strerror}") from error
        except LedgerError:
            self._release()
            raise
        moved = None
        self.problem = {None: "was missing", 0: "was empty"}.get(size, "")
        try:
            if size == 0 and aside:  # we leave none so; what stands beside it may help somebody
                moved = self._move_aside(aside)
            try:
                self._begin(begin)
            except sqlite3.DatabaseError as error:
                if not aside or moved is not None or not _is_broken(error):
                    raise
                self.problem = "was broken"
                moved = self._move_aside(aside)
                self._begin(begin)
        except (sqlite3.Error, _NewerSchemaError, OSError) as error:
            self._release()
            advice = "" if isinstance(error, _NewerSchemaError) else "; if it is broken, move it away and start again"
            raise self._error(f"cannot be used: {error}{advice}") from error
        self._taking = True
        if self._call_from_thread is not None:
            # A daemon: it must not keep a process alive that ends without close().
            work = (self._connection, self._call_from_thread)
            self._thread = threading.Thread(target=self._serve, args=work, name="docker-tracker-ledger", daemon=True)
            self._thread.start()
        return moved

    def _begin(self, begin: Work[None] | None) -> None:
        self._connection = self._connect()
        (answer,) = self._connection.execute("PRAGMA quick_check(1)").fetchone()
        if answer != "ok":
            raise _BrokenError(answer)
        _migrate(self._connection, self._migrations)
        if begin is not None:
            self._commit(self._connection, [begin])

    def _size(self) -> int | None:
        try:
            return self.path.stat().st_size
        except FileNotFoundError:
            return None

    def _move_aside(self, suffix: str) -> Path:
        """Give the file, and what SQLite has beside it, other names; we have the lock."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        for beside in ("-wal", "-shm"):
            with suppress(FileNotFoundError):
                os.rename(f"{self.path}{beside}", f"{self.path}{suffix}{beside}")
        moved = self.path.with_name(self.path.name + suffix)
        os.rename(self.path, moved)
        os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        return moved

    def run(self, work: Work[T]) -> Deferred[T]:
        """Queue a piece of work; the result is there when it is on the disk.

        ``work`` may be run twice (another call of its transaction failed), so it has no effect but on the database.

        :return: Fails with `LedgerError` for all that the database says.
        """
        answer: Deferred[T] = Deferred()
        if not self._taking or self._connection is None:
            self._answer([(answer, Failure(self._error("is closed")))])  # type: ignore[no-untyped-call]
        elif self._thread is None:
            self._answer(self._do(self._connection, [_Request(work, answer)]))
        elif self._queue.qsize() >= self._most_waiting:
            error = self._error(f"the disk is too slow: {self._most_waiting} calls are waiting")
            self._answer([(answer, Failure(error))])  # type: ignore[no-untyped-call]
        else:
            self._queue.put(_Request(work, answer))
        return answer

    def close(self) -> Deferred[None]:
        """Finish what is queued, then close the file and give up the lock; no call is taken any more."""
        self._taking = False
        closed: Deferred[None] = Deferred()
        if self._thread is None:
            self._release()
            closed.callback(None)
        else:
            self._closed = closed
            self._queue.put(None)
        return closed

    def _serve(self, connection: sqlite3.Connection, call_from_thread: CallFromThread) -> None:
        """Run in the thread: take all that waits, do it, have it answered; until None comes."""
        batch: list[_Request | None] = []
        while None not in batch:
            crowded = len(batch) >= _CROWD
            batch = [self._queue.get()]
            if crowded:  # more will come while we wait: one transaction is cheaper than two
                time.sleep(_GATHER_SECONDS)
            while not self._queue.empty():  # nobody else takes from it
                batch.append(self._queue.get())
            requests = [request for request in batch if request is not None]
            if requests:
                call_from_thread(self._answer_soon, self._do(connection, requests), call_from_thread)
        call_from_thread(self._end, call_from_thread)

    def _answer_soon(self, answers: list[_Answer], call_from_thread: CallFromThread) -> None:
        """Answer what a transaction brought, a few at a time: others have to be served in between."""
        self._answers.extend(answers)
        if not self._answering:
            self._answer_some(call_from_thread)

    def _answer_some(self, call_from_thread: CallFromThread) -> None:
        some = [self._answers.popleft() for _ in range(min(_AT_A_TIME, len(self._answers)))]
        self._answering = bool(self._answers)
        if self._answering:
            call_from_thread(self._answer_some, call_from_thread)
        self._answer(some)

    def _end(self, call_from_thread: CallFromThread) -> None:
        """End when all is answered."""
        if self._answering:
            call_from_thread(self._end, call_from_thread)
        else:
            self._ended()

    def _ended(self) -> None:
        thread, self._thread = self._thread, None
        assert thread is not None
        thread.join()
        self._release()
        self._closed.callback(None)

    def _do(self, connection: sqlite3.Connection, requests: list[_Request]) -> list[_Answer]:
        """Run requests in one transaction, or each in its own if that fails; return what to answer."""
        try:
            results = self._commit(connection, (request.work for request in requests))
        except Exception as error:  # it goes to whoever asked; with several, each alone shows whose it is
            if len(requests) == 1:
                return [(requests[0].answer, Failure(self._explained(error)))]  # type: ignore[no-untyped-call]
            return [answer for request in requests for answer in self._do(connection, [request])]
        return [(request.answer, result) for request, result in zip(requests, results, strict=True)]

    @staticmethod
    def _commit(connection: sqlite3.Connection, works: Iterable[Work[Any]]) -> list[Any]:
        connection.execute("BEGIN")
        try:
            results = [work(connection) for work in works]
            connection.execute("COMMIT")
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        return results

    def _answer(self, answers: Iterable[_Answer]) -> None:
        for deferred, result in answers:
            if isinstance(result, Failure):
                self._counts.journal_errors += isinstance(result.value, LedgerError)
                deferred.errback(result)
            else:
                deferred.callback(result)

    def _explained(self, error: Exception) -> Exception:
        return self._error(str(error)) if isinstance(error, sqlite3.Error) else error

    def _error(self, problem: str) -> LedgerError:
        return LedgerError(str(self.path), problem)

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self.path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False, cached_statements=256
        )
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
        except sqlite3.Error:
            connection.close()
            raise
        return connection

    def _take_lock(self) -> int:
        path = self.path.with_name(self.path.name + ".lock")
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.read(lock, 20).decode("ascii", "replace").strip()
            os.close(lock)
            raise self._error(
                f"another docker-tracker (process {owner or 'unknown'}) uses this state directory; "
                "stop it, or give this one a --state-dir of its own"
            ) from None
        os.truncate(lock, 0)
        os.pwrite(lock, b"%d\n" % os.getpid(), 0)
        return lock

    def _release(self) -> None:
        connection, self._connection = self._connection, None
        lock, self._lock = self._lock, None
        if connection is not None:
            connection.close()
        if lock is not None:
            os.close(lock)


class _NewerSchemaError(Exception):
    """The file was written by a later version of this program."""


class _BrokenError(sqlite3.DatabaseError):
    """SQLite's own check has found something."""


def _is_broken(error: sqlite3.DatabaseError) -> bool:
    """Whether it is the file itself that is of no use, not the disk or somebody's lock."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the rest says more closely what
    return isinstance(error, _BrokenError) or code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def _migrate(connection: sqlite3.Connection, migrations: Migrations) -> None:
    """Bring the schema to the last version, one transaction for each step."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > len(migrations):
        raise _NewerSchemaError(
            f"it has schema version {version}, this docker-tracker knows {len(migrations)}; install the newer one again"
        )
    for number, statements in enumerate(migrations[version:], start=version + 1):
        connection.execute("BEGIN IMMEDIATE")
        try:
            for statement in statements:
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version={number}")
            connection.execute("COMMIT")
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
