"""A real engine reads the Dockerfile lines that set labels as they were meant."""

from __future__ import annotations

import io
import json
import tarfile
import uuid

from twisted.trial.unittest import SynchronousTestCase

from docker_tracker.plugins.labels import change_line
from tests.support.engine import docker, engine_address

AWKWARD = {
    "plain": "value",
    "empty": "",
    "with space": "a  b ",
    "quotes": """"double" 'single' `back`""",
    'na"me\\': "\\ \\\\ \\n \\",
    "dollars": "$HOME ${PATH:-x} $$ \\$",
    "signs": "a=b=c # no comment <<EOF",
    "unicode \u00e9\u2028": "\u65e5\u672c \U0001f433",
}


def changes(labels: dict[str, str]) -> list[str]:
    """Give the command's options that set labels."""
    return [word for name, value in labels.items() for word in ("--change", change_line(name, value))]


def archive() -> bytes:
    """Give a root file system with nothing in it but a file."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("file"))
    return stream.getvalue()


class LabelLineTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.address = engine_address()
        self.image = f"docker-tracker-test/{uuid.uuid4().hex}"

    def docker(self, *arguments: str, data: bytes = b"") -> str:
        return docker(*arguments, address=self.address, data=data).stdout.decode().strip()

    def labels(self, image: str) -> dict[str, str]:
        """Give the labels of an image of ours, which is removed after the test."""
        self.addCleanup(self.docker, "image", "rm", "--force", image)
        labels = json.loads(self.docker("image", "inspect", "--format", "{{json .Config.Labels}}", image))
        assert isinstance(labels, dict)
        return labels

    def test_import(self) -> None:
        """Names and values of any kind arrive unaltered, beside the client's own line."""
        client = ("--change", "ENV HOME=/x", "--change", "LABEL plain=client own=1")
        self.docker("import", *client, *changes(AWKWARD), "-", self.image, data=archive())
        self.assertEqual(self.labels(self.image), {**AWKWARD, "own": "1"})

    def test_commit(self) -> None:
        """What an image inherits of its container's labels can be blanked."""
        self.docker("import", "-", self.image, data=archive())
        self.addCleanup(self.docker, "image", "rm", "--force", self.image)
        container = self.docker("create", "--label", "ours=1", "--label", "own=2", self.image, "sh")
        self.addCleanup(self.docker, "rm", "--force", container)
        committed = f"{self.image}-committed"
        self.docker("commit", *changes({"ours": "", **AWKWARD}), container, committed)
        self.assertEqual(self.labels(committed), {**AWKWARD, "ours": "", "own": "2"})
