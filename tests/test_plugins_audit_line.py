"""A line of the audit log is put together by hand; it is the very line that ``json`` would write of the same record."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from docker_tracker.engine.catalogue import UNKNOWN, operation
from docker_tracker.engine.document import MISSING, Change
from docker_tracker.engine.operation import Call
from docker_tracker.exchange import Answer, Edit, Exchange, Outcome, Peer
from docker_tracker.http1.head import RequestHead
from docker_tracker.plugins.audit import line, timestamp
from docker_tracker.redaction import redact_changes, redact_target

TEXT = st.text(st.characters(codec=None), max_size=12) | st.sampled_from(
    ("", "\ud800", '"\\\x00\x7f\u2028', "é" * 5000)
)
NUMBER = st.none() | st.integers(0, 2**63)
VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
PATH = st.just(("target",)) | st.tuples(st.just("header"), TEXT)
CHANGE = st.builds(
    Change,
    PATH | st.lists(TEXT | st.integers(0, 99), min_size=1, max_size=3).map(tuple),
    st.just(MISSING) | VALUE,
    st.just(MISSING) | VALUE,
)
EDITS = st.lists(st.builds(Edit, TEXT, st.lists(CHANGE, max_size=4).map(tuple)), max_size=3)
ANSWER = (
    st.none()
    | st.builds(Answer.error, st.integers(200, 599), st.text(max_size=20))
    | st.builds(Answer, st.integers(200, 599), st.sampled_from((b"", b"[1]", b'{"message":5}', b"\xff")))
)
TARGET = TEXT | st.sampled_from(("/v1.47/info", "/build?t=x&buildargs={}", "/x?token=a&name=b", "/" + "a" * 6000))


@st.composite
def peers(draw: st.DrawFn) -> Peer:
    """Draw a client."""
    peer = Peer(draw(NUMBER), draw(NUMBER), draw(NUMBER), draw(TEXT), draw(TEXT))
    peer.command = draw(TEXT)
    return peer


@st.composite
def exchanges(draw: st.DrawFn) -> Exchange:
    """Draw an exchange that is over."""
    call = Call(
        draw(st.sampled_from((UNKNOWN, operation("container_create"), operation("secret_create")))),
        None,
        draw(st.sampled_from(("", "name=x%20y", "name=a;b"))),
        draw(st.dictionaries(st.sampled_from(("name", "id")), TEXT)),
    )
    head = RequestHead(b"", 1, draw(TEXT), draw(TARGET))
    started = draw(st.floats(0, 4e9))
    made = Exchange(draw(st.integers(0, 2**63)), draw(TEXT), draw(TEXT), draw(TEXT), draw(peers()), call, head, started)
    made.edits = draw(EDITS)
    made.answer, made.answered_by = draw(ANSWER), draw(TEXT)
    made.bytes_from_client, made.bytes_to_client = draw(st.integers(0, 2**63)), draw(st.integers(0, 2**63))
    made.notes = draw(st.dictionaries(st.just("resource"), TEXT | st.none()))
    return made


def short(text: str) -> str:
    return text if len(text) <= 4096 else text[:4095] + "…"


def dumped(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def edit(author: str, change: Change) -> dict[str, Any]:
    """Give the record of an edit."""
    plain = change.path[0] in ("target", "header") if len(change.path) else False
    pointers = ["/" + str(part).replace("~", "~0").replace("/", "~1") for part in change.path]
    record: dict[str, Any] = {
        "by": author,
        "path": short(" ".join(map(str, change.path)) if plain else "".join(pointers)),
    }
    for key, value in (("old", change.old), ("new", change.new)):
        if isinstance(value, str):
            record[key] = short(value)
        elif value is not MISSING:
            text = dumped(value)
            record[key] = value if len(text) <= 4096 else short(text)
    return record


def edits(exchange: Exchange) -> list[dict[str, Any]]:
    """Give the record of all edits, as many as there is room for."""
    result: list[dict[str, Any]] = []
    length = 0
    for one in exchange.edits:
        for change in redact_changes(one.changes, exchange.call.operation.name):
            result.append(edit(one.interceptor, change))
            length += len(dumped(result[-1])) + 1
            if length > 65536:
                return [*result[:-1], {"more": True}]
    return result


def who(peer: Peer) -> dict[str, Any]:
    """Give the record of a client."""
    numbers = {"uid": peer.uid, "gid": peer.gid, "pid": peer.pid}
    command = short(peer.command.split(" ")[0])
    texts = {"command": command, "address": peer.address, "certificate": short(peer.certificate)}
    return {**{k: v for k, v in numbers.items() if v is not None}, **{k: v for k, v in texts.items() if v}}


def resource(exchange: Exchange) -> str:
    """Give what an exchange was about."""
    named = exchange.call.names.get("name") or exchange.call.names.get("id")
    asked = {"name=x%20y": "x y"}.get(exchange.call.query, "")
    return exchange.notes.get("resource") or named or asked


def record(exchange: Exchange, event: str, status: int | None, outcome: Outcome | None, now: float) -> dict[str, Any]:
    """Give the record of an exchange: what the reference describes."""
    result: dict[str, Any] = {
        "time": timestamp(exchange.started),
        "duration": round(max(0.0, now - exchange.started), 6),
        "event": event,
        "exchange": exchange.id,
        "job": exchange.job,
        "job_id": exchange.job_id,
        "listener": exchange.listener,
        "peer": who(exchange.peer),
        "method": short(exchange.received.method),
        "path": short(redact_target(exchange.received.target)),
        "operation": exchange.call.operation.name,
        "status": status,
        "resource": short(resource(exchange)),
        "bytes_from_client": exchange.bytes_from_client,
        "bytes_to_client": exchange.bytes_to_client,
    }
    if exchange.edits:
        result["edits"] = edits(exchange)
    if outcome is not None:
        result["outcome"] = outcome.value
        if exchange.answered_by:
            result["refused_by" if outcome is Outcome.REFUSED else "answered_by"] = exchange.answered_by
            reason = message(exchange.answer)
            if reason:
                result["reason"] = reason
    return result


def message(answer: Answer | None) -> str:
    """Give a refusal's message; those drawn here quote no bytes."""
    try:
        told = json.loads(answer.body) if answer is not None and answer.status >= 400 else {}
    except ValueError:
        return ""
    text = told.get("message") if isinstance(told, dict) else ""
    return short(text) if isinstance(text, str) and ": b'" not in text and ': b"' not in text else ""


class LineTests(SynchronousTestCase):
    @settings(derandomize=True, deadline=None, max_examples=400)
    @given(
        exchanges(),
        st.sampled_from(("opened", "finished")),
        st.none() | st.integers(100, 599),
        st.none() | st.sampled_from(Outcome),
        st.floats(0, 4e9),
    )
    def test_as_json(
        self, exchange: Exchange, event: str, status: int | None, outcome: Outcome | None, now: float
    ) -> None:
        """Whatever an exchange has in it: byte for byte what ``json`` writes of the record, and one line."""
        written = line(exchange, event, status, outcome, now)
        self.assertEqual(written.decode("ascii"), dumped(record(exchange, event, status, outcome, now)) + "\n")
        self.assertEqual(written.count(b"\n"), 1)
