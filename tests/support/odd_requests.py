"""Requests that are odd: legal ones that few clients send, and damaged ones. All harmless to the engine they reach.

Nothing here names a thing that exists, makes one or removes one, whatever damage is done to it. Each connection's bytes
end with a probe, an ordinary request that is answered and closes: it shows whether both readers saw the same end.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

PROBE = b"GET /_ping?probe HTTP/1.1\r\nHost: docker\r\nConnection: close\r\n\r\n"

METHODS = (b"GET", b"GET", b"GET", b"HEAD", b"POST", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"get", b"PATCH", b"M-X")

TARGETS = (
    b"/_ping",
    b"/v1.41/_ping",
    b"/version",
    b"/v1.41/version",
    b"/v1.12/version",
    b"/v9.99/version",
    b"/v1/_ping",
    b"/v1.41.0/_ping",
    b"/v01.41/_ping",
    b"/V1.41/_ping",
    b"/v1%2e41/_ping",
    b"/v1.41%2f_ping",
    b"/%5fping",
    b"/_ping/",
    b"/_ping;x",
    b"/_ping%20",
    b"/_ping%3Fname=a",
    b"/_ping#frag",
    b"/_ping?",
    b"/_ping?a=1&a=2&=&&",
    b"/_ping?a=%zz",
    b"/_ping?q=" + b"a%20" * 9,
    b"/nosuch",
    b"/nosuch?a=1;b=2",
    b"http://elsewhere/v1.41/_ping",
    b"http://elsewhere:1/_ping?a",
    b"HTTPS://user@elsewhere/_ping",
    b"/containers/nosuch/json",
    b"/containers/nosuch/json?size=1;b=2",
    b"/v1.41/containers/nosuch/json?size=1",
    b"/containers%2fnosuch/json",
    b"/%63ontainers/nosuch/json",
    b"/v1.41/containers/nosuch/logs?stdout=1&tail=5",
    b"/v1.41/containers/nosuch/attach?stream=1&stdin=1",
    b"/v1.41/containers/nosuch/wait?condition=removed",
    b"/v1.41/containers/nosuch/archive?path=/",
    b"/containers/no%2Fsuch/json",
    b"/containers/no/such/json",
    b"/containers/no:such@x/json",
    b"/exec/nosuch/start",
    b"/exec/nosuch/json",
    b"/images/a/b/c/json",
    b"/images/localhost:5000%2fa/json",
    b"/networks/nosuch",
    b"/volumes/no/such",
    b"/services/nosuch",
    b"/session",
    b"/grpc",
    b"/containers/create",
    b"/v1.41/containers/create?name=nosuch",
    b"/containers/create;x",
)

CREATE = b'{"Image":"nosuch.invalid/nosuch:1","Labels":{"a":"b"}}'

# Legal, in any number, on any request.
FIELDS = (
    b"User-Agent: Docker-Client/20.10.24 (linux)",
    b"user-agent:",
    b"X-Odd:\t \t",
    b"x-odd: \xe9\xff",
    b"X-Odd:a:b::c",
    b"X-Odd: a\tb  c",
    b"1!#$%&'*+-.^_`|~: v",
    b"Accept-Encoding: gzip",
    b"Connection: keep-alive",
    b"Connection: X-Odd, te",
    b"Keep-Alive: timeout=5",
    b"TE: trailers",
    b"Trailer: X-Odd",
    b"Cookie: a=b; c",
    b"X-Registry-Auth: e30=",
    b"If-None-Match: *",
    b"Range: bytes=0-0",
    b"X-HTTP-Method-Override: DELETE",
    b"X-Original-URL: /version",
    b"X-Forwarded-For: 10.0.0.1",
    b"Upgrade: websocket",
    b"Content-Encoding: gzip",
    b"Content-Type: application/json",
    b"Content-Type: application/JSON; charset=utf-8",
    b"Content-Type: text/plain",
    b"X-Long: " + b"x" * 500,
)

RARE_FIELDS = (
    b"Connection: close",
    b"Connection: Close, keep-alive",
    b"Expect: 100-continue",
    b"Expect: 100-Continue",
    b"Expect: something",
    b"Host: again",
    b"Upgrade: foo\r\nConnection: Upgrade",
)

HOSTS = (
    b"Host: docker",
    b"Host: docker",
    b"Host: docker",
    b"Host:",
    b"host: localhost:2375",
    b"HOST:\tdocker \t",
    b"Host: [::1]:1",
    b"Host: %2Fvar%2Frun%2Fdocker.sock",
)

BAD_HOSTS = (b"Host: a b", b"Host: a/b", b"Host: \xe9")  # for the engine to refuse

CHUNK_EXTENSIONS = (b"", b"", b"", b";a", b";a=b", b'; a="b;c"', b" ", b"\t")


def chunked(source: random.Random, body: bytes) -> bytes:
    """Cut a body into chunks, with extensions and trailers now and then."""
    data = b""
    while body:
        size = source.randint(1, len(body))
        digits = source.choice((b"%x", b"%X", b"0%x", b"0000000%x")) % size
        data += digits + source.choice(CHUNK_EXTENSIONS) + b"\r\n" + body[:size] + b"\r\n"
        body = body[size:]
    trailers = source.choice((b"", b"", b"X-Odd: a\r\n", b"X-Odd:\r\nY: b\r\n"))
    return data + source.choice((b"0", b"000")) + source.choice(CHUNK_EXTENSIONS) + b"\r\n" + trailers + b"\r\n"


def legal_request(source: random.Random) -> bytes:
    """Make a request that is HTTP/1.1 (or 1.0) to the letter, and whose path is clean."""
    method, target = source.choice(METHODS), source.choice(TARGETS)
    if method == b"OPTIONS" and source.random() < 0.3:
        target = b"*"
    version = b"HTTP/1.0" if source.random() < 0.06 else b"HTTP/1.1"
    fields = source.choices(FIELDS, k=source.choice((0, 0, 1, 2, 5)))
    if source.random() < 0.1:
        fields.append(source.choice(RARE_FIELDS))
    if source.random() < 0.97:
        fields.insert(source.randint(0, len(fields)), source.choice(HOSTS * 5 + BAD_HOSTS))
    body = b""
    if method in (b"POST", b"PUT", b"DELETE", b"PATCH", b"M-X") and source.random() < 0.7:
        body = source.choice((CREATE, b"", b"x", b"GET / HTTP/1.1\r\n\r\n", bytes(1500)))
        if target.endswith(b"create") and source.random() < 0.7:
            fields.append(b"Content-Type: application/json")
        if version == b"HTTP/1.1" and source.random() < 0.5:
            fields.append(source.choice((b"Transfer-Encoding: chunked", b"transfer-encoding:\tCHUNKED ")))
            body = chunked(source, body)
        else:
            fields.append(source.choice((b"Content-Length: %d", b"content-length:0%d ")) % len(body))
    return b"\r\n".join([b"%b %b %b" % (method, target, version), *fields]) + b"\r\n\r\n" + body


INSERTED = (
    b" ",
    b"\t",
    b"\r",
    b"\n",
    b"\r\n",
    b"\r\n\r\n",
    b"\r\n ",
    b"\0",
    b"\x0b",
    b"\x7f",
    b"\x80",
    b"\xef\xbb\xbf",
    b":",
    b"/",
    b"//",
    b"/../",
    b"/./",
    b"%2f",
    b"%2e%2e%2f",
    b"%00",
    b"%",
    b"#",
    b"?",
    b"*",
    b"\\",
    b",",
    b"0x",
    b"+",
    b"-",
    b"9",
)

DAMAGED_LINES = (
    b"Content-Length: 5",
    b"Content-Length: 0",
    b"Content-Length: 5, 5",
    b"Content-Length: +5",
    b"Content-Length: 0x5",
    b"Content-Length: 5 5",
    b"Content-Length:",
    b"Content-Length: 99999999999999999999",
    b"Content-Length : 5",
    b"Content_Length: 5",
    b"Transfer-Encoding: chunked",
    b"Transfer-Encoding: CHUNKED",
    b"Transfer-Encoding: gzip, chunked",
    b"Transfer-Encoding: chunked, identity",
    b"Transfer-Encoding: identity",
    b"Transfer-Encoding: \x0bchunked",
    b'Transfer-Encoding: "chunked"',
    b"Transfer-Encoding:",
    b"Transfer-Encoding:\r\n chunked",
    b"Transfer-Encoding : chunked",
    b"Transfer_Encoding: chunked",
    b"X-Odd\r\n: a",
    b"X-Odd",
    b": a",
    b" X-Odd: a",
    b"X-Odd: a\r\n b",
    b"X-Odd : a",
    b"X(Odd): a",
    b"Content-Type: application/x-www-form-urlencoded",
    b"Content-Type: multipart/form-data; boundary=x",
)

VERSIONS = (
    b"HTTP/1.2",
    b"HTTP/1.10",
    b"HTTP/2.0",
    b"HTTP/0.9",
    b"HTTP/1",
    b"http/1.1",
    b"HTTP/01.1",
    b"HTTP/1.1 x",
    b"",
)


def _insert(source: random.Random, data: bytes) -> bytes:
    place = source.randint(0, min(len(data), 400))
    return data[:place] + source.choice(INSERTED) + data[place:]


def _delete(source: random.Random, data: bytes) -> bytes:
    place = source.randrange(min(len(data), 400))
    return data[:place] + data[place + source.randint(1, 3) :]


def _add_line(source: random.Random, data: bytes) -> bytes:
    lines = data.split(b"\r\n")
    lines.insert(source.randint(1, max(1, lines.index(b"") if b"" in lines else 1)), source.choice(DAMAGED_LINES))
    return b"\r\n".join(lines)


def _bare_lines(source: random.Random, data: bytes) -> bytes:
    return data.replace(b"\r\n", source.choice((b"\n", b"\r", b"\n\r", b"\r\r\n")), source.choice((1, 2, -1)))


def _version(source: random.Random, data: bytes) -> bytes:
    return data.replace(b"HTTP/1.1", source.choice(VERSIONS), 1)


def _path(source: random.Random, data: bytes) -> bytes:
    return data.replace(b"/", source.choice((b"//", b"/./", b"/../", b"/a/../", b"%2f", b"%2F/", b"\\", b"")), 1)


def _truncate(source: random.Random, data: bytes) -> bytes:
    return data[: source.randrange(len(data))]


def _damage_end(source: random.Random, data: bytes) -> bytes:
    place = len(data) - source.randint(0, min(len(data), 40))
    return data[:place] + source.choice(INSERTED) + data[place + source.randint(0, 1) :]


DAMAGES: tuple[Callable[[random.Random, bytes], bytes], ...] = (
    _insert,
    _insert,
    _delete,
    _add_line,
    _add_line,
    _bare_lines,
    _version,
    _path,
    _damage_end,
    _damage_end,
    _truncate,
)


def damaged_request(source: random.Random) -> bytes:
    """Make a request of which one or two things are wrong, or look so."""
    data = legal_request(source)
    for _ in range(source.choice((1, 1, 2))):
        if data:
            data = source.choice(DAMAGES)(source, data)
    return data


def connection(source: random.Random, damaged: bool) -> bytes:
    """Make the bytes of a connection: one to three requests, of which one is damaged, and the probe."""
    requests = [legal_request(source) for _ in range(source.choice((1, 1, 1, 2, 3)))]
    if damaged:
        requests[source.randrange(len(requests))] = damaged_request(source)
    return b"".join(requests) + PROBE


def cut(source: random.Random, data: bytes) -> list[bytes]:
    """Cut bytes into one to four pieces, for as many writes."""
    places = sorted(source.randint(0, len(data)) for _ in range(source.choice((0, 0, 1, 3))))
    pieces = [data[start:end] for start, end in zip([0, *places], [*places, len(data)], strict=True)]
    return [piece for piece in pieces if piece]


def connections(seed: int, count: int, damaged: bool) -> Iterator[tuple[str, list[bytes]]]:
    """Give connections by a name from which each can be made again, cut into pieces."""
    for number in range(count):
        name = f"{'damaged' if damaged else 'legal'} {seed}.{number}"
        source = random.Random(name)
        yield name, cut(source, connection(source, damaged))
