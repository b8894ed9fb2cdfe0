"""The ledger's file and thread: order, group commit, durability, refusals."""

from __future__ import annotations

import os
import queue
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from docker_tracker.counts import Counts
from docker_tracker.errors import LedgerError
from docker_tracker.tracking.database import Database

ROOT = Path(__file__).resolve().parents[1]
SCHEMA = (("CREATE TABLE numbers (number INTEGER NOT NULL UNIQUE)",),)


def insert(number: int) -> Callable[[sqlite3.Connection], None]:
    """Give a piece of work that inserts a number."""

    def work(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO numbers VALUES (?)", (number,))

    return work


def statement(text: str) -> Callable[[sqlite3.Connection], list[Any]]:
    """Give a piece of work that runs one statement."""
    return lambda connection: connection.execute(text).fetchall()


def numbers(connection: sqlite3.Connection) -> list[int]:
    return [row[0] for row in connection.execute("SELECT number FROM numbers ORDER BY number")]


class Calls:
    """Stands for the reactor: keeps what the thread asks for until the test runs it."""

    def __init__(self) -> None:
        self._queue: queue.Queue[Callable[[], object]] = queue.Queue()

    def from_thread(self, call: Callable[..., object], *arguments: Any) -> None:
        self._queue.put(lambda: call(*arguments))

    def run_one(self) -> None:
        self._queue.get(timeout=30)()

    def run_until(self, deferred: Deferred[Any]) -> None:
        while not deferred.called:
            self.run_one()


class DatabaseCase(SynchronousTestCase):
    def setUp(self) -> None:
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.path = Path(directory.name) / "state" / "ledger.sqlite"

    def opened(self, **options: Any) -> Database:
        """Give an open database without a thread."""
        database = Database(self.path, options.pop("migrations", SCHEMA), None, **options)
        database.open()
        self.addCleanup(database.close)
        return database

    def problem(self, database: Database) -> str:
        """Give what open() says is wrong."""
        return str(self.assertRaises(LedgerError, database.open).problem)


class SynchronousTests(DatabaseCase):
    def test_permissions(self) -> None:
        """Nobody else may read it: names and users are in it."""
        self.opened()
        self.assertEqual(self.path.parent.stat().st_mode & 0o777, 0o700)
        for path in self.path.parent.iterdir():
            self.assertEqual(path.stat().st_mode & 0o777, 0o600, path.name)

    def test_durable_settings(self) -> None:
        """Each commit is flushed to the disk."""
        database = self.opened()
        for pragma, wanted in (("journal_mode", "wal"), ("synchronous", 2)):
            found = self.successResultOf(database.run(statement(f"PRAGMA {pragma}")))
            self.assertEqual(found, [(wanted,)], pragma)

    def test_failed_work_leaves_nothing(self) -> None:
        """What fails half-way is undone, and says what the database said."""
        database = self.opened()

        def twice(connection: sqlite3.Connection) -> None:
            insert(1)(connection)
            insert(1)(connection)

        error = self.failureResultOf(database.run(twice), LedgerError).value
        self.assertEqual((error.path, "UNIQUE" in error.problem), (str(self.path), True))
        self.assertEqual(self.successResultOf(database.run(numbers)), [])

    def test_full_disk(self) -> None:
        """A full disk is an error for each call, which is counted, and is over when there is room again."""
        counts = Counts()
        database = self.opened(counts=counts)
        pages = self.successResultOf(database.run(lambda c: c.execute("PRAGMA page_count").fetchone()[0]))
        self.successResultOf(database.run(lambda c: c.execute(f"PRAGMA max_page_count={pages}").fetchone()))

        def large(connection: sqlite3.Connection) -> None:
            for number in range(5000):
                insert(number)(connection)

        self.assertIn("full", self.failureResultOf(database.run(large), LedgerError).value.problem)
        self.assertEqual(counts.journal_errors, 1)
        self.successResultOf(database.run(lambda c: c.execute("PRAGMA max_page_count=100000").fetchone()))
        self.successResultOf(database.run(large))

    def test_closed(self) -> None:
        """Before open() and after close() there is an error, and closing twice is none."""
        database = Database(self.path, SCHEMA, None)
        self.failureResultOf(database.run(numbers), LedgerError)
        database.open()
        self.successResultOf(database.run(insert(1)))
        self.successResultOf(database.close())
        self.successResultOf(database.close())
        self.assertIn("closed", self.failureResultOf(database.run(numbers), LedgerError).value.problem)
        database.open()
        self.assertEqual(self.successResultOf(database.run(numbers)), [1])
        self.successResultOf(database.close())


class OpenTests(DatabaseCase):
    def test_second_process(self) -> None:
        """Another process that has the file is named; when it is gone, the file can be had."""
        self.opened()
        code = (
            "import sys; from pathlib import Path; from docker_tracker.tracking.database import Database\n"
            "try: Database(Path(sys.argv[1]), (), None).open()\n"
            "except Exception as error: print(error)"
        )
        command = [sys.executable, "-c", code, str(self.path)]
        printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        self.assertIn(f"another docker-tracker (process {os.getpid()}) uses this state directory", printed)
        self.assertIn("--state-dir", printed)

    def test_lock_is_given_up(self) -> None:
        """A failed open keeps no lock."""
        broken = Database(self.path, (("no SQL",),), None)
        self.assertIn("syntax error", self.problem(broken))
        self.opened()

    def test_bad_files(self) -> None:
        """What is no ledger is refused with its name and a way out."""
        self.path.parent.mkdir()
        self.path.write_bytes(b"this is no database, and it is long enough to be looked at as one" * 20)
        error = self.assertRaises(LedgerError, Database(self.path, SCHEMA, None).open)
        self.assertRegex(str(error), f"the ledger {self.path}: .*not a database.*move it away")

    def test_unwritable(self) -> None:
        """A directory that can't be made is refused."""
        self.path.parent.write_bytes(b"")
        self.assertIn("cannot be opened", self.problem(Database(self.path, SCHEMA, None)))

    def test_migration(self) -> None:
        """An older file is brought forward, step by step, with what is in it; a newer one is refused."""
        second = ("ALTER TABLE numbers ADD COLUMN word TEXT NOT NULL DEFAULT 'none'",)
        third = ("UPDATE numbers SET word = 'old'",)
        database = self.opened()
        self.successResultOf(database.run(insert(7)))
        database.close()
        newest = self.opened(migrations=(*SCHEMA, second, third))
        rows = self.successResultOf(newest.run(lambda c: c.execute("SELECT * FROM numbers").fetchall()))
        self.assertEqual(rows, [(7, "old")])
        newest.close()
        problem = self.problem(Database(self.path, SCHEMA, None))
        self.assertIn("schema version 3, this docker-tracker knows 1", problem)
        self.assertNotIn("move it away", problem)

    def test_failed_migration(self) -> None:
        """A step that fails leaves the version before it."""
        self.opened().close()
        step = ("CREATE TABLE words (word TEXT)", "no SQL")
        self.problem(Database(self.path, (*SCHEMA, step), None))
        database = self.opened()
        tables = self.successResultOf(database.run(lambda c: c.execute("SELECT name FROM sqlite_master").fetchall()))
        self.assertNotIn(("words",), tables)

    def test_begin(self) -> None:
        """What is to be done first is done, and its failure is open()'s."""
        database = Database(self.path, SCHEMA, None)
        database.open(insert(1))
        self.addCleanup(database.close)
        self.assertEqual(self.successResultOf(database.run(numbers)), [1])
        database.close()
        self.assertRaises(LedgerError, database.open, insert(1))


class ThreadTests(DatabaseCase):
    def setUp(self) -> None:
        super().setUp()
        self.calls = Calls()

    def started(self, **options: Any) -> Database:
        database = Database(self.path, SCHEMA, self.calls.from_thread, **options)
        database.open()
        self.addCleanup(lambda: self.calls.run_until(database.close()))
        return database

    def held(self, database: Database) -> threading.Event:
        """Keep the thread busy until the event that is returned is set."""
        going, free = threading.Event(), threading.Event()

        def work(_: sqlite3.Connection) -> None:
            going.set()
            free.wait(30)

        database.run(work)
        going.wait(30)
        return free

    def test_order(self) -> None:
        """A read sees every write that was asked for before it, and none after it."""
        database = self.started()
        reads = []
        for number in range(50):
            database.run(insert(number))
            reads.append(database.run(numbers))
        self.calls.run_until(reads[-1])
        self.assertEqual([len(self.successResultOf(read)) for read in reads], [*range(1, 51)])

    def test_group_commit(self) -> None:
        """What waits is committed at once, and is answered only then, in order."""
        database = self.started()
        free = self.held(database)
        commits: list[str] = []
        database.run(lambda c: c.set_trace_callback(lambda sql: commits.append(sql) if sql == "COMMIT" else None))
        order: list[int] = []
        answers = [database.run(insert(number)) for number in range(20)]
        for number, answer in enumerate(answers):
            answer.addCallback(lambda _, number: order.append(number), number)
        free.set()
        self.calls.run_until(answers[-1])
        self.assertEqual((commits, order), (["COMMIT"], [*range(20)]))

    def test_one_failure_among_many(self) -> None:
        """A call that fails does not take down those beside it."""
        database = self.started()
        free = self.held(database)
        answers = [database.run(insert(number)) for number in (1, 2, 1, 3)]
        free.set()
        self.calls.run_until(answers[-1])
        self.failureResultOf(answers[2], LedgerError)
        read = database.run(numbers)
        self.calls.run_until(read)
        self.assertEqual(self.successResultOf(read), [1, 2, 3])

    def test_defect(self) -> None:
        """A defect in a piece of work goes to whoever asked, and the thread lives on; it is no fault of the ledger."""
        counts = Counts()
        database = self.started(counts=counts)
        broken = database.run(lambda _: 1 // 0)
        self.calls.run_until(broken)
        self.failureResultOf(broken, ZeroDivisionError)
        self.assertEqual(counts.journal_errors, 0)
        self.calls.run_until(database.run(insert(1)))

    def test_bounded(self) -> None:
        """A disk that does not answer does not eat the memory."""
        counts = Counts()
        database = self.started(most_waiting=3, counts=counts)
        free = self.held(database)
        answers = [database.run(insert(number)) for number in range(4)]
        self.assertIn("too slow", self.failureResultOf(answers[3], LedgerError).value.problem)
        self.assertEqual(counts.journal_errors, 1)
        free.set()
        self.calls.run_until(answers[2])

    def test_answers_a_few_at_a_time(self) -> None:
        """However many share a transaction, the reactor gets to others between their answers, and keeps the order."""
        database = self.started()
        free = self.held(database)
        order: list[int] = []
        turns: list[int] = []
        answers = [database.run(insert(number)) for number in range(64)]
        for number, answer in enumerate(answers):
            answer.addCallback(lambda _, number: order.append(number), number)
        # What is answered asks for more: that is answered behind the rest.
        later: list[Deferred[None]] = []
        answers[0].addCallback(lambda _: later.append(database.run(insert(64)).addCallback(lambda _: order.append(64))))
        free.set()
        while len(order) < 65:
            before = len(order)
            self.calls.run_one()
            turns.append(len(order) - before)
        self.assertEqual(order, [*range(65)])
        self.assertLessEqual(max(turns), 8)

    def test_close_flushes(self) -> None:
        """What was asked for before close() is on the disk after it, and no thread is left."""
        database = self.started()
        free = self.held(database)
        answers = [database.run(insert(number)) for number in range(10)]
        closed = database.close()
        self.failureResultOf(database.run(insert(99)), LedgerError)
        free.set()
        self.calls.run_until(closed)
        for answer in answers:
            self.successResultOf(answer)
        self.assertNotIn("docker-tracker-ledger", [thread.name for thread in threading.enumerate()])
        self.assertEqual(self.successResultOf(self.opened().run(numbers)), [*range(10)])

    def test_cancelled(self) -> None:
        """Whoever gave up waiting is told nothing more."""
        database = self.started()
        free = self.held(database)
        answer = database.run(insert(1))
        answer.cancel()
        self.failureResultOf(answer)
        free.set()
        self.calls.run_until(database.run(numbers))


_CHILD = """
import sys
from pathlib import Path
from twisted.internet import reactor
from docker_tracker.tracking.database import Database

schema = [["CREATE TABLE numbers (number INTEGER NOT NULL UNIQUE)"]]
database = Database(Path(sys.argv[1]), schema, reactor.callFromThread)
database.open()

def insert(number):
    def done(_):
        print(number, flush=True)
        insert(number + 1)
    database.run(lambda c: c.execute("INSERT INTO numbers VALUES (?)", (number,)).rowcount).addCallback(done)

reactor.callWhenRunning(insert, 0)
reactor.run()
"""


class KilledTests(DatabaseCase):
    def test_killed(self) -> None:
        """All that was answered before SIGKILL is there afterwards, and the lock is free."""
        child = subprocess.Popen(
            [sys.executable, "-c", _CHILD, str(self.path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None
        lines = [child.stdout.readline() for _ in range(20)]
        child.send_signal(signal.SIGKILL)
        lines += child.stdout.readlines()
        child.stdout.close()
        self.assertEqual(child.wait(), -signal.SIGKILL)
        answered = [int(line) for line in lines if line.endswith("\n")]
        kept = self.successResultOf(self.opened().run(numbers))
        self.assertEqual(kept[: len(answered)], answered)
        self.assertGreaterEqual(len(answered), 20)
