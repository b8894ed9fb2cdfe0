"""The daemon's settings: read once from flags, environment and file, checked, and never changed. Layer: config.

`load` opens the configuration file and looks at files' owners; it opens nothing else and resolves no name.
"""

from __future__ import annotations

import os
import pwd
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import attrs

from docker_tracker.addresses import Address, meets, same_file
from docker_tracker.connections import EngineAddress, EngineTls, Listener
from docker_tracker.errors import ConfigurationError, RefusedError
from docker_tracker.job import check_cgroup_parent
from docker_tracker.job_settings import ReapSettings, ReconcileSettings
from docker_tracker.permissions import check_private, check_tree
from docker_tracker.sources import PREFIX, Found, Sources, check_keys, items, read_file, section, split
from docker_tracker.sources import suggestion as _suggestion
from docker_tracker.sources import variable as _variable
from docker_tracker.toml_text import dump

__all__ = [
    "Address",
    "EngineAddress",
    "EngineTls",
    "Limits",
    "Listener",
    "ReapSettings",
    "ReconcileSettings",
    "Settings",
    "check_private",
    "check_tree",
    "effective",
    "load",
    "section",
]

DEFAULT_ENGINE = "unix:///var/run/docker.sock"
DEFAULT_LABELS = {"Created-Via": "docker-tracker"}
DEFAULT_INTERCEPTORS = ("labels", "recorder", "audit")
WITH_CGROUP = ("labels", "cgroup-parent", "recorder", "audit")
#: What there is where nobody says otherwise; then jobs that are made at run time have nested-socket, too.
BY_DEFAULT = (DEFAULT_INTERCEPTORS, WITH_CGROUP)

#: The control socket that ``docker-tracker run`` has put into `DOCKER_TRACKER_CONTROL` for its command's clients.
_RUN_CONTROL = _variable("run-control")
_CONTROL = _variable("control")

#: Every option that the environment and the file know, too; the file has two tables more.
OPTIONS = (
    "engine",
    "listen",
    "port",
    "control",
    "label",
    "cgroup-parent",
    "audit-log",
    "interceptors",
    "insecure-tcp",
    "instance",
    "plugin-dir",
    "state-dir",
    "run-dir",
    "until-idle",
    "debug",
)
TABLES = ("limits", "reap", "reconcile", "attribute", "interceptor")

_IDENTIFIER = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,62}")
_INTERCEPTOR = re.compile(r"[a-z0-9][a-z0-9-]*")
#: As many sockets as systemd passes by default at most (MaxConnections= has nothing to do with it).
_MOST_PASSED = 1024
#: Names of descriptors that systemd keeps for us over a restart begin so; they are no listeners of a socket unit.
KEPT_DESCRIPTOR = "tracker-kept-"


def _between(low: float, high: float) -> Callable[[Any, attrs.Attribute[Any], Any], None]:
    def check(_: Any, field: attrs.Attribute[Any], value: Any) -> None:
        if not low <= value <= high:
            raise ValueError(f"{field.name.replace('_', '-')} must be from {low} to {high}, not {value}")

    return check


KIB, MIB, GIB, DAY = 1024, 1024**2, 1024**3, 86400


@attrs.frozen
class Limits:
    """What bounds memory and waiting; the file's table [limits], with dashes.

    :ivar head_bytes: Of a request's or response's head.
    :ivar json_bytes: Of a JSON body that is held for an interceptor.
    :ivar json_depth: Of the nesting in one.
    :ivar line_bytes: Of one line of a JSON stream; a longer one is passed without a look.
    :ivar early_bytes: Of what a client sent ahead while the engine's answer is awaited.
    :ivar head_seconds: From a request's first byte until its head is whole, as in ``daemon/command/daemon.go`` of moby.
    :ivar interceptor_seconds: For one call of an interceptor.
    :ivar drain_seconds: For exchanges in flight when the daemon stops.
    :ivar connect_seconds: Until the engine took a connection.
    :ivar linger_seconds: That a client may stay after the engine has ended a stream of its.
    :ivar ledger_days: That the ledger keeps what was removed or is settled.
    :ivar ledger_rows: Of such, of each kind, that it keeps at most.
    """

    head_bytes: int = attrs.field(default=MIB, validator=_between(4 * KIB, 64 * MIB))
    json_bytes: int = attrs.field(default=4 * MIB, validator=_between(4 * KIB, GIB))
    json_depth: int = attrs.field(default=64, validator=_between(8, 500))
    line_bytes: int = attrs.field(default=MIB, validator=_between(KIB, GIB))
    early_bytes: int = attrs.field(default=64 * KIB, validator=_between(KIB, GIB))
    head_seconds: float = attrs.field(default=300.0, validator=_between(0.1, DAY))
    interceptor_seconds: float = attrs.field(default=30.0, validator=_between(0.1, DAY))
    drain_seconds: float = attrs.field(default=10.0, validator=_between(0, DAY))
    connect_seconds: float = attrs.field(default=10.0, validator=_between(0.1, DAY))
    linger_seconds: float = attrs.field(default=30.0, validator=_between(0.1, DAY))
    ledger_days: float = attrs.field(default=30.0, validator=_between(0.01, 36500))
    ledger_rows: int = attrs.field(default=1_000_000, validator=_between(1000, 1_000_000_000))


@attrs.frozen
class Settings:
    """All that the daemon was told; every path is absolute.

    :ivar control: The control socket's path, or ``none``.
    :ivar control_mode, control_user, control_group: Of its file; None: as the process's.
    :ivar labels: The operator's own, as written.
    :ivar cgroup_parent: None: not asked for. Empty: asked for, and nothing given, so that creates must fail.
    :ivar audit_log: A path, ``-`` for standard output, or None.
    :ivar interceptors: Names, in order.
    :ivar interceptor_sections: The raw tables [interceptor.NAME].
    :ivar instance: None: the ID in the state directory.
    :ivar until_idle: Whether the daemon stops when its last job that can end has ended.
    :ivar attribute: The raw tables [[attribute]]: which job a client of a shared socket belongs to.
    :ivar config_file: The file that was read, or None.
    :ivar warnings: Sentences for the operator.
    """

    engine: EngineAddress
    listeners: tuple[Listener, ...]
    control: str
    labels: dict[str, str] = attrs.field(hash=False)
    cgroup_parent: str | None
    audit_log: str | None
    interceptors: tuple[str, ...]
    interceptor_sections: dict[str, dict[str, Any]] = attrs.field(hash=False)
    insecure_tcp: bool
    instance: str | None
    plugin_dirs: tuple[Path, ...]
    state_dir: Path
    run_dir: Path
    debug: bool
    limits: Limits
    reap: ReapSettings = attrs.field(factory=ReapSettings)
    reconcile: ReconcileSettings = attrs.field(factory=ReconcileSettings)
    attribute: tuple[dict[str, Any], ...] = attrs.field(default=(), hash=False)
    control_mode: int = 0o660
    control_user: str | None = None
    control_group: str | None = None
    until_idle: bool = False
    config_file: Path | None = attrs.field(default=None, eq=False)
    warnings: tuple[str, ...] = attrs.field(default=(), eq=False)


@attrs.frozen
class _Places:
    """Where things are unless one says otherwise: the system's directories for root, XDG's for others."""

    config_file: Path
    plugin_dir: Path
    state_dir: Path
    run_dir: Path
    home: Path | None

    @classmethod
    def of(cls, environ: Mapping[str, str], euid: int) -> _Places:
        home = _home(environ, euid)
        if euid == 0:
            config = Path("/etc/docker-tracker")
            state, run = Path("/var/lib/docker-tracker"), Path("/run/docker-tracker")
        else:

            def base(name: str, fallback: str) -> Path:
                # A relative one is to be ignored (XDG Base Directory Specification 0.8).
                given = environ.get(name, "")
                if given.startswith("/"):
                    return Path(given) / "docker-tracker"
                if home is None:
                    raise ConfigurationError(name, "neither this nor HOME is set; set one, or use --state-dir")
                return home / fallback / "docker-tracker"

            config, state = base("XDG_CONFIG_HOME", ".config"), base("XDG_STATE_HOME", ".local/state")
            runtime = environ.get("XDG_RUNTIME_DIR", "")
            if runtime.startswith("/"):
                run = Path(runtime) / "docker-tracker"
            else:
                # Without a session there is none; the state directory is as private.
                system = Path(f"/run/user/{euid}")
                run = system / "docker-tracker" if system.is_dir() else state / "run"
        return cls(config / "docker-tracker.toml", config / "plugins", state, run, home)


def _home(environ: Mapping[str, str], euid: int) -> Path | None:
    if environ.get("HOME", "").startswith("/"):
        return Path(environ["HOME"])
    try:
        return Path(pwd.getpwuid(euid).pw_dir)
    except KeyError:  # a number without an account, as in containers
        return None


def load(
    options: Mapping[str, object],
    environ: Mapping[str, str],
    *,
    euid: int,
    uid: int | None = None,
    pid: int | None = None,
) -> Settings:
    """Return the effective settings.

    :param options: Flags by name with dashes: text, True, lists for the repeatable ones; None, False, [] if not given.
    :param euid: Who starts the daemon: root gets the system's directories, others their own.
    :param uid: Whom the daemon runs as, if it is another (``twistd --uid``).
    :param pid: The process that systemd passes sockets to; None: this one.
    :raises ConfigurationError: something is missing, unknown, wrong or dangerous; the daemon must not start.
    """
    daemon_uid = euid if uid is None else uid
    if environ.get(_RUN_CONTROL, "") == environ.get(_CONTROL):  # that is the socket of the daemon that `run` talks to
        environ = {name: value for name, value in environ.items() if name != _CONTROL}
    places = _Places.of(environ, euid)
    sources, file = _open(options, environ, places, daemon_uid)
    state_dir = _directory(sources, "state-dir") or places.state_dir
    run_dir = _directory(sources, "run-dir") or places.run_dir
    passed = _passed_sockets(environ, os.getpid() if pid is None else pid)
    listeners = _listeners(sources) or _default_listeners(passed, run_dir)
    cgroup_parent, audit_log = _cgroup_parent(sources), _audit_log(sources)
    sections = _sections(sources)
    control = _control(sources) or Listener.of(Found(f"unix://{run_dir}/control.sock", "the default"))
    settings = Settings(
        engine=_engine(sources, environ, places),
        listeners=listeners,
        control="none" if control == "none" else control.path,
        labels=_labels(sources),
        cgroup_parent=cgroup_parent,
        audit_log=audit_log,
        interceptors=_interceptors(sources, cgroup_parent, audit_log),
        interceptor_sections=sections,
        insecure_tcp=_truth(sources, "insecure-tcp"),
        instance=_instance(sources),
        plugin_dirs=_plugin_dirs(sources, places, daemon_uid),
        state_dir=state_dir,
        run_dir=run_dir,
        debug=_truth(sources, "debug"),
        limits=section(Limits, _subtable(sources, "limits"), f"{file}: limits"),
        reap=section(ReapSettings, _subtable(sources, "reap"), f"{file}: reap"),
        reconcile=section(ReconcileSettings, _subtable(sources, "reconcile"), f"{file}: reconcile"),
        attribute=_attribute(sources),
        until_idle=_truth(sources, "until-idle"),
        config_file=file,
    )
    if not isinstance(control, str):
        mode, user, group = control.mode, control.user, control.group
        settings = attrs.evolve(settings, control_mode=mode, control_user=user, control_group=group)
    _check_together(settings)
    return attrs.evolve(settings, warnings=tuple(_warnings(settings, environ, passed)))


def effective(settings: Settings) -> str:
    """Return the settings as a TOML file that has the same effect."""
    table: dict[str, Any] = {
        "engine": settings.engine.table(),
        "listen": [listener.table() for listener in settings.listeners],
        "control": _control_table(settings),
        "cgroup-parent": settings.cgroup_parent,
        "audit-log": settings.audit_log,
        "interceptors": list(settings.interceptors),
        "insecure-tcp": settings.insecure_tcp,
        "instance": settings.instance,
        "plugin-dir": [str(path) for path in settings.plugin_dirs],
        "state-dir": str(settings.state_dir),
        "run-dir": str(settings.run_dir),
        "debug": settings.debug,
        "label": settings.labels,
        "until-idle": settings.until_idle,
        **{name: _dashed(getattr(settings, name)) for name in ("limits", "reap", "reconcile")},
        "attribute": list(settings.attribute) or None,
        "interceptor": settings.interceptor_sections,
    }
    return dump({key: value for key, value in table.items() if value is not None})


def _open(
    options: Mapping[str, object], environ: Mapping[str, str], places: _Places, uid: int
) -> tuple[Sources, Path | None]:
    named = Sources(options, environ).find("config")
    path = places.config_file
    if named is not None:
        if not named.text():
            raise ConfigurationError(named.where, "names no file")
        path = Path(os.path.abspath(named.text()))
    check_private(path, uid)
    try:
        table = read_file(path)
    except FileNotFoundError:
        if named is not None:
            raise ConfigurationError(named.where, f"there is no file {path}") from None
        return Sources(options, environ), None
    check_keys(table, (*OPTIONS, *TABLES), f"{path}: ")
    return Sources(options, environ, table, path), path


def _truth(sources: Sources, name: str) -> bool:
    found = sources.find(name)
    return found is not None and found.truth()


def _path(found: Found, what: str) -> Path:
    """Return an absolute path; one that the shell wrote is taken from the working directory."""
    text = found.text()
    if not text or "\0" in text or (found.typed and not os.path.isabs(text)):
        raise ConfigurationError(found.where, f"{text!r} is not an absolute path of {what}")
    return Path(os.path.abspath(text))


def _directory(sources: Sources, name: str) -> Path | None:
    found = sources.find(name)
    return None if found is None else _path(found, "a directory")


def _engine(sources: Sources, environ: Mapping[str, str], places: _Places) -> EngineAddress:
    tls = EngineTls.of_environment(environ, places.home)
    found = sources.find("engine")
    if found is not None:
        return EngineAddress.of(found, tls)
    if environ.get("DOCKER_HOST"):
        return EngineAddress.of(Found(environ["DOCKER_HOST"], "DOCKER_HOST"), tls)
    if environ.get("DOCKER_CONTEXT", "default") not in ("", "default"):
        raise ConfigurationError(
            "DOCKER_CONTEXT", "contexts of the docker CLI are not read; name the engine with --engine or DOCKER_HOST"
        )
    return EngineAddress.of(Found(DEFAULT_ENGINE, "the default"))


def _listeners(sources: Sources) -> tuple[Listener, ...]:
    for listen, port in sources.levels("listen", "port"):
        result = [Listener.of(found) for found in (items(listen) if listen else [])]
        result.extend(Listener.of(found) for found in _ports(port))
        if result:
            return tuple(result)
        if listen:
            raise ConfigurationError(listen.where, "names no address")
    return ()


def _ports(found: Found | None) -> Iterator[Found]:
    if found is None:
        return
    numbers = [found] if isinstance(found.value, int) else items(found)
    for number in numbers:
        value = number.value
        if isinstance(value, bool) or not re.fullmatch("[0-9]{1,5}", str(value)) or int(str(value)) > 65535:
            raise ConfigurationError(found.where, f"{value!r} is not a port from 0 to 65535")
        yield Found(f"tcp:{value}:interface=127.0.0.1", found.where)


def _default_listeners(passed: list[int], run_dir: Path) -> tuple[Listener, ...]:
    texts = [f"systemd:index={index}" for index in passed] or [f"unix://{run_dir}/docker.sock"]
    return tuple(Listener.of(Found(text, "the default listener")) for text in texts)


def _passed_sockets(environ: Mapping[str, str], pid: int) -> list[int]:
    """Return the indices of what systemd's socket units pass to this process (sd_listen_fds_with_names(3))."""
    if environ.get("LISTEN_PID") != str(pid):
        return []
    text = environ.get("LISTEN_FDS", "")
    if not re.fullmatch("[0-9]{1,4}", text) or int(text) > _MOST_PASSED:
        raise ConfigurationError("LISTEN_FDS", f"{text!r} is not a number of sockets")
    kept = [name.startswith(KEPT_DESCRIPTOR) for name in environ.get("LISTEN_FDNAMES", "").split(":")]
    return [index for index in range(int(text)) if not (index < len(kept) and kept[index])]


def _control(sources: Sources) -> Listener | Literal["none"] | None:
    found = sources.find("control")
    if found is None:
        return None
    if found.value == "none":
        return "none"
    wrong = ConfigurationError(found.where, f'{found.value!r} must be "none" or a unix socket: unix:///path')
    if not isinstance(found.value, str | dict):
        raise wrong
    listener = Listener.of(found)
    if listener.kind != "unix":
        raise wrong
    return listener


def _control_table(settings: Settings) -> object:
    if settings.control == "none":
        return "none"
    table = {"address": f"unix://{settings.control}", "mode": f"{settings.control_mode:04o}"}
    owner = {"user": settings.control_user, "group": settings.control_group}
    return table | {key: value for key, value in owner.items() if value is not None}


def _dashed(values: Any) -> dict[str, Any]:
    table = {name.replace("_", "-"): value for name, value in attrs.asdict(values).items()}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in table.items()}


def _attribute(sources: Sources) -> tuple[dict[str, Any], ...]:
    found = sources.key("attribute")
    if found is None:
        return ()
    tables = found.items()
    for table in tables:
        if not isinstance(table.value, dict):
            raise table.wrong("a table")
    return tuple(dict(table.value) for table in tables)  # type: ignore[call-overload]


def _labels(sources: Sources) -> dict[str, str]:
    found = sources.find("label")
    if found is None:
        return dict(DEFAULT_LABELS)
    result: dict[str, str] = {}
    if isinstance(found.value, dict):
        for name, value in found.value.items():
            result[name] = Found(value, f"{found.where}.{name}", typed=True).text()
    else:
        for item in items(found):
            name, equals, value = item.text().partition("=")
            if not equals:
                raise ConfigurationError(item.where, f"{item.value!r} is not a label: write NAME=VALUE")
            result[name] = value
    for name in result:
        if not name or name != name.strip() or not name.isprintable():
            raise ConfigurationError(found.where, f"{name!r} is not the name of a label")
        if name.lower().startswith("docker-tracker."):
            raise ConfigurationError(found.where, f"{name}: labels under docker-tracker. are set by the tracker alone")
    return result


def _cgroup_parent(sources: Sources) -> str | None:
    # Set to nothing counts: whoever asked for a parent must not get containers without one.
    found = sources.find("cgroup-parent", empty=True)
    if found is None:
        return None
    text = found.text().strip()
    try:
        return text and check_cgroup_parent(text)
    except RefusedError as error:
        raise ConfigurationError(found.where, error.message) from error


def _audit_log(sources: Sources) -> str | None:
    found = sources.find("audit-log")
    return None if found is None else "-" if found.value == "-" else str(_path(found, "a file"))


def _interceptors(sources: Sources, cgroup_parent: str | None, audit_log: str | None) -> tuple[str, ...]:
    found = sources.find("interceptors")
    if found is None:
        if cgroup_parent is None:
            return DEFAULT_INTERCEPTORS
        return WITH_CGROUP
    words = split(found) if isinstance(found.value, str) else found.items()
    names = [word.text() for word in words]
    if not names and isinstance(found.value, str):
        raise ConfigurationError(found.where, 'names no interceptor; write "none" for a plain proxy')
    if names == ["none"]:
        names = []
    for position, name in enumerate(names):
        if name == "none" or not _INTERCEPTOR.fullmatch(name):
            raise ConfigurationError(found.where, f"{name!r} is not the name of an interceptor")
        if name in names[:position]:
            raise ConfigurationError(found.where, f"{name} is there twice")
    for name, wanted in (("cgroup-parent", cgroup_parent), ("audit", audit_log)):
        if wanted is not None and name not in names:
            flag = "audit-log" if name == "audit" else name
            raise ConfigurationError(found.where, f"--{flag} is set, but {name} is not among the interceptors; add it")
    return tuple(names)


def _instance(sources: Sources) -> str | None:
    found = sources.find("instance")
    if found is not None and not _IDENTIFIER.fullmatch(found.text()):
        raise ConfigurationError(
            found.where, f"{found.text()!r} is not an ID: 1 to 63 letters, digits, _ . and -, a letter or digit first"
        )
    return None if found is None else found.text()


def _plugin_dirs(sources: Sources, places: _Places, uid: int) -> tuple[Path, ...]:
    given = sources.find_items("plugin-dir")
    if given is None:
        paths = [places.plugin_dir] if _is_directory(places.plugin_dir, "the default plugin-dir") else []
    else:
        paths = [_path(found, "a directory") for found in given]
        for found, path in zip(given, paths, strict=True):
            if not _is_directory(path, found.where):
                raise ConfigurationError(found.where, f"there is no directory {path}")
    for path in paths:
        check_tree(path, uid)
    return tuple(dict.fromkeys(paths))


def _is_directory(path: Path, where: str) -> bool:
    try:
        return path.is_dir()
    except OSError as error:  # not for us to look at
        raise ConfigurationError(where, f"{path} cannot be looked at: {error.strerror}") from error


def _subtable(sources: Sources, name: str) -> dict[str, Any]:
    found = sources.key(name)
    if found is not None and not isinstance(found.value, dict):
        raise found.wrong("a table")
    return {} if found is None else dict(found.value)  # type: ignore[call-overload]


def _sections(sources: Sources) -> dict[str, dict[str, Any]]:
    sections = _subtable(sources, "interceptor")
    for name, table in sections.items():
        if not isinstance(table, dict):
            raise Found(table, f"{sources.file}: interceptor.{name}").wrong("a table")
    return sections


def _check_together(settings: Settings) -> None:
    """Refuse settings that are right each by itself, but not together."""
    if settings.until_idle and "recorder" not in settings.interceptors:
        raise ConfigurationError(
            "until-idle (as a private tracker has it)",
            "needs recorder among the interceptors: without it there are no jobs whose end could be waited for",
        )
    engine = settings.engine.address
    sockets = [(str(listener), listener.path) for listener in settings.listeners if listener.kind == "unix"]
    if settings.control != "none":
        sockets.append((f"the control socket {settings.control}", settings.control))
    for position, (name, path) in enumerate(sockets):
        if engine.kind == "unix" and same_file(path, engine.path):
            raise ConfigurationError(f"the engine's address {engine}", f"is our own: {name}; name the engine's socket")
        if any(same_file(path, earlier) for _, earlier in sockets[:position]):
            raise ConfigurationError(name, "is there twice; each socket can have one listener")
    for position, listener in enumerate(settings.listeners):
        if listener.kind in ("tcp", "tls") and engine.kind != "unix" and meets(listener.address, engine):
            raise ConfigurationError(f"the engine's address {engine}", f"is our own: {listener}; name the engine's")
        for earlier in settings.listeners[:position]:
            if _same_place(listener, earlier):
                raise ConfigurationError(f"the listener {listener}", "is there twice; each address can have one")
        if listener.exposed and not settings.insecure_tcp:
            raise ConfigurationError(f"the listener {listener}", _exposure(listener))


def _same_place(first: Listener, second: Listener) -> bool:
    a, b = first.address, second.address
    if "systemd" in (a.kind, b.kind) or "endpoint" in (a.kind, b.kind):
        return (a.kind, a.index, a.name, a.text) == (b.kind, b.index, b.name, b.text) or (
            a.kind == b.kind == "systemd" and (a.index, a.name) == (b.index, b.name)
        )
    return a.kind != "unix" and b.kind != "unix" and meets(a, b)


def _exposure(listener: Listener) -> str:
    if listener.kind == "endpoint":
        return "who can reach it is not known here; --insecure-tcp says that you know it"
    return (
        "everyone who can reach it would be root on the engine's machine; listen on 127.0.0.1, "
        "give it a certificate, a key and a client-ca, or say --insecure-tcp"
    )


def _warnings(settings: Settings, environ: Mapping[str, str], passed: list[int]) -> Iterator[str]:
    for listener in settings.listeners:
        if listener.exposed:
            yield f"{listener}: whoever can reach this address can use the engine as root"
        elif listener.kind == "tcp":
            yield f"{listener}: every user of this machine can use the engine as root; a unix socket has owners"
        elif listener.kind == "tls" and listener.client_ca is None:
            yield f"{listener}: whoever can reach this address can use the engine as root; set client-ca"
        elif listener.kind == "unix" and listener.mode & 0o002:
            yield f"{listener}: with mode {listener.mode:04o} every user of this machine can use the engine as root"
    if settings.engine.kind == "tls" and not settings.engine.verify:
        yield f"{settings.engine}: the engine's certificate is not verified; set DOCKER_TLS_VERIFY=1, or verify = true"
    if settings.interceptors and "recorder" not in settings.interceptors:
        yield "recorder is not among the interceptors: nothing is recorded, and there are no jobs and no control socket"
    if settings.cgroup_parent == "":
        yield "cgroup-parent is set to nothing: creating containers will fail"
    if passed and not any(listener.kind == "systemd" for listener in settings.listeners):
        yield f"systemd passes {len(passed)} sockets, and no listener names one"
    for name in settings.interceptor_sections:
        if name not in settings.interceptors:
            yield (
                f"{settings.config_file}: the table interceptor.{name} has no effect, {name} is not among the "
                f"interceptors{_suggestion(name, settings.interceptors)}"
            )
    known = {_variable(name) for name in (*OPTIONS, "config")}
    for name in sorted(environ):
        if name.startswith(PREFIX) and name not in known:
            yield f"{name} is not a variable that is read{_suggestion(name, known)}"
