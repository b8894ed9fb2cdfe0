"""Random and damaged frames of both sides through a mediator, and what is in them, for `tests.fuzz`."""

from __future__ import annotations

import random
from collections.abc import Callable

from docker_tracker.builds import BuildEdit, BuildRequest, BuildStep
from docker_tracker.errors import BadGrpcError
from docker_tracker.http2 import frames
from docker_tracker.http2.calls import Call, Phase
from docker_tracker.http2.connection import MAX_GATHERED, Connection
from docker_tracker.http2.direction import CLIENT_BLOCK, ENGINE_BLOCK
from docker_tracker.http2.frames import FrameScanner, Kind
from docker_tracker.http2.headers import MAX_TABLE, literal
from docker_tracker.http2.mediator import Mediator
from docker_tracker.http2.messages import edited, read_request
from docker_tracker.http2.protobuf import MAX_FIELDS, length_field, varint
from docker_tracker.proxy.mediation import with_edit
from tests.support.http2 import FRONTEND, RESULT, SOLVE, STATUS, Owner, entries, prefixed

_BUILD = literal(b"buildkit-controlapi-buildid", b"r")
_END = frames.END_STREAM
_WHOLE = frames.END_HEADERS


def _request(source: random.Random) -> bytes:
    """Make a request's header block; some enter the table."""
    path = source.choice((SOLVE, FRONTEND, FRONTEND, FRONTEND, RESULT, STATUS, "/x")).encode()
    field = literal(b":path", path)
    kept = b"\x44" + field[len(b"\x00\x05:path") :]  # the same with the static table's name, and it enters the table
    return source.choice((field, field + _BUILD, kept, kept + _BUILD))


def _answer(source: random.Random) -> bytes:
    """Make a header block of an answer."""
    return source.choice((b"\x88", literal(b"grpc-status", b"0"), b"\x40" + literal(b"grpc-message", b"m" * 200)[1:]))


def _message(source: random.Random) -> bytes:
    """Make a gRPC message, or something like one."""
    message = source.choice((b"", entries(3, {"a": "b"}), entries(7, {"a": "b" * 3000}), source.randbytes(20)))
    return source.choice((prefixed(message),) * 8 + (prefixed(message)[:-1], prefixed(message, 1), bytes(9000)))


def _odd(source: random.Random) -> bytes:
    """Make a frame that most likely breaks a rule."""
    kind = source.choice((0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 200))
    payload = source.choice((b"", bytes(4), bytes(6), source.randbytes(source.randint(0, 30)), _request(source)))
    return frames.build(kind, source.randrange(256), source.choice((0, 1, 2, 3, 99)), payload)


def _headers(source: random.Random, stream: int, block: bytes, flags: int) -> bytes:
    """Make a header block, perhaps of two frames."""
    place = source.randint(0, len(block)) if source.random() < 0.2 else len(block)
    first = frames.build(Kind.HEADERS, flags | (_WHOLE if place == len(block) else 0), stream, block[:place])
    return first if place == len(block) else first + frames.build(Kind.CONTINUATION, _WHOLE, stream, block[place:])


def frame(source: random.Random, streams: list[int], from_client: bool) -> bytes:
    """Make what one side may send next.

    :param streams: The client's, as far as they were opened; a new one is added.
    """
    chance = source.random()
    if chance < 0.01:
        return _odd(source)
    if from_client and (chance < 0.25 or not streams):
        streams.append(2 * len(streams) + 1)
        return _headers(source, streams[-1], _request(source), 0)
    stream = source.choice((streams[-1], streams[-1], source.choice(streams[-6:]))) if streams else 0
    flags = source.choice((0, 0, _END))
    if chance < 0.3:
        setting = source.choice((b"\x00\x01", b"\x00\x04", b"\x00\x09"))
        value = source.choice((0, 100, 4096, 65535))
        return frames.build(Kind.SETTINGS, 0, 0, setting + value.to_bytes(4, "big"))
    if chance < 0.35:
        return frames.build(Kind.SETTINGS, frames.ACK, 0)
    if chance < 0.45 or not stream:
        return frames.window_update(source.choice((0, stream)), source.choice((1, 5, 16384)))
    if chance < 0.5:
        return frames.rst_stream(stream, 8)
    if chance < 0.65 and not from_client:
        return _headers(source, stream, _answer(source), flags)
    if chance < 0.7:
        return frames.build(6, 0, 0, bytes(8))
    if from_client and flags and source.random() < 0.7:
        return frames.build(Kind.DATA, flags, stream)
    data = _message(source)
    if source.random() < 0.1:
        return frames.build(Kind.DATA, flags | frames.PADDED, stream, b"\x03" + data + bytes(3))
    return frames.build(Kind.DATA, flags, stream, data)


def fuzz(
    source: random.Random, damaged: Callable[[random.Random, bytes], bytes], check: Callable[[bool, str], None]
) -> None:
    """No exception escapes, only whole frames leave, each request ends once, and little is kept.

    :param damaged: Damages bytes, or does not.
    :param check: Told whether an invariant holds, and what is wrong if it does not.
    """
    steps = frozenset(BuildStep) if source.random() < 0.8 else frozenset[BuildStep]()
    owner = Owner(forbidden=(STATUS,) if source.random() < 0.2 else (), holds=source.random() < 0.3)
    held: list[Call] = []
    mediator = Mediator(owner, steps)

    def decide(call: Call, request: BuildRequest | BadGrpcError) -> None:
        chance = source.random()
        if chance < 0.3:
            mediator.release(call, BuildEdit(attributes={"k": "v"}) if isinstance(request, BuildRequest) else None)
        elif chance < 0.5:
            mediator.refuse(call, 7, "no")
        else:
            held.append(call)

    owner.decide = decide
    out = {True: bytearray(), False: bytearray()}
    begin = {True: frames.PREFACE + frames.build(Kind.SETTINGS, 0, 0), False: frames.build(Kind.SETTINGS, 0, 0)}
    streams: list[int] = []
    for _ in range(source.randint(1, 60)):
        from_client = source.random() < 0.6
        data = begin.pop(from_client, b"") + b"".join(
            frame(source, streams, from_client) for _ in range(source.randint(1, 3))
        )
        data = damaged(source, data) if source.random() < 0.01 else data
        place = source.randint(0, len(data))
        for piece in (data[:place], data[place:]):
            (mediator.client_data if from_client else mediator.engine_data)(piece)
        if held and source.random() < 0.5:
            mediator.release(held.pop())
        if source.random() < 0.5:
            mediator.resume()
        out[True] += mediator.for_client()
        out[False] += mediator.for_engine()
        _check_kept(mediator._connection, check)
    if source.random() < 0.5:
        mediator.client_ended()
    mediator.close()
    out[True] += mediator.for_client()
    out[False] += mediator.for_engine()
    check(mediator._connection.ledger.waiting + mediator._connection._gathered <= MAX_GATHERED, "much is kept")
    check(not mediator._connection.calls and not mediator._connection._gathered, "a call is kept")
    check(len(owner.failures) <= 1, "told of two failures")
    asked, ended = [call for call, _ in owner.requests], [call for call, _ in owner.outcomes]
    check(len(set(map(id, ended))) == len(ended) and set(map(id, ended)) == set(map(id, asked)), "not each ended once")
    check(all(call.phase is Phase.OVER for call in asked), "a call goes on")
    kinds = _check_frames(bytes(out[True]), check)
    _check_frames(bytes(out[False]).removeprefix(frames.PREFACE), check)
    check(not owner.failures or Kind.GOAWAY in kinds, "a client that is given up is not told")


def _check_kept(connection: Connection, check: Callable[[bool, str], None]) -> None:
    """No more is kept of either side than a frame, a header block and a table of headers."""
    for direction, block in ((connection.client, CLIENT_BLOCK), (connection.engine, ENGINE_BLOCK)):
        whole = direction.scanner.limit + frames.HEADER_SIZE
        check(connection.over or connection.paused or len(direction.scanner) < whole, "more than a frame is kept")
        check(len(direction._raw) <= block, "more than a header block is kept")
        check(direction.headers._table._current_size <= MAX_TABLE, "more than a table is kept")


_FIELDS = (1, 2, 3, 4, 5, 6, 7, 10, 13, 99)
_TEXTS = ("containerimage.config", "containerimage.config/linux/arm64", "label:a", "name", "", "x" * 300)


def _field(source: random.Random, depth: int = 2) -> bytes:
    """Make a field of protobuf, perhaps a message that holds others."""
    number, chance = source.choice(_FIELDS), source.random()
    if chance < 0.1:
        return varint(number << 3 | source.choice((0, 0, 1, 3, 5, 7))) + source.randbytes(source.randint(0, 9))
    if chance < 0.4:
        key = source.choice(_TEXTS)
        return entries(number, {key: source.choice((b"", b"{}", b"v", source.randbytes(9)))})
    if depth and chance < 0.7:
        return length_field(number, b"".join(_field(source, depth - 1) for _ in range(source.randint(0, 5))))
    return length_field(number, source.choice(_TEXTS).encode())


def fuzz_messages(
    source: random.Random, damaged: Callable[[random.Random, bytes], bytes], check: Callable[[bool, str], None]
) -> None:
    """A request is read or refused, and one that is read can be edited: then it says what it said, and the edit."""
    step = source.choice(list(BuildStep))
    count = source.choice((3, 8, MAX_FIELDS + 1)) if source.random() < 0.01 else source.randint(0, 8)
    data = b"".join(_field(source) for _ in range(min(count, 30))) + b"\x10\x01" * (count - min(count, 30))
    data = damaged(source, data) if source.random() < 0.3 else data
    edit = BuildEdit(
        attributes={"label:a": source.choice(("1", None))},
        exporter_attributes={"name": source.choice(("n", None))},
        image_configs={"containerimage.config": source.choice((b"1", None))},
    )
    try:
        request = read_request(step, data, "b")
    except BadGrpcError as error:
        check(bool(error.message), "a refusal says nothing")
        return
    changed = read_request(step, edited(step, data, edit), "b")
    expected = with_edit(request, edit)
    if step is not BuildStep.RESULT:
        check(changed.attributes == expected.attributes, "options are not as edited")
    elif request.image_configs:
        check(changed.image_configs == expected.image_configs, "configs are not as edited")
    # The deprecated one is left out where it is equal to another.
    same = all(each in expected.exporters for each in changed.exporters)
    check(same and all(each in changed.exporters for each in expected.exporters), "exporters are not as edited")
    names = ("build", "frontend", "session", "definition", "final", "failed")
    check(all(getattr(changed, name) == getattr(request, name) for name in names), "more than the edit is changed")


def _check_frames(data: bytes, check: Callable[[bool, str], None]) -> set[int]:
    """Only whole frames left, and none within a header block; return their kinds."""
    scanner, block, kinds = FrameScanner(frames.MAX_FRAME), False, set[int]()
    scanner.feed(data)
    while (found := scanner.take()) is not None:
        check(not block or found.kind == Kind.CONTINUATION, "a frame within a header block")
        if found.kind in (Kind.HEADERS, Kind.CONTINUATION):
            block = not found.flags & frames.END_HEADERS
        kinds.add(found.kind)
    check(not len(scanner) and not block, "half a frame or block was sent")
    return kinds
