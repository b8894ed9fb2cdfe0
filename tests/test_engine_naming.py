"""What Podman's own calls name before they are done, and what their answers say is gone."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from docker_tracker.engine.document import Document
from docker_tracker.engine.inventory import donors, infra_container, inspect_path, list_call, remove_path
from docker_tracker.engine.naming import named_by, removed_by_answer
from docker_tracker.engine.recognise import recognise

HEX = "0123456789abcdef" * 4


class NamedTests(SynchronousTestCase):
    def named(self, target: str, body: str | None = None) -> list[tuple[str, str]]:
        document = None if body is None else Document.parse(body.encode())
        return [*named_by(recognise("POST", f"/v4.0.0/libpod{target}"), document)]

    def test_containers_and_pods(self) -> None:
        """Their name is in the body; volumes that they bring along are named there, too, anonymous ones are not."""
        volumes = '"volumes":[{"Name":"v","Dest":"/v"},{"Name":"","Dest":"/x"},{"Dest":"/y","IsAnonymous":true},"z"]'
        for kind in ("container", "pod"):
            for name in ("name", "Name"):
                found = self.named(f"/{kind}s/create", f'{{"{name}":"n",{volumes}}}')
                self.assertEqual(found, [(kind, "n"), ("volume", "v")])
        mounts = '"mounts":[{"type":"volume","source":"m","destination":"/m"},{"type":"bind","source":"/b"}]'
        self.assertEqual(self.named("/containers/create", f"{{{mounts}}}"), [("volume", "m")])

    def test_others(self) -> None:
        """Networks and volumes have it in the body, secrets in the query."""
        self.assertEqual(self.named("/networks/create", '{"name":"n"}'), [("network", "n")])
        self.assertEqual(self.named("/volumes/create", '{"Name":"v"}'), [("volume", "v")])
        self.assertEqual(self.named("/secrets/create?name=s"), [("secret", "s")])
        self.assertEqual(self.named("/secrets/create"), [])

    def test_half_a_pair(self) -> None:
        """A name with half of a surrogate pair is the one that the engine reads, which can be written down."""
        for body, name in (("\\ud800-\\udfff", "\ufffd-\ufffd"), ("\\ud83d\\ude00", "\U0001f600")):
            self.assertEqual(self.named("/networks/create", f'{{"name":"{body}"}}'), [("network", name)])

    def test_images(self) -> None:
        """An image's name is one of localhost unless it says a registry."""
        for target, expected in (
            ("/build?t=a&t=docker.io/b:1", ["localhost/a:latest", "docker.io/b:1"]),
            ("/commit?container=x&repo=a&tag=1", ["localhost/a:1"]),
            ("/commit?container=x", []),
            ("/images/import?reference=a", ["localhost/a:latest"]),
            ("/images/localhost%2Fa/tag?repo=quay.io/b&tag=2", ["quay.io/b:2"]),
            ("/manifests/list", ["localhost/list:latest"]),
            ("/images/load", []),
        ):
            found = [name for _, name in self.named(target)]
            self.assertEqual(found, [name.replace("docker.io/", "") for name in expected], target)

    def test_volumes_of_others(self) -> None:
        """Containers whose volumes are mounted are named at the top; a pod's own one has its volumes."""
        self.assertEqual(donors(Document.of({"volumes_from": ["a:ro", "b"]})), ["a", "b"])
        self.assertEqual(infra_container({"InfraContainerID": "i"}), "i")
        self.assertEqual([infra_container(each) for each in (None, {}, {"InfraContainerID": None})], ["", "", ""])


class RemovedTests(SynchronousTestCase):
    def test_table(self) -> None:
        """Prunes answer with reports, of which those with an error count for nothing; images with names and IDs."""
        for method, target, answer, expected in (
            ("POST", "/containers/prune", '[{"Id":"a"},{"Id":"b","Err":"in use"},5]', ["a"]),
            ("POST", "/networks/prune", '[{"Name":"n","Error":null}]', ["n"]),
            ("POST", "/images/prune", f'[{{"Id":"{HEX}"}}]', [f"sha256:{HEX}"]),
            (
                "DELETE",
                "/images/a",
                f'{{"Untagged":["localhost/a:latest"],"Deleted":["{HEX}"],"ExitCode":0}}',
                ["localhost/a:latest", f"sha256:{HEX}"],
            ),
            ("DELETE", "/images/remove?images=a", '{"Untagged":null}', []),
        ):
            call = recognise(method, f"/v4.0.0/libpod{target}")
            self.assertEqual(removed_by_answer(call, Document.parse(answer.encode())), expected)


class PathTests(SynchronousTestCase):
    def test_version(self) -> None:
        """Podman serves its own API under a version only."""
        self.assertEqual(list_call("pod"), ("/v4.0.0/libpod/pods/json", {}))
        self.assertEqual(inspect_path("pod", "a"), "/v4.0.0/libpod/pods/a/json")
        self.assertEqual(remove_path("pod", "a"), "/v4.0.0/libpod/pods/a")


class MapTests(SynchronousTestCase):
    def test_clients_own_keys(self) -> None:
        """In the maps of Podman's own API keys that differ in case only are two: proxies' variables are so."""
        for name in ("env", "labels", "sysctl", "secret_env", "storage_opts", "unified"):
            text = f'{{"{name}":{{"HTTP_PROXY":"1","http_proxy":"2"}}}}'.encode()
            self.assertEqual(Document.parse(text).get(name), {"HTTP_PROXY": "1", "http_proxy": "2"})
