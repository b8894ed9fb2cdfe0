"""The daemon's command line for twistd. Light to import: twistd reads it for ``--help`` of all its plug-ins."""

from __future__ import annotations

import os
import sys
from typing import Any, NoReturn, cast

from twisted.python import usage

from docker_tracker.config import Settings, effective, load
from docker_tracker.errors import ConfigurationError
from docker_tracker.version import version

_REPEATABLE = ("listen", "port", "label", "plugin-dir")


class Options(usage.Options):
    """Flags of ``twistd docker-tracker``; after parsing, ``options["settings"]`` is the `Settings` they make."""

    synopsis = "[options]"
    longdesc = """\
A Docker socket of one's own: what is created through it is labelled, recorded and audited.

Each option is also a variable (--audit-log is DOCKER_TRACKER_AUDIT_LOG) and a key of the TOML file (audit-log = "...");
a flag wins over a variable, a variable over the file. In a variable, whitespace or commas part what can be given
several times: listen, port, label, interceptors, plugin-dir; in the file these are arrays, and label may be a table.
Variables that are switches are 1 or 0. A variable that is set to nothing counts as not set, but for
DOCKER_TRACKER_CGROUP_PARENT. For others than root, the defaults under /etc, /var/lib and /run are XDG's directories.
"""
    optFlags = (
        ("check-config", None, "Validate everything, print the effective settings as TOML, and exit."),
        ("insecure-tcp", None, "Allow plain TCP on other addresses than loopback: all who reach it are root there."),
        ("until-idle", None, "Stop when the last job that can end has ended; for a tracker of one's own."),
        ("debug", None, "Log more: every exchange, never bodies or secrets."),
    )
    optParameters = (
        ("config", None, None, "TOML file. [default: /etc/docker-tracker/docker-tracker.toml, if it is there]"),
        (
            "engine",
            None,
            None,
            "Address of the engine: unix:///path or tcp://host:port. [default: DOCKER_HOST, else "
            "unix:///var/run/docker.sock; DOCKER_TLS_VERIFY and DOCKER_CERT_PATH make tcp:// speak TLS]",
        ),
        ("control", None, None, 'Address of the control socket; "none": off. [default: RUN-DIR/control.sock]'),
        (
            "cgroup-parent",
            None,
            None,
            "Create all containers under this cgroup path or slice; self: where this process's own container is; "
            "caller: where the connecting process is.",
        ),
        ("audit-log", None, None, 'Append a JSON line for each exchange to this file; "-": standard output.'),
        (
            "interceptors",
            None,
            None,
            'Names in order, parted by commas; "none": a plain transparent proxy. [default: labels,recorder,audit, '
            "with cgroup-parent after labels if that is set]",
        ),
        ("instance", None, None, "ID of this tracker among those of its engine. [default: made at first start]"),
        ("state-dir", None, None, "Where the ledger is. [default: /var/lib/docker-tracker]"),
        ("run-dir", None, None, "Where sockets are. [default: /run/docker-tracker]"),
    )

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        for name in _REPEATABLE:
            self[name] = []

    def opt_listen(self, address: str) -> None:
        """Listen here: unix:///path, tcp://host:port, unix:/path:mode=660, tcp:2375:interface=127.0.0.1,
        systemd:index=0. Repeatable. [default: what systemd passes, else RUN-DIR/docker.sock]
        """
        self["listen"].append(address)

    def opt_port(self, number: str) -> None:
        """Short for --listen tcp:NUMBER:interface=127.0.0.1; 0 is any free port."""
        self["port"].append(number)

    opt_p = opt_port

    def opt_label(self, label: str) -> None:
        """NAME=VALUE, put on all that is created. Repeatable. [default: Created-Via=docker-tracker]"""
        self["label"].append(label)

    def opt_plugin_dir(self, directory: str) -> None:
        """Look for interceptors here, too. Repeatable. [default: /etc/docker-tracker/plugins, if it is there]"""
        self["plugin-dir"].append(directory)

    def opt_version(self) -> NoReturn:
        """Print the version and exit."""
        sys.stdout.write(f"docker-tracker {version()}\n")
        raise SystemExit(0)

    def parseOptions(self, options: Any = None) -> None:
        """Parse, and build the settings.

        :raises SystemExit: they cannot be used: one line on standard error, where twistd would print its help, and that
            on standard output, among what ``--check-config`` prints.
        """
        try:
            super().parseOptions(options)  # type: ignore[no-untyped-call]
        except usage.UsageError as error:
            leave(f"{error}; see twistd docker-tracker --help")
        except ConfigurationError as error:
            leave(error)

    def parseArgs(self, *arguments: str) -> None:
        """Refuse what is not an option; a forgotten dash must not go unseen."""
        if arguments:
            raise usage.UsageError(f"{arguments[0]!r} is not an option; options start with --")

    def postOptions(self) -> None:
        """Build the settings.

        :raises ConfigurationError: they cannot be used.
        """
        # twistd changes to --uid only after this.
        uid = self.parent.get("uid") if self.parent is not None else None
        self["settings"] = load(self, os.environ, euid=os.geteuid(), uid=uid)


def leave(problem: object) -> NoReturn:
    """End with one line on standard error and with 1."""
    raise SystemExit(f"docker-tracker: {' '.join(str(problem).splitlines())}")


def settings_of(options: usage.Options) -> Settings:
    """Return the settings that parsed options made."""
    return cast(Settings, options["settings"])


def finish_check(settings: Settings) -> NoReturn:
    """End ``--check-config``: print the effective settings, warnings on standard error, and exit with 0."""
    sys.stdout.write(effective(settings))
    sys.stdout.flush()
    for warning in settings.warnings:
        sys.stderr.write(f"warning: {warning}\n")
    raise SystemExit(0)
