"""Names of images in one spelling."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from docker_tracker.engine.reference import familiar, podman_name

DIGEST = "sha256:" + "a" * 64


class FamiliarTests(SynchronousTestCase):
    def test_table(self) -> None:
        """Every spelling of one image becomes the one that the engine lists."""
        for reference, tag, wanted in (
            ("busybox", "", "busybox:latest"),
            ("busybox", "1", "busybox:1"),
            ("busybox:1", "", "busybox:1"),
            ("busybox:1", "2", "busybox:2"),
            ("library/busybox", "", "busybox:latest"),
            ("docker.io/library/busybox:1", "", "busybox:1"),
            ("index.docker.io/library/busybox", "", "busybox:latest"),
            ("docker.io/me/app", "", "me/app:latest"),
            ("me/library/app", "", "me/library/app:latest"),
            ("host:5000/app", "", "host:5000/app:latest"),
            ("host:5000/app", "2", "host:5000/app:2"),
            ("host:5000/library/app:1", "", "host:5000/library/app:1"),
            ("localhost/app:1", "", "localhost/app:1"),
            (f"busybox@{DIGEST}", "", f"busybox@{DIGEST}"),
            (f"busybox:1@{DIGEST}", "", f"busybox@{DIGEST}"),
            ("docker.io/library/busybox", DIGEST, f"busybox@{DIGEST}"),
            (DIGEST, "", DIGEST),
            ("", "", ":latest"),
        ):
            self.assertEqual(familiar(reference, tag), wanted, (reference, tag))
            self.assertEqual(familiar(wanted), wanted)

    def test_podman(self) -> None:
        """Podman's own API takes a name without a registry for one of localhost, and gives IDs bare."""
        for name, expected in (
            ("a", "localhost/a:latest"),
            ("a/b:1", "localhost/a/b:1"),
            ("localhost/a", "localhost/a:latest"),
            ("docker.io/library/a:1", "a:1"),
            ("h:5000/a", "h:5000/a:latest"),
            (f"sha256:{'a' * 64}", f"sha256:{'a' * 64}"),
        ):
            self.assertEqual(podman_name(name), expected)
        self.assertEqual(podman_name("a", "2"), "localhost/a:2")
        self.assertEqual(familiar("a" * 64), f"sha256:{'a' * 64}")
