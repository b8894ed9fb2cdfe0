"""What classic builds go through is their job's, also where the engine leaves it: after a failure, or as it is told.

What the engine gives two jobs, as it is there, is the other one's when one ends, and goes at the end of both.
"""

from __future__ import annotations

import io
import json
import re
import signal
import socket
import tarfile
import uuid
from collections.abc import Callable
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.integration.test_reconciler import ON_DEMAND
from tests.support.daemon import Daemon
from tests.support.dockerd import IMAGE
from tests.support.engine import docker, engine_address
from tests.torture.wire import Connection, ask


def context(dockerfile: str) -> bytes:
    """Give a build's context."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name, text in (("Dockerfile", dockerfile), ("file", "text")):
            entry = tarfile.TarInfo(name)
            entry.size = len(text)
            tar.addfile(entry, io.BytesIO(text.encode()))
    return stream.getvalue()


class StepTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.mark = f"steps{uuid.uuid4().hex[:8]}"
        self.daemon = Daemon(f"--engine={engine_address()}", "--interceptors=labels,recorder")
        self.addCleanup(self.daemon.discard)
        file = self.daemon.directory / "docker-tracker.toml"
        file.write_text(ON_DEMAND)
        self.daemon.command.append(f"--config={file}")
        self.control = self.daemon.serve().control_path
        self.before = self.things()
        self.addCleanup(self.sweep)
        self.begin_job()
        self.socket = f"{self.daemon.directory}/run/jobs/job.sock"
        # Of its own, so that no cache has the steps; an image that is there and has no name is none of the job's.
        self.begin = f"FROM {IMAGE}\nENV A={self.mark}\nVOLUME /anonymous\n"

    def begin_job(self, name: str = "job") -> str:
        """Start a job. :returns: its socket."""
        return str(self.call("POST", "/jobs", {"name": name})["socket"])

    def beside(self, *arguments: str) -> str:
        return docker(*arguments, address=engine_address()).stdout.decode().strip()

    def things(self) -> set[tuple[str, str]]:
        """List the containers, volumes and images of the engine."""
        lists = {"container": "ps -aq --no-trunc", "volume": "volume ls -q", "image": "images -aq --no-trunc"}
        return {(kind, each) for kind, words in lists.items() for each in self.beside(*words.split()).split()}

    def new(self) -> list[str]:
        """Give the kinds of what is there and was not before, of each once."""
        return sorted({kind for kind, _ in self.things() - self.before})

    def sweep(self) -> None:
        for kind, remove in (("container", "rm -fv"), ("volume", "volume rm -f"), ("image", "rmi -f")):
            for each in [name for of, name in self.things() - self.before if of == kind]:
                if (kind, each) in self.things():
                    self.beside(*remove.split(), each)

    def call(self, method: str, target: str, body: Any = None) -> Any:
        status, answer = ask(self.control, method, target, body)
        self.assertIn(status, (200, 201, 202), answer)
        return answer

    def build(self, steps: str, options: str) -> str:
        """Build within the job. :returns: the answer."""
        return docker_build(self.socket, self.begin + steps, options)

    def end(self, name: str = "job") -> dict[str, Any]:
        ended: dict[str, Any] = self.call("POST", f"/jobs/{name}/end?wait=1")
        return ended

    def assert_gone(self, name: str = "job") -> None:
        """End a job: nothing is left."""
        ended = self.end(name)
        self.assertEqual((ended["state"], self.new()), ("gone", []), ended)

    def test_failed(self) -> None:
        """The container of the step that failed goes with its volume, and the images of those before it."""
        for options in ("rm=1", "rm=1&q=1", "rm=0"):
            self.assertIn("non-zero", self.build(f"RUN echo {options}\nRUN false\n", options))
            self.assertEqual(self.new(), ["container", "image", "volume"])
            self.assert_gone()
            self.begin_job()

    def test_kept(self) -> None:
        """Containers that the client wants kept do not keep their images from going."""
        self.assertIn("Successfully built", self.build("RUN true\nRUN echo\n", "rm=0"))
        self.assertIn("container", self.new())
        self.assert_gone()

    def test_quiet(self) -> None:
        """Of a quiet build all stages go, of which the engine would not tell; its client gets the ID and no more."""
        steps = f"RUN true\nFROM {IMAGE}\nENV B={self.mark}\nCOPY --from=0 /bin/busybox /copy\n"
        answer = self.build(steps, "rm=1&q=1")
        self.assertEqual(answer, self.beside("image", "inspect", "--format={{.Id}}", answer.strip()) + "\n")
        self.assert_gone()

    def test_quiet_given_up(self) -> None:
        """So does what is left of one that is given up, although its client was told nothing."""

        def begin(first: str) -> socket.socket:
            client = self.begin_build(f"RUN echo {first}\nRUN sleep 600\n", "rm=1&q=1")
            self.daemon.wait_for(lambda: "sleep 600" in self.beside("ps", "--no-trunc"))
            return client

        self.assert_given_up(begin)

    def test_no_such_file(self) -> None:
        """A step that fails without a container leaves images only, which go."""
        self.build("RUN true\nCOPY none /\n", "rm=1")
        self.assertIn("image", self.new())
        self.assert_gone()

    def test_given_up(self) -> None:
        """So does what is left of a build whose client leaves, or whose job ends, in the middle."""
        self.assert_given_up(lambda first: self.until(f"RUN echo {first}\nRUN echo begun; sleep 600\n"))

    def assert_given_up(self, begin: Callable[[str], socket.socket]) -> None:
        """Give up a build in both ways: nothing is left.

        :param begin: Begins one whose first step has a given word in it, and returns when the second one sleeps.
        """
        for leaves in (True, False):
            client = begin(str(leaves))
            if leaves:
                client.close()
                self.daemon.wait_for(lambda: not self.running())
            self.assert_gone()
            client.close()
            self.begin_job()

    def test_used_by_another_job(self) -> None:
        """A step that the engine's cache gave to another job's build is that job's then, and goes with it."""
        other = self.begin_job("other")
        self.build("RUN true\nRUN echo job\n", "rm=1")
        docker_build(other, f"{self.begin}RUN true\nRUN echo other\n", f"rm=1&t={self.mark}")
        ended = self.end()
        items = [(item["kind"], item["outcome"], item["reason"]) for item in ended["report"]["items"]]
        self.assertEqual(ended["state"], "gone", items)
        self.assertEqual(items.count(("image", "kept", "job other has built on it")), 1, items)
        self.assertEqual({outcome for _, outcome, _ in items}, {"kept", "removed"})
        self.assertIn(self.mark, self.beside("images", "--format={{.Repository}}").split())
        self.assert_gone("other")

    def test_being_used_by_another_job(self) -> None:
        """While another job's build is at work on a step of the job's, all is kept for it, and goes later."""
        other = self.begin_job("other")
        self.build("RUN true\nRUN echo job\n", "rm=1")
        client = self.until("RUN true\nRUN echo begun; until [ -e /go ]; do sleep 0.1; done\n", other)
        ended = self.end()
        items = [(item["outcome"], item["reason"]) for item in ended["report"]["items"]]
        self.assertEqual(ended["state"], "gone", items)
        self.assertEqual({*items}, {("kept", "job other, which builds or loads, may just be given it")})
        self.beside("exec", self.running(), "touch", "/go")
        seen = b""
        while not seen.endswith(b"0\r\n\r\n"):
            seen += client.recv(65536) or self.fail(seen)
        self.assertIn(b"Successfully built", seen)
        self.assertEqual(self.end("other")["state"], "gone")
        self.call("POST", "/reconcile")
        self.assertEqual(self.new(), [])

    def test_all_from_the_cache(self) -> None:
        """What another job's build got whole from the engine's cache is there after the job's end, and goes with it."""
        other = self.begin_job("other")
        self.build("RUN true\n", "rm=1")
        built = re.search("Successfully built (.*)", docker_build(other, f"{self.begin}RUN true\n", "rm=1"))
        assert built is not None
        ended = self.end()
        reasons = [item["reason"] for item in ended["report"]["items"]]
        self.assertEqual((ended["state"], "job other uses it" in reasons), ("gone", True), ended)
        docker("create", built[1], "true", address=f"unix://{other}")
        self.assertIn("container", self.new())
        self.assert_gone("other")

    def test_loaded_by_another_job(self) -> None:
        """So are the image and the name of an archive that both have loaded."""
        name = f"{self.mark}:loaded"
        docker("import", "-", name, address=engine_address(), data=context(self.mark))  # of nobody's
        archive = docker("save", name, address=engine_address()).stdout
        self.beside("rmi", name)
        self.assertEqual(self.new(), [])
        for path in (self.socket, self.begin_job("other")):
            docker("load", address=f"unix://{path}", data=archive)
        self.assertEqual(self.end()["state"], "gone")
        self.assertEqual(self.new(), ["image"])
        self.beside("image", "inspect", name)
        self.assert_gone("other")

    def test_used_by_a_stranger(self) -> None:
        """One that it gave to a stranger's build stays as long as what that made, and is reported; the job is gone."""
        self.build("RUN true\nRUN echo job\n", "rm=1")
        path = engine_address().removeprefix("unix://")
        docker_build(path, f"{self.begin}RUN true\nRUN echo stranger\n", f"rm=1&t={self.mark}")
        ended = self.end()
        reasons = [item["reason"] for item in ended["report"]["items"] if item["outcome"] == "kept"]
        self.assertEqual(ended["state"], "gone", ended)
        self.assertIn(f"others have built on it: {self.mark}:latest", reasons)
        self.beside("image", "rm", "--no-prune", f"{self.mark}:latest")
        self.call("POST", f"/jobs/{ended['id']}/reap")
        self.assertEqual(self.new(), [])

    def test_tracker_killed(self) -> None:
        """A tracker that is killed in the middle has written down what the build went through."""
        client = self.until("RUN true\nRUN echo begun; sleep 600\n")
        self.daemon.wait_for(lambda: {"container", "image"} <= {each["kind"] for each in self.recorded()})
        self.daemon.stop(signal.SIGKILL)
        client.close()
        self.daemon.start().wait_for_socket()
        self.assert_gone()

    def test_output(self) -> None:
        """A container that a step's output names is not the job's for that."""
        stranger = self.beside("run", "-d", "--label", self.mark, IMAGE, "sleep", "600")
        self.addCleanup(self.beside, "rm", "-fv", stranger)
        other = self.beside("create", "--label", self.mark, IMAGE)
        self.addCleanup(self.beside, "rm", "-fv", other)
        before = self.things()
        lines = "".join(f"\\\\n ---> Running in {each[:12]}\\\\n ---> {each[:12]}\\\\n" for each in (stranger, other))
        self.build(f"RUN printf '{lines}'\nRUN false\n", "rm=1")
        self.end()
        self.assertEqual(self.things(), before)

    def until(self, steps: str, path: str = "") -> socket.socket:
        """Begin a build, and return its connection when a step has said that it begins.

        :param path: Of the socket of another job than the first one.
        """
        client = self.begin_build(steps, "rm=1", path)
        seen = b""
        while b'{"stream":"begun' not in seen:
            seen += client.recv(65536)
        return client

    def begin_build(self, steps: str, options: str, path: str = "") -> socket.socket:
        """Begin a build, and return its connection."""
        client = socket.socket(socket.AF_UNIX)
        self.addCleanup(client.close)
        client.settimeout(60)
        client.connect(path or self.socket)
        body = context(self.begin + steps)
        fields = f"Host: d\r\nContent-Type: application/x-tar\r\nContent-Length: {len(body)}"
        client.sendall(f"POST /build?{options} HTTP/1.1\r\n{fields}\r\n\r\n".encode() + body)
        return client

    def running(self) -> str:
        return self.beside("ps", "-q", "--filter=status=running", f"--filter=ancestor={IMAGE}")

    def recorded(self) -> list[dict[str, Any]]:
        with Connection(self.socket) as connection:
            connection.request("GET", "/tracker", headers={"Accept": "application/json"})
            found: list[dict[str, Any]] = json.load(connection.getresponse())["resources"]
        return found


def docker_build(path: str, dockerfile: str, options: str) -> str:
    """Build by the API, as command lines put their own words around the engine's."""
    with Connection(path, 120) as connection:
        headers = {"Content-Type": "application/x-tar", "Accept": "application/json"}
        connection.request("POST", f"/build?{options}", context(dockerfile), headers)
        lines = connection.getresponse().read().decode().splitlines()
    documents = [json.loads(line) for line in lines]
    return "".join(document.get("stream", "") + document.get("error", "") for document in documents)
