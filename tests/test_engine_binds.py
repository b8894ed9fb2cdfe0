"""Which paths of the host a body has mounted, and others in their place."""

from __future__ import annotations

import json
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from docker_tracker.engine.binds import bind_sources, with_sources
from docker_tracker.engine.document import Change, Document
from docker_tracker.errors import RefusedError

BIND = {"Type": "bind", "Source": "/a", "Target": "/x"}

# Operation, body, and the sources in it.
BODIES: list[tuple[str, Any, list[str]]] = [
    ("container_create", {}, []),
    ("container_create", [], []),
    ("container_create", {"HostConfig": {"Binds": ["/a:/x", "/b:/y:ro", "/a:/z"]}}, ["/a", "/b"]),
    ("container_create", {"hostconfig": {"binds": ["/a:/x"]}}, ["/a"]),
    ("container_create", {"HostConfig": {"Binds": ["name:/x", "/anonymous", "", 5, None, "rel/a:/x"]}}, []),
    ("container_create", {"HostConfig": {"Binds": "/a:/x", "Mounts": {}}}, []),
    ("container_create", {"HostConfig": {"Mounts": [BIND, {"Type": "volume", "Source": "/b"}, 5, {}]}}, ["/a"]),
    ("container_create", {"HostConfig": {"Mounts": [{"type": "bind", "source": "/a"}]}}, ["/a"]),
    ("container_create", {"HostConfig": {"Mounts": [{"Type": "bind", "Source": "a"}, {"Type": "bind"}]}}, []),
    # old engines read them at the top, if there is no HostConfig
    ("container_create", {"Binds": ["/a:/x"], "Mounts": [{"Type": "bind", "Source": "/b"}]}, ["/a", "/b"]),
    ("container_create", {"HostConfig": None, "Binds": ["/a:/x"]}, ["/a"]),
    ("container_create", {"HostConfig": {}, "Binds": ["/a:/x"]}, []),
    ("service_create", {"TaskTemplate": {"ContainerSpec": {"Mounts": [BIND]}}}, ["/a"]),
    ("service_update", {"TaskTemplate": {"ContainerSpec": {"Mounts": [BIND]}}}, ["/a"]),
    ("libpod_container_create", {"mounts": [{"type": "bind", "source": "/a", "destination": "/x"}]}, ["/a"]),
    ("libpod_container_create", {"mounts": [{"source": "/a", "options": ["rbind"]}, {"type": "tmpfs"}]}, ["/a"]),
    ("libpod_pod_create", {"overlay_volumes": [{"destination": "/x", "source": "/a"}], "mounts": [BIND]}, ["/a"]),
    ("libpod_container_create", {"volumes": [{"Name": "/a"}], "HostConfig": {"Binds": ["/a:/x"]}}, []),
    ("service_create", {"TaskTemplate": {"ContainerSpec": None}, "HostConfig": {"Binds": ["/a:/x"]}}, []),
]


def document(value: Any) -> Document:
    return Document.parse(json.dumps(value).encode())


class BindsTests(SynchronousTestCase):
    def test_sources(self) -> None:
        """Absolute paths where the engine reads them, and no volumes."""
        for operation, body, expected in BODIES:
            with self.subTest(body=body):
                self.assertEqual(bind_sources(document(body), operation), expected)

    def test_others(self) -> None:
        """Only the source changes, wherever it stands, and each edit is told by its own path."""
        body = {"HostConfig": {"Binds": ["/b:/y", "/a:/x:ro,z", "v:/a"], "Mounts": [{**BIND, "ReadOnly": True}]}}
        edited = with_sources(document(body), "container_create", {"/a": "/new", "v": "/never"})
        self.assertEqual(
            json.loads(edited.encode()),
            {
                "HostConfig": {
                    "Binds": ["/b:/y", "/new:/x:ro,z", "v:/a"],
                    "Mounts": [{**BIND, "Source": "/new", "ReadOnly": True}],
                }
            },
        )
        self.assertEqual(
            edited.changes,
            (
                Change(("HostConfig", "Binds", 1), "/a:/x:ro,z", "/new:/x:ro,z"),
                Change(("HostConfig", "Mounts", 0, "Source"), "/a", "/new"),
            ),
        )

    def test_at_the_top(self) -> None:
        """What stands at the top stays there: a HostConfig would mean something else to old engines."""
        edited = with_sources(document({"Binds": ["/a:/x"]}), "container_create", {"/a": "/new"})
        self.assertEqual(json.loads(edited.encode()), {"Binds": ["/new:/x"]})

    def test_nothing_to_do(self) -> None:
        """Without a source that is meant the document is the same."""
        same = document({"HostConfig": {"Binds": ["/a:/x"]}})
        self.assertIs(with_sources(same, "container_create", {"/b": "/c", "/a": "/a"}), same)

    def test_colon(self) -> None:
        """A path with a colon can be in Mounts, and not in Binds."""
        mounts = document({"HostConfig": {"Mounts": [BIND]}})
        self.assertIn(b'"/n:1"', with_sources(mounts, "container_create", {"/a": "/n:1"}).encode())
        bound = document({"HostConfig": {"Binds": ["/a:/x"]}})
        error = self.assertRaises(RefusedError, with_sources, bound, "container_create", {"/a": "/n:1"})
        self.assertIn("use Mounts", error.message)
