"""The least that two durable notes for each create can cost in Python: SQLite in a thread of its own, and nothing else.

``python benchmarks/ledger_floor.py [DIRECTORY]``. Clients create as fast as they can; each create is noted before it is
forwarded and after it is answered, in one row each of a table without an index. All that waits shares a transaction in
WAL mode with ``synchronous=FULL``, and is handed back to the main thread by one byte in a pipe. It imports nothing of
ours; the real ledger has two indexes on intents, seven on resources, reads before it writes, and settles each intent.
"""

from __future__ import annotations

import os
import queue
import sqlite3
import sys
import tempfile
import threading
import time
from pathlib import Path

SECONDS = 2.0
NOTE = "x" * 300  # what the real rows have, more or less


def serve(path: Path, synchronous: str, asked: queue.SimpleQueue[int], written: int) -> None:
    """Write as many rows as are asked for, in one transaction each, and say so; until 0 is asked for."""
    database = sqlite3.connect(path, isolation_level=None)
    database.execute("PRAGMA journal_mode=WAL")
    database.execute(f"PRAGMA synchronous={synchronous}")
    database.execute("CREATE TABLE notes (number INTEGER PRIMARY KEY, note TEXT)")
    while count := asked.get():
        database.execute("BEGIN")
        for _ in range(count):
            database.execute("INSERT INTO notes (note) VALUES (?)", (NOTE,))
        database.execute("COMMIT")
        os.write(written, b"x")
    database.close()


def measure(clients: int, synchronous: str, directory: Path) -> tuple[float, float]:
    """Return microseconds of CPU, and of time, for each create of so many clients at once."""
    asked: queue.SimpleQueue[int] = queue.SimpleQueue()
    told, written = os.pipe()
    path = directory / f"{synchronous}-{clients}.sqlite"
    thread = threading.Thread(target=serve, args=(path, synchronous, asked, written))
    thread.start()
    asked.put(1)
    os.read(told, 1)
    cpu, begin = time.process_time(), time.monotonic()
    creates = 0
    while time.monotonic() < begin + SECONDS:
        for _ in ("before", "after"):
            asked.put(clients)
            os.read(told, 1)
        creates += clients
    cpu, wall = time.process_time() - cpu, time.monotonic() - begin
    asked.put(0)
    thread.join()
    os.close(told)
    os.close(written)
    return cpu / creates * 1e6, wall / creates * 1e6


def main(directory: Path) -> None:
    """Print a line for each number of clients, flushed to the disk and not."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # one core, as the proxy has in the benchmarks
    for clients in (1, 16, 64):
        for synchronous in ("FULL", "OFF"):
            cpu, wall = measure(clients, synchronous, directory)
            sys.stdout.write(
                f"{clients:3} clients, synchronous={synchronous:4}: {cpu:6.1f} us CPU, {wall:7.1f} us, each create\n"
            )


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as name:
        main(Path(name))
