"""Everything that takes labels gets the job's, and nobody can forge them."""

from __future__ import annotations

import json
import os
import re
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from docker_tracker.engine import query
from docker_tracker.engine.catalogue import OPERATIONS
from docker_tracker.engine.document import MISSING, Change, Document
from docker_tracker.errors import BadDocumentError, BadTargetError, ConfigurationError, RefusedError
from docker_tracker.exchange import Peer, Stage
from docker_tracker.interfaces import IInterceptor
from docker_tracker.plugins.labels import Labels, LabelsSettings, change_line, is_ours, quoted
from docker_tracker.plugins.labels import labels as plugin
from tests.support.exchanges import Engine, Listener, daemon, exchange, job

OURS = {
    "docker-tracker.job-id": "id-1",
    "docker-tracker.job": "job-1",
    "docker-tracker.instance": "instance-1",
}
ALL = {"Created-Via": "x", **OURS}
IMAGE = {
    "docker-tracker.image-job-id": "id-1",
    "docker-tracker.image-job": "job-1",
    "docker-tracker.image-instance": "instance-1",
}
FORGED = {"docker-tracker.job-id": "other", "Docker-Tracker.X": "1", "DOCKER-TRACKER.RETAIN": "1"}
SERVICE = {"TaskTemplate": {"ContainerSpec": {"Image": "x"}}}
CREATES = [
    "/containers/create",
    "/networks/create",
    "/volumes/create",
    "/secrets/create",
    "/configs/create",
    "/secrets/a/update?version=1",
    "/configs/a/update?version=1",
]

# The client's Labels, and what is left of them beside ours.
KEPT: list[tuple[Any, dict[str, Any]]] = [
    (MISSING, {}),
    (None, {}),
    ({}, {}),
    ({"a": "1", "A": "2"}, {"a": "1", "A": "2"}),
    ({"a": 1, "b": None}, {"a": 1, "b": None}),  # the engine says what is wrong with it
    ({**FORGED, "a": "1"}, {"a": "1"}),
    ({"doc\u212aer-tracker.job": "1"}, {}),
    ({"docker-tracker.retain": "yes"}, {"docker-tracker.retain": "yes"}),
    ({"Created-Via": "forged"}, {}),
    ({"docker-tracker": "1", "docker-tracker-x": "2"}, {"docker-tracker": "1", "docker-tracker-x": "2"}),
]


def built(image_labels: str = "static", **of_settings: Any) -> Labels:
    of_settings.setdefault("labels", {"Created-Via": "x"})
    interceptor = plugin.build(LabelsSettings(image_labels=image_labels), job(), daemon(**of_settings))
    assert isinstance(interceptor, Labels)
    return interceptor


class _Case(SynchronousTestCase):
    def body(self, interceptor: Labels, target: str, value: Any, peer: Peer | None = None) -> Any:
        """Return the body as the engine gets it."""
        document = Document.parse(json.dumps(value).encode()) if value is not MISSING else Document.parse(b"")
        coroutine = interceptor.request_json(exchange("POST", target, peer), document)
        edited = self.successResultOf(Deferred.fromCoroutine(coroutine))
        return json.loads((edited or document).encode() or b"null")

    def target(self, interceptor: Labels, target: str) -> str:
        """Return the target as the engine gets it."""
        one = exchange("POST", target)
        head = self.successResultOf(Deferred.fromCoroutine(interceptor.request_head(one, one.received)))
        return target if head is None else str(head.target)

    def refused(self, interceptor: Labels, target: str, value: Any = MISSING) -> RefusedError:
        """Return the error with which a request is refused."""
        one = exchange("POST", target)
        if value is MISSING:
            deferred: Deferred[Any] = Deferred.fromCoroutine(interceptor.request_head(one, one.received))
        else:
            document = Document.parse(json.dumps(value).encode())
            deferred = Deferred.fromCoroutine(interceptor.request_json(one, document))
        failure = self.failureResultOf(deferred, RefusedError)
        assert isinstance(failure.value, RefusedError)
        return failure.value


class BodyTests(_Case):
    def test_every_create(self) -> None:
        """Our labels are on all that takes them in its body; the client's own stay."""
        for target in CREATES:
            for labels, kept in KEPT:
                with self.subTest(target=target, labels=labels):
                    body = {"Name": "n"} if labels is MISSING else {"Name": "n", "Labels": labels}
                    self.assertEqual(self.body(built(), target, body), {"Name": "n", "Labels": {**kept, **ALL}})

    def test_empty_body(self) -> None:
        """An anonymous volume may be asked for without a body: it gets one."""
        self.assertEqual(self.body(built(), "/volumes/create", MISSING), {"Labels": ALL})

    def test_other_spellings(self) -> None:
        """Labels are found under the spelling that the engine would read."""
        for name in ("labels", "LABELS", "Label\u017f"):
            self.assertEqual(
                self.body(built(), "/containers/create", {name: {"a": "1"}}), {"Labels": {"a": "1", **ALL}}
            )

    def test_no_object(self) -> None:
        """Labels that are no object are refused with their name."""
        wrong: list[Any] = [[], "x", 5, True]
        for labels in wrong:
            error = self.refused(built(), "/networks/create", {"Labels": labels})
            self.assertIsInstance(error, BadDocumentError)
            self.assertEqual((error.status, error.message), (400, "Labels must be an object of strings"))

    def test_services(self) -> None:
        """A service gets them, and its containers, at create and at each update."""
        for target in ("/services/create", "/services/abc/update?version=3"):
            body = self.body(built(), target, {**SERVICE, "Labels": FORGED})
            self.assertEqual(body["Labels"], ALL)
            self.assertEqual(body["TaskTemplate"]["ContainerSpec"], {"Image": "x", "Labels": ALL})

    def test_service_without_containers(self) -> None:
        """A service that runs a plug-in has no ContainerSpec, and gets none."""
        templates: list[Any] = [{"PluginSpec": {}}, {"ContainerSpec": None}]
        for template in templates:
            body = self.body(built(), "/services/create", {"TaskTemplate": template})
            self.assertEqual(body, {"TaskTemplate": template, "Labels": ALL})

    def test_volumes_in_mounts(self) -> None:
        """Volumes that a container or a service brings along are labelled, nothing else in Mounts is touched."""
        mounts = [
            {"Type": "volume", "Source": "v"},
            {"Type": "bind", "Source": "/x"},
            {"type": "volume", "volumeoptions": {"NoCopy": True, "labels": {"a": "1", **FORGED}}},
            {"Type": "Volume"},
            {"Type": "volume", "VolumeOptions": None},
            "no mount",
        ]
        expected = [
            {"Type": "volume", "Source": "v", "VolumeOptions": {"Labels": ALL}},
            {"Type": "bind", "Source": "/x"},
            {"type": "volume", "VolumeOptions": {"NoCopy": True, "Labels": {"a": "1", **ALL}}},
            {"Type": "Volume"},
            {"Type": "volume", "VolumeOptions": {"Labels": ALL}},
            "no mount",
        ]
        body = self.body(built(), "/containers/create", {"HostConfig": {"Mounts": mounts}})
        self.assertEqual(body, {"HostConfig": {"Mounts": expected}, "Labels": ALL})
        spec = {"TaskTemplate": {"ContainerSpec": {"Mounts": mounts}}}
        for target in ("/services/create", "/services/a/update"):
            body = self.body(built(), target, spec)
            self.assertEqual(body["TaskTemplate"]["ContainerSpec"], {"Mounts": expected, "Labels": ALL})

    def test_mounts_at_the_top(self) -> None:
        """Old engines read Mounts at the top of the body, too: volumes there are labelled, and forged labels taken."""
        for name in ("Mounts", "mounts"):
            mount = {"Type": "volume", "Source": "v", "VolumeOptions": {"Labels": {"a": "1", **FORGED}}}
            body = self.body(built(), "/containers/create", {name: [mount]})
            labelled = {**mount, "VolumeOptions": {"Labels": {"a": "1", **ALL}}}
            self.assertEqual(body, {"Mounts": [labelled], "Labels": ALL})

    def test_start(self) -> None:
        """A start's body, in which old engines take a HostConfig with volumes, is refused unless nothing is in it."""
        start = "/v1.23/containers/a/start"
        empty: list[Any] = [MISSING, None, {}]
        for body in empty:
            self.assertEqual(self.body(built(), start, body), {} if body == {} else None)
        wrong: list[Any] = [{"Binds": ["v:/v"]}, {"a": None}, [], 0, "", False]
        for body in wrong:
            error = self.refused(built(), start, body)
            self.assertIsInstance(error, BadDocumentError)
            self.assertEqual((error.status, "give the HostConfig at create" in error.message), (400, True))

    def test_podmans_own_calls(self) -> None:
        """What Podman's own API creates is labelled where it takes labels; a client's other label is no way round."""
        for path in ("containers", "pods", "networks"):
            body = self.body(built(), f"/v4.0.0/libpod/{path}/create", {"name": "n", "labels": {"a": "1", **FORGED}})
            self.assertEqual(body, {"name": "n", "labels": {"a": "1", **ALL}})
        body = self.body(built(), "/v4.0.0/libpod/volumes/create", {"Label": {"a": "1", **FORGED}})
        self.assertEqual(body, {"Label": {"a": "1", **ALL}, "Labels": ALL})
        target = self.target(built(), "/v4.0.0/libpod/secrets/create?name=s")
        self.assertEqual(json.loads(query.get(target.partition("?")[2], "labels") or ""), ALL)
        target = self.target(built(), "/v4.0.0/libpod/commit?container=a")
        blank = {**dict.fromkeys(OURS, ""), "Created-Via": "x"}
        self.assertEqual(query.get_all(target.partition("?")[2], "changes"), lines(blank))

    def test_podmans_other_calls(self) -> None:
        """What it may create that could not be labelled is refused; what reads or removes passes."""
        for target in ("/v4.0.0/libpod/kube/play", "/v5.0.0/libpod/containers/a/restore?import=1", "/libpod/new"):
            error = self.refused(built(), target)
            self.assertEqual(error.status, 403)
            self.assertIn("could not be labelled", error.message)
        for method in ("GET", "DELETE"):
            one = exchange(method, "/v4.0.0/libpod/kube/play")
            coroutine = built().request_head(one, one.received)
            self.assertIsNone(self.successResultOf(Deferred.fromCoroutine(coroutine)))

    def test_odd_mounts(self) -> None:
        """What is no array of mounts, or has no volume in it, stays as it is."""
        odd: list[Any] = [{}, "x", None, [], [{"Type": "tmpfs"}]]
        for mounts in odd:
            body = self.body(built(), "/containers/create", {"HostConfig": {"Mounts": mounts}})
            self.assertEqual(body["HostConfig"], {"Mounts": mounts})
        bad = {"HostConfig": {"Mounts": [{"Type": "volume", "VolumeOptions": []}]}}
        self.assertIn("must be an object", self.refused(built(), "/containers/create", bad).message)

    def test_changes_are_told_exactly(self) -> None:
        """The audit sees each volume's labels, not the whole array."""
        document = Document.parse(b'{"Labels":null,"HostConfig":{"Mounts":[{},{"Type":"volume"}]}}')
        coroutine = built().request_json(exchange("POST", "/containers/create"), document)
        edited = self.successResultOf(Deferred.fromCoroutine(coroutine))
        assert edited is not None
        volume = ("HostConfig", "Mounts", 1, "VolumeOptions", "Labels")
        self.assertEqual(edited.changes, (Change(("Labels",), None, ALL), Change(volume, MISSING, ALL)))

    def test_already_so(self) -> None:
        """A body that says all of it already goes out as its original bytes."""
        document = Document.parse(json.dumps({"Labels": ALL}).encode())
        coroutine = built().request_json(exchange("POST", "/networks/create"), document)
        self.assertIsNone(self.successResultOf(Deferred.fromCoroutine(coroutine)))


class ImplicitVolumesTests(_Case):
    """Volumes that are named in ``Binds``."""

    def sent(self, host: Any, target: str = "/containers/create", engine: str = "id in /", mode: str = "mount") -> Any:
        settings = LabelsSettings(implicit_volumes=mode)
        interceptor = plugin.build(settings, job(), daemon(Engine(name=engine), labels={"Created-Via": "x"}))
        assert isinstance(interceptor, Labels)
        return self.body(interceptor, target, {"HostConfig": host})["HostConfig"]

    def test_mounted(self) -> None:
        """What means the same in Mounts goes there, with labels; what has a mode, or is a path, stays."""
        binds = ["cache:/c", "/host:/h", "cache2:/d:ro", "nocopy:/e:nocopy", "b.ig-1_:/p/q/", "/anonymous"]
        mount = {"Type": "volume", "Source": "cache", "Target": "/c", "VolumeOptions": {"Labels": ALL}}
        other = {**mount, "Source": "b.ig-1_", "Target": "/p/q/"}
        stay = ["/host:/h", "cache2:/d:ro", "nocopy:/e:nocopy", "/anonymous"]
        self.assertEqual(self.sent({"Binds": binds}), {"Binds": stay, "Mounts": [mount, other]})
        given = {"Type": "bind", "Source": "/a", "Target": "/b"}
        self.assertEqual(self.sent({"binds": ["cache:/c"], "Mounts": [given]}), {"Binds": [], "Mounts": [given, mount]})
        for version in ("v1.25", "v1.51", "v2.0"):
            self.assertIn("Mounts", self.sent({"Binds": ["cache:/c"]}, f"/{version}/containers/create"))

    def test_stays(self) -> None:
        """Where it could mean something else, or the version or the engine has no such thing, nothing is changed."""
        others: list[dict[str, Any]] = [{"VolumeDriver": "local"}, {"Tmpfs": {"/c": ""}}, {"Mounts": {}}]
        for more in others:
            host = {"Binds": ["cache:/c"], **more}
            self.assertEqual(self.sent(host), host)
        odds: list[Any] = [["a:/c"], ["../x:/c"], ["cache:c"], ["cache"], ["ca/che:/c"], [5], {}, "cache:/c", [], None]
        for odd in odds:
            self.assertEqual(self.sent({"Binds": odd}), {"Binds": odd})
        host = {"Binds": ["cache:/c"]}
        for version in ("v1.24", "v1.9", "v1", "v1.25a"):
            self.assertEqual(self.sent(host, f"/{version}/containers/create"), host)
        self.assertEqual(self.sent(host, engine="podman host in /"), host)
        self.assertEqual(self.sent(host, mode="record"), host)

    def test_setting(self) -> None:
        """Only two words are known."""
        error = self.assertRaises(ValueError, LabelsSettings, implicit_volumes="label")
        self.assertIn("implicit-volumes must be one of record, mount", str(error))


class BuildTests(_Case):
    def labels(self, interceptor: Labels, target: str) -> Any:
        text = query.get(self.target(interceptor, target).partition("?")[2], "labels")
        return None if text is None else json.loads(text)

    def test_image_labels(self) -> None:
        """By the setting: the operator's labels, the job's by their own names, or none."""
        for setting, expected in (
            ("static", {"Created-Via": "x"}),
            ("full", {"Created-Via": "x", **IMAGE}),
            ("none", None),
        ):
            self.assertEqual(self.labels(built(setting), "/build"), expected)

    def test_clients_labels(self) -> None:
        """The client's labels are kept, but not in our name space; null and nothing are none."""
        for text, kept in (
            ("{}", {}),
            ("null", {}),
            ("", {}),
            ('{"a":"1","A":"2"}', {"a": "1", "A": "2"}),
            (json.dumps({**FORGED, **IMAGE, "a": "1"}), {"a": "1"}),
            ('{"docker-tracker.retain":"1"}', {"docker-tracker.retain": "1"}),
        ):
            target = "/v1.41/build?t=a:b&" + query.append("", "labels", text) + "&version=2"
            self.assertEqual(self.labels(built(), target), {**kept, "Created-Via": "x"})

    def test_the_rest_of_the_query(self) -> None:
        """Nothing else in the target is written anew, and only the first of two labels counted."""
        target = self.target(built(), "/v1.41/build?t=%61:b&labels=%7B%22a%22%3A%221%22%7D&q&labels=x&buildargs=+")
        self.assertEqual(re.sub(r"labels=[^&]*", "labels=…", target), "/v1.41/build?t=%61:b&labels=…&q&buildargs=+")
        self.assertEqual(self.labels(built(), target), {"a": "1", "Created-Via": "x"})

    def test_none_only_cleans(self) -> None:
        """With ``none`` a query without forgeries stays as it is, byte for byte."""
        for target in ("/build", "/build?labels=%7b%22a%22:%221%22%7d"):
            self.assertEqual(self.target(built("none"), target), target)
        forged = query.append("", "labels", json.dumps(FORGED))
        self.assertEqual(self.labels(built("none"), f"/build?{forged}"), {})

    def test_refused(self) -> None:
        """Labels that are no object, or ambiguous, are refused; so is a query that Go refuses."""
        for text in ("[]", "x", '{"a":"1","a":"2"}', '{"a":"1"} {}'):
            target = "/build?" + query.append("", "labels", text)
            self.assertIsInstance(self.refused(built(), target), BadDocumentError)
        self.assertIsInstance(self.refused(built(), "/build?a;b"), BadTargetError)


class ChangesTests(_Case):
    def changes(self, interceptor: Labels, target: str) -> list[str]:
        return query.get_all(self.target(interceptor, target).partition("?")[2], "changes")

    def test_import(self) -> None:
        """An import gets the labels as its last line."""
        self.assertEqual(
            self.changes(built("full"), "/images/create?fromSrc=-&changes=CMD%20a"),
            ["CMD a", *lines({"Created-Via": "x", **IMAGE})],
        )
        self.assertEqual(self.changes(built(), "/images/create?fromSrc=-&fromImage="), ['LABEL "Created-Via"="x"'])
        self.assertEqual(self.target(built("none"), "/images/create?fromSrc=-"), "/images/create?fromSrc=-")

    def test_pull(self) -> None:
        """A pull takes no labels, and is not touched."""
        target = "/images/create?fromImage=busybox&tag=latest"
        self.assertEqual(self.target(built("full"), target), target)

    def test_commit(self) -> None:
        """A committed image does not keep the labels of its container's job; fromImage says nothing there."""
        blank = dict.fromkeys(OURS, "")
        for setting, added in (
            ("static", {"Created-Via": "x"}),
            ("full", {"Created-Via": "x", **IMAGE}),
            ("none", {}),
        ):
            for target in ("/commit?container=a", "/commit?container=a&fromImage=b"):
                self.assertEqual(self.changes(built(setting), target), lines({**blank, **added}))

    def test_body_of_commit(self) -> None:
        """The body of a commit is only cleaned: an empty one means the container's own configuration."""
        for body in (None, {}, {"Labels": None}, {"Labels": {"a": "1"}}):
            self.assertEqual(self.body(built("full"), "/commit?container=a", body), body)
        self.assertEqual(self.body(built(), "/commit", MISSING), None)
        self.assertEqual(self.body(built(), "/commit", {"Labels": {**FORGED, "a": "1"}}), {"Labels": {"a": "1"}})

    def test_refused(self) -> None:
        """Lines that forge our labels, or that would swallow the line with them, are refused."""
        for change, problem in (
            ("LABEL docker-tracker.job-id=x", "sets a label under"),
            ("LABEL a=b DOCKER-tracker.image-job=x", "sets a label under"),
            ("LABEL docker-tracker.retained=1", "sets a label under"),
            ("LABEL Docker-tracker.retain=1", "sets a label under"),
            ("CMD a \\", "line continuation"),
            ("CMD a \\ \t\r", "line continuation"),
            ("CMD a \\\n\n  # comment\n \t", "line continuation"),
            ("CMD a \\\\", "line continuation"),  # one to 19.03, none to later engines
            ("# escape=`\nCMD a", "escape directive"),
            ("\n #  ESCAPE = `", "escape directive"),
        ):
            with self.subTest(change=change):
                for path in ("/commit?container=a", "/images/create?fromSrc=-"):
                    error = self.refused(built("none"), query.append(path, "changes", change))
                    self.assertIsInstance(error, BadTargetError)
                    self.assertIn(problem, error.message)

    def test_allowed(self) -> None:
        """Honest lines stay as they are."""
        for change in (
            "LABEL docker-tracker.retain=1",
            'LABEL "docker-tracker.retain"="1"',
            "LABEL docker-tracker.retain",
            "ENV a=b \\\n c=d",
            "CMD a\n# a comment \\",
            'CMD ["a", "\\\\b"]',
            "",
        ):
            self.assertEqual(self.changes(built(), query.append("/commit?container=a", "changes", change))[0], change)


def lines(labels: dict[str, str]) -> list[str]:
    """Give the Dockerfile lines for labels."""
    return [change_line(name, value) for name, value in labels.items()]


def read_back(line: str) -> dict[str, str]:
    """Read a LABEL line as moby's parser does: words, split at the first =, each unquoted (shell/lex.go)."""
    words, word, at, inside = [], "", len("LABEL "), False
    while at < len(line):
        character = line[at]
        if character == "\\":
            word += line[at : at + 2]
            at += 1
        elif character.isspace() and not inside:
            words.append(word)
            word = ""
        else:
            inside ^= character == '"'
            word += character
        at += 1
    result = {}
    for each in (*words, word):
        name, _, value = each.partition("=")
        result[unquote(name)] = unquote(value)
    return result


def unquote(word: str) -> str:
    assert word[0] == word[-1] == '"', word
    assert not re.search(r'(?<!\\)(?:\\\\)*["$]', word[1:-1]), word
    return re.sub(r'\\(["$\\])', r"\1", word[1:-1])


class QuotingTests(SynchronousTestCase):
    def test_table(self) -> None:
        """Quotes, backslashes and dollars are escaped, all else stands as it is."""
        for text, expected in (
            ("", '""'),
            ("a b", '"a b"'),
            ('a"b', '"a\\"b"'),
            ("$HOME ${x}", '"\\$HOME \\${x}"'),
            ("\\", '"\\\\"'),
            ("'`#é=", '"\'`#é="'),
        ):
            self.assertEqual(quoted(text), expected)

    @settings(derandomize=True, deadline=None)
    @given(
        st.text(st.characters(exclude_categories=["Cc", "Cs"], exclude_characters="="), min_size=1),
        st.text(st.characters(exclude_categories=["Cc", "Cs"])),
    )
    def test_reads_back(self, name: str, value: str) -> None:
        """What a Dockerfile's parser makes of the line is what was put in."""
        self.assertEqual(read_back(change_line(name, value)), {name: value})


class MakeTests(_Case):
    def test_interceptor(self) -> None:
        """It is a guard, and asks only for what takes labels, for a container's start, and for Podman's own API."""
        interceptor = built()
        self.assertTrue(verifyObject(IInterceptor, interceptor))
        self.assertTrue(interceptor.fail_closed)
        both = Stage.REQUEST_HEAD | Stage.REQUEST_JSON
        wanted = {row.name: interceptor.wants(row) for row in OPERATIONS if interceptor.wants(row)}
        self.assertEqual(
            set(wanted), {"container_start", "libpod", "grpc", *(row.name for row in OPERATIONS if row.labels)}
        )
        self.assertEqual((wanted["libpod"], wanted["grpc"]), (Stage.REQUEST_HEAD, Stage.BUILD_REQUEST))
        self.assertEqual(wanted["container_start"], Stage.REQUEST_JSON)
        self.assertEqual(
            (wanted["image_build"], wanted["container_create"], wanted["container_commit"]),
            (Stage.REQUEST_HEAD, Stage.REQUEST_JSON, both),
        )

    def test_templates(self) -> None:
        """Values may name the job, the client and the daemon's environment."""
        self.patch(os, "environ", {"CI": "42"})
        interceptor = built(labels={"who": "{uid}/{pid}/{gid}", "n": "{job}-{env:CI}"})
        body = self.body(interceptor, "/networks/create", {})
        self.assertEqual(body["Labels"], {"who": "1000/7/100", "n": "job-1-42", **OURS})

    def test_job(self) -> None:
        """A job's own labels are taken as they are, go where the operator's go, and give way to those and to ours."""
        own = job(labels={"team": "{env:HOME} a", "Created-Via": "mine"})
        operators = daemon(labels={"Created-Via": "x"})
        for image_labels, on_images in (("static", {}), ("full", IMAGE)):
            interceptor = plugin.build(LabelsSettings(image_labels=image_labels), own, operators)
            assert isinstance(interceptor, Labels)
            body = self.body(interceptor, "/networks/create", {})
            self.assertEqual(body["Labels"], {"team": "{env:HOME} a", **ALL})
            target = self.target(interceptor, "/build")
            self.assertEqual(
                json.loads(query.get(target.partition("?")[2], "labels") or ""),
                {"team": "{env:HOME} a", "Created-Via": "x", **on_images},
            )
        none = plugin.build(LabelsSettings(image_labels="none"), own, operators)
        assert isinstance(none, Labels)
        self.assertEqual(self.target(none, "/build"), "/build")

    def test_job_refused(self) -> None:
        """A job's label that a Dockerfile's line can't carry, or without a name, is told when the job is made."""
        for name, value in (("a", "b\nRUN x"), ("a\r", "b"), (" ", "b"), ("a=b", "c")):
            own = job(labels={name: value})
            error = self.assertRaises(ConfigurationError, plugin.build, LabelsSettings(), own, daemon())
            self.assertIn("the job's label", error.where)

    def test_unknown_peer(self) -> None:
        """A client whose process is not known is refused if a label needs it."""
        interceptor = built(labels={"who": "{uid}"}, listeners=(Listener("systemd"),))
        one = exchange("POST", "/networks/create", Peer(address="10.0.0.1:5"))
        failure = self.failureResultOf(Deferred.fromCoroutine(interceptor.request_json(one, Document.of({}))))
        self.assertEqual(failure.check(RefusedError), RefusedError)

    def test_refused_at_start(self) -> None:
        """What can never work stops the start."""
        self.assertRaises(ConfigurationError, built, labels={"a": "{nobody}"})
        self.assertRaises(ConfigurationError, built, labels={"docker-tracker.job": "x"})
        self.assertRaises(ConfigurationError, built, labels={"a": "{uid}"}, listeners=(Listener("tcp"),))
        self.assertRaises(ValueError, LabelsSettings, image_labels="all")

    def test_name_space(self) -> None:
        """Our name space is ours in any case, but for the one name that is the client's."""
        for name, ours in (
            ("docker-tracker.job", True),
            ("DOCKER-TRACKER.", True),
            ("doc\u212aer-trac\u212aer.x", True),
            ("docker-tracker.retain", False),
            ("docker-tracker.Retain", True),
            ("docker-tracker", False),
            ("x.docker-tracker.job", False),
        ):
            self.assertIs(is_ours(name), ours)
