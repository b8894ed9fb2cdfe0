"""What lists and documents of the engine say exists."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from docker_tracker.engine.catalogue import RESOURCE_KINDS
from docker_tracker.engine.document import Document
from docker_tracker.engine.inventory import (
    Seen,
    donors,
    implicit_volumes,
    inspect_path,
    inspected,
    list_call,
    listed,
    nameless_ancestors,
    remove_path,
    uses,
    volumes_of,
)


class CallTests(SynchronousTestCase):
    def test_lists(self) -> None:
        """Every kind but execs has a list, and the list is whole."""
        calls = {kind: list_call(kind) for kind in RESOURCE_KINDS}
        self.assertEqual([kind for kind, call in calls.items() if call is None], ["exec"])
        self.assertEqual(calls["container"], ("/containers/json", {"all": "1"}))
        self.assertEqual(calls["image"], ("/images/json", {"all": "1"}))
        self.assertEqual(calls["volume"], ("/volumes", {}))

    def test_inspect(self) -> None:
        """A name stands in the path as one that the router reads back as it is."""
        for kind, reference, wanted in (
            ("container", "web", "/containers/web/json"),
            ("image", "host:5000/a/b:1", "/images/host:5000/a/b:1/json"),
            ("image", "a@sha256:1", "/images/a@sha256:1/json"),
            ("volume", "a b?c#d%", "/volumes/a%20b%3Fc%23d%25"),
            ("service", "s1", "/services/s1"),
            ("network", "n1", "/networks/n1"),
            ("plugin", "a\\1:x", "/plugins/a%5C1:x/json"),
        ):
            self.assertEqual(inspect_path(kind, reference), wanted)

    def test_remove(self) -> None:
        """What removes a thing has its own path."""
        self.assertEqual(remove_path("container", "c"), "/containers/c")
        self.assertEqual(remove_path("image", "a/b:1"), "/images/a/b:1")


class ListedTests(SynchronousTestCase):
    def test_shapes(self) -> None:
        """The shape of each kind's entries."""
        labels = {"a": "b"}
        cases: tuple[tuple[str, Any, Seen], ...] = (
            (
                "container",
                {"Id": "i", "Names": ["/web", "/db/link"], "Labels": labels, "Created": 7},
                Seen("i", ("web", "db/link"), labels, 7.0),
            ),
            ("container", {"Id": "i", "Names": None, "Labels": None, "Created": 0}, Seen("i", (), {}, 0.0)),
            (
                "image",
                {"Id": "i", "RepoTags": ["docker.io/library/x:1", "<none>:<none>"], "RepoDigests": ["x@sha256:2"]},
                Seen("i", ("x:1", "x@sha256:2"), {}, 0.0),
            ),
            (
                "network",
                {"Id": "i", "Name": "n", "Created": "1970-01-01T00:00:01.123456789Z"},
                Seen("i", ("n",), {}, 1.123456),
            ),
            (
                "service",
                {"ID": "i", "Spec": {"Name": "n", "Labels": labels}, "CreatedAt": "1970-01-01T01:00:00+01:00"},
                Seen("i", ("n",), labels, 0.0),
            ),
            ("plugin", {"Id": "i", "Name": "x"}, Seen("i", ("x:latest",), {}, 0.0)),
            ("network", {"Id": "i", "Created": "1970-01-01T00:00:02"}, Seen("i", (), {}, 2.0)),
            ("network", {"Id": "i", "Created": "yesterday"}, Seen("i", (), {}, 0.0)),
        )
        for kind, entry, wanted in cases:
            self.assertEqual(listed(kind, [entry]), [wanted])
        volumes = {"Volumes": [{"Name": "v", "Labels": labels, "CreatedAt": "1970-01-01T00:00:03Z"}]}
        self.assertEqual(listed("volume", volumes), [Seen("v", ("v",), labels, 3.0)])

    def test_nothing(self) -> None:
        """No entries, and entries that say nothing."""
        answers: tuple[Any, ...] = (None, [], {}, {"Volumes": None}, [{}], [7], [{"Name": "no id"}])
        for answer in answers:
            self.assertEqual(listed("container", answer), [], answer)

    def test_called(self) -> None:
        """A thing can be recorded by its ID and by each of its names."""
        self.assertEqual(Seen("i", ("a", "b"), {}, 0).called, {"i", "a", "b"})


class ContainerTests(SynchronousTestCase):
    def test_implicit_volumes(self) -> None:
        """Names of volumes, in whatever case the keys are; paths and anonymous ones are none."""
        volume = {"Type": "volume", "Source": "m"}
        cases: tuple[tuple[Any, list[str]], ...] = (
            ({}, []),
            ({"HostConfig": {"Binds": ["v:/p", "w:/q:ro", "/h:/p", "/p", "v:/again", ":/x"]}}, ["v", "w"]),
            ({"HostConfig": {"Mounts": [volume, {"Type": "bind", "Source": "b"}, {"Type": "volume"}]}}, ["m"]),
            ({"hostCONFIG": {"binds": ["v:/p"], "MOUNTS": [{"type": "volume", "SOURCE": "m"}]}}, ["v", "m"]),
            ({"Binds": ["v:/p"], "Mounts": [volume]}, ["v", "m"]),
        )
        for body, wanted in cases:
            self.assertEqual(implicit_volumes(Document.of(body)), wanted, body)

    def test_donors(self) -> None:
        """Containers whose volumes are mounted, without the mode."""
        for body in ({"HostConfig": {"VolumesFrom": ["a:ro", "b", 7]}}, {"volumesfrom": ["a:ro", "b"]}):
            self.assertEqual(donors(Document.of(body)), ["a", "b"])

    def test_volumes_of(self) -> None:
        """Volumes of an inspected container; of none there are none."""
        mounts = [{"Type": "volume", "Name": "v"}, {"Type": "bind", "Source": "/"}, {"Type": "volume"}]
        cases: tuple[tuple[Any, list[str]], ...] = (
            ({"Mounts": mounts}, ["v"]),
            ({"Mounts": None}, []),
            ({}, []),
            (None, []),
        )
        for container, wanted in cases:
            self.assertEqual(volumes_of(container), wanted)

    def test_uses(self) -> None:
        """What a container or a service cannot do without, by ID and by name."""
        self.assertEqual(uses("volume", {}), set())
        self.assertEqual(uses("container", {}), set())
        self.assertEqual(uses("service", {}), set())
        container = {
            "Image": "sha256:1",
            "Config": {"Image": "app"},
            "HostConfig": {"NetworkMode": "net", "IpcMode": "container:c1", "PidMode": None},
            "NetworkSettings": {"Networks": {"net": {"NetworkID": "n1"}, "old": None}},
            "Mounts": [{"Type": "volume", "Name": "v"}],
        }
        wanted = {"sha256:1": "image", "app:latest": "image", "c1": "container", "net": "network", "n1": "network"}
        self.assertEqual(
            uses("container", container),
            {(kind, name) for name, kind in wanted.items()} | {("network", "old"), ("volume", "v")},
        )
        parts = {"Secrets": [{"SecretID": "s"}, {}], "Configs": [7], "Mounts": None, "Image": "app:1@sha256:2"}
        service = {"Spec": {"TaskTemplate": {"Networks": [{"Target": "n"}], "ContainerSpec": parts}}}
        self.assertEqual(uses("service", service), {("network", "n"), ("secret", "s"), ("image", "app:1")})


class InspectedTests(SynchronousTestCase):
    def test_shapes(self) -> None:
        """What is inspected says the same as its entry in a list."""
        labels = {"a": "b"}
        container = {
            "Id": "i",
            "Name": "/web",
            "Created": "1970-01-01T00:00:01Z",
            "Config": {"Labels": labels},
            "State": {"Status": "running"},
            "Image": "sha256:1",
            "Mounts": [{"Type": "volume", "Name": "v"}],
        }
        self.assertEqual(
            inspected("container", container), Seen("i", ("web",), labels, 1.0, ("v",), "sha256:1", "running")
        )
        image = {"Id": "i", "RepoTags": ["x:1"], "Parent": "sha256:2", "Config": {"Labels": labels}}
        self.assertEqual(inspected("image", image), Seen("i", ("x:1",), labels, 0.0, parent="sha256:2"))
        self.assertEqual(inspected("image", {"Id": "i", "Config": None}), Seen("i", (), {}, 0.0))
        self.assertEqual(inspected("volume", {"Name": "v"}), Seen("v", ("v",), {}, 0.0))


class AncestorTests(SynchronousTestCase):
    def test_ancestors(self) -> None:
        """Step by step, until one has a name, is unknown, or was passed."""

        def image(identifier: str, parent: str = "", *names: str) -> Seen:
            return Seen(identifier, names, {}, 0.0, parent=parent)

        images = [
            image("app", "step2", "app:1"),
            image("other", "step2", "other:1"),
            image("step2", "step1"),
            image("step1", "base"),
            image("base", "below", "base:1"),
            image("below"),
            image("alone", "unknown"),
        ]
        for identifiers, wanted in (
            (["app"], ["step2", "step1"]),
            (["app", "other", "app:1"], ["step2", "step1"]),
            (["alone", "nothing"], []),
            (["base"], ["below"]),
        ):
            found = [seen.identifier for seen in nameless_ancestors(images, identifiers)]
            self.assertEqual(found, wanted, identifiers)
