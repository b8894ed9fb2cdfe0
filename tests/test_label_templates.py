"""Values of the operator's labels are checked at start, and filled in for each client."""

from __future__ import annotations

from typing import Any, cast

import attrs
from twisted.trial.unittest import SynchronousTestCase

from docker_tracker.errors import ConfigurationError, RefusedError
from docker_tracker.exchange import Exchange, Peer
from docker_tracker.label_templates import check_listeners, parse_labels, parse_template

ENVIRON = {"CI": "42", "EMPTY": "", "BRACES": "{uid}", "BAD": "\udcff", "LINE": "a\nb"}


@attrs.frozen
class StandIn:
    """An exchange as far as a template looks at it."""

    peer: Peer


@attrs.frozen
class Listener:
    kind: str

    def __str__(self) -> str:
        return f"{self.kind}://here"


def exchange(uid: int | None = None, gid: int | None = None, pid: int | None = None) -> Exchange:
    return cast(Exchange, StandIn(Peer(uid=uid, gid=gid, pid=pid)))


VALUES = [
    ("", ""),
    ("plain", "plain"),
    ("{job}", "job-1"),
    ("a{job}b{job}", "ajob-1bjob-1"),
    ("{uid}:{gid}:{pid}", "1000:0:77"),
    ("x{uid}", "x1000"),
    ("{env:CI}-{uid}-{job}", "42-1000-job-1"),
    ("{env:BRACES}", "{uid}"),
    ("{{job}}", "{job}"),
    ("{{{job}}}", "{job-1}"),
    ('"\\$é', '"\\$é'),
]

REFUSED_VALUES = [
    ("{JOB}", "{JOB} is not known"),
    ("{}", "{} is not known"),
    ("{env}", "{env} is not known"),
    ("{env:}", "no variable without a name"),
    ("{env:NONE}", "no NONE"),
    ("{env:EMPTY}", "no EMPTY"),
    ("{env:BAD}", "not UTF-8"),
    ("{env:LINE}", "control character"),
    ("a\0", "control character"),
    ("\n{uid}", "control character"),
    ("{job", "lone {"),
    ("job}", "lone }"),
    ("{{job}", "lone }"),
]

REFUSED_NAMES = ["", " ", "=", "a=b", "docker-tracker.job", "Docker-Trac\u212aer.x", "docker-tracker.", "a\n", "\udcff"]


class TemplateTests(SynchronousTestCase):
    def test_values(self) -> None:
        """Each placeholder is replaced once; what is put in is not read again."""
        for text, expected in VALUES:
            with self.subTest(text=text):
                template = parse_template("label", text, "job-1", ENVIRON)
                self.assertEqual(template.render(exchange(uid=1000, gid=0, pid=77)), expected)

    def test_refused_values(self) -> None:
        """What can't be filled in is told at start, with the label."""
        for text, problem in REFUSED_VALUES:
            with self.subTest(text=text):
                error = self.assertRaises(ConfigurationError, parse_template, "label 'x'", text, "job", ENVIRON)
                self.assertIn(problem, error.problem)
                self.assertEqual(error.where, "label 'x'")

    def test_refused_names(self) -> None:
        """A name that the engine, a Dockerfile or our name space doesn't take is told at start."""
        for name in REFUSED_NAMES:
            with self.subTest(name=name):
                self.assertRaises(ConfigurationError, parse_labels, {name: "x"}, "job", ENVIRON)

    def test_labels(self) -> None:
        """Several labels keep their names, in order."""
        labels = parse_labels({"b c": "{job}", "a": "2"}, "j", ENVIRON)
        self.assertEqual(
            [(name, value.render(exchange())) for name, value in labels.items()], [("b c", "j"), ("a", "2")]
        )

    def test_peer_not_known(self) -> None:
        """Behind a listener that turns out to know no process, the request is refused."""
        template = parse_template("label", "{pid}", "job", ENVIRON)
        error = self.assertRaises(RefusedError, template.render, exchange(uid=0))
        self.assertEqual((error.status, "client's pid" in error.message), (500, True))

    def test_listeners(self) -> None:
        """A value of the client's process needs listeners that can know it."""
        labels = parse_labels({"a": "x", "who": "{uid}.{pid}"}, "job", ENVIRON)
        check_listeners(labels, [Listener("unix"), Listener("systemd"), Listener("endpoint")])
        for kind in ("tcp", "tls"):
            listeners: list[Any] = [Listener("unix"), Listener(kind)]
            error = self.assertRaises(ConfigurationError, check_listeners, labels, listeners)
            self.assertEqual(error.where, "label 'who'")
            self.assertIn(f"{{pid}}, {{uid}} is not known of clients of {kind}://here", error.problem)
            check_listeners(parse_labels({"a": "{job}"}, "job", ENVIRON), listeners)
