"""What all tests rely on of an engine: the same suite for the fake and for real ones.

class FakeEngineTests(engine_contract(fake_engine)): ...      # tests.contract.test_engine
class DockerdTests(engine_contract(own_dockerd)): ...         # tests.integration.test_contract
"""

from __future__ import annotations

import io
import json
import re
import tarfile
import uuid
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from twisted.trial.unittest import SynchronousTestCase

from tests.support.stream import Stream, call, frames, wait_until

IMAGE = "busybox:local"
UPGRADE = {"Connection": "Upgrade", "Upgrade": "tcp"}
JSON = {"Content_Type": "application/json"}
RAW = "application/vnd.docker.raw-stream"
ID = re.compile(r"[0-9a-f]{64}")

#: What net/http reads of a body that the handler left is 256 KiB at most; this is more than that and all buffers.
LONG = 8 * 1024 * 1024

#: An HTTP/2 client's preface with an empty SETTINGS frame (RFC 9113 section 3.4).
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"


def tar(**files: bytes) -> bytes:
    """Make an archive."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return stream.getvalue()


def engine_contract(make: Callable[[SynchronousTestCase], str]) -> type[SynchronousTestCase]:
    """Give the suite.

    :param make: given a test, gives the address of an engine that has the image ``busybox:local``; it may be shared.
    """

    class EngineContract(SynchronousTestCase):
        def setUp(self) -> None:
            self.address = make(self)
            self.name = f"contract-{uuid.uuid4().hex[:12]}"

        def call(self, method: str, target: str, document: object = None) -> tuple[int, Any]:
            return call(self.address, method, target, document)

        def stream(self) -> Stream:
            stream = Stream(self.address)
            self.addCleanup(stream.close)
            return stream

        def made(self, method: str, target: str, document: object, status: int = 201) -> Any:
            got, answer = self.call(method, target, document)
            self.assertEqual(got, status, answer)
            return answer

        def container(self, *command: str, start: bool = False, **config: Any) -> str:
            """Create a container; it is removed after the test."""
            document = {"Image": IMAGE, "Cmd": command, **config}
            identifier = str(self.made("POST", "/containers/create", document)["Id"])
            self.addCleanup(self.call, "DELETE", f"/containers/{identifier}?force=1&v=1")
            if start:
                self.made("POST", f"/containers/{identifier}/start", None, 204)
            return identifier

        def interactive(self, *command: str, start: bool = False, **config: Any) -> str:
            """Create a container that reads the input of one client."""
            return self.container(*command, start=start, **{"OpenStdin": True, "StdinOnce": True, **config})

        def attach(self, container: str, options: str = "stream=1&stdin=1&stdout=1&stderr=1") -> Stream:
            stream = self.stream().request("POST", f"/containers/{container}/attach?{options}", b"", **UPGRADE)
            self.assertEqual(stream.read_head().status, 101)
            return stream

        def exec(self, container: str, *command: str, start: bool = True, **config: Any) -> tuple[str, Stream]:
            """Create an exec that is attached, and start it."""
            document = {"Cmd": command, "AttachStdin": True, "AttachStdout": True, "AttachStderr": True, **config}
            identifier = str(self.made("POST", f"/containers/{container}/exec", document)["Id"])
            stream = self.stream()
            if start:
                stream.request("POST", f"/exec/{identifier}/start", b"{}", **JSON, **UPGRADE)
                self.assertEqual(stream.read_head().status, 101)
            return identifier, stream

        def state(self, container: str) -> Any:
            return self.made("GET", f"/containers/{container}/json", None, 200)["State"]

        def until_ended(self, container: str) -> None:
            wait_until(lambda: not self.state(container)["Running"], "the container's end")

        def own(self, labels: dict[str, str] | None) -> dict[str, str] | None:
            """Give labels without those that are not the client's; for subclasses."""
            return labels

        # Heads

        def test_ping(self) -> None:
            """A ping has the versions in its head; asked for by HEAD it has no body."""
            for method, body in (("GET", b"OK"), ("HEAD", b"")):
                stream = self.stream().request(method, "/_ping")
                head = stream.read_head()
                self.assertEqual((head.status, stream.body()), (200, body))
                self.assertEqual(head.fields["content-length"], str(len(body)))
                self.assertEqual(head.fields["ostype"], "linux")
                self.assertRegex(head.fields["api-version"], r"^1\.\d+$")
                self.assertRegex(head.fields["server"], "^Docker/")

        def test_kept_alive(self) -> None:
            """One connection serves one request after the other, also those sent ahead, and failed ones."""
            stream = self.stream()
            for target, status in (("/_ping", 200), ("/version", 200), ("/containers/no-such/json", 404), ("/x", 404)):
                self.assertEqual(stream.request("GET", target).answer()[0], status)
            stream.request("GET", "/_ping").request("GET", "/version")
            self.assertEqual(stream.answer(), (200, "OK"))
            self.assertIn("ApiVersion", stream.answer()[1])
            stream.request("GET", "/_ping", Connection="close")
            self.assertEqual((stream.answer(), stream.ended()), ((200, "OK"), True))

        def test_system(self) -> None:
            """The version and the engine's own ID can be had, with or without a version in the path."""
            for prefix in ("", "/v1.41"):
                self.assertIn("Version", self.call("GET", f"{prefix}/version")[1])
                self.assertIn("CgroupDriver", self.call("GET", f"{prefix}/info")[1])
            self.assertEqual(self.call("GET", "/info")[1]["ID"], self.call("GET", "/info")[1]["ID"])

        def test_errors(self) -> None:
            """Errors have Docker's form, the status that says what was wrong, and name it."""
            for method, target, document, status, message in (
                ("GET", "/nowhere", None, 404, "page not found"),
                ("PATCH", "/version", None, 404, "page not found"),
                ("GET", "/v1.99/version", None, 400, "client version 1.99 is too new"),
                ("GET", "/containers/no-such/json", None, 404, "No such container: no-such"),
                ("POST", "/containers/no-such/start", None, 404, "No such container: no-such"),
                ("POST", "/containers/no-such/wait", None, 404, "No such container: no-such"),
                ("DELETE", "/containers/no-such", None, 404, "No such container: no-such"),
                ("POST", "/containers/create", {"Image": "no-such"}, 404, "No such image: no-such:latest"),
                ("POST", "/containers/create?name=-", {"Image": IMAGE}, 400, "Invalid container name"),
                ("POST", "/exec/no-such/start", {}, 404, "No such exec instance"),
                ("GET", "/volumes/no-such", None, 404, "no such volume"),
                ("DELETE", "/volumes/no-such", None, 404, "no such volume"),
                ("GET", "/networks/no-such", None, 404, "network no-such not found"),
                ("DELETE", "/networks/no-such", None, 404, "network no-such not found"),
                ("GET", "/images/no-such/json", None, 404, "No such image: no-such:latest"),
                ("DELETE", "/images/no-such", None, 404, "No such image: no-such:latest"),
                ("POST", "/grpc", None, 500, "no upgrade proto in request"),
                ("POST", "/session", None, 400, "no upgrade proto in request"),
            ):
                got, answer = self.call(method, target, document)
                self.assertEqual(got, status, (method, target, answer))
                self.assertEqual(list(answer), ["message"])
                self.assertIn(message, answer["message"])

        def test_wrong_type(self) -> None:
            """A JSON body must be called so."""
            stream = self.stream().request("POST", "/containers/create", b'{"Image":"x"}', Content_Type="text/plain")
            status, answer = stream.answer()
            self.assertEqual((status, "must be 'application/json'" in answer["message"]), (400, True))

        def test_unframed_page_not_found(self) -> None:
            """Only answers of routes bear the engine's versions."""
            head = self.stream().request("GET", "/nowhere").read_head()
            self.assertFalse({"api-version", "server"} & set(head.fields))

        # Bodies

        def test_chunked_request(self) -> None:
            """JSON may come in chunks, with extensions and trailers."""
            body = json.dumps({"Image": IMAGE, "Labels": {"a": "b"}}).encode()
            stream = self.stream()
            stream.request("POST", "/containers/create", None, Transfer_Encoding="chunked", **JSON)
            stream.send(b"%x;ext=1\r\n%b\r\n1\r\n%b\r\n0\r\nTrailer: x\r\n\r\n" % (len(body) - 1, body[:-1], body[-1:]))
            status, answer = stream.answer()
            self.assertEqual(status, 201, answer)
            self.addCleanup(self.call, "DELETE", f"/containers/{answer['Id']}")
            self.assertEqual(stream.request("GET", "/_ping").answer(), (200, "OK"))

        def test_continue(self) -> None:
            """A body that is announced is asked for when it is first read, not earlier."""
            stream = self.stream()
            stream.request("POST", "/volumes/create", None, Expect="100-continue", Content_Length="2", **JSON)
            self.assertEqual(stream.until(b"\r\n\r\n").split(b"\r\n")[0], b"HTTP/1.1 100 Continue")
            stream.send(b"{}")
            status, volume = stream.answer()
            self.addCleanup(self.call, "DELETE", f"/volumes/{volume['Name']}")
            self.assertEqual(status, 201)
            stream = self.stream()
            stream.request("PUT", "/containers/no-such/archive?path=/", Expect="100-continue", Content_Length="2")
            head = stream.read_head()
            self.assertEqual((head.status, head.fields.get("connection")), (404, "close"))

        def test_refused_before_the_body_is_read(self) -> None:
            """An answer may come, and the connection end, before a long body was sent; its sender is reset."""
            stream = self.stream()
            stream.request("PUT", "/containers/no-such/archive?path=/", Content_Length=str(1 << 50))
            head = stream.read_head()
            self.assertEqual((head.status, head.fields["connection"]), (404, "close"))
            self.assertIn(b"No such container", stream.body())
            with self.assertRaises(ConnectionError):
                while True:
                    stream.send(bytes(65536))

        def test_refused_short_body(self) -> None:
            """A short body that nobody wanted is read, and the connection kept."""
            stream = self.stream().request("PUT", "/containers/no-such/archive?path=/", bytes(1000))
            self.assertEqual(stream.answer()[0], 404)
            self.assertEqual(stream.request("GET", "/_ping").answer(), (200, "OK"))

        # Containers

        def test_container(self) -> None:
            """A container is created, found by ID, name and prefix, listed, started, stopped and removed."""
            labels = {"contract": self.name}
            create = f"/containers/create?name={self.name}"
            answer = self.made("POST", create, {"Image": IMAGE, "Cmd": ["sleep", "1000"], "Labels": labels})
            identifier = answer["Id"]
            self.addCleanup(self.call, "DELETE", f"/containers/{identifier}?force=1")
            self.assertEqual((list(answer), bool(ID.fullmatch(identifier))), (["Id", "Warnings"], True))
            for reference in (identifier, identifier[:12], self.name, f"/{self.name}".lstrip("/")):
                found = self.made("GET", f"/containers/{reference}/json", None, 200)
                self.assertEqual((found["Id"], found["Name"]), (identifier, f"/{self.name}"))
                self.assertEqual((self.own(found["Config"]["Labels"]), found["State"]["Status"]), (labels, "created"))
            self.assertEqual(self.call("POST", create, {"Image": IMAGE})[0], 409)
            filters = quote(json.dumps({"label": [f"contract={self.name}"]}))
            self.assertEqual(self.call("GET", f"/containers/json?filters={filters}"), (200, []))
            for status in (204, 304):
                self.assertEqual(self.call("POST", f"/containers/{identifier}/start"), (status, ""))
            (listed,) = self.made("GET", f"/containers/json?filters={filters}", None, 200)
            self.assertEqual((listed["Id"], listed["Names"]), (identifier, [f"/{self.name}"]))
            self.assertEqual((self.own(listed["Labels"]), listed["State"]), (labels, "running"))
            self.assertEqual(self.call("DELETE", f"/containers/{identifier}")[0], 409)
            self.assertEqual(self.call("POST", f"/containers/{identifier}/kill"), (204, ""))
            self.until_ended(identifier)
            self.assertEqual(self.state(identifier)["ExitCode"], 137)
            self.assertEqual(self.call("POST", f"/containers/{identifier}/kill")[0], 409)
            self.assertEqual(self.call("POST", f"/containers/{identifier}/stop"), (304, ""))
            self.assertEqual(self.call("DELETE", f"/containers/{identifier}"), (204, ""))
            self.assertEqual(self.call("GET", f"/containers/{identifier}/json")[0], 404)

        def test_stopped(self) -> None:
            """A stop takes as long as the process may take to heed it."""
            container = self.container("sleep", "1000", start=True)
            stream = self.stream().request("POST", f"/containers/{container}/stop?t=1", b"")
            self.assertTrue(self.state(container)["Running"])
            self.assertEqual(stream.answer(), (204, ""))
            self.assertEqual(self.state(container)["ExitCode"], 137)

        def test_removed_by_itself(self) -> None:
            """With AutoRemove a container goes when it ends, its anonymous volumes with it, its named ones not."""
            host = {"AutoRemove": True, "Binds": [f"{self.name}:/named"]}
            identifier = self.container("sleep", "1000", start=True, HostConfig=host, Volumes={"/anonymous": {}})
            self.addCleanup(self.call, "DELETE", f"/volumes/{self.name}")
            mounts = self.made("GET", f"/containers/{identifier}/json", None, 200)["Mounts"]
            (anonymous,) = {mount["Name"] for mount in mounts} - {self.name}
            self.call("POST", f"/containers/{identifier}/kill")
            wait_until(lambda: self.call("GET", f"/containers/{identifier}/json")[0] == 404, "the container's removal")
            self.assertEqual(self.call("GET", f"/volumes/{anonymous}")[0], 404)
            self.assertEqual(self.call("DELETE", f"/volumes/{self.name}"), (204, ""))

        def test_wait(self) -> None:
            """The head of a wait comes at once, its body at the container's end."""
            container = self.container("false")
            waits = {}
            for condition in ("next-exit", "removed"):
                waits[condition] = self.stream()
                waits[condition].request("POST", f"/containers/{container}/wait?condition={condition}", b"")
                head = waits[condition].read_head()
                self.assertEqual((head.status, head.fields["transfer-encoding"]), (200, "chunked"))
            self.call("POST", f"/containers/{container}/start")
            self.assertEqual(json.loads(waits["next-exit"].body())["StatusCode"], 1)
            self.assertEqual(self.made("POST", f"/containers/{container}/wait", None, 200)["StatusCode"], 1)
            self.call("DELETE", f"/containers/{container}")
            self.assertEqual(json.loads(waits["removed"].body())["StatusCode"], 1)

        def test_half_closed_wait_is_cancelled(self) -> None:
            """Who ends its input on a plain request has it cancelled."""
            container = self.container("sleep", "1000", start=True)
            stream = self.stream().request("POST", f"/containers/{container}/wait", b"")
            stream.read_head()
            stream.half_close()
            answer = json.loads(stream.body())
            self.assertEqual((answer["StatusCode"], answer["Error"]), (-1, {"Message": "context canceled"}))

        def test_logs(self) -> None:
            """Logs come framed, by stream; followed, they end with the container."""
            container = self.container("ls", "/no-such")
            self.assertEqual(self.call("GET", f"/containers/{container}/logs")[0], 400)
            self.call("POST", f"/containers/{container}/start")
            follow = self.stream().request("GET", f"/containers/{container}/logs?follow=1&stdout=1&stderr=1")
            self.assertEqual(follow.read_head().fields["transfer-encoding"], "chunked")
            error = b"ls: /no-such: No such file or directory\n"
            self.assertEqual(frames(follow.body()), {2: error})
            self.until_ended(container)
            for options, expected in (("stdout=1", {}), ("stderr=1", {2: error})):
                stream = self.stream().request("GET", f"/containers/{container}/logs?{options}")
                stream.read_head()
                self.assertEqual(frames(stream.body()), expected)

        # Streams

        def test_hijack_heads(self) -> None:
            """With an upgrade a stream begins by 101, without by a bare 200; attach's head bears nothing else."""
            container = self.interactive("cat", start=True)
            for fields, status in ((UPGRADE, 101), ({}, 200)):
                stream = self.stream()
                stream.request("POST", f"/containers/{container}/attach?stream=1&stdout=1", b"", **fields)
                head = stream.read_head()
                lowered = {name.lower(): value for name, value in fields.items()}
                self.assertEqual((head.status, head.fields), (status, {"content-type": RAW, **lowered}))
                identifier, stream = self.exec(container, "cat", start=False)
                stream.request("POST", f"/exec/{identifier}/start", b"{}", **JSON, **fields)
                head = stream.read_head()
                self.assertEqual(head.status, status)
                self.assertLessEqual({"api-version", "server", "content-type"}, set(head.fields))
                self.assertFalse({"content-length", "transfer-encoding", "date"} & set(head.fields))

        def test_attach_to_nothing(self) -> None:
            """An attach that fails is answered in text, and the connection ends."""
            stream = self.stream().request("POST", "/containers/no-such/attach?stream=1", b"", **UPGRADE)
            head = stream.read_head()
            self.assertEqual((head.status, head.fields), (404, {"content-type": RAW}))
            self.assertEqual(stream.rest(), b"No such container: no-such\r\n")

        def test_attach(self) -> None:
            """Input and output cross; after the input's end the output goes on, to the process's end."""
            for fields in (UPGRADE, {}):
                container = self.interactive("cat")
                stream = self.stream()
                target = f"/containers/{container}/attach?stream=1&stdin=1&stdout=1"
                stream.request("POST", target, b"", **fields).read_head()
                self.call("POST", f"/containers/{container}/start")
                stream.send(b"hello")
                self.assertEqual(stream.read(13), b"\1\0\0\0\0\0\0\5hello")
                stream.half_close()
                self.assertTrue(stream.ended())
                self.until_ended(container)
            container = self.interactive("wc", "-c")
            stream = self.attach(container)
            stream.send(b"hello")
            stream.half_close()
            self.call("POST", f"/containers/{container}/start")
            self.assertEqual(frames(stream.rest()), {1: b"5\n"})

        def test_attach_with_terminal(self) -> None:
            """With a terminal the output is raw."""
            container = self.container("echo", "hello", Tty=True)
            stream = self.attach(container)
            self.call("POST", f"/containers/{container}/start")
            self.assertEqual(stream.rest().replace(b"\r\n", b"\n"), b"hello\n")

        def test_half_closed_attach_ends(self) -> None:
            """Where the input is not for one client only, its end is the attach's; the container runs on."""
            container = self.interactive("cat", start=True, StdinOnce=False)
            stream = self.attach(container)
            stream.send(b"x")
            self.assertEqual(stream.read(9)[8:], b"x")
            stream.half_close()
            self.assertTrue(stream.ended())
            self.assertTrue(self.state(container)["Running"])

        def test_half_closed_attach_without_input(self) -> None:
            """Without input, its end is ignored."""
            container = self.interactive("cat", start=True)
            watching, feeding = self.attach(container, "stream=1&stdout=1"), self.attach(container)
            watching.half_close()
            feeding.send(b"late")
            self.assertEqual(watching.read(12)[8:], b"late")

        def test_end_of_stream_is_half(self) -> None:
            """At a stream's end the engine sends no more, but still takes what is sent."""
            container = self.container("sleep", "1000", start=True)
            _, stream = self.exec(container, "true")
            self.assertTrue(stream.ended())
            for _ in range(3):
                stream.send(b"late")

        def test_early_bytes_are_lost(self) -> None:
            """What comes together with the request of a stream never reaches the process."""
            container = self.container("sleep", "1000", start=True)
            identifier, stream = self.exec(container, "cat", start=False)
            head = f"POST /exec/{identifier}/start HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            stream.send(head.encode() + b"Content-Length: 2\r\nUpgrade: tcp\r\nConnection: Upgrade\r\n\r\n{}EARLY")
            self.assertEqual(stream.read_head().status, 101)
            stream.send(b"late")
            stream.half_close()
            self.assertEqual(frames(stream.rest()), {1: b"late"})

        def test_exec(self) -> None:
            """An exec's output comes framed by stream, then its end; its status can be asked for."""
            container = self.container("sleep", "1000", start=True)
            for command, output, code in (
                (("echo", "hello"), {1: b"hello\n"}, 0),
                (("ls", "/no-such"), {2: b"ls: /no-such: No such file or directory\n"}, 1),
                (("false",), {}, 1),
            ):
                identifier, stream = self.exec(container, *command, AttachStdin=False)
                self.assertEqual(frames(stream.rest()), output)
                stream.close()
                wait_until(lambda: not self.inspected(identifier)["Running"], "the exec's end")  # noqa: B023
                found = self.inspected(identifier)
                self.assertEqual((found["ID"], found["ContainerID"]), (identifier, container))
                self.assertEqual(found["ExitCode"], code)
            identifier, stream = self.exec(container, "wc", "-c")
            stream.send(bytes(100_000))
            stream.half_close()
            self.assertEqual(frames(stream.rest()), {1: b"100000\n"})

        def inspected(self, identifier: str) -> Any:
            return self.made("GET", f"/exec/{identifier}/json", None, 200)

        def test_exec_detached(self) -> None:
            """A detached exec is answered like any request."""
            container = self.container("sleep", "1000", start=True)
            identifier, stream = self.exec(container, "true", start=False)
            stream.request("POST", f"/exec/{identifier}/start", b'{"Detach":true}', **JSON)
            self.assertEqual(stream.answer(), (200, ""))
            self.assertEqual(stream.request("GET", "/_ping").answer(), (200, "OK"))

        def test_exec_in_stopped(self) -> None:
            """There is no exec in a container that does not run."""
            self.assertEqual(self.call("POST", f"/containers/{self.container('true')}/exec", {"Cmd": ["true"]})[0], 409)

        def test_much(self) -> None:
            """A process may print megabytes and read them."""
            container = self.container("sleep", "1000", start=True)
            _, stream = self.exec(container, "head", "-c", str(LONG), "/dev/zero", AttachStdin=False)
            self.assertEqual(len(frames(stream.rest())[1]), LONG)
            _, stream = self.exec(container, "wc", "-c")
            stream.send(bytes(LONG))
            stream.half_close()
            self.assertEqual(frames(stream.rest()), {1: b"%d\n" % LONG})

        def test_http2_streams(self) -> None:
            """BuildKit's two streams switch by 101; on one the engine is HTTP/2's client, on the other its server."""
            for path, sent, expected in (("/session", b"", b"PRI * HTTP/2.0\r\n\r\n"), ("/grpc", PREFACE, b"\4")):
                stream = self.stream().request("POST", path, b"", Connection="Upgrade", Upgrade="h2c")
                head = stream.read_head()
                self.assertEqual((head.status, head.reason.split()[0]), (101, "Switching"))
                self.assertEqual(head.fields, {"connection": "Upgrade", "upgrade": "h2c"})
                stream.send(sent)
                self.assertEqual(stream.read(18)[: len(expected)] if not sent else stream.read(4)[3:], expected)

        # Events

        def test_events(self) -> None:
            """The head comes at once, then what happens, with the labels; a half-close ends it."""
            stream = self.stream().request("GET", "/events?filters=" + quote('{"type":["container"]}'))
            head = stream.read_head()
            self.assertEqual((head.status, head.fields["transfer-encoding"]), (200, "chunked"))
            container = self.container("true", start=True, Labels={"contract": self.name})
            self.until_ended(container)
            self.call("DELETE", f"/containers/{container}")
            seen: list[str] = []
            text = b""
            for data in stream.pieces():
                text += data
                *lines, text = text.split(b"\n")
                for event in map(json.loads, lines):
                    if event["Actor"]["ID"] == container and event["Action"] in ("create", "start", "die", "destroy"):
                        seen.append(event["Action"])
                        self.assertEqual(event["Actor"]["Attributes"]["contract"], self.name)
                        self.assertEqual((event["Type"], event["scope"]), ("container", "local"))
                if "destroy" in seen:
                    break
            self.assertEqual(seen, ["create", "start", "die", "destroy"])

        def test_half_closed_events_end(self) -> None:
            """So has who ends its input on the events."""
            stream = self.stream().request("GET", "/events")
            stream.read_head()
            stream.half_close()
            self.assertTrue(stream.rest().endswith(b"0\r\n\r\n"))

        def test_events_of_volumes_and_networks(self) -> None:
            """They are told by name and by ID, without labels."""
            stream = self.stream().request("GET", "/events?filters=" + quote('{"type":["volume","network"]}'))
            stream.read_head()
            self.made("POST", "/volumes/create", {"Name": self.name, "Labels": {"a": "b"}})
            self.assertEqual(self.call("DELETE", f"/volumes/{self.name}"), (204, ""))
            network = self.made("POST", "/networks/create", {"Name": self.name, "Labels": {"a": "b"}})["Id"]
            self.assertEqual(self.call("DELETE", f"/networks/{network}"), (204, ""))
            seen: list[tuple[str, str]] = []
            while len(seen) < 4:
                size = int(stream.until(b"\r\n"), 16)
                event = json.loads(stream.read(size + 2))
                if event["Actor"]["ID"] in (self.name, network):
                    seen.append((event["Type"], event["Action"]))
                    self.assertNotIn("a", event["Actor"]["Attributes"])
            made = [("volume", "create"), ("volume", "destroy"), ("network", "create"), ("network", "destroy")]
            self.assertEqual(seen, made)

        # Labels

        def test_image_labels_are_inherited(self) -> None:
            """A container has its image's labels, where it has none of that name itself."""
            dockerfile = f"FROM {IMAGE}\nLABEL mine=image other=image\n".encode()
            self.built(tar(Dockerfile=dockerfile), "labels=" + quote('{"asked":"for"}'))
            labels = self.made("GET", f"/images/{self.name}/json", None, 200)["Config"]["Labels"]
            self.assertEqual(self.own(labels), {"mine": "image", "other": "image", "asked": "for"})
            container = self.container(Image=self.name, Labels={"mine": "container"})
            found = self.made("GET", f"/containers/{container}/json", None, 200)["Config"]["Labels"]
            self.assertEqual(self.own(found), {"mine": "container", "other": "image", "asked": "for"})

        def test_implicit_volumes_have_no_labels(self) -> None:
            """Volumes that a container brings along bear none of its labels."""
            container = self.container(
                HostConfig={"Binds": [f"{self.name}:/x"]}, Volumes={"/y": {}}, Labels={"contract": "1"}
            )
            self.addCleanup(self.call, "DELETE", f"/volumes/{self.name}")
            mounts = self.made("GET", f"/containers/{container}/json", None, 200)["Mounts"]
            self.assertEqual(len(mounts), 2)
            for mount in mounts:
                self.assertFalse(self.made("GET", f"/volumes/{mount['Name']}", None, 200)["Labels"])
            self.assertEqual(self.call("DELETE", f"/volumes/{self.name}")[0], 409)
            self.call("DELETE", f"/containers/{container}?v=1")
            self.assertEqual(self.call("DELETE", f"/volumes/{self.name}"), (204, ""))

        def test_labels_of_existing_volume(self) -> None:
            """Creating a volume that is there gives it, with its old labels."""
            self.addCleanup(self.call, "DELETE", f"/volumes/{self.name}")
            for labels in ({"first": "1"}, {"second": "2"}):
                volume = self.made("POST", "/volumes/create", {"Name": self.name, "Labels": labels})
                self.assertEqual((volume["Name"], self.own(volume["Labels"])), (self.name, {"first": "1"}))
            listed = self.made("GET", "/volumes", None, 200)["Volumes"]
            self.assertEqual(
                [self.own(each["Labels"]) for each in listed if each["Name"] == self.name], [{"first": "1"}]
            )

        def test_network(self) -> None:
            """A network is created, found by ID and name, listed with its labels, and removed."""
            document = {"Name": self.name, "Labels": {"a": "b"}, "CheckDuplicate": True}
            answer = self.made("POST", "/networks/create", document)
            self.assertEqual((sorted(answer), bool(ID.fullmatch(answer["Id"]))), (["Id", "Warning"], True))
            self.addCleanup(self.call, "DELETE", f"/networks/{answer['Id']}")
            for reference in (self.name, answer["Id"]):
                found = self.made("GET", f"/networks/{reference}", None, 200)
                self.assertEqual((found["Id"], found["Name"]), (answer["Id"], self.name))
                self.assertEqual(self.own(found["Labels"]), {"a": "b"})
            listed = self.made("GET", "/networks", None, 200)
            (same,) = [each for each in listed if each["Id"] == answer["Id"]]
            self.assertEqual(self.own(same["Labels"]), {"a": "b"})
            self.assertEqual(self.call("DELETE", f"/networks/{self.name}"), (204, ""))

        # Images and archives

        def built(self, context: bytes, options: str = "") -> list[dict[str, Any]]:
            """Build an image of our name in chunks, as clients do. :returns: the lines of the answer."""
            stream = self.stream()
            target = f"/build?t={self.name}&{options}"
            stream.request("POST", target, Transfer_Encoding="chunked", Content_Type="application/x-tar")
            for start in range(0, len(context), 5000):
                stream.send_chunk(context[start : start + 5000])
            stream.send_chunk(b"")
            head = stream.read_head()
            self.assertEqual((head.status, head.fields["transfer-encoding"]), (200, "chunked"))
            self.addCleanup(self.call, "DELETE", f"/images/{self.name}")
            return [json.loads(line) for line in stream.body().splitlines()]

        def test_build(self) -> None:
            """A build tells its steps, the image's ID and its name; what is no archive is refused."""
            context = tar(Dockerfile=f"FROM {IMAGE}\nLABEL a=b\n".encode(), big=bytes(1_000_000))
            lines = self.built(context)
            self.assertRegex(lines[0]["stream"], f"Step 1/[23] : FROM {IMAGE}")
            (identifier,) = [line["aux"]["ID"] for line in lines if "aux" in line]
            self.assertEqual(self.made("GET", f"/images/{self.name}/json", None, 200)["Id"], identifier)
            self.assertEqual(lines[-1], {"stream": f"Successfully tagged {self.name}:latest\n"})
            self.assertIn({"stream": f"Successfully built {identifier[7:19]}\n"}, lines)
            listed = {tuple(each["RepoTags"] or ()): each for each in self.made("GET", "/images/json", None, 200)}
            self.assertEqual(self.own(listed[(f"{self.name}:latest",)]["Labels"]), {"a": "b"})
            self.assertEqual(self.stream().request("POST", "/build", b"xx").answer()[0], 500)

        def test_save_and_load(self) -> None:
            """A saved image can be loaded again; what is no image is refused within the answer."""
            self.built(tar(Dockerfile=f"FROM {IMAGE}\nLABEL a=b\n".encode()))
            saved = self.stream().request("GET", f"/images/get?names={self.name}")
            head = saved.read_head()
            self.assertEqual(head.fields["content-type"], "application/x-tar")
            self.assertEqual(head.fields["transfer-encoding"], "chunked")
            data = saved.body()
            with tarfile.open(fileobj=io.BytesIO(data)) as archive:
                self.assertIn("manifest.json", archive.getnames())
            _, gone = self.call("DELETE", f"/images/{self.name}")
            self.assertIn({"Untagged": f"{self.name}:latest"}, gone)
            self.assertEqual(self.loaded(data)[-1], {"stream": f"Loaded image: {self.name}:latest\n"})
            self.assertEqual(self.call("GET", f"/images/{self.name}/json")[0], 200)
            self.assertEqual(sorted(self.loaded(tar(nothing=b""))[-1]), ["error", "errorDetail"])

        def loaded(self, data: bytes) -> list[dict[str, Any]]:
            stream = self.stream()
            stream.request("POST", "/images/load", data, Content_Type="application/x-tar")
            self.assertEqual(stream.read_head().status, 200)
            return [json.loads(line) for line in stream.body().splitlines()]

        def test_copy(self) -> None:
            """Files are copied into a container and out of it, as archives; an export has them, too."""
            container = self.container("true")
            stream = self.stream()
            stream.request("PUT", f"/containers/{container}/archive?path=/tmp", tar(file=bytes(10_000)))
            self.assertEqual(stream.answer(), (200, ""))
            for target, name, kind in (
                ("archive?path=/tmp/file", "file", "application/x-tar"),
                ("export", "tmp/file", "application/octet-stream"),
            ):
                stream.request("GET", f"/containers/{container}/{target}")
                head = stream.read_head()
                self.assertEqual(head.fields["content-type"], kind)
                with tarfile.open(fileobj=io.BytesIO(stream.body())) as archive:
                    self.assertEqual(archive.getmember(name).size, 10_000)
            self.assertEqual(self.call("GET", f"/containers/{container}/archive?path=/no-such")[0], 404)

    return EngineContract
