"""What outlives its job."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from docker_tracker.job import Keep
from docker_tracker.tracking.retention import RETAIN_LABEL, Retention, duration

DAY = 86400.0


class DurationTests(SynchronousTestCase):
    def test_durations(self) -> None:
        """Numbers with units, one after the other; nothing else."""
        for text, wanted in (
            ("3d", 3 * DAY),
            ("12h", DAY / 2),
            ("1w2d3h4m5s", 9 * DAY + 3 * 3600 + 245),
            ("0s", 0.0),
            ("", None),
            ("3", None),
            ("d", None),
            ("3 d", None),
            ("-3d", None),
            ("3D", None),
            ("3dx", None),
            ("1" * 10 + "d", None),
        ):
            self.assertEqual(duration(text), wanted, text)


class RetentionTests(SynchronousTestCase):
    def reason(self, wish: str | None = None, now: float = 1000.0, kind: str = "volume", name: str = "v") -> str:
        retention = Retention((Keep("volume", "cache-*"), Keep("*", "golden")), 7 * DAY)
        labels = {} if wish is None else {RETAIN_LABEL: wish}
        return retention.reason(kind, labels, {name}, 1000.0, now)

    def test_rules(self) -> None:
        """A rule holds for its kind and names."""
        self.assertEqual(self.reason(name="cache-1"), "the rule volume:cache-* keeps it")
        self.assertEqual(self.reason(name="cache-1", kind="container"), "")
        self.assertIn("*:golden", self.reason(name="golden", kind="image"))
        self.assertEqual(self.reason(), "")

    def test_label(self) -> None:
        """A client's wish holds from the making on, as long as the operator lets it."""
        for wish, days, kept in (
            ("3d", 2.9, True),
            ("3d", 3.0, False),
            ("90d", 6.9, True),
            ("90d", 7.0, False),
            ("0s", 0.0, False),
            ("yes", 6.9, True),
            ("yes", 7.0, False),
            ("", 6.9, True),
        ):
            self.assertEqual(bool(self.reason(wish, 1000 + days * DAY)), kept, (wish, days))
        self.assertEqual(self.reason("1h"), "its label docker-tracker.retain keeps it until 1970-01-01 01:16:40Z")
        self.assertIn("'soon' is no duration", self.reason("soon"))

    def test_not_let(self) -> None:
        """With no time to give, no wish is granted."""
        labels = {RETAIN_LABEL: "3d"}
        for created in (1000.0, 2000.0):  # by another clock than ours
            self.assertEqual(Retention((), 0.0).reason("volume", labels, {"v"}, created, 1000.0), "")
