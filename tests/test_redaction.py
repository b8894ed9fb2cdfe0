"""Nothing secret of a target or an edit is written down; the rest stays readable."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from docker_tracker.engine.document import MISSING, Change, Number
from docker_tracker.redaction import redact_changes, redact_command, redact_message, redact_target, redact_url

SECRET = "hunter2"


class TargetTests(SynchronousTestCase):
    """`redact_target`."""

    def test_masked(self) -> None:
        """Values of build arguments, credentials in URLs, environment lines, and whatever is called a secret."""
        for target, expected in [
            (
                "/build?buildargs=%7B%22A%22%3A%22hunter2%22%2C%22B%22%3Anull%7D&q=1",
                "/build?buildargs={%22A%22:%22***%22,%22B%22:%22***%22}&q=1",
            ),
            ("/build?buildargs=[%22hunter2%22]", "/build?buildargs=***"),
            ("/build?buildargs=%7Bhunter2", "/build?buildargs=***"),
            ("/build?build%61rgs=hunter2", "/build?build%61rgs=***"),
            ("/build?buildargs=hunter2;buildargs=hunter2", "/build?buildargs=***;buildargs=***"),
            ("/build?buildargs=" + "%5B" * 100_000 + "hunter2", "/build?buildargs=***"),
            ("/build?remote=https://me:hunter2@host/a.git%23main", "/build?remote=https://***@host/a.git%23main"),
            ("/build?remote=https%3A%2F%2Fhunter2%40host%2Fa", "/build?remote=https://***@host/a"),
            ("/build?remote=https://host/a%3Fsignature=hunter2%23b", "/build?remote=https://host/a%3F***%23b"),
            ("/images/create?fromSrc=http://me:hunter2@host/x.tar", "/images/create?fromSrc=http://***@host/x.tar"),
            ("/commit?changes=ENV+TOKEN=hunter2&changes=LABEL+a=b", "/commit?changes=ENV%20***&changes=LABEL+a=b"),
            ("/commit?changes=LABEL+a=b%0Aenv+T%20hunter2%5C%0A+hunter2", "/commit?changes=LABEL%20a%3Db%0Aenv%20***"),
            ("/commit?changes=CMD+login+hunter2", "/commit?changes=CMD%20***"),
            (
                "/x?X-Registry-Auth=hunter2&apikey=hunter2&my_token=hunter2",
                "/x?X-Registry-Auth=***&apikey=***&my_token=***",
            ),
            ("/x?password=hunter2%zz", "/x?password=***"),
            ("http://me:hunter2@host/x?a=b", "http://***@host/x?a=b"),
            ("me:hunter2@host:80", "***@host:80"),
        ]:
            with self.subTest(target[:60]):
                self.assertEqual(redact_target(target), expected)

    def test_untouched(self) -> None:
        """All else stays as it was sent, byte for byte."""
        for target in (
            "/v1.47/containers/create?name=a%20b",
            "/build?cachefrom=%5B%22a%22%5D&t=x:y&labels=%7B%22a%22%3A%22b%22%7D&remote=https://host/a.git",
            "/commit?author=me+%3Cme%40here%3E&changes=LABEL+a%3Db&flag&=&&",
            "/events?filters=%7B%22type%22%3A%5B%22container%22%5D%7D",
            "/containers/a@b:c/json",
            "*",
            "-",
        ):
            with self.subTest(target):
                self.assertEqual(redact_target(target), target)

    @settings(derandomize=True, deadline=None)
    @given(st.text(st.characters(min_codepoint=33, max_codepoint=126)))
    def test_any_text(self, text: str) -> None:
        """Whatever is asked for, a secret's parameter beside it is masked, and nothing raises."""
        self.assertNotIn(SECRET, redact_target(f"/build?{text}&buildargs={SECRET}"))

    def test_url(self) -> None:
        """A URL keeps its host and path."""
        self.assertEqual(redact_url("git://a:b@c@host/x"), "git://***@host/x")
        self.assertEqual(redact_url("-"), "-")


class CommandTests(SynchronousTestCase):
    """`redact_command`."""

    def test_masked(self) -> None:
        """Values that are given to names, in whatever way, passwords, scripts, and users of URLs."""
        for words, expected in (
            (("docker", "run", "-e", "A=hunter2 and", "b"), "docker run -e A=*** b"),
            (("docker", "run", "-ite", "A=hunter2\nhunter2", "b"), "docker run -ite A=*** b"),
            (
                ("docker", "run", "-eA=hunter2", "-e=B=hunter2", "--env=c=hunter2"),
                "docker run -eA=*** -e=*** --env=c=***",
            ),
            (("docker", "run", "-e", "a.b-c=hunter2", "--env=a.b=hunter2"), "docker run -e a.b-c=*** --env=a.b=***"),
            (("docker", "run", "--log-opt", "splunk-token=hunter2"), "docker run --log-opt splunk-token=***"),
            (("docker", "run", "b", "sh", "-c", "a hunter2"), "docker run b sh -c ***"),
            (("docker", "run", "--health-cmd=a hunter2", "b"), "docker run --health-cmd=*** b"),
            (("docker", "build", "--build-arg", "A=hunter2", "."), "docker build --build-arg A=*** ."),
            (("docker", "buildx", "bake", "--set", "*.args.A=hunter2"), "docker buildx bake --set *.args.A=***"),
            (("docker", "build", "https://me:p@hunter2@host/a"), "docker build https://***@host/a"),
            (("docker", "--host=tcp://me:hunter2@host"), "docker --host=tcp://***@host"),
            (
                ("docker", "import", "https://me:hunter2@s/a?X-Signature=hunter2"),
                "docker import https://***@s/a?X-Signature=***",
            ),
            (("env", "A=hunter2", "docker", "ps"), "env A=*** docker ps"),
            (("java", "-Da.password=hunter2", "-Psecret=hunter2"), "java -Da.password=*** -Psecret=***"),
            (("docker", "login", "-u", "me", "-p", "hunter2"), "docker login -u me -p ***"),
            (("docker", "login", "-phunter2"), "docker login -p***"),
            (
                ("docker", "login", "--password=hunter2", "--password", "-hunter2", "h"),
                "docker login --password=*** --password *** h",
            ),
            (("docker", "swarm", "join", "--token", "hunter2", "host"), "docker swarm join --token *** host"),
            (("podman", "pull", "--creds=me:hunter2", "a"), "podman pull --creds=*** a"),
            (("curl", "-H", "X-Registry-Auth: hunter2", "http://d/a"), "curl -H *** http://d/a"),
            (("curl", "-H", "X-Registry-Auth:hunter2", "-d", '{"a":"hunter2"}'), "curl -H X-Registry-Auth:*** -d ***"),
        ):
            with self.subTest(expected):
                self.assertEqual(redact_command(words), expected)

    def test_untouched(self) -> None:
        """All else stays."""
        for text in (
            "docker run -p 80:80 --name=a --rm -v /a:/b a@sha256:0 sh -c true",
            "docker --host=unix:///a.sock ps --format={{.ID}}",
            "docker run -e A -e= --env B= b",
            "docker login --password-stdin --username me host",
            "",
        ):
            self.assertEqual(redact_command(tuple(text.split(" "))), text)
        self.assertEqual(redact_command(()), "")


class MessageTests(SynchronousTestCase):
    """`redact_message`."""

    def test_urls(self) -> None:
        """What URLs may hold is masked, wherever in a word they begin."""
        for before in ("", " ", "git+", "(", "at:"):
            redacted = redact_message(f"failed {before}https://me:{SECRET}@host/x?{SECRET} and more")
            self.assertEqual(redacted, f"failed {before}https://***@host/x?*** and more")

    def test_long_words(self) -> None:
        """A word of a megabyte, as a client can have it quoted, is passed over once; from each letter it took hours."""
        message = f"frontend {'a' * 1024**2} is not there"
        self.assertEqual(redact_message(message), message)


class ChangesTests(SynchronousTestCase):
    """`redact_changes`."""

    def redact(self, *change: Any, operation: str = "container_create") -> list[tuple[Any, Any, Any]]:
        return [(one.path, one.old, one.new) for one in redact_changes((Change(*change),), operation)]

    def test_plain(self) -> None:
        """What is no secret is kept; a number is its text."""
        path = ("HostConfig", "CgroupParent")
        self.assertEqual(self.redact(path, MISSING, "ci.slice"), [(path, MISSING, "ci.slice")])
        self.assertEqual(
            self.redact(("a",), Number("1.0"), [1, None, {"b": True}]), [(("a",), "1.0", [1, None, {"b": True}])]
        )

    def test_head(self) -> None:
        """A target is masked as one; a header whatever it is."""
        self.assertEqual(
            self.redact(("target",), "/build?buildargs=a", "/build?buildargs=b&labels=c"),
            [(("target",), "/build?buildargs=***", "/build?buildargs=***&labels=c")],
        )
        self.assertEqual(self.redact(("header", "X"), None, SECRET), [(("header", "X"), None, "***")])

    def test_secret_places(self) -> None:
        """In whatever depth and case the edit was made, and however much of the body it was."""
        for path, value in [
            (("Env",), [f"TOKEN={SECRET}", SECRET, f"{SECRET} ={SECRET}", 5]),
            (("Env", 0), f"TOKEN={SECRET}"),
            (("env",), [f"A={SECRET}"]),
            (("HostConfig", "Mounts", 0, "VolumeOptions", "DriverConfig", "Options"), {"o": SECRET}),
            (("Cmd",), ["login", SECRET]),
            (("Entrypoint",), SECRET),
            (("Data",), SECRET),
            (
                ("TaskTemplate", "ContainerSpec"),
                {"Env": [f"A={SECRET}"], "Args": [SECRET], "Healthcheck": {"Test": [SECRET]}},
            ),
            (("TaskTemplate",), {"ContainerSpec": {"ENV": [f"A={SECRET}"]}}),
            (("HostConfig", "LogConfig", "Config", "splunk-token"), SECRET),
            (("HostConfig",), {"LogConfig": {"Type": "splunk", "Config": {"splunk-token": SECRET}}}),
            (("HostConfig", "Mounts"), [{"VolumeOptions": {"DriverConfig": {"Options": {"o": SECRET}}}}]),
            (("DriverOpts", "o"), f"password={SECRET}"),
            (("password",), SECRET),
        ]:
            for old, new in ((MISSING, value), (value, MISSING), (None, value)):
                with self.subTest(f"{path} {old!r:.5}"):
                    self.assertNotIn(SECRET, repr(self.redact(path, old, new)))

    def test_names_of_variables(self) -> None:
        """Of an environment the names stay."""
        self.assertEqual(self.redact(("Env",), None, ["A=1", "B"]), [(("Env",), None, ["A=***", "***"])])
        self.assertEqual(self.redact(("Env", 1), "A=1", MISSING), [(("Env", 1), "A=***", MISSING)])

    def test_secret_bodies(self) -> None:
        """Of some operations' bodies only labels are shown."""
        for operation in ("auth", "plugin_set", "swarm_join", "secret_create"):
            self.assertEqual(self.redact((0,), "a", "b", operation=operation), [((0,), "***", "***")])
        self.assertEqual(
            self.redact(("Labels",), MISSING, {"a": "b"}, operation="secret_create"),
            [(("Labels",), MISSING, {"a": "b"})],
        )

    def test_labels(self) -> None:
        """Labels are the users', whatever they are called."""
        self.assertEqual(self.redact(("Labels", "env"), "a", "b"), [(("Labels", "env"), "a", "b")])
        self.assertEqual(
            self.redact(("ContainerSpec",), MISSING, {"Labels": {"env": "prod", "n": Number("1.0")}}),
            [(("ContainerSpec",), MISSING, {"Labels": {"env": "prod", "n": "1.0"}})],
        )

    def test_difference(self) -> None:
        """Of two objects only the keys that differ are shown."""
        self.assertEqual(
            self.redact(("Labels",), {"a": "1", "b": "2", "c": "3"}, {"b": "2", "c": "4", "d": "5"}),
            [(("Labels", "a"), "1", MISSING), (("Labels", "c"), "3", "4"), (("Labels", "d"), MISSING, "5")],
        )
        self.assertEqual(
            self.redact(("HostConfig",), {"Env": SECRET, "X": {"Y": 1}}, {"Env": "y", "X": {"Y": 2}}),
            [(("HostConfig", "Env"), "***", "***"), (("HostConfig", "X", "Y"), 1, 2)],
        )
