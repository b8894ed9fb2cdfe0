"""Jobs that build images of one name at once, or name each other's, and one whose image has a stranger's name."""

from __future__ import annotations

import io
import socket
import sqlite3
import tarfile
import uuid
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.support.daemon import Daemon
from tests.support.dockerd import IMAGE
from tests.support.engine import docker, engine_address
from tests.torture.wire import ask


def layer(text: str) -> bytes:
    """Give a tar archive that is different for each text."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        entry = tarfile.TarInfo("file")
        entry.size = len(text)
        tar.addfile(entry, io.BytesIO(text.encode()))
    return stream.getvalue()


class SharedTagTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.mark = f"shared{uuid.uuid4().hex[:8]}"
        self.tag = f"{self.mark}:ci"
        self.addCleanup(self.sweep)
        self.daemon = Daemon(f"--engine={engine_address()}", "--interceptors=labels,recorder")
        self.addCleanup(self.daemon.discard)
        self.control = self.daemon.serve().control_path

    def sweep(self) -> None:
        for image in self.beside("images", "-q", "--no-trunc", self.mark).split():
            self.beside("rmi", "-f", image)

    def beside(self, *arguments: str, data: bytes = b"") -> str:
        return docker(*arguments, address=engine_address(), data=data).stdout.decode().strip()

    def images(self) -> str:
        return self.beside("images", "-q", "--no-trunc", self.mark)

    def is_there(self, image: str) -> bool:
        return image in self.beside("images", "-aq", "--no-trunc").split()

    def job(self, name: str) -> str:
        """Start a job, have it make an image of the name, and return that."""
        self.call("POST", "/jobs", {"name": name})
        return self.within(name, "import", "-", self.tag, data=layer(name))

    def within(self, name: str, *arguments: str, data: bytes = b"") -> str:
        """Run the docker command within a job."""
        address = f"unix://{self.daemon.directory}/run/jobs/{name}.sock"
        return docker(*arguments, address=address, data=data).stdout.decode().strip()

    def share(self, *names: str) -> str:
        """Start two jobs: one builds an image in two steps, the other one names it, too. Return the image."""
        for name in names:
            self.call("POST", "/jobs", {"name": name})
        recipe = f"FROM {IMAGE}\nENV A={self.mark}\nENV B={'-'.join(names)}\n"
        self.within(names[0], "build", "-t", self.tag, "-", data=recipe.encode())
        self.within(names[1], "tag", self.tag, f"{self.mark}:second")
        return self.beside("inspect", "--format={{.Id}}", self.tag)

    def parent(self, image: str) -> str:
        return self.beside("inspect", "--format={{.Parent}}", image)

    def end(self, name: str) -> dict[str, Any]:
        ended: dict[str, Any] = self.call("POST", f"/jobs/{name}/end?wait=1")
        return ended

    def call(self, method: str, target: str, body: Any = None) -> Any:
        status, answer = ask(self.control, method, target, body)
        self.assertIn(status, (200, 201, 202), answer)
        return answer

    def test_two_jobs(self) -> None:
        """Whichever of two jobs ends first, both are gone then, and so are both images."""
        for first, second in (("a", "b"), ("d", "c")):
            made = [self.job(name) for name in sorted((first, second))]
            for name in (first, second):
                self.assertEqual(self.end(name)["state"], "gone")
            self.assertEqual(self.images(), "")
            self.assertFalse(any(map(self.is_there, made)))

    def test_first_gone_meanwhile(self) -> None:
        """A name that goes with its job while another one gives it to an image is that one's, and goes with it."""
        self.job("a")
        self.call("POST", "/jobs", {"name": "b"})
        body = layer("b")
        repository, _, tag = self.tag.partition(":")
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(60)
            client.connect(f"{self.daemon.directory}/run/jobs/b.sock")
            head = f"POST /images/create?fromSrc=-&repo={repository}&tag={tag} HTTP/1.1\r\nHost: d\r\n"
            client.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode())
            with sqlite3.connect(self.daemon.directory / "state/ledger.sqlite") as ledger:
                intents = "SELECT 1 FROM intents WHERE operation = 'image_create' AND state = 'open'"
                self.daemon.wait_for(lambda: ledger.execute(intents).fetchone() is not None)
            ledger.close()
            self.assertEqual((self.end("a")["state"], self.images()), ("gone", ""))
            client.sendall(body)
            answer = client.makefile("rb")
            self.assertIn(b" 200 ", answer.readline())
            while b"sha256:" not in answer.readline():
                pass
        self.daemon.wait_for(lambda: self.images() != "")
        self.assertEqual((self.end("b")["state"], self.images()), ("gone", ""))

    def test_strangers(self) -> None:
        """The name of a stranger's image stays with the job's image that it leads to now; the job is gone."""
        strangers = self.beside("import", "-", self.tag, data=layer("stranger"))
        self.addCleanup(self.beside, "rmi", strangers)
        made = self.job("late")
        ended = self.end("late")
        self.assertEqual((ended["state"], self.images()), ("gone", made))
        items = {item["identifier"]: (item["outcome"], item["reason"]) for item in ended["report"]["items"]}
        self.assertEqual(items[made], ("kept", f"its name was there before the job: {self.tag}"))

    def test_named_by_another(self) -> None:
        """An image that one job built and another one has named goes with the last of both, its steps with it."""
        for names, order in ((("a", "b"), (0, 1)), (("c", "d"), (1, 0))):
            image = self.share(*names)
            step = self.parent(image)
            self.assertEqual(self.end(names[order[0]])["state"], "gone")
            self.assertTrue(self.is_there(image))
            self.assertEqual(self.end(names[order[1]])["state"], "gone")
            self.assertFalse(self.is_there(image) or self.is_there(step))

    def test_named_by_a_stranger(self) -> None:
        """A stranger's name keeps the image, whichever job ends first, and both jobs are over."""
        for names, order in ((("a", "b"), (0, 1)), (("c", "d"), (1, 0))):
            image = self.share(*names)
            name = f"{self.mark}:strangers-{names[0]}"
            self.beside("tag", image, name)
            for number in order:
                self.assertEqual(self.end(names[number])["state"], "gone")
            self.assertEqual(self.beside("inspect", "--format={{.RepoTags}}", image), f"[{name}]")

    def test_strangers_image(self) -> None:
        """A name that a job gave a stranger's image goes; where it is the last one, or a stranger's now, it stays."""
        strangers = self.beside("import", "-", f"{self.mark}:strangers", data=layer("stranger"))
        other = self.beside("import", "-", f"{self.mark}:other", data=layer("other"))
        self.call("POST", "/jobs", {"name": "a"})
        for name in ("one", "two"):
            self.within("a", "tag", strangers, f"{self.mark}:{name}")
        self.beside("tag", other, f"{self.mark}:two")
        self.assertEqual(self.end("a")["state"], "gone")
        self.assertEqual(self.beside("inspect", "--format={{.RepoTags}}", strangers), f"[{self.mark}:strangers]")
        self.assertEqual(self.beside("inspect", "--format={{.Id}}", f"{self.mark}:two"), other)
        self.call("POST", "/jobs", {"name": "b"})
        self.within("b", "tag", strangers, f"{self.mark}:last")
        self.beside("rmi", f"{self.mark}:strangers")
        self.assertEqual(self.end("b")["state"], "gone")
        self.assertTrue(self.is_there(strangers))
