"""Interceptor ``audit``: who asked for what, what was changed, and what became of it, as one line of JSON each.

A build by BuildKit has a line of its own, as many of them share one exchange.

Never headers, never bodies; of targets and edits nothing that is secret (`docker_tracker.redaction`). Of the client's
process only the program: a command line can hold what must not be written down (``docker run -e TOKEN=…``).
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from functools import lru_cache
from json.encoder import encode_basestring_ascii
from typing import Any, Final

import attrs

from docker_tracker.builds import BuildEnd, BuildOutcome, BuildRequest, BuildStep
from docker_tracker.engine import query
from docker_tracker.engine.document import MISSING, Change
from docker_tracker.engine.operation import Operation, ResponseBody
from docker_tracker.errors import BadTargetError, ConfigurationError, RefusedError
from docker_tracker.exchange import Answer, Edit, Exchange, Outcome, Stage
from docker_tracker.http1.head import ResponseHead
from docker_tracker.interceptor import Interceptor, Plugin
from docker_tracker.interfaces import IDaemon, IJob
from docker_tracker.line_file import STANDARD_OUTPUT, LineFile
from docker_tracker.redaction import redact_changes, redact_message, redact_target

_LONGEST_TEXT: Final = 4096  # characters of any one value
_LONGEST_EDITS: Final = 64 * 1024  # bytes of all edits of an exchange
# More than the longest line, every character of it escaped.
_LEAST_BUFFER: Final = 256 * 1024
_SHORT_REQUEST: Final = 512  # characters of method and target, if their encoding is kept
_ENCODER: Final = json.JSONEncoder(separators=(",", ":"), default=str)
_text: Final = encode_basestring_ascii
_OPENING: Final = frozenset((ResponseBody.UPGRADE, ResponseBody.STREAM, ResponseBody.LINES))
_BUILDS: Final = "grpc"
_BUILD_ENDS: Final = {"answered": "completed"}  # beside the others' own words, and "failed"
_MOST_OF_A_BUILD: Final = 16  # tags, and exporters
_LONGEST_NAME: Final = 256  # characters of what names something in a build, and of a remark
_DIGESTS: Final = ("containerimage.digest", "containerimage.config.digest")
_PING: Final = "ping"  # its answer is no JSON, but as short as can be
_OUTSIDE: Final = Stage.STARTED | Stage.FINISHED
# A broken answer of the engine's is quoted, and what stands there may be anything.
_QUOTED_BYTES: Final = re.compile(r": b(['\"]).*", re.DOTALL)


@attrs.frozen
class AuditSettings:
    """The table [interceptor.audit].

    :ivar flush_seconds: How long a line waits at most before it is written.
    :ivar buffer_bytes: How much is kept while the file cannot be written; what is beyond is lost, and counted.
    :ivar max_bytes: How long the file may grow; 0: no bound but what rotates it (move it away, then SIGHUP). A file
        that reached the bound counts as a full disk.
    :ivar stop_on_full: While the file cannot be written: refuse all exchanges with a 503, instead of going on.
    """

    flush_seconds: float = attrs.field(default=1.0, validator=(attrs.validators.gt(0), attrs.validators.le(60)))
    buffer_bytes: int = attrs.field(
        default=1024**2, validator=(attrs.validators.ge(_LEAST_BUFFER), attrs.validators.le(2**30))
    )
    max_bytes: int = attrs.field(default=0, validator=attrs.validators.ge(0))
    stop_on_full: bool = False


class Audit(Interceptor):
    """Writes the audit log of one job.

    :param file: Where the lines go; None: nothing is audited.
    :param clock: For durations; what times of exchanges and builds are by.
    :param now: Seconds since the epoch, for time stamps.
    :param stop_on_full: As in `AuditSettings`.
    :param withdraw: Ends that the file is reopened.
    """

    def __init__(
        self,
        file: LineFile | None,
        clock: Any,
        now: Callable[[], float],
        stop_on_full: bool,
        withdraw: Callable[[], None] = lambda: None,
    ) -> None:
        self.fail_closed = stop_on_full
        self._withdraw = withdraw
        self._file = file
        self._clock = clock
        self._now = now

    def wants(self, operation: Operation) -> Stage:
        """Every exchange's begin and end, and the begin of an answer that may take long."""
        if self._file is None:
            return Stage.NOTHING
        builds = Stage.NOTHING
        if operation.name == _BUILDS:
            builds = Stage.BUILD_FINISHED | (Stage.BUILD_CALL if self.fail_closed else Stage.NOTHING)
        opening = operation.response in _OPENING and operation.name != _PING
        return _OUTSIDE | builds | (Stage.RESPONSE_HEAD if opening else Stage.NOTHING)

    def started(self, exchange: Exchange) -> None:
        """Look at the client's process while it lives; refuse to go on unseen, if that is set.

        :raises RefusedError: nothing can be written, and that is to stop traffic.
        """
        _ = exchange.peer.command
        self._check()

    def build_call(self, exchange: Exchange, path: str, build: str) -> None:
        """Refuse a call that would go on unseen: its exchange may have begun long ago.

        :raises RefusedError: as `started`.
        """
        self._check()

    def _check(self) -> None:
        if self.fail_closed and self._file is not None:
            problem = self._file.check()
            if problem:
                raise RefusedError(
                    f"docker-tracker cannot write its audit log ({problem}) and lets nothing pass until it can; "
                    "tell the operator of this host",
                    503,
                )

    def response_head(self, exchange: Exchange, head: ResponseHead) -> None:
        """Write a line when a stream opens: its end may be days away. An answer with a length is none."""
        opened = head.status == 101 or (200 <= head.status < 300 and head.get("Content-Length") is None)
        if opened:
            self._write(exchange, "opened", head.status)

    async def build_finished(self, exchange: Exchange, request: BuildRequest, outcome: BuildOutcome) -> None:
        """Write the line of a build when its Solve is over."""
        if request.step is BuildStep.SOLVE and self._file is not None:
            self._file.write(build_line(exchange, request, outcome, *self._times()))

    def finished(self, exchange: Exchange, outcome: Outcome) -> None:
        """Write the exchange's line."""
        self._write(exchange, "finished", exchange.status, outcome)

    async def stop(self) -> None:
        """Write what is kept, and close the file."""
        self._withdraw()
        if self._file is not None:
            self._file.close()

    def _write(self, exchange: Exchange, event: str, status: int | None, outcome: Outcome | None = None) -> None:
        if self._file is not None:
            self._file.write(line(exchange, event, status, outcome, *self._times()))

    def _times(self) -> tuple[float, float]:
        """Return what our clock shows, and how far the machine's is ahead of it."""
        seconds = self._clock.seconds()
        return seconds, self._now() - seconds


def line(
    exchange: Exchange, event: str, status: int | None, outcome: Outcome | None, now: float, ahead: float = 0.0
) -> bytes:
    """Return what is written of an exchange: what ``json`` would write, put together of parts that repeat themselves.

    :param event: ``opened`` or ``finished``.
    :param status: That the client gets, or None: it got none.
    :param outcome: None while it goes on.
    :param now: Seconds, by the clock of `Exchange.started`.
    :param ahead: How far the machine's clock is ahead of that.
    """
    received, started = exchange.received, exchange.started
    encode_request = _asked if len(received.method) + len(received.target) <= _SHORT_REQUEST else _request
    text = (
        f'{{"time":"{timestamp(started + ahead)}","duration":{round(max(0.0, now - started), 6)!r},"event":"{event}",'
        f'"exchange":{exchange.id},{_whose(exchange)},'
        f"{encode_request(received.method, received.target, exchange.call.operation.name)},"
        f'"status":{"null" if status is None else int(status)},"resource":{_text(_short(_resource(exchange)))},'
        f'"bytes_from_client":{exchange.bytes_from_client},"bytes_to_client":{exchange.bytes_to_client}'
    )
    if exchange.edits:
        text += f',"edits":[{",".join(_edits(exchange.edits, exchange.call.operation.name))}]'
    if outcome is not None:
        text += f',"outcome":"{outcome.value}"'
        if exchange.answered_by:
            by = "refused_by" if outcome is Outcome.REFUSED else "answered_by"
            text += f',"{by}":{_text(exchange.answered_by)}'
            reason = _reason(exchange.answer)
            if reason:
                text += f',"reason":{_text(reason)}'
        text += _remark(exchange)
    return (text + "}\n").encode("ascii")


def build_line(
    exchange: Exchange, request: BuildRequest, outcome: BuildOutcome, now: float, ahead: float = 0.0
) -> bytes:
    """Return what is written of a build that is over.

    :param request: Of its Solve, as the engine got it.
    :param now: Seconds, by the clock of `BuildOutcome.started`.
    :param ahead: How far the machine's clock is ahead of that.
    """
    tags = [tag for each in request.exporters for tag in each.attributes.get("name", "").split(",") if tag]
    digests = [outcome.answer[key] for key in _DIGESTS if key in outcome.answer]
    ended = "failed" if outcome.end is BuildEnd.ANSWERED and outcome.status != 0 else outcome.end.value
    values = {
        "build": _name(request.build),
        "target": _name(request.attributes.get("target", "")),
        "exporters": [_name(each.kind) for each in request.exporters][:_MOST_OF_A_BUILD],
        "tags": [_name(tag) for tag in dict.fromkeys(tags)][:_MOST_OF_A_BUILD],
        "digests": [_name(digest) for digest in dict.fromkeys(digests)],
        "status": outcome.status,
    }
    text = (
        f'{{"time":"{timestamp(outcome.started + ahead)}","duration":{round(max(0.0, now - outcome.started), 6)!r},'
        f'"event":"build","exchange":{exchange.id},{_whose(exchange)},{_ENCODER.encode(values)[1:-1]}'
    )
    if outcome.edits:
        text += f',"edits":[{",".join(_edits(outcome.edits, exchange.call.operation.name))}]'
    text += f',"outcome":"{_BUILD_ENDS.get(ended, ended)}"'
    for key, value in (
        ("refused_by", outcome.refused_by),
        ("message", redact_message(outcome.message)),
        ("problem", _name(outcome.problem)),
    ):
        text += f',"{key}":{_text(_short(value))}' if value else ""
    return (text + _remark(exchange) + "}\n").encode("ascii")


def _remark(exchange: Exchange) -> str:
    remark = exchange.notes.get("remark")
    return f',"remark":{_text(_name(remark))}' if isinstance(remark, str) and remark else ""


def _whose(exchange: Exchange) -> str:
    peer = exchange.peer
    return _client(
        *(exchange.job, exchange.job_id, exchange.listener),
        *(peer.uid, peer.gid, peer.pid, peer.command, peer.address, peer.certificate),
    )


def timestamp(seconds: float) -> str:
    """Return a time of RFC 3339, in UTC, with milliseconds."""
    whole = int(seconds)
    return f"{_second(whole)}.{int((seconds - whole) * 1000):03d}Z"


@lru_cache(4)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST_TEXT else text[: _LONGEST_TEXT - 1] + "…"


def _name(text: str) -> str:
    return text if len(text) <= _LONGEST_NAME else text[: _LONGEST_NAME - 1] + "…"


@lru_cache(256)  # a client makes many exchanges
def _client(
    job: str,
    job_id: str,
    listener: str,
    uid: int | None,
    gid: int | None,
    pid: int | None,
    command: str,
    address: str,
    certificate: str,
) -> str:
    # The first word alone; see the module.
    program = command.split(" ", 1)[0]
    values = {"uid": uid, "gid": gid, "pid": pid}
    texts = {"command": _short(program), "address": address, "certificate": _short(certificate)}
    peer = {key: value for key, value in values.items() if value is not None} | {k: v for k, v in texts.items() if v}
    return _ENCODER.encode({"job": job, "job_id": job_id, "listener": listener, "peer": peer})[1:-1]


def _request(method: str, target: str, operation: str) -> str:
    values = {"method": _short(method), "path": _short(redact_target(target)), "operation": operation}
    return _ENCODER.encode(values)[1:-1]


_asked: Final = lru_cache(512)(_request)  # and many of them are alike


def _resource(exchange: Exchange) -> str:
    noted = exchange.notes.get("resource")
    if isinstance(noted, str) and noted:
        return noted
    names = exchange.call.names
    named = names.get("name") or names.get("id")
    if named or not exchange.call.query:
        return named or ""
    try:
        return query.get(exchange.call.query, "name") or ""
    except BadTargetError:  # it is being refused for that
        return ""


def _edits(edits: Iterable[Edit], operation: str) -> list[str]:
    result: list[str] = []
    length = 0
    for edit in edits:
        for change in redact_changes(edit.changes, operation):
            text = _edit(edit.interceptor, change)
            length += len(text) + 1
            if length > _LONGEST_EDITS:
                result.append('{"more":true}')
                return result
            result.append(text)
    return result


def _edit(interceptor: str, change: Change) -> str:
    if change.path[:1] in (("target",), ("header",)):
        path = " ".join(map(str, change.path))
    else:  # a JSON pointer (RFC 6901)
        path = "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in change.path)
    old = "" if change.old is MISSING else f',"old":{_bounded(change.old)}'
    new = "" if change.new is MISSING else f',"new":{_bounded(change.new)}'
    return f'{{"by":{_text(interceptor)},"path":{_text(_short(path))}{old}{new}}}'


def _bounded(value: Any) -> str:
    """Encode a value of an edit, or the beginning of its text if that is long."""
    if isinstance(value, str):
        return _text(_short(value))
    text = _ENCODER.encode(value)
    return text if len(text) <= _LONGEST_TEXT else _text(_short(text))


def _reason(answer: Answer | None) -> str:
    """Return the message of a refusal, as the client got it."""
    if answer is None or answer.status < 400:
        return ""
    try:
        document = json.loads(answer.body)
    except ValueError:
        return ""
    message = document.get("message") if isinstance(document, dict) else None
    return _short(_QUOTED_BYTES.sub("", message)) if isinstance(message, str) else ""


def make(settings: AuditSettings, job: IJob, daemon: IDaemon) -> Audit:
    """Return the interceptor of a job.

    :raises ConfigurationError: the log's directory is missing, or the log is one.
    """
    path: str | None = daemon.settings.audit_log
    if path is None:
        return Audit(None, daemon.clock, daemon.now, False)
    if path != STANDARD_OUTPUT:
        directory = os.path.dirname(path)
        if not os.path.isdir(directory):
            raise ConfigurationError("audit-log", f"there is no directory {directory}; make it")
        if os.path.isdir(path):
            raise ConfigurationError("audit-log", f"{path} is a directory; name a file")

    def gap(lost: int) -> bytes:
        values = {"time": timestamp(daemon.now()), "event": "lost", "job": job.name, "lines": lost}
        return _ENCODER.encode(values).encode("ascii") + b"\n"

    file = LineFile(
        path,
        daemon.clock,
        flush_seconds=settings.flush_seconds,
        buffer_bytes=settings.buffer_bytes,
        max_bytes=settings.max_bytes,
        gap=gap,
    )
    return Audit(file, daemon.clock, daemon.now, settings.stop_on_full, daemon.on_reopen(file.reopen))


audit = Plugin(name="audit", make=make, settings=AuditSettings)
