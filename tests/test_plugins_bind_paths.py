"""What a client in a container has mounted is what it sees itself."""

from __future__ import annotations

import json
from typing import Any

from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from docker_tracker.engine.catalogue import OPERATIONS
from docker_tracker.errors import BadDocumentError, EngineUnavailableError, RefusedError
from docker_tracker.exchange import Stage
from docker_tracker.interfaces import IInterceptor
from docker_tracker.job import JobRequest
from docker_tracker.plugins.bind_paths import bind_paths as plugin
from docker_tracker.testing import FakeDaemon, FakeEngine, FakeJob, build, make_document, make_exchange, result_of

ID = "0123456789abcdef" * 4
INSPECT = f"GET /containers/{ID}/json"
SOCKET = "/run/docker-tracker/jobs/mine.sock"
AGENT: dict[str, Any] = {
    "Mounts": [
        {"Type": "bind", "Source": "/home/ci", "Destination": "/builds"},
        {"Type": "bind", "Source": "/data/cache", "Destination": "/builds/cache/"},
        {"Type": "volume", "Name": "v", "Source": "/var/lib/docker/volumes/v/_data", "Destination": "/volume"},
        {"Type": "volume", "Name": "w", "Source": "/var/lib/docker/volumes/w/_data", "Destination": "/part"},
        {"Type": "tmpfs", "Source": "", "Destination": "/builds/tmp"},
        {"Type": "volume", "Name": "x", "Source": "", "Destination": "/remote"},
        "nonsense",
    ],
    "HostConfig": {
        "Tmpfs": {"/tmp": "size=1m"},
        "Mounts": [
            {"Type": "volume", "Source": "v", "Target": "/volume"},
            {"Type": "volume", "Source": "w", "Target": "/part", "VolumeOptions": {"Subpath": "a"}},
            {},
        ],
    },
}

# The path in the container, and on the host.
PATHS = [
    ("/builds", "/home/ci"),
    ("/builds/a/b", "/home/ci/a/b"),
    ("/builds/../builds//a/", "/home/ci/a"),
    ("/builds/cache", "/data/cache"),
    ("/builds/cache/x", "/data/cache/x"),
    ("/builds/cached", "/home/ci/cached"),
    ("/volume/a", "/var/lib/docker/volumes/v/_data/a"),
    # the socket: put there before, or to be replaced afterwards
    (SOCKET, SOCKET),
    ("/var/run/docker.sock", "/var/run/docker.sock"),
]

REFUSED = [
    ("/etc", "it is in its own file system"),
    ("/", "it is in its own file system"),
    ("/buildsx", "it is in its own file system"),
    ("/builds/tmp/a", "it is in a tmpfs at /builds/tmp"),
    ("/tmp", "it is in a tmpfs at /tmp"),
    ("/remote/a", "it is in a volume at /remote"),
    ("/part/a", "it is in a part of a volume at /part"),
]


class BindPathsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.engine = FakeEngine({INSPECT: AGENT})
        self.made = self.make()

    def make(self, container: str = ID) -> IInterceptor:
        request = JobRequest(name="mine", container=container)
        return build(plugin, {}, FakeDaemon(engine=self.engine), FakeJob(request=request, socket=SOCKET)).interceptor

    def sent(self, body: Any, target: str = "/containers/create") -> Any:
        """Return the body as the engine gets it."""
        document = make_document(body)
        edited: Any = result_of(self.made.request_json(make_exchange("POST", target), document))
        return json.loads((edited or document).encode())

    def mounted(self, source: str) -> str:
        """Return what is mounted for one source."""
        bound = self.sent({"HostConfig": {"Binds": [f"{source}:/x:ro"]}})["HostConfig"]["Binds"][0]
        self.assertTrue(bound.endswith(":/x:ro"), bound)
        return str(bound[: -len(":/x:ro")])

    def refused(self, source: str) -> str:
        error = self.assertRaises(RefusedError, self.mounted, source)
        return str(error.message)

    def test_paths(self) -> None:
        """The nearest mount above a path says where it is on the host."""
        for source, expected in PATHS:
            with self.subTest(source=source):
                self.assertEqual(self.mounted(source), expected)

    def test_refused(self) -> None:
        """What the host cannot see is refused, with the reason."""
        for source, problem in REFUSED:
            with self.subTest(source=source):
                message = self.refused(source)
                self.assertIn(problem, message)
                self.assertIn(f"{source} cannot be mounted: in the job's container 0123456789ab", message)

    def test_socket_that_is_mounted(self) -> None:
        """A socket that is mounted into the container is looked up as all else."""
        mount = {"Type": "bind", "Source": "/run/other.sock", "Destination": "/var/run/docker.sock"}
        self.engine.answers[INSPECT] = {"Mounts": [mount]}
        self.assertEqual(self.mounted("/var/run/docker.sock"), "/run/other.sock")

    def test_mounts_and_services(self) -> None:
        """Every form of a mount is translated, and volumes stay."""
        mounts = [{"Type": "bind", "Source": "/builds/a"}, {"Type": "volume", "Source": "v"}]
        there = [{"Type": "bind", "Source": "/home/ci/a"}, {"Type": "volume", "Source": "v"}]
        self.assertEqual(self.sent({"HostConfig": {"Mounts": mounts}}), {"HostConfig": {"Mounts": there}})
        body = {"TaskTemplate": {"ContainerSpec": {"Mounts": mounts}}}
        self.assertEqual(self.sent(body, "/services/create"), {"TaskTemplate": {"ContainerSpec": {"Mounts": there}}})
        self.assertEqual(self.sent({"Binds": ["/builds:/x", "v:/y"]}), {"Binds": ["/home/ci:/x", "v:/y"]})

    def test_asked_once(self) -> None:
        """The engine is asked when there is something to translate, and what it said is kept."""
        self.sent({})
        self.sent({"HostConfig": {"Binds": [f"{SOCKET}:/x"]}})
        self.assertEqual(self.engine.asked, [])
        for _ in range(3):
            self.mounted("/builds")
        self.assertEqual(len(self.engine.asked), 1)

    def test_asked_again(self) -> None:
        """Before a path is refused for what is kept, the engine is asked again."""
        self.mounted("/builds")
        self.engine.answers[INSPECT] = {"Mounts": [{"Type": "bind", "Source": "/n", "Destination": "/new"}]}
        self.assertEqual(self.mounted("/new/a"), "/n/a")
        self.assertIn("its own file system", self.refused("/builds"))
        self.assertEqual(len(self.engine.asked), 3)

    def test_gone(self) -> None:
        """When the container is gone, nothing is mounted; if it comes back, it is found."""
        del self.engine.answers[INSPECT]
        error = self.assertRaises(RefusedError, self.mounted, "/builds")
        self.assertEqual(error.status, 409)
        self.assertIn("the job's container 0123456789ab is gone", error.message)
        self.engine.answers[INSPECT] = AGENT
        self.assertEqual(self.mounted("/builds"), "/home/ci")
        del self.engine.answers[INSPECT]
        self.assertIn("is gone", self.refused("/etc"))
        self.assertIn("is gone", self.refused("/builds"))

    def test_engine_absent(self) -> None:
        """While the engine can't be asked, nothing is mounted."""
        self.engine.answers[INSPECT] = EngineUnavailableError("the engine is not there", 503)
        self.assertRaises(EngineUnavailableError, self.mounted, "/builds")

    def test_unchanged(self) -> None:
        """Paths that are the same on both sides leave the client's bytes alone."""
        self.engine.answers[INSPECT] = {"Mounts": [{"Type": "bind", "Source": "/builds", "Destination": "/builds"}]}
        document = make_document({"HostConfig": {"Binds": ["/builds/a:/x"]}})
        self.assertIsNone(result_of(self.made.request_json(make_exchange("POST", "/containers/create"), document)))

    def test_start(self) -> None:
        """A start brings no mounts along."""
        exchange = make_exchange("POST", "/containers/a/start")
        self.assertIsNone(result_of(self.made.request_json(exchange, make_document({}))))
        hook = self.made.request_json(exchange, make_document({"Binds": ["/builds:/x"]}))
        self.assertRaises(BadDocumentError, result_of, hook)

    def test_interceptor(self) -> None:
        """It is a guard of what has mounts, for jobs that are tied to a container; for others it is nothing."""
        self.assertTrue(verifyObject(IInterceptor, self.made))
        self.assertTrue(self.made.fail_closed)
        wanted = {row.name: self.made.wants(row) for row in OPERATIONS if self.made.wants(row)}
        own = ("libpod_container_create", "libpod_pod_create")
        names = ("container_create", "container_start", "service_create", "service_update", *own)
        self.assertEqual(wanted, dict.fromkeys(names, Stage.REQUEST_JSON))
        other = self.make(container="")
        self.assertFalse(any(other.wants(row) for row in OPERATIONS))
