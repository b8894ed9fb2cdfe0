"""Images that BuildKit makes bear the labels that images get, and nobody can forge them."""

from __future__ import annotations

import json
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from docker_tracker.builds import BuildEdit, BuildRequest, BuildStep, Exporter
from docker_tracker.errors import BadDocumentError, RefusedError
from tests.support.exchanges import exchange
from tests.test_plugins_labels import IMAGE, built

FORGED = {"docker-tracker.job-id": "x", "Docker-Tracker.Image-Job": "x"}


def asked(**values: Any) -> BuildRequest:
    """Return a request for a Dockerfile's frontend, or what else is said."""
    return BuildRequest(**{"step": BuildStep.FRONTEND, "build": "b1", "frontend": "dockerfile.v0", **values})


def labels(values: dict[str, str]) -> dict[str, str]:
    """Return options of a frontend."""
    return {f"label:{name}": value for name, value in values.items()}


class BuildTests(SynchronousTestCase):
    def edit(self, request: BuildRequest, image_labels: str = "static") -> BuildEdit:
        coroutine = built(image_labels).build_request(exchange("POST", "/grpc"), request)
        edit = self.successResultOf(Deferred.fromCoroutine(coroutine))
        assert edit is not None
        return edit

    def refused(self, request: BuildRequest) -> RefusedError:
        coroutine = built().build_request(exchange("POST", "/grpc"), request)
        failure = self.failureResultOf(Deferred.fromCoroutine(coroutine), RefusedError)
        assert isinstance(failure.value, RefusedError)
        return failure.value

    def test_setting(self) -> None:
        """What images get is the setting's to say, whoever runs the frontend, and whichever that is."""
        for image_labels, expected in (
            ("none", {}),
            ("static", {"Created-Via": "x"}),
            ("full", {"Created-Via": "x", **IMAGE}),
        ):
            for step in (BuildStep.FRONTEND, BuildStep.SOLVE):
                for frontend in ("dockerfile.v0", "gateway.v0"):
                    edit = self.edit(asked(step=step, frontend=frontend), image_labels)
                    self.assertEqual(edit, BuildEdit(attributes=labels(expected)))

    def test_no_frontend(self) -> None:
        """Where no frontend runs, its options are of no effect, and stay as they are."""
        attributes = {"target": "a", **labels(FORGED)}
        for step in BuildStep:
            self.assertFalse(self.edit(asked(step=step, frontend="", attributes=attributes)))
        self.assertFalse(self.edit(asked(frontend="", definition=True)))

    def test_final(self) -> None:
        """What hands back metadata that is not looked at, an image's config among it, is refused, frontend or not."""
        for frontend in ("", "dockerfile.v0"):
            error = self.refused(asked(frontend=frontend, definition=not frontend, final=True))
            self.assertEqual(error.status, 403)
            self.assertIn("newer", error.message)

    def test_forged(self) -> None:
        """Labels in our name space are taken out, but for the client's own; its others stay; the operator's win."""
        given = {**FORGED, "docker-tracker.retain": "yes", "theirs": "1", "Created-Via": "forged"}
        for image_labels, expected in (("none", {}), ("static", labels({"Created-Via": "x"}))):
            edit = self.edit(asked(attributes={"target": "a", **labels(given)}), image_labels)
            self.assertEqual(edit.attributes, {**dict.fromkeys(labels(FORGED)), **expected})

    def test_forged_ours(self) -> None:
        """One that we set ourselves is set, not taken out."""
        edit = self.edit(asked(attributes=labels(dict.fromkeys(IMAGE, "forged"))), "full")
        self.assertEqual(edit.attributes, labels({"Created-Via": "x", **IMAGE}))

    def test_already_there(self) -> None:
        """What is as it should be is not changed: the request goes on byte for byte."""
        self.assertFalse(self.edit(asked(attributes=labels({"Created-Via": "x"}))))

    def test_whole_config(self) -> None:
        """An exporter's option that replaces the image's config is refused, with a word on what to do."""
        for option in ("containerimage.config", "containerimage.config/linux/amd64", "ContainerImage.Config"):
            exporters = (Exporter("moby", {}), Exporter("image", {"name": "t", option: "{}"}))
            error = self.refused(asked(step=BuildStep.SOLVE, frontend="", exporters=exporters))
            self.assertEqual(error.status, 403)
            self.assertIn(f"option {option} replaces the image's labels: take it out", error.message)
        others = Exporter("image", {"name": "t", "push": "true", "annotation.x": "1"})
        self.assertFalse(self.edit(asked(step=BuildStep.SOLVE, frontend="", exporters=(others,))))

    def test_configs(self) -> None:
        """Configs that a client hands back get the labels, on each platform; what else is in them stays as it is."""
        configs = {
            "containerimage.config": b'{"os":"linux","config":{"Labels":{"theirs":"1","docker-tracker.job":"f"}}}',
            "containerimage.config/linux/arm64": b'{"config":null,"rootfs":{"diff_ids":[]},"big":12345678901234567890}',
            "containerimage.config/linux/386": b'{"config": {"Labels": {"Created-Via": "x"}}}',
            "containerimage.config/linux/arm": b'{"Config":{"labels":{"docker-tracker.retain":"1"},"Cmd":["a"]}}',
        }
        edit = self.edit(asked(step=BuildStep.RESULT, frontend="", image_configs=configs))
        self.assertEqual(edit.attributes, {})
        edited = {key: json.loads(value or b"0") for key, value in edit.image_configs.items()}
        ours = {"Created-Via": "x"}
        self.assertEqual(
            edited,
            {
                "containerimage.config": {"os": "linux", "config": {"Labels": {"theirs": "1", **ours}}},
                "containerimage.config/linux/arm64": {
                    "config": {"Labels": ours},
                    "rootfs": {"diff_ids": []},
                    "big": 12345678901234567890,
                },
                "containerimage.config/linux/arm": {
                    "config": {"Labels": {"docker-tracker.retain": "1", **ours}, "Cmd": ["a"]}
                },
            },
        )

    def test_configs_without_labels(self) -> None:
        """Where images get no labels, configs are only cleaned of forged ones."""
        configs = {"containerimage.config": b'{"config":{"Labels":{"a":"1"}}}'}
        self.assertFalse(self.edit(asked(step=BuildStep.RESULT, frontend="", image_configs=configs), "none"))
        configs = {"containerimage.config": b'{"config":{"Labels":{"docker-tracker.job":"1"}}}'}
        edit = self.edit(asked(step=BuildStep.RESULT, frontend="", image_configs=configs), "none")
        self.assertEqual(json.loads(edit.image_configs["containerimage.config"] or b""), {"config": {"Labels": {}}})

    def test_large_configs(self) -> None:
        """Configs of more than four MiB in all are refused unread."""
        config = b'{"a":"%b"}' % (b"x" * 2**21)
        keys = ("containerimage.config/linux/amd64", "containerimage.config/linux/arm64")
        self.assertTrue(self.edit(asked(step=BuildStep.RESULT, frontend="", image_configs={keys[0]: config})))
        error = self.refused(asked(step=BuildStep.RESULT, frontend="", image_configs=dict.fromkeys(keys, config)))
        self.assertEqual((error.status, error.message), (413, "the image's config is larger than 4 MiB"))

    def test_bad_configs(self) -> None:
        """A config that is read in more than one way, or not at all, is refused."""
        for config in (b"{", b'{"config":{"Labels":{}},"Config":{}}', b'{"config":{"Labels":[]}}', b"[]"):
            error = self.refused(
                asked(step=BuildStep.RESULT, frontend="", image_configs={"containerimage.config": config})
            )
            self.assertIsInstance(error, BadDocumentError, config)
