"""What a client sends takes time in proportion to its length, however it is made."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Final

from twisted.trial.unittest import SynchronousTestCase

from docker_tracker.engine import query
from docker_tracker.engine.document import Document, parse_map
from docker_tracker.engine.inventory import implicit_volumes
from docker_tracker.engine.recognise import recognise
from docker_tracker.errors import TrackerError
from docker_tracker.http1.framing import CHUNKED
from docker_tracker.http1.message import read_request
from docker_tracker.http1.scanner import body_for
from docker_tracker.plugins.labels import check_change
from docker_tracker.redaction import redact_command, redact_target, redact_url

_SIZE: Final = 400_000  # what is quadratic takes hours for this, what is linear some hundredths of a second
_PATIENCE: Final = 120  # seconds for all: how a failure shows, not a measurement

_MANY_KEYS: Final = ",".join(f'"hostconfi{number:x}":0' for number in range(_SIZE // 20))
_MANY_MOUNTS: Final = ",".join(['{"Type":"volume"}'] * (_SIZE // 20))

HOSTILE: Final[dict[str, tuple[Callable[[str], object], str]]] = {
    "quotes in a string without an end": (
        lambda text: Document.parse(text.encode()),
        "[" * 65 + '"' + '\\"' * _SIZE,
    ),
    "quotes in a map's string": (lambda text: parse_map(text.encode()), "[" * 65 + '"' + '\\"' * _SIZE),
    "brackets": (lambda text: Document.parse(text.encode()), "[{" * _SIZE),
    "backslashes": (lambda text: Document.parse(text.encode()), "[" * 65 + '"' + "\\" * _SIZE),
    "two spellings, often": (
        lambda text: Document.parse(text.encode()),
        '{"a":[' + '{"A":0,"a":1},' * (_SIZE // 8) + "0]}",
    ),
    "volumes below many keys": (
        lambda text: implicit_volumes(Document.parse(text.encode())),
        f'{{{_MANY_KEYS},"hostconfig":{{"mounts":[{_MANY_MOUNTS}]}}}}',
    ),
    "empty lines of a Dockerfile": (check_change, "\n" * _SIZE),
    "white space of a Dockerfile": (check_change, " \n" * _SIZE + " " * _SIZE),
    "comments of a Dockerfile": (check_change, "#\n" * _SIZE),
    "nearly our labels": (check_change, "docker-tracker.retain" * (_SIZE // 20)),
    "empty lines to redact": (redact_target, "/x?changes=" + "%0A" * _SIZE),
    "spaces to redact": (redact_target, "/x?changes=" + "%20" * _SIZE),
    "users to redact": (redact_target, "http" + "://a" * _SIZE),
    "parameters to redact": (redact_target, "/x?" + "a&;" * _SIZE),
    "brackets to redact": (redact_target, "/x?buildargs=" + "[" * _SIZE),
    "digits to redact": (redact_target, "/x?buildargs=[" + "1" * _SIZE),
    "a name to redact": (lambda text: redact_command((text,)), "-e" * _SIZE),
    "names to redact": (lambda text: redact_command((text,)), "a= " * _SIZE),
    "users of a word to redact": (lambda text: redact_command((text,)), "://a" * _SIZE),
    "options to redact": (lambda text: redact_command((text,)), "--token" * _SIZE),
    "log-ins to redact": (lambda text: redact_command((text,)), "login -p " * _SIZE),
    "headers to redact": (lambda text: redact_command((text,)), "authorization:" * _SIZE),
    "questions to redact": (redact_url, "?" * _SIZE),
    "parameters": (lambda text: query.replace(text, "x", "y"), "a=b&" * _SIZE),
    "broken escapes": (lambda text: query.get_all(text, "x"), "%" * _SIZE),
    "a deep path": (lambda text: recognise("POST", text), "/containers/" + "a/" * _SIZE + "z"),
    "a path of verbs": (lambda text: recognise("POST", text), "/containers" + "/exec/start" * (_SIZE // 10)),
    "a long version": (lambda text: recognise("POST", text), "/v" + "1." * _SIZE),
    "short header lines": (
        lambda text: read_request(text.encode()),
        "GET / HTTP/1.1\r\n" + "a:\r\n" * _SIZE + "x\x01:\r\n\r\n",
    ),
    "a long media type": (
        lambda text: read_request(text.encode()),
        "GET / HTTP/1.1\r\nContent-Type: " + "a/" * _SIZE + "\r\n\r\n",
    ),
    "small chunks": (lambda text: body_for(CHUNKED).feed(text.encode(), []), "1\r\na\r\n" * _SIZE),
}


def read(name: str) -> None:
    """Give one of them to its reader; it may refuse it."""
    reader, text = HOSTILE[name]
    with contextlib.suppress(TrackerError):
        reader(text)


class HostileTests(SynchronousTestCase):
    """In a process of their own: a regular expression at work cannot be interrupted, but killed."""

    def test_time(self) -> None:
        """Each is read, or refused, before patience ends; the last line says which was not."""
        code = (
            "from tests import test_hostile_inputs as t\nfor name in t.HOSTILE: print(name, flush=True); t.read(name)\n"
        )
        try:
            done = subprocess.run(
                [sys.executable, "-c", code],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
                capture_output=True,
                text=True,
                timeout=_PATIENCE,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            self.fail(f"took too long: {(error.stdout or b'').decode().splitlines()[-1:]}")
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertEqual(done.stdout.splitlines(), list(HOSTILE))
