"""Paths are taken for the calls that the engine's router takes them for; what it would redirect is refused."""

from __future__ import annotations

import itertools
import operator
import re

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from docker_tracker.engine.catalogue import OPERATIONS, RESOURCE_KINDS, UNKNOWN, operation
from docker_tracker.engine.operation import Effect, IdentityPlace, LabelPlace, RequestBody, ResponseBody
from docker_tracker.engine.recognise import _recognise, pattern, recognise
from docker_tracker.errors import BadTargetError

HEX = "0123456789abcdef" * 4

# method, target, operation, version, what it names
CALLS: list[tuple[str, str, str, str | None, str]] = [
    ("POST", "/containers/create", "container_create", None, ""),
    ("POST", "/v1.41/containers/create?name=x", "container_create", "1.41", ""),
    # decoded before it is matched
    ("POST", "/containers%2fcreate", "container_create", None, ""),
    ("POST", "/%63ontainers/create", "container_create", None, ""),
    ("POST", "/containers/cre%61te", "container_create", None, ""),
    ("POST", "/v1%2e41/containers/create", "container_create", "1.41", ""),
    ("POST", "/v1.41%2fcontainers/create", "container_create", "1.41", ""),
    ("POST", "/%761.41/containers/create", "container_create", "1.41", ""),
    # absolute form
    ("POST", "http://evil/v1.41/containers/create?a", "container_create", "1.41", ""),
    ("POST", "HTTP://a:1@b:2/containers/create", "container_create", None, ""),
    ("POST", "http:///containers/create", "container_create", None, ""),
    ("POST", "http:/containers/create", "container_create", None, ""),
    # sloppy versions
    ("GET", "/v1.41.0/version", "version", "1.41.0", ""),
    ("GET", "/v1/version", "version", "1", ""),
    ("GET", "/v./version", "version", ".", ""),
    ("GET", "/V1.41/version", "unknown", None, ""),
    ("GET", "/v1.41", "unknown", None, ""),
    ("GET", "/v1.41-/version", "version", "1.41-", ""),
    # versions of Podman's
    ("GET", "/v1.41a/version", "version", "1.41a", ""),
    ("POST", "/v4.0.0-rc1/containers/create", "container_create", "4.0.0-rc1", ""),
    ("POST", "/v1.40.x/containers/create", "container_create", "1.40.x", ""),
    ("POST", "/v1.40.X%2fcontainers/create", "container_create", "1.40.X", ""),
    ("POST", "/v.1a/containers/create", "unknown", None, ""),
    ("POST", "/vx/containers/create", "unknown", None, ""),
    ("POST", "/v1_/containers/create", "unknown", None, ""),
    # Podman's own API
    ("POST", "/v4.0.0/libpod/containers/create", "libpod_container_create", "4.0.0", ""),
    ("POST", "/v4.0.0-rc1/libpod/pods/create", "libpod_pod_create", "4.0.0-rc1", ""),
    # Podman matches its own routes as they were sent, and decodes names afterwards (seen on 4.3 and 5.4).
    ("POST", "/v5.4.2/libpod/pods%2fcreate", "libpod", "5.4.2", ""),
    ("POST", "/v4/libpod/pods/cre%61te", "libpod", "4", ""),
    ("POST", "/v%34/libpod/pods/create", "libpod", "4", ""),
    ("POST", "/v4/libpod/containers/a%2Fb/exec", "libpod_exec_create", "4", "a/b"),
    ("POST", "/v4/libpod/manifests/x%2Fpush", "libpod_manifest_create", "4", "x/push"),
    ("POST", "/v4/libpod/manifests/x/push", "libpod_manifest_create", "4", "x/push"),
    ("POST", "/v4/libpod/manifests/x%2Fadd", "libpod_manifest_create", "4", "x/add"),
    ("POST", "/v4/libpod/manifests/x/add", "libpod_manifest_create", "4", "x/add"),
    ("POST", "/v4/libpod/manifests/x%2Fregistry%2Fy", "libpod_manifest_create", "4", "x/registry/y"),
    ("POST", "/v4/libpod/manifests/x%2Fy/registry/z%2Fpush", "libpod_manifest_push", "4", "x/y"),
    ("POST", "/v4/libpod/images/a%2Fpush/tag?repo=b", "libpod_image_tag", "4", "a/push"),
    ("POST", "/v4/libpod/images/x%2Ftag?repo=b", "libpod", "4", ""),
    ("DELETE", "/v4/libpod/images/%c3%a4%2Fb", "libpod_image_remove", "4", "ä/b"),
    ("POST", "/v4/libpod/kube/play", "libpod", "4", ""),
    ("POST", "/v4/libpod/containers/a/restore", "libpod", "4", ""),
    ("POST", "/v4/libpod/images/localhost%2fa:1/tag?repo=b", "libpod_image_tag", "4", "localhost/a:1"),
    ("DELETE", "/v4/libpod/images/remove?images=a", "libpod_image_remove_many", "4", ""),
    ("DELETE", "/libpod/containers/a", "libpod_container_remove", None, "a"),
    ("GET", "/%6cibpod/info?a", "libpod", None, ""),
    ("POST", "/libpod", "unknown", None, ""),
    ("POST", "/Libpod/x", "unknown", None, ""),
    ("OPTIONS", "/libpod/x", "options", None, ""),
    ("GET", "/v1.41/v1.41/version", "unknown", "1.41", ""),
    # method and case
    ("post", "/containers/create", "unknown", None, ""),
    ("PATCH", "/containers/create", "unknown", None, ""),
    ("HEAD", "/containers/json", "unknown", None, ""),
    ("GET", "/containers/create", "unknown", None, ""),
    ("POST", "/Containers/create", "unknown", None, ""),
    ("POST", "/containers/create/", "unknown", None, ""),
    ("POST", "/containers/create;x", "unknown", None, ""),
    ("POST", "/containers/create%20", "unknown", None, ""),
    ("POST", "/containers/create%3Fname=a", "unknown", None, ""),
    ("POST", "/containers/create#frag", "unknown", None, ""),
    ("GET", "/", "unknown", None, ""),
    ("OPTIONS", "*", "options", None, ""),
    ("OPTIONS", "/anything/at/all", "options", None, ""),
    ("OPTIONS", "/containers/json", "options", None, ""),
    ("OPTIONS", "/v1.41/x", "options", "1.41", ""),
    # greedy names
    ("GET", "/images/a/b/c/json", "image_inspect", None, "a/b/c"),
    ("GET", "/images/localhost:5000%2fa/json", "image_inspect", None, "localhost:5000/a"),
    ("GET", "/images/json", "image_list", None, ""),
    ("GET", "/images/json/json", "image_inspect", None, "json"),
    ("GET", "/images/get", "image_save", None, ""),
    ("GET", "/images/a/get?x", "image_save_one", None, "a"),
    ("POST", "/images/a/push/push", "image_push", None, "a/push"),
    ("DELETE", "/images/a/b@sha256:" + HEX, "image_remove", None, "a/b@sha256:" + HEX),
    ("GET", f"/v1.44/containers/{HEX}/json", "container_inspect", "1.44", HEX),
    ("GET", "/containers/json", "container_list", None, ""),
    ("GET", "/containers/a/attach/ws", "container_attach_ws", None, "a"),
    ("GET", "/containers/a/json/logs", "container_logs", None, "a/json"),
    ("DELETE", "/containers/a/b/c", "container_remove", None, "a/b/c"),
    ("DELETE", "/containers/", "container_remove", None, ""),
    ("DELETE", "/containers/a/checkpoints/c", "checkpoint_remove", None, "a"),
    ("POST", "/containers/prune", "container_prune", None, ""),
    ("POST", "/containers/a%20b/kill", "container_kill", None, "a b"),
    ("HEAD", "/containers/a/archive?path=/", "container_archive_info", None, "a"),
    ("GET", "/containers/a/archive", "container_archive_get", None, "a"),
    ("PUT", "/containers/a/archive", "container_archive_put", None, "a"),
    ("POST", f"/exec/{HEX}/start", "exec_start", None, HEX),
    ("GET", f"/exec/{HEX}/json", "exec_inspect", None, HEX),
    ("GET", "/networks", "network_list", None, ""),
    ("GET", "/networks/", "network_list_slash", None, ""),
    ("GET", "/networks/a/b", "network_inspect", None, "a/b"),
    ("POST", "/networks/create", "network_create", None, ""),
    ("POST", "/networks/a/connect", "network_connect", None, "a"),
    ("GET", "/volumes/create", "volume_inspect", None, "create"),
    ("PUT", "/volumes/x", "volume_update", None, "x"),
    ("GET", "/services/a", "service_inspect", None, "a"),
    ("GET", "/services/a/b", "unknown", None, ""),
    ("GET", "/services/a%2fb", "unknown", None, ""),
    ("GET", "/services/a%2flogs", "service_logs", None, "a"),
    ("POST", "/secrets/create", "secret_create", None, ""),
    ("POST", "/configs/a/update?version=1", "config_update", None, "a"),
    ("GET", "/plugins/privileges", "plugin_privileges", None, ""),
    ("GET", "/plugins/a/b/json", "plugin_inspect", None, "a/b"),
    ("GET", "/distribution/a/b/json", "distribution_inspect", None, "a/b"),
    ("GET", "/debug/pprof/cmdline", "debug_cmdline", None, ""),
    ("GET", "/debug/pprof/heap", "debug_pprof", None, "heap"),
    ("POST", "/build?version=2", "image_build", None, ""),
    ("POST", "/build/prune", "build_prune", None, ""),
    ("POST", "/grpc", "grpc", None, ""),
    ("POST", "/session", "session", None, ""),
    ("GET", "/_ping", "ping", None, ""),
    ("HEAD", "/_ping", "ping_head", None, ""),
    ("GET", "/v1.41/events", "events", "1.41", ""),
    # ours
    ("GET", "/tracker", "tracker_page", None, ""),
    ("GET", "/%74racker?all=1", "tracker_page", None, ""),
    ("POST", "/tracker", "tracker_other", None, ""),
    ("OPTIONS", "/tracker", "tracker_other", None, ""),
    ("GET", "/tracker/", "tracker_other", None, ""),
    ("GET", "/tracker/jobs", "tracker_other", None, ""),
    ("GET", "/v1.41/tracker", "unknown", "1.41", ""),
    ("GET", "/trackers", "unknown", None, ""),
    ("GET", "/" + "x" * 5000, "unknown", None, ""),
]

REFUSED: list[tuple[str, str]] = [
    ("//containers/create", "not clean"),
    ("/v1.41//version", "not clean"),
    ("/v1.41/./x", "not clean"),
    ("/v1.41/../containers/create", "not clean"),
    ("/containers/%2e%2e/containers/create", "not clean"),
    ("/containers/%2E/create", "not clean"),
    ("/..%2fcontainers/create", "not clean"),
    ("/%2fcontainers/create", "not clean"),
    ("/containers//json", "not clean"),
    ("/containers/a/..", "not clean"),
    ("/.", "not clean"),
    ("/..", "not clean"),
    ("http://evil//containers/create", "not clean"),
    ("/containers/create%00", "control character"),
    ("/containers/a%0Ab/json", "control character"),
    ("/containers/a\x7f", "control character"),
    ("/containers/%7f", "control character"),
    ("/containers/a%/json", "broken escape;"),
    ("/containers/%", "broken escape;"),
    ("/containers/%zz/json", "broken escape"),
    ("/containers/%ff/json", "not UTF-8"),
    ("containers/create", "begin with a slash"),
    ("*", "begin with a slash"),
    ("", "begin with a slash"),
    ("?a=1", "begin with a slash"),
    ("host:80", "has no path"),  # as CONNECT has it
    ("http://evil", "has no path"),
    ("http://evil?x=/containers/create", "has no path"),
    ("http:", "has no path"),
    ("1http://evil/containers/create", "begin with a slash"),
]


def by_the_router(method: str, path: str) -> str:
    """Return the operation that a plain walk through the table finds, as the router does it."""
    for row in OPERATIONS:
        if row.method == method and pattern(row.path).fullmatch(path):
            return row.name
    return "unknown"


class RecogniseTests(SynchronousTestCase):
    def test_calls(self) -> None:
        """Each request is the call that the engine takes it for."""
        for method, target, name, version, resource in CALLS:
            with self.subTest(method=method, target=target[:80]):
                call = recognise(method, target)
                self.assertEqual((call.operation.name, call.version, call.name), (name, version, resource))
                self.assertEqual(call, recognise(method, target))

    def test_refused(self) -> None:
        """What the router would redirect, or two readers could read differently, is a 400."""
        for target, problem in REFUSED:
            for method in ("GET", "POST", "CONNECT"):
                with self.subTest(target=target):
                    error = self.assertRaises(BadTargetError, recognise, method, target)
                    self.assertIn(problem, str(error))
                    self.assertEqual(error.status, 400)

    def test_nothing_is_quoted(self) -> None:
        """A refusal goes to logs: it has nothing of the target, where a password may stand."""
        for target in (
            "hunter2?token=hunter2",
            "http://u:hunter2@host?hunter2",
            "hunter2:hunter2",
            "/a//hunter2",
            "//u:hunter2@host/x",
            "/hunter2%hunter2",
            "/hunter2%ff",
            "/hunter2%00",
        ):
            error = self.assertRaises(BadTargetError, recognise, "GET", target)
            self.assertNotIn("hu", error.message, target)

    def test_path_and_query(self) -> None:
        """The path is decoded and without version, the query is as it came."""
        call = recognise("GET", "/v1.41/images/%61%2fb/json?a=%20?&b")
        self.assertEqual((call.path, call.query, dict(call.names)), ("/images/a/b/json", "a=%20?&b", {"name": "a/b"}))
        call = recognise("DELETE", "/containers/a/checkpoints/b")
        self.assertEqual(dict(call.names), {"name": "a", "checkpoint": "b"})

    def test_names_are_frozen(self) -> None:
        """A call may be shared by exchanges, so that nobody can change it."""
        names = recognise("GET", "/containers/a/json").names
        self.assertRaises(TypeError, operator.setitem, names, "name", "b")

    @settings(derandomize=True, deadline=None, max_examples=500)
    @given(
        st.sampled_from(["GET", "POST", "DELETE", "PUT", "HEAD"]),
        st.lists(
            st.sampled_from(
                sorted({part for row in OPERATIONS for part in row.path.split("/")[1:] if "{" not in part})
            ),
            min_size=1,
            max_size=5,
        ).filter(lambda parts: parts[0] not in ("", "tracker", "libpod") and "" not in parts[:-1]),
    )
    def test_as_a_walk_through_the_table(self, method: str, parts: list[str]) -> None:
        """The quick way finds what the first match in the router's order is."""
        path = "/" + "/".join(parts)
        self.assertEqual(_recognise(method, path).operation.name, by_the_router(method, path))


class CatalogueTests(SynchronousTestCase):
    def test_every_row_is_found(self) -> None:
        """Each operation is what a request made after its own pattern is recognised as."""
        for row in OPERATIONS:
            path = re.sub(r"\{[^}]*\}", "abc", row.path)
            method = row.method.replace("*", "POST")
            with self.subTest(row=row.name):
                self.assertIs(recognise(method, path).operation, row)

    def test_names_are_unique(self) -> None:
        """A name is one row's."""
        self.assertEqual(len({row.name for row in OPERATIONS}), len(OPERATIONS))
        self.assertEqual([operation(row.name) for row in OPERATIONS], list(OPERATIONS))
        self.assertIs(operation("unknown"), UNKNOWN)
        self.assertRaises(KeyError, operation, "nothing")

    def test_creates(self) -> None:
        """What creates says of which kind, and where the ID will stand."""
        for row in OPERATIONS:
            if row.effect is Effect.CREATE:
                with self.subTest(row=row.name):
                    self.assertIn(row.kind, RESOURCE_KINDS)
                    assert row.identity is not None
                    place = row.identity.place
                    self.assertEqual(place is IdentityPlace.BODY, row.response is ResponseBody.JSON)
                    self.assertEqual(place is not IdentityPlace.LINES, bool(row.identity.key))
            else:
                self.assertIsNone(row.identity)

    def test_label_slots(self) -> None:
        """Labels go where the engine takes them, and nowhere else."""
        slots = {
            row.name: [(slot.place, ".".join(slot.path), slot.image) for slot in row.labels]
            for row in OPERATIONS
            if row.labels
        }
        body = (LabelPlace.BODY, "Labels", False)
        service = [body, (LabelPlace.BODY, "TaskTemplate.ContainerSpec.Labels", False)]
        changes = (LabelPlace.QUERY_CHANGES, "changes", True)
        expected = {
            name: [body]
            for name in (
                *("container_create", "network_create", "volume_create"),
                *("secret_create", "secret_update", "config_create", "config_update"),
            )
        }
        expected["service_create"] = expected["service_update"] = service
        expected["image_build"] = [(LabelPlace.QUERY_JSON, "labels", True)]
        expected["image_create"] = [changes]
        expected["container_commit"] = [changes, (LabelPlace.BODY, "Labels", True)]
        own = (LabelPlace.BODY, "labels", False)
        expected |= {f"libpod_{kind}_create": [own] for kind in ("container", "network", "pod")}
        expected["libpod_volume_create"] = [(LabelPlace.BODY, "Label", False), body]
        expected["libpod_secret_create"] = [(LabelPlace.QUERY_JSON, "labels", False)]
        expected["libpod_image_build"] = expected["image_build"]
        expected["libpod_image_commit"] = expected["libpod_image_import"] = [changes]
        self.assertEqual(slots, expected)
        for row in OPERATIONS:
            if any(slot.place is LabelPlace.BODY for slot in row.labels):
                self.assertIs(row.request, RequestBody.JSON)

    def test_kinds(self) -> None:
        """A kind's operations are rows about that kind."""
        self.assertEqual(
            sorted(RESOURCE_KINDS),
            ["config", "container", "exec", "image", "network", "plugin", "pod", "secret", "service", "volume"],
        )
        for kind, name in itertools.product(RESOURCE_KINDS.values(), ("list", "inspect", "remove")):
            row = getattr(kind, name)
            if kind.name != "exec" or name == "inspect":
                self.assertEqual(operation(row).kind, kind.name)
            else:
                self.assertIsNone(row)

    def test_hijacks(self) -> None:
        """Only attach and the start of an exec turn raw without an Upgrade."""
        names = {"container_attach", "exec_start", "libpod_container_attach", "libpod_exec_start"}
        self.assertEqual({row.name for row in OPERATIONS if row.hijack}, names)
