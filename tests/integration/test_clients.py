"""Clients other than Docker's own, directly and through a tracker as it is by default: the same results.

docker-py, on the test run's engine; ``podman --remote``, on a Podman that DOCKER_TRACKER_ENGINES brings up.
"""

from __future__ import annotations

import io
import os
import re
import subprocess
import tarfile
import unittest
import uuid
from collections.abc import Callable
from typing import Any

import docker  # type: ignore[import-untyped]
from twisted.trial.unittest import SynchronousTestCase

from docker_tracker.engine.inventory import JOB_ID_LABEL
from tests.engines.__main__ import VARIABLE, bundled
from tests.engines.place import Engine, Tracker, until
from tests.engines.ways import archive
from tests.support.engine import engine_address

PODMAN = "podman-5"
IMAGE = "busybox:local"
LABEL = "Created-Via"
COMMAND_SECONDS = 120
_IDS = re.compile(r"\b([0-9a-f]{64}|[0-9a-f]{12})\b")
_TIMES = re.compile(
    r"\b[0-9]+(\.[0-9]+)?m?s\b|\b(Less than a second|[0-9]+ seconds?)( ago)?\b|\b[0-9]{4}-[0-9-]+[T ][0-9:.]+\S*"
)


def words(said: Any, mark: str) -> str:
    """Return what was said, without the test's mark, IDs and times."""
    text = said.decode(errors="replace") if isinstance(said, bytes) else str(said)
    return re.sub(" +", " ", _TIMES.sub("TIME", _IDS.sub("ID", text.replace(mark, "MARK"))))


_LABEL_STEP = re.compile(
    rf'--> ID\nSTEP: LABEL "{LABEL}"="docker-tracker"\n'
    rf"|Step : LABEL {LABEL}=docker-tracker\n(( ---> |Removing ).*\n)+"
)


def unlabelled(text: str) -> str:
    """Return what was said without the label, which builders without BuildKit show as a step, and remove as a layer."""
    text = _LABEL_STEP.sub("", re.sub("(?i)(step) [0-9]+/[0-9]+", r"\1", text))
    return re.sub("(Deleted: ID\n)+", r"\1", text)


class ClientCase(SynchronousTestCase):
    """Has a tracker before an engine, and a job."""

    maxDiff = None

    def begin(self, engine: Engine) -> None:
        self.engine = engine
        tracker = Tracker(engine, ())
        tracker.__enter__()
        self.addCleanup(tracker.__exit__)
        self.tracker, self.place = tracker, tracker.place({})
        self.marks = [f"dt{letter}{uuid.uuid4().hex[:10]}" for letter in "dt"]

    def check_owned(self, things: list[tuple[str, str]]) -> None:
        """Check that things are labelled and in the ledger."""
        known = {
            (each["kind"], name)
            for each in self.tracker.resources(self.place)
            if each["relation"] == "made"
            for name in (each["id"], each["name"])
        }
        for kind, name in things:
            document = self.engine.has(kind, name)
            holder = document if kind in ("volume", "network") else document.get("Config") or document
            label, value = (LABEL, "docker-tracker") if kind == "image" else (JOB_ID_LABEL, self.place.job_id)
            self.assertEqual((kind, (holder["Labels"] or {}).get(label)), (kind, value))
            identifier = document.get("Id") or document["Name"]
            self.assertIn((kind, name if kind == "image" else identifier), known)

    def check_gone(self) -> None:
        """Check that the ledger comes to know that all was removed."""
        left: list[Any] = []

        def none() -> bool:
            left[:] = [each for each in self.tracker.resources(self.place) if each["relation"] == "made"]
            return not left

        self.assertTrue(until(none), left)
        self.assertNotIn("Traceback", self.tracker.daemon.output())


class DockerPyTests(ClientCase):
    """docker-py, which speaks HTTP by another library and attaches in another way than Docker's own client."""

    def setUp(self) -> None:
        self.begin(Engine(name="", address=engine_address()))

    def test_same(self) -> None:
        """Runs, builds, volumes, networks and their removal give the same; errors are the same, too."""
        direct = self.goes(self.engine.address, self.marks[0], lambda things: None)
        through = self.goes(f"unix://{self.place.socket}", self.marks[1], self.check_owned)
        self.assertEqual(through, direct)
        self.check_gone()

    def goes(self, address: str, mark: str, check: Callable[[list[tuple[str, str]]], None]) -> list[str]:
        """Do all that there is to do.

        :param check: called with all that is there, before it is removed.
        :returns: what the client said, in order.
        """
        client = docker.DockerClient(base_url=address, timeout=60)
        self.addCleanup(client.close)
        said: list[Any] = [client.ping(), client.version()["ApiVersion"]]
        volume = client.volumes.create(f"{mark}-v", labels={"own": "1"})
        self.addCleanup(self.engine.remove, "volume", volume.name)
        network = client.networks.create(f"{mark}-n", driver="bridge", check_duplicate=True)
        self.addCleanup(self.engine.remove, "network", network.id)
        mounts = {volume.name: {"bind": "/v", "mode": "rw"}}
        said.append(client.containers.run(IMAGE, "sh -c 'echo out; echo in > /v/f'", volumes=mounts, remove=True))
        command = "sh -c 'cat; echo end'"
        container = client.containers.create(
            IMAGE, command, name=f"{mark}-c", volumes=mounts, network=network.name, stdin_open=True
        )
        self.addCleanup(self.engine.remove, "container", container.id)
        container.start()
        code, output = container.exec_run(["sh", "-c", "cat /v/f; echo err >&2; exit 4"], demux=True)
        said += [code, *output, container.exec_run(["cat"], stdin=False).exit_code]
        container.put_archive("/tmp", archive(file=mark))
        said.append(self.entries(b"".join(container.get_archive("/tmp/file")[0])))
        said += [container.top()["Titles"], sorted(change["Path"] for change in container.diff())]
        stream = container.attach_socket(params={"stdin": 1, "stream": 1})
        stream._sock.sendall(b"typed\n")
        stream._sock.shutdown(1)
        stream.close()
        said += [container.wait()["StatusCode"], container.logs(), b"".join(container.logs(stream=True))]
        committed = container.commit(f"{mark}-committed", "1")
        self.addCleanup(self.engine.remove, "image", committed.tags[0])
        recipe = f"FROM {IMAGE}\nRUN echo {mark}\nLABEL theirs=1\n"
        built, lines = client.images.build(
            fileobj=io.BytesIO(archive(Dockerfile=recipe)), custom_context=True, rm=True, forcerm=True, tag=f"{mark}:1"
        )
        self.addCleanup(self.engine.remove, "image", built.tags[0])
        said += ["".join(line.get("stream", "") for line in lines), built.labels["theirs"], built.tags, committed.tags]
        said.append(sorted(each.name for each in client.containers.list(all=True, filters={"name": mark})))
        check(
            [
                *(("volume", volume.name), ("network", network.id), ("container", container.id)),
                *(("image", committed.tags[0]), ("image", built.tags[0])),
            ]
        )
        for wrong in (
            lambda: client.containers.run(IMAGE, "sh -c 'echo no >&2; exit 3'", remove=True),
            lambda: client.containers.get(f"{mark}-none"),
            lambda: client.containers.create(IMAGE, name=container.name),
            lambda: client.images.build(
                fileobj=io.BytesIO(archive(Dockerfile=f"FROM {IMAGE}\nRUN exit 5")),
                custom_context=True,
                rm=True,
                forcerm=True,
            ),
            lambda: client.volumes.get(volume.name).remove(),
        ):
            with self.assertRaises(docker.errors.DockerException) as caught:
                wrong()
            said.append(str(caught.exception).replace(address.replace("/", "%2F"), ""))
        container.remove()
        network.remove()
        volume.remove()
        for image in (built, committed):
            client.images.remove(image.tags[0])
        return [unlabelled(words(each, mark)) for each in said]

    def entries(self, data: bytes) -> list[tuple[str, int]]:
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            return [(entry.name, entry.size) for entry in tar]


class PodmanTests(ClientCase):
    """Podman's own remote client, which speaks the native API."""

    def setUp(self) -> None:
        command = os.environ.get(VARIABLE)
        if not command:
            raise unittest.SkipTest(f"no Podman: {VARIABLE} is not set")
        own = bundled(command, PODMAN, PODMAN, ())
        engine = own.__enter__()
        self.addCleanup(own.__exit__, None, None, None)
        self.begin(engine)

    def podman(self, address: str, *arguments: str, data: str = "") -> tuple[int, str, str]:
        """Run the client. :returns: its status and both outputs."""
        done = subprocess.run(
            [self.engine.cli, "--remote", "--url", address, *arguments],
            env={"PATH": os.environ["PATH"], "HOME": str(self.place.directory), **self.engine.environment},
            cwd=self.place.directory,
            input=data,
            capture_output=True,
            timeout=COMMAND_SECONDS,
            text=True,
        )
        return done.returncode, done.stdout, done.stderr

    def test_same(self) -> None:
        """Runs, builds, volumes, networks, pods and their removal give the same; errors are the same, too."""
        direct = self.goes(self.engine.address, self.marks[0], lambda things: None)
        through = self.goes(f"unix://{self.place.socket}", self.marks[1], self.check_owned)
        self.assertEqual(through, direct)
        self.check_gone()

    def goes(self, address: str, mark: str, check: Callable[[list[tuple[str, str]]], None]) -> list[tuple[Any, ...]]:
        """Do all that there is to do. See `DockerPyTests.goes`."""
        self.place.write("Dockerfile", f"FROM {IMAGE}\nRUN echo {mark}\nLABEL theirs=1\n")
        self.place.write("file", mark)
        volume, network, container = f"{mark}-v", f"{mark}-n", f"{mark}-c"
        run = ("run", "--init=false", "--stop-timeout=0", f"--volume={volume}:/v")
        makes = (
            ("volume", "create", "--label=own=1", volume),
            ("network", "create", network),
            ("build", "--tag", f"{mark}:1", "."),
            (*run, "--rm", IMAGE, "sh", "-c", "echo out; echo err >&2; echo in > /v/f; exit 3"),
            (*run, "--rm", "--interactive", IMAGE, "cat", "/v/f", "-"),
            (*run, "--detach", f"--name={container}", f"--network={network}", IMAGE, "sleep", "600"),
            ("exec", container, "sh", "-c", "echo out; exit 4"),
            ("cp", "file", f"{container}:/file"),
            ("exec", container, "cat", "/file"),
            ("commit", "--quiet", container, f"{mark}-committed:1"),
            ("pod", "create", "--infra=false", f"--name={mark}-p"),
            ("ps", "--all", "--filter", f"name={mark}", "--format", "{{.Names}} {{.Image}} {{.State}}"),
            ("volume", "inspect", volume, "--format", "{{.Name}} {{.Labels.own}}"),
            ("network", "inspect", f"{mark}-none"),
            ("create", f"--name={container}", IMAGE),
            ("volume", "rm", volume),
        )
        removes = (
            ("rm", "--force", "--time=0", container),
            ("pod", "rm", f"{mark}-p"),
            ("network", "rm", network),
            ("volume", "rm", volume),
            ("rmi", f"{mark}:1", f"{mark}-committed:1"),
            ("ps", "--all", "--filter", f"name={mark}", "--format", "{{.Names}}"),
        )
        found = [(command, self.podman(address, *command, data="typed\n")) for command in makes]
        check(
            [
                *(("volume", volume), ("network", network), ("container", container)),
                *(("image", f"localhost/{mark}:1"), ("image", f"localhost/{mark}-committed:1"), ("pod", f"{mark}-p")),
            ]
        )
        found += [(command, self.podman(address, *command)) for command in removes]
        return [
            (command[0], status, *(unlabelled(words(text.replace(address, ""), mark)) for text in (output, errors)))
            for command, (status, output, errors) in found
        ]
