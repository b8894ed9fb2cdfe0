"""``docker-tracker run``: a command as a job of its own, and nothing of it left behind. Layer: the client command."""

from __future__ import annotations

import json
import os
import secrets
import shlex
import socket
import struct
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, TextIO

import attrs
import click

from docker_tracker.cli import private
from docker_tracker.cli.client import Client, ClientError, NoDaemon, target
from docker_tracker.cli.environment import job_environment
from docker_tracker.cli.interrupts import INTERRUPTED
from docker_tracker.cli.run_child import CannotRun, Signals
from docker_tracker.cli.run_child import run as run_child
from docker_tracker.cli.run_lease import Lease
from docker_tracker.cli.run_report import items_of, kept_text, leaks, text
from docker_tracker.cli.shared import Command, Place, complain, pass_place, say
from docker_tracker.cli.values import Duration, Pair, Word
from docker_tracker.cli.waiting import waiting
from docker_tracker.errors import ConfigurationError, TrackerError

FAILED: Final = 125
_LEASE_SECONDS: Final = 30.0  # that the daemon may be away, or we may be stopped
_RETRY_SECONDS: Final = 1.0
_PROC: Final = Path("/proc")


@attrs.frozen(kw_only=True)
class Wish:
    """What is asked for.

    :ivar command: With its arguments.
    :ivar name: Of the job.
    :ivar request: What else the control API takes to make it.
    :ivar keep: Whether the job goes on when the command has ended.
    :ivar report: Where the report goes, as JSON.
    :ivar fail_on_leak: Whether what is left over is an error.
    :ivar private: Whether to start a tracker of one's own, whatever else there is.
    """

    command: tuple[str, ...]
    name: str
    request: Mapping[str, Any] = attrs.field(factory=dict)
    keep: bool = False
    report: Path | None = None
    fail_on_leak: bool = False
    private: bool = False


def _report_file(context: click.Context, parameter: click.Parameter, given: Path | None) -> Path | None:
    if given == Path("-"):
        raise click.BadParameter("standard output is COMMAND's: name a file")
    return given


@click.command(cls=Command, context_settings={"ignore_unknown_options": False, "allow_interspersed_args": False})
@click.option("--job", "name", type=Word(), metavar="NAME", help="The job's name.  [default: run- and 8 digits]")
@click.option("-l", "--label", "labels", type=Pair("NAME=VALUE"), multiple=True, help="A label on all that it makes.")
@click.option("--cgroup-parent", metavar="VALUE", help="The cgroup of its containers, as for the daemon.")
@click.option(
    "--own-cgroup", is_flag=True, help="Give the job a cgroup of its own, with COMMAND and its containers in it."
)
@click.option("--keep", is_flag=True, help="Remove nothing, and let the job go on; how to end it is printed.")
@click.option("--keep-rule", "rules", multiple=True, metavar="KIND:PATTERN", help="Leave these, as in volume:cache-*.")
@click.option("--keep-on-failure", type=Duration(), help="Keep all for so long if COMMAND fails: 15m.")
@click.option(
    "--report",
    type=click.Path(dir_okay=False, path_type=Path),
    callback=_report_file,
    help="Write the report as JSON to this file.",
)
@click.option("--fail-on-leak", is_flag=True, help="Exit with 1 if COMMAND succeeds but leaves more than images.")
@click.option("--private", is_flag=True, help="Use a tracker of its own, even if there is a daemon.")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED, metavar="[--] COMMAND [ARGUMENT]...")
@pass_place
@click.pass_context
def run_command(
    ctx: click.Context,
    place: Place,
    command: tuple[str, ...],
    name: str | None,
    labels: tuple[tuple[str, str], ...],
    cgroup_parent: str | None,
    own_cgroup: bool,
    keep: bool,
    rules: tuple[str, ...],
    keep_on_failure: float | None,
    report: Path | None,
    fail_on_leak: bool,
    private: bool,
) -> None:
    """Run COMMAND as a job of its own, with DOCKER_HOST set, and remove what it has left when it ends.

    Without a daemon it is done by a private tracker, which goes on if this command is killed. The exit status is
    COMMAND's: 128+N if signal N ended it, 126 or 127 if it cannot be run, 125 if the tracker failed, 2 if the options
    are wrong.
    """
    request = {
        "labels": dict(labels),
        "cgroup_parent": cgroup_parent,
        "own_cgroup": own_cgroup or None,
        "keep": list(rules),
        "keep_on_failure": keep_on_failure,
    }
    wish = Wish(
        command=command,
        name=name or f"run-{secrets.token_hex(4)}",
        request={key: value for key, value in request.items() if value not in (None, {}, [])},
        keep=keep,
        report=report,
        fail_on_leak=fail_on_leak,
        private=private,
    )
    ctx.exit(run(wish, place, os.environ))


def run(wish: Wish, place: Place, environ: Mapping[str, str]) -> int:
    """Do it, and return the exit status."""
    try:
        file = None if wish.report is None else wish.report.open("w", encoding="utf-8")
    except OSError as error:
        complain(f"the report cannot be written to {wish.report}: {error.strerror}")
        return FAILED
    try:
        client = _tracker(wish, place, environ)
        made = client.call("POST", "/jobs", _request(wish, client.path))
    except TrackerError as error:
        complain(error)
        return FAILED
    try:
        variables = _variables(client, made, environ)
    except TrackerError as error:
        complain(error)
        if wish.keep:  # else it ends with us
            complain(f"job {wish.name} is open: end it with docker-tracker job end {wish.name}")
        return FAILED
    status, started = _supervise(wish, client, made, variables)
    try:
        return _finish(wish, client, made, status, started, file)
    except KeyboardInterrupt:
        complain(f"what job {wish.name} left is removed in the background")
        result = status or INTERRUPTED
    except TrackerError as error:
        complain(error)
        result = status or (FAILED if wish.fail_on_leak else 0)
    if file is not None and not file.closed:
        with suppress(TrackerError):  # something else was told already
            _write(file, {"status": status, "leaked": None, "job": made})
    return result


def _tracker(wish: Wish, place: Place, environ: Mapping[str, str]) -> Client:
    """Return the daemon, or a private tracker where there is none."""
    if not wish.private:
        try:
            client = place.client()
            client.call("GET", "/version")
        except NoDaemon:
            if place.control:  # asked for by name
                raise
        else:
            try:
                problems = private.sweep(environ)
            except ConfigurationError:  # of a tracker that is not needed now
                problems = []
            _warn(problems)
            return client
    _warn(private.sweep(environ))
    return Client(private.start(environ))


def _warn(problems: list[str]) -> None:
    for problem in problems:
        complain(problem)


def _request(wish: Wish, control: str) -> dict[str, Any]:
    """Return what the control API takes to make the job."""
    request = {"name": wish.name, **wish.request}
    if not wish.keep:
        ends: dict[str, Any] = {"lease": _LEASE_SECONDS}
        if _sees_us(control):
            ends["process"] = _this_process()
        request["ends"] = ends
    return request


def _sees_us(control: str) -> bool:
    """Say whether our number means us to the daemon, too: it may be in another pid name space."""
    with socket.socket(socket.AF_UNIX) as sock:
        try:
            sock.connect(control)
            pid, _, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
            lines = (_PROC / str(pid) / "status").read_text().splitlines()
            seen = os.readlink(_PROC / "self")
        except OSError:  # nothing of it can be seen from here
            return False
    # Its numbers in the name space that our /proc shows, and in all below.
    numbers = [line.split()[1:] for line in lines if line.startswith("NSpid:")]
    return seen == str(os.getpid()) and numbers == [[str(pid)]]


def _this_process() -> dict[str, Any]:
    started = (_PROC / "self/stat").read_bytes().rpartition(b")")[2].split()[22 - 3]
    boot = (_PROC / "sys/kernel/random/boot_id").read_text("ascii").strip()
    return {"pid": os.getpid(), "started": int(started), "boot": boot}


def _supervise(wish: Wish, client: Client, made: Mapping[str, Any], variables: dict[str, str]) -> tuple[int, bool]:
    """Run the command while the job is held; return its exit status, and whether it could be started."""
    signals = Signals()
    try:
        if wish.keep:
            return run_child(wish.command, variables, signals), True
        with Lease(client, made["id"], lambda why: complain(f"{why}: the command goes on without it")):
            return run_child(wish.command, variables, signals), True
    except CannotRun as error:
        complain(str(error))
        return error.status, False
    except TrackerError as error:
        complain(error)
        return FAILED, False
    finally:
        signals.restore()


def _variables(client: Client, made: Mapping[str, Any], environ: Mapping[str, str]) -> dict[str, str]:
    """Return the command's environment."""
    engine = client.call("GET", "/version").get("engine", "")  # one from before an upgrade does not tell
    # The second one tells a daemon that the command starts that the first one is not meant for it.
    control = dict.fromkeys(("DOCKER_TRACKER_CONTROL", "DOCKER_TRACKER_RUN_CONTROL"), f"unix://{client.path}")
    variables = {**environ, **control, **job_environment(made, environ, engine)}
    return {name: value for name, value in variables.items() if value is not None}


def _finish(
    wish: Wish, client: Client, made: Mapping[str, Any], status: int, started: bool, file: TextIO | None
) -> int:
    command_line = f"docker-tracker --control {shlex.quote(f'unix://{client.path}')}"
    if wish.keep and started:
        job = client.call("GET", target("jobs", made["id"]))
        found = [
            {**each, "outcome": "left"}
            for each in client.call("GET", target("resources", job=made["id"]))
            if each["relation"] == "made" and each["kind"] != "exec"
        ]
        said, leaked = kept_text(job, found, command_line), leaks(found)
    else:
        job = _end(client, made, status, wish)
        said, leaked = text(job, command_line), leaks(items_of(job))
    say(said)
    if file is not None:
        _write(file, {"status": status, "leaked": len(leaked), "job": job})
    return 1 if status == 0 and wish.fail_on_leak and leaked else status


def _end(client: Client, made: Mapping[str, Any], status: int, wish: Wish) -> dict[str, Any]:
    """End the job and wait until that is over, also if the daemon is restarted meanwhile."""
    reason = {"reason": f"{wish.command[0][:80]!r} ended with status {status}", "failed": status != 0}
    last = time.monotonic() + _LEASE_SECONDS
    with waiting(client, made["id"], f"removing what job {made['name']} left"):
        while True:
            try:
                ended: dict[str, Any] = client.call(
                    "POST", target("jobs", made["id"], "end", wait=True), reason, timeout=None
                )
                return ended
            except ClientError:
                if time.monotonic() > last:
                    raise
            time.sleep(_RETRY_SECONDS)


def _write(file: TextIO, report: Mapping[str, Any]) -> None:
    try:
        with file:
            json.dump(report, file, indent=2)
            file.write("\n")
    except OSError as error:
        raise TrackerError(f"the report cannot be written to {file.name}: {error.strerror}") from error
