"""The reference names every option, key and limit, and its example is what the daemon takes."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import attrs
from twisted.trial.unittest import SynchronousTestCase

from docker_tracker import connections
from docker_tracker.builds import BuildEnd, BuildOutcome, BuildRequest, BuildStep
from docker_tracker.config import OPTIONS, TABLES, Limits, ReapSettings, ReconcileSettings, Settings, load, section
from docker_tracker.exchange import Outcome
from docker_tracker.plugins.audit import AuditSettings, build_line, line
from docker_tracker.plugins.labels import LabelsSettings
from docker_tracker.testing import make_exchange

DOCS = Path(__file__).resolve().parents[1] / "docs"
EXAMPLE = DOCS / "examples" / "docker-tracker.toml"


def page(name: str) -> str:
    return (DOCS / f"{name}.rst").read_text()


class ConfigurationTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.table = tomllib.loads(EXAMPLE.read_text())

    def settings(self) -> Settings:
        # As a path of somebody's home: the directories above it may be anybody's.
        config = Path(self.mktemp()).absolute()
        config.mkdir(parents=True)
        text = EXAMPLE.read_text().replace("/var/log/docker-tracker", str(config))
        (config / "example.toml").write_text(text)
        options = {"config": str(config / "example.toml")}
        return load(options, {"HOME": str(config), "HOSTNAME": "h"}, euid=config.stat().st_uid)

    def test_complete(self) -> None:
        """The example has every key there is: options, tables, limits, and settings of our interceptors."""
        self.assertEqual(set(self.table), {*OPTIONS, *TABLES})
        for values, table in (
            (Limits, self.table["limits"]),
            (ReapSettings, self.table["reap"]),
            (ReconcileSettings, self.table["reconcile"]),
            (LabelsSettings, self.table["interceptor"]["labels"]),
            (AuditSettings, self.table["interceptor"]["audit"]),
        ):
            self.assertEqual(set(table), {field.name.replace("_", "-") for field in attrs.fields(values)})
            self.assertEqual(section(values, table, "example"), values(), "the example shows the defaults")

    def test_loads(self) -> None:
        """The daemon takes it."""
        settings = self.settings()
        self.assertEqual(len(settings.listeners), 3)
        self.assertEqual(settings.instance, "build-host-7")

    def test_tables(self) -> None:
        """Keys of listeners and of the engine's table are described, and no others."""
        text = page("reference/configuration")
        for heading, keys in (
            ("``[[listen]]``", connections._LISTENER_KEYS),
            ("``[engine]``", connections._ENGINE_KEYS),
        ):
            part = text.split(heading)[1].split("\n\n``[")[0]
            described = [
                name for line in re.findall(r"^``.*``$", part, re.MULTILINE) for name in line.split("``")[1::2]
            ]
            self.assertEqual(set(described), set(keys))


class AuditTests(SynchronousTestCase):
    def test_keys(self) -> None:
        """Every key of a line is described, and every outcome."""
        text = page("reference/audit")
        exchange = make_exchange("GET", "/info")
        keys = json.loads(line(exchange, "finished", 200, Outcome.COMPLETED, 1.0))
        for key in (*keys, "edits", "answered_by", "refused_by"):
            self.assertIn(f"``{key}``", text)
        for outcome in Outcome:
            self.assertIn(f"``{outcome.value}``", text)

    def test_keys_of_builds(self) -> None:
        """Every key of a build's line is described, and every end."""
        text = page("reference/audit").split("\nBuilds\n------\n")[1]
        above = ("time", "duration", "event", "exchange", "job", "job_id", "listener", "peer", "edits")
        request = BuildRequest(step=BuildStep.SOLVE, build="b")
        for end in BuildEnd:
            outcome = BuildOutcome(end=end, status=2, message="x", problem="x", refused_by="x")
            record = json.loads(build_line(make_exchange("POST", "/grpc"), request, outcome, 1.0))
            for key in {*record}.difference(above):
                self.assertIn(f"\n   * - ``{key}``\n", text)
            self.assertIn(f"``{record['outcome']}``", text)

    def test_json(self) -> None:
        """The example of the page's JSON is JSON."""
        block = page("reference/tracker").split(".. code-block:: json\n")[1].split("\n   ``relation``")[0]
        self.assertEqual(json.loads(block)["resources"][0]["relation"], "made")
