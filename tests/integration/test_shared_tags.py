"""Jobs that build images of one name at once, and one whose image has the name of somebody else's."""

from __future__ import annotations

import io
import tarfile
import uuid
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.support.daemon import Daemon
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
        address = f"unix://{self.daemon.directory}/run/jobs/{name}.sock"
        return docker("import", "-", self.tag, address=address, data=layer(name)).stdout.decode().strip()

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

    def test_strangers(self) -> None:
        """The name of a stranger's image stays with the job's image that it leads to now; the job is gone."""
        strangers = self.beside("import", "-", self.tag, data=layer("stranger"))
        self.addCleanup(self.beside, "rmi", strangers)
        made = self.job("late")
        ended = self.end("late")
        self.assertEqual((ended["state"], self.images()), ("gone", made))
        items = {item["identifier"]: (item["outcome"], item["reason"]) for item in ended["report"]["items"]}
        self.assertEqual(items[made], ("kept", f"its name was there before the job: {self.tag}"))
