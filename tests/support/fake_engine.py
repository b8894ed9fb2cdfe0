"""A small Docker engine without containers: what `tests.contract.engine` asks of one, it does as dockerd 20.10 would.

Its processes are coroutines for a few commands of busybox, its images and files are sizes and names, so that gigabytes
cost no memory. Whatever tests rely on of it stands in the contract, which runs on a real engine, too.

    with FakeEngine(path): ...                  # in a thread of this process
    with FakeEngineProcess(path): ...           # in a process of its own, for bulk
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import attrs

from tests.support.fake_http import ENGINE_FIELDS, Connection, HttpError, Request

IMAGE = "busybox:local"
CREATED = "2026-01-02T03:04:05.678901234Z"
ZEROS = bytes(256 * 1024)
LOG_BYTES = 1024 * 1024
HEAD_OF_TAR = 64 * 1024

_VERSION = re.compile(r"/v([0-9.]+)(/.*)")
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")

Output = Callable[[int, bytes], Awaitable[None]]


def new_id() -> str:
    """Give 64 hexadecimal digits."""
    return secrets.token_hex(32)


class Pipe:
    """A process's standard input: bounded, closed once."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[bytes] = asyncio.Queue(2)

    async def put(self, data: bytes) -> None:
        """Hand over some bytes; b"" closes it."""
        await self._queue.put(data)

    async def read(self) -> AsyncIterator[bytes]:
        """Give what comes, to its end."""
        while data := await self._queue.get():
            yield data


async def run_command(command: list[str], stdin: Pipe, output: Output) -> int:
    """Do what a command of busybox does. :returns: its exit status."""
    match command:
        case ["cat"]:
            async for data in stdin.read():
                await output(1, data)
        case ["wc", "-c"]:
            count = 0
            async for data in stdin.read():
                count += len(data)
            await output(1, b"%d\n" % count)
        case ["head", "-c", size, "/dev/zero"]:
            left = int(size)
            while left:
                data = ZEROS[:left]
                left -= len(data)
                await output(1, data)
        case ["echo", *words]:
            await output(1, " ".join(words).encode() + b"\n")
        case ["ls", path]:
            await output(2, f"ls: {path}: No such file or directory\n".encode())
            return 1
        case ["sleep", seconds]:
            await asyncio.sleep(float(seconds))
        case ["sh"] | ["true"]:
            pass
        case ["false"]:
            return 1
        case _:
            return 127
    return 0


def frame(stream: int, data: bytes) -> bytes:
    """Give one frame of an output without terminal (moby: ``api/pkg/stdcopy/stdcopy.go``)."""
    return stream.to_bytes(4, "little") + len(data).to_bytes(4, "big") + data


@attrs.define(eq=False)
class Attachment:
    """One client that sees a process's output."""

    connection: Connection
    tty: bool
    streams: tuple[int, ...] = (1, 2)
    chunked: bool = False
    over: asyncio.Event = attrs.field(factory=asyncio.Event)

    async def write(self, stream: int, data: bytes) -> None:
        """Send it on; a client that is gone is over."""
        if stream not in self.streams or self.over.is_set():
            return
        data = data if self.tty else frame(stream, data)
        try:
            await (self.connection.chunk(data) if self.chunked else self.connection.send(data))
        except OSError:
            self.over.set()


@attrs.define(eq=False)
class Running:
    """A process and who sees it."""

    tty: bool = False
    stdin: Pipe = attrs.field(factory=Pipe)
    attachments: list[Attachment] = attrs.field(factory=list)
    log: list[tuple[int, bytes]] = attrs.field(factory=list)
    logged: int = 0
    ended: asyncio.Event = attrs.field(factory=asyncio.Event)
    code: int = 0
    task: asyncio.Task[None] | None = None

    async def output(self, stream: int, data: bytes) -> None:
        """Show it to all that are attached, and keep the beginning."""
        if self.logged < LOG_BYTES:
            self.log.append((stream, data))
            self.logged += len(data)
        for attachment in list(self.attachments):
            await attachment.write(stream, data)

    def start(self, command: list[str], on_end: Callable[[], Awaitable[None]]) -> None:
        """Begin."""

        async def run() -> None:
            try:
                self.code = await run_command(command, self.stdin, self.output)
            except asyncio.CancelledError:
                self.code = 137
            await on_end()
            self.ended.set()
            for attachment in self.attachments:
                attachment.over.set()

        self.task = asyncio.create_task(run())

    async def stop(self) -> None:
        """Kill it."""
        if self.task is not None and not self.ended.is_set():
            await asyncio.sleep(0)  # a task that never ran would be cancelled without its end
            self.task.cancel()
            await self.ended.wait()


@attrs.define(eq=False)
class Container:
    """A container: what was asked for, and its process."""

    id: str
    name: str
    config: dict[str, Any]
    image: dict[str, Any]
    process: Running
    volumes: list[str] = attrs.field(factory=list)
    anonymous: list[str] = attrs.field(factory=list)
    status: str = "created"
    files: dict[str, int] = attrs.field(factory=dict)
    removed: asyncio.Event = attrs.field(factory=asyncio.Event)
    exits: int = 0

    @property
    def host(self) -> dict[str, Any]:
        """Give its HostConfig."""
        return self.config.get("HostConfig") or {}

    @property
    def labels(self) -> dict[str, str]:
        """Give its labels: the image's, and over them its own (moby: ``daemon/commit.go`` merge)."""
        return {**(self.image.get("Labels") or {}), **(self.config.get("Labels") or {})}


@attrs.define(eq=False)
class Exec:
    """A further process of a container."""

    id: str
    container: Container
    config: dict[str, Any]
    process: Running = attrs.field(factory=Running)


class FakeEngine:
    """The engine, in a thread of its own between `start` and `stop`.

    :param path: of its unix socket.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.address = f"unix://{path}"
        self.containers: dict[str, Container] = {}
        self.execs: dict[str, Exec] = {}
        self.volumes: dict[str, dict[str, Any]] = {}
        self.networks: dict[str, dict[str, Any]] = {}
        self.images: dict[str, dict[str, Any]] = {}
        self.subscribers: set[asyncio.Queue[dict[str, Any]]] = set()
        self.id = new_id()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._stop: asyncio.Event | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._connections: set[Connection] = set()
        self._routes = self._table()
        self._add_image(IMAGE, {})

    # Its life

    def __enter__(self) -> FakeEngine:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Listen, in a thread of its own."""
        ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self.serve(ready.set)))
        self._thread.start()
        ready.wait()

    def stop(self) -> None:
        """End it, and all its connections."""
        if self._loop is not None and self._stop is not None and self._thread is not None:
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join()
            self._thread = None

    async def serve(self, ready: Callable[[], object]) -> None:
        """Serve until `stop`, or SIGTERM if it has a process of its own."""
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        if threading.current_thread() is threading.main_thread():
            self._loop.add_signal_handler(signal.SIGTERM, self._stop.set)
        self.path.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(str(self.path))
            listening.listen(4096)
            listening.setblocking(False)
            self._spawn(self._accept(listening))
            ready()
            await self._stop.wait()
            for container in list(self.containers.values()):  # one that ends may be removed
                await container.process.stop()
            for task in list(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
        self.path.unlink(missing_ok=True)

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _accept(self, listening: socket.socket) -> None:
        while True:
            sock, _ = await asyncio.get_running_loop().sock_accept(listening)
            sock.setblocking(False)
            self._spawn(self._serve(Connection(sock)))

    def drop(self) -> None:
        """Close all connections, as an engine that dies does."""

        def close() -> None:
            for connection in list(self._connections):
                connection.drop()

        assert self._loop is not None
        self._loop.call_soon_threadsafe(close)

    @property
    def open(self) -> int:
        """How many connections there are."""
        return len(self._connections)

    async def _serve(self, connection: Connection) -> None:
        self._connections.add(connection)
        try:
            while (request := await connection.request()) and await self._dispatch(request):
                pass
        except OSError:
            pass  # the client is gone
        finally:
            self._connections.discard(connection)
            connection.close()

    async def _dispatch(self, request: Request) -> bool:
        path, connection = request.path, request.connection
        try:
            if versioned := _VERSION.fullmatch(path):
                number, path = versioned.groups()
                if tuple(int(part) for part in number.split(".") if part) > (1, 41):
                    raise HttpError(400, f"client version {number} is too new. Maximum supported API version is 1.41")
            for method, pattern, handler in self._routes:
                if method == request.method and (match := pattern.fullmatch(path)):
                    return await handler(request, *match.groups())
            bare = dict.fromkeys(("Api-Version", "Docker-Experimental", "Ostype", "Server"))
            keep = await connection.answer(request, 404, {"message": "page not found"}, bare)
        except HttpError as error:
            keep = await connection.answer(request, error.status, {"message": error.message})
        if not keep:
            await connection.refuse_rest()
        return keep

    def _table(self) -> list[tuple[str, re.Pattern[str], Callable[..., Awaitable[bool]]]]:
        rows: tuple[tuple[str, str, Callable[..., Awaitable[bool]]], ...] = (
            ("GET", "/_ping", self._ping),
            ("HEAD", "/_ping", self._ping),
            ("GET", "/version", self._version),
            ("GET", "/info", self._info),
            ("GET", "/events", self._events),
            ("POST", "/containers/create", self._create),
            ("GET", "/containers/json", self._list_containers),
            ("GET", "/containers/(.+)/json", self._inspect_container),
            ("POST", "/containers/(.+)/start", self._start),
            ("POST", "/containers/(.+)/(kill|stop)", self._end),
            ("POST", "/containers/(.+)/wait", self._wait),
            ("POST", "/containers/(.+)/attach", self._attach),
            ("POST", "/containers/(.+)/exec", self._create_exec),
            ("GET", "/containers/(.+)/logs", self._logs),
            ("GET", "/containers/(.+)/archive", self._get_archive),
            ("PUT", "/containers/(.+)/archive", self._put_archive),
            ("GET", "/containers/(.+)/export", self._export),
            ("DELETE", "/containers/(.+)", self._remove_container),
            ("POST", "/exec/(.+)/start", self._start_exec),
            ("GET", "/exec/(.+)/json", self._inspect_exec),
            ("POST", "/build", self._build),
            ("POST", "/images/load", self._load),
            ("GET", "/images/get", self._save),
            ("GET", "/images/json", self._list_images),
            ("GET", "/images/(.+)/json", self._inspect_image),
            ("DELETE", "/images/(.+)", self._remove_image),
            ("POST", "/volumes/create", self._create_volume),
            ("GET", "/volumes", self._list_volumes),
            ("GET", "/volumes/(.+)", self._inspect_volume),
            ("DELETE", "/volumes/(.+)", self._remove_volume),
            ("POST", "/networks/create", self._create_network),
            ("GET", "/networks", self._list_networks),
            ("GET", "/networks/(.+)", self._inspect_network),
            ("DELETE", "/networks/(.+)", self._remove_network),
            ("POST", "/(grpc|session)", self._upgrade),
        )
        return [(method, re.compile(pattern), handler) for method, pattern, handler in rows]

    # The system

    async def _ping(self, request: Request) -> bool:
        fields: dict[str, str | None] = {"Content-Type": "text/plain; charset=utf-8", "Pragma": "no-cache"}
        fields["Cache-Control"] = "no-cache, no-store, must-revalidate"
        return await request.connection.answer(request, 200, b"" if request.method == "HEAD" else b"OK", fields)

    async def _version(self, request: Request) -> bool:
        version = {"Version": "20.10.24", "ApiVersion": "1.41", "MinAPIVersion": "1.12", "Os": "linux"}
        return await request.connection.answer(request, 200, {"Platform": {"Name": ""}, **version})

    async def _info(self, request: Request) -> bool:
        info = {"ID": self.id, "Containers": len(self.containers), "CgroupDriver": "cgroupfs", "CgroupVersion": "1"}
        return await request.connection.answer(request, 200, {**info, "Swarm": {"LocalNodeState": "inactive"}})

    async def _events(self, request: Request) -> bool:
        connection, queue = request.connection, asyncio.Queue[dict[str, Any]]()
        wanted = json.loads(request.option("filters", "{}"))
        self.subscribers.add(queue)
        try:
            await connection.begin(request, 200, {"Content-Type": "application/json"})
            while (event := await connection.unless_left(queue.get())) is not None:
                if not wanted.get("type") or event["Type"] in wanted["type"]:
                    await connection.line_of(event)
        finally:
            self.subscribers.discard(queue)
        await connection.finish(request)
        return False

    def _tell(self, kind: str, action: str, identifier: str, **attributes: str) -> None:
        now = time.time_ns()
        event: dict[str, Any] = {"Type": kind, "Action": action, "Actor": {"ID": identifier, "Attributes": attributes}}
        event |= {"scope": "local", "time": now // 10**9, "timeNano": now}
        for queue in self.subscribers:
            queue.put_nowait(event)

    async def _upgrade(self, request: Request, kind: str) -> bool:
        connection = request.connection
        if request.fields.get("upgrade") != "h2c":
            raise HttpError(500 if kind == "grpc" else 400, "no upgrade proto in request")
        await connection.hijack(request, protocol="h2c")
        if kind == "session":
            await connection.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        while await connection.raw():
            if kind == "grpc":
                await connection.send(b"\0\0\0\4\0\0\0\0\0")  # SETTINGS
                kind = ""
        return False

    # Containers

    def _container(self, reference: str) -> Container:
        found = self.containers.get(reference) or next(
            (each for each in self.containers.values() if each.name == reference.removeprefix("/")), None
        )
        found = found or next((each for key, each in self.containers.items() if key.startswith(reference)), None)
        if found is None:
            raise HttpError(404, f"No such container: {reference}")
        return found

    async def _create(self, request: Request) -> bool:
        config = await request.document()
        name = request.option("name").removeprefix("/") or f"fake_{secrets.token_hex(6)}"
        if not _NAME.fullmatch(name):
            raise HttpError(400, f"Invalid container name ({name}), only {_NAME.pattern[:-1]} are allowed")
        if other := next((each for each in self.containers.values() if each.name == name), None):
            problem = f'The container name "/{name}" is already in use by container "{other.id}".'
            raise HttpError(409, f"Conflict. {problem} You have to remove (or rename) that container")
        image = self._image(str(config.get("Image", "")), "No such image: ")
        container = Container(new_id(), name, config, image, Running(bool(config.get("Tty"))))
        for bind in container.host.get("Binds") or ():
            source = bind.split(":")[0]
            if ":" in bind and not source.startswith("/"):
                container.volumes.append(self._volume(source, {})["Name"])
        for _ in config.get("Volumes") or ():  # type: ignore[attr-defined]
            container.anonymous.append(self._volume(new_id(), {})["Name"])
        self.containers[container.id] = container
        self._tell_container(container, "create")
        return await request.connection.answer(request, 201, {"Id": container.id, "Warnings": []})

    def _tell_container(self, container: Container, action: str, **attributes: str) -> None:
        every = {**attributes, **container.labels, "image": str(container.config["Image"]), "name": container.name}
        self._tell("container", action, container.id, **every)

    async def _list_containers(self, request: Request) -> bool:
        filters = json.loads(request.option("filters", "{}"))
        wanted, identifiers = filters.get("label", ()), filters.get("id", ())
        found = [
            {
                "Id": each.id,
                "Names": [f"/{each.name}"],
                "Command": " ".join(map(str, each.config.get("Cmd") or ())),
                "Image": each.config["Image"],
                "Labels": each.labels,
                "State": each.status,
                "Mounts": [{"Type": "volume", "Name": name} for name in each.volumes + each.anonymous],
            }
            for each in self.containers.values()
            if (each.status == "running" or request.asked("all"))
            and (not identifiers or any(each.id.startswith(identifier) for identifier in identifiers))
            and all((key, value) in each.labels.items() for key, _, value in (text.partition("=") for text in wanted))
        ]
        return await request.connection.answer(request, 200, found)

    async def _inspect_container(self, request: Request, reference: str) -> bool:
        each = self._container(reference)
        mounts = [{"Type": "volume", "Name": name} for name in each.volumes + each.anonymous]
        document = {
            "Id": each.id,
            "Created": CREATED,
            "Name": f"/{each.name}",
            "State": {"Status": each.status, "Running": each.status == "running", "ExitCode": each.process.code},
            "Image": each.image["Id"],
            "HostConfig": each.host,
            "Mounts": mounts,
            "Config": {**each.config, "Labels": each.labels},
        }
        return await request.connection.answer(request, 200, document)

    async def _start(self, request: Request, reference: str) -> bool:
        container = self._container(reference)
        if container.status == "running":
            return await request.connection.answer(request, 304)
        if container.status == "exited":
            container.process = Running(container.process.tty)
        container.status = "running"
        command = [*(container.config.get("Entrypoint") or ()), *(container.config.get("Cmd") or ("sh",))]
        if not container.config.get("OpenStdin"):
            await container.process.stdin.put(b"")

        async def ended() -> None:
            container.status = "exited"
            container.exits += 1
            self._tell_container(container, "die", exitCode=str(container.process.code))
            if container.host.get("AutoRemove"):
                self._forget(container, True)

        container.process.start(command, ended)
        self._tell_container(container, "start")
        return await request.connection.answer(request, 204)

    async def _end(self, request: Request, reference: str, how: str) -> bool:
        container = self._container(reference)
        if container.status != "running":
            if how == "stop":
                return await request.connection.answer(request, 304)
            problem = f"Container {container.id} is not running"
            raise HttpError(409, f"Cannot kill container: {reference}: {problem}")
        if how == "stop":
            # Nothing of it heeds SIGTERM, as the first process of a container does not either by default.
            grace = asyncio.wait(
                (asyncio.create_task(container.process.ended.wait()),), timeout=float(request.option("t", "10"))
            )
            if await request.connection.unless_left(grace) is None:
                return False
        await container.process.stop()
        return await request.connection.answer(request, 204)

    async def _wait(self, request: Request, reference: str) -> bool:
        container, connection = self._container(reference), request.connection
        condition = request.option("condition") or "not-running"
        await connection.begin(request, 200, {"Content-Type": "application/json"})
        if condition == "removed":
            waiting = container.removed
        elif container.status == "running" or condition == "next-exit":
            waiting = container.process.ended
        else:
            waiting = asyncio.Event()
            waiting.set()
        if await connection.unless_left(waiting.wait()):
            await connection.line_of({"Error": None, "StatusCode": container.process.code})
        else:
            await connection.line_of({"Error": {"Message": "context canceled"}, "StatusCode": -1})
        return await connection.finish(request)

    async def _attach(self, request: Request, reference: str) -> bool:
        connection = request.connection
        try:
            container = self._container(reference)
        except HttpError as error:
            head = b"HTTP/1.1 404 Not Found\r\nContent-Type: application/vnd.docker.raw-stream\r\n\r\n"
            await connection.send(head + error.message.encode() + b"\r\n")
            await connection.end_stream()
            return False
        streams = tuple(number for number, name in ((1, "stdout"), (2, "stderr")) if request.asked(name))
        await connection.hijack(request)
        attachment = Attachment(connection, container.process.tty, streams)
        if request.asked("logs"):
            for stream, data in container.process.log:
                await attachment.write(stream, data)
        if request.asked("stream") and container.status != "exited":
            takes = request.asked("stdin") and bool(container.config.get("OpenStdin"))
            once = bool(container.config.get("StdinOnce")) and not container.process.tty
            await self._converse(attachment, container.process, takes, once)
        await connection.end_stream()
        return False

    async def _converse(self, attachment: Attachment, process: Running, takes: bool, once: bool) -> None:
        """Join a client and a process until the process ends or the client is detached."""

        async def read() -> None:
            while data := await attachment.connection.raw():
                if takes:
                    await process.stdin.put(data)
            if takes and once:
                await process.stdin.put(b"")
            elif takes:
                attachment.over.set()

        process.attachments.append(attachment)
        if process.ended.is_set():
            attachment.over.set()
        reading = asyncio.create_task(read())
        try:
            await attachment.over.wait()
        finally:
            process.attachments.remove(attachment)
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    async def _logs(self, request: Request, reference: str) -> bool:
        container, connection = self._container(reference), request.connection
        streams = tuple(number for number, name in ((1, "stdout"), (2, "stderr")) if request.asked(name))
        if not streams:
            raise HttpError(400, "Bad parameters: you must choose at least one stream")
        process = container.process
        await connection.begin(request, 200)
        attachment = Attachment(connection, process.tty, streams, chunked=True)
        for stream, data in list(process.log):
            await attachment.write(stream, data)
        if request.asked("follow") and not process.ended.is_set():
            process.attachments.append(attachment)
            await connection.unless_left(attachment.over.wait())
            process.attachments.remove(attachment)
        return await connection.finish(request)

    async def _remove_container(self, request: Request, reference: str) -> bool:
        container = self._container(reference)
        if container.status == "running":
            if not request.asked("force"):
                problem = "Stop the container before attempting removal or force remove"
                raise HttpError(409, f"You cannot remove a running container {container.id}. {problem}")
            await container.process.stop()
        self._forget(container, request.asked("v"))
        return await request.connection.answer(request, 204)

    def _forget(self, container: Container, volumes: bool) -> None:
        if self.containers.pop(container.id, None) is not None:
            for name in container.anonymous if volumes else ():
                self.volumes.pop(name, None)
                self._tell("volume", "destroy", name, driver="local")
            container.process.ended.set()
            container.removed.set()
            self._tell_container(container, "destroy")

    # Execs

    async def _create_exec(self, request: Request, reference: str) -> bool:
        container = self._container(reference)
        config = await request.document()
        if container.status != "running":
            raise HttpError(409, f"Container {container.id} is not running")
        each = Exec(new_id(), container, config)
        self.execs[each.id] = each
        self._tell_container(container, f"exec_create: {' '.join(config['Cmd'])}", execID=each.id)  # type: ignore[arg-type]
        return await request.connection.answer(request, 201, {"Id": each.id})

    async def _start_exec(self, request: Request, identifier: str) -> bool:
        options = await request.document()
        each, connection = self._exec(identifier), request.connection
        each.process.tty = bool(options.get("Tty"))

        async def ended() -> None:
            self._tell_container(each.container, "exec_die", execID=each.id, exitCode=str(each.process.code))

        async def run() -> None:
            each.process.start(each.config["Cmd"], ended)
            if not each.config.get("AttachStdin"):
                await each.process.stdin.put(b"")

        if options.get("Detach"):
            await run()
            return await connection.answer(request, 200, b"")
        await connection.hijack(request, ENGINE_FIELDS)
        streams = tuple(number for number, name in ((1, "AttachStdout"), (2, "AttachStderr")) if each.config.get(name))
        attachment = Attachment(connection, each.process.tty, streams)
        conversing = asyncio.create_task(
            self._converse(attachment, each.process, bool(each.config.get("AttachStdin")), True)
        )
        await asyncio.sleep(0)
        await run()
        await conversing
        await connection.end_stream()
        return False

    def _exec(self, identifier: str) -> Exec:
        if identifier not in self.execs:
            raise HttpError(404, f"No such exec instance: {identifier}")
        return self.execs[identifier]

    async def _inspect_exec(self, request: Request, identifier: str) -> bool:
        each = self._exec(identifier)
        running = each.process.task is not None and not each.process.ended.is_set()
        code = each.process.code if each.process.ended.is_set() else None
        document = {"ID": each.id, "Running": running, "ExitCode": code, "ContainerID": each.container.id}
        return await request.connection.answer(request, 200, document)

    # Files and images: only their names and sizes are kept

    async def _get_archive(self, request: Request, reference: str) -> bool:
        container, path = self._container(reference), request.option("path")
        if path not in container.files:
            raise HttpError(404, f"Could not find the file {path} in container {reference}")
        return await self._send_tar(request, {os.path.basename(path): container.files[path]})

    async def _put_archive(self, request: Request, reference: str) -> bool:
        container, folder = self._container(reference), request.option("path")
        beginning, _ = await _swallow(request)
        for name, size in _members(beginning):
            container.files[os.path.join(folder, name)] = size
        return await request.connection.answer(request, 200, b"")

    async def _export(self, request: Request, reference: str) -> bool:
        files = {path.removeprefix("/"): size for path, size in self._container(reference).files.items()}
        return await self._send_tar(request, files, "application/octet-stream")

    async def _send_tar(self, request: Request, files: dict[str, int], kind: str = "application/x-tar") -> bool:
        connection = request.connection
        await connection.begin(request, 200, {"Content-Type": kind})
        for name, size in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = size
            await connection.chunk(entry.tobuf())
            left = -(-size // 512) * 512
            while left:
                data = ZEROS[:left]
                left -= len(data)
                await connection.chunk(data)
        await connection.chunk(bytes(1024))
        return await connection.finish(request)

    def _add_image(self, name: str, labels: dict[str, str], size: int = 1024) -> dict[str, Any]:
        name = name if ":" in name.rpartition("/")[2] else f"{name}:latest"
        image = {"Id": f"sha256:{new_id()}", "RepoTags": [name], "Labels": labels or None, "Size": size}
        self.images[name] = image
        return image

    def _image(self, reference: str, missing: str) -> dict[str, Any]:
        name = reference if ":" in reference.rpartition("/")[2] else f"{reference}:latest"
        for key, image in self.images.items():
            if key == name or image["Id"] == reference:
                return image
        raise HttpError(404, f"{missing}{name}")

    async def _build(self, request: Request) -> bool:
        connection = request.connection
        beginning, size = await _swallow(request)
        if not (files := _contents(beginning)):
            raise HttpError(500, "unexpected EOF")
        steps = files.get(request.option("dockerfile", "Dockerfile"), b"").decode().splitlines()
        labels: dict[str, str] = {}
        await connection.begin(request, 200, {"Content-Type": "application/json"})
        for number, step in enumerate(steps, 1):
            await connection.line_of({"stream": f"Step {number}/{len(steps)} : {step}"})
            await connection.line_of({"stream": "\n"})
            if step.startswith("LABEL "):
                labels |= dict(pair.split("=", 1) for pair in step.split()[1:])
        labels |= json.loads(request.option("labels", "{}")) or {}
        image = self._add_image(request.option("t") or hashlib.sha256(beginning).hexdigest(), labels, size)
        await connection.line_of({"aux": {"ID": image["Id"]}})
        await connection.line_of({"stream": f"Successfully built {image['Id'][7:19]}\n"})
        if request.option("t"):
            await connection.line_of({"stream": f"Successfully tagged {image['RepoTags'][0]}\n"})
        return await connection.finish(request)

    async def _load(self, request: Request) -> bool:
        connection = request.connection
        beginning, size = await _swallow(request)
        await connection.begin(request, 200, {"Content-Type": "application/json"})
        manifest = _contents(beginning).get("manifest.json")
        if manifest is None:
            problem = "open manifest.json: no such file or directory"
            await connection.line_of({"errorDetail": {"message": problem}, "error": problem})
        else:
            (name,) = json.loads(manifest)[0]["RepoTags"]
            self._add_image(name, {}, size)
            await connection.line_of({"stream": f"Loaded image: {name}\n"})
        return await connection.finish(request)

    async def _save(self, request: Request) -> bool:
        image = self._image(request.option("names"), "reference does not exist: ")
        manifest = json.dumps([{"RepoTags": image["RepoTags"]}]).encode()
        connection = request.connection
        await connection.begin(request, 200, {"Content-Type": "application/x-tar"})
        entry = tarfile.TarInfo("manifest.json")
        entry.size = len(manifest)
        await connection.chunk(entry.tobuf() + manifest.ljust(512, b"\0"))
        entry = tarfile.TarInfo("layer.tar")
        entry.size = left = -(-image["Size"] // 512) * 512
        await connection.chunk(entry.tobuf())
        while left:
            data = ZEROS[:left]
            left -= len(data)
            await connection.chunk(data)
        await connection.chunk(bytes(1024))
        return await connection.finish(request)

    async def _list_images(self, request: Request) -> bool:
        return await request.connection.answer(request, 200, list(self.images.values()))

    async def _inspect_image(self, request: Request, reference: str) -> bool:
        image = self._image(reference, f"no such image: {reference}: No such image: ")
        document = {**image, "Config": {"Labels": image["Labels"]}}
        return await request.connection.answer(request, 200, document)

    async def _remove_image(self, request: Request, reference: str) -> bool:
        image = self._image(reference, "No such image: ")
        (name,) = image["RepoTags"]
        del self.images[name]
        return await request.connection.answer(request, 200, [{"Untagged": name}, {"Deleted": image["Id"]}])

    # Volumes and networks

    def _volume(self, name: str, labels: dict[str, str]) -> dict[str, Any]:
        if name not in self.volumes:
            volume = {"CreatedAt": CREATED[:19] + "Z", "Driver": "local", "Labels": labels or None}
            volume |= {"Mountpoint": f"/fake/{name}", "Name": name, "Options": None, "Scope": "local"}
            self.volumes[name] = volume
            self._tell("volume", "create", name, driver="local")
        return self.volumes[name]

    async def _create_volume(self, request: Request) -> bool:
        document: dict[str, Any] = await request.document()
        volume = self._volume(document.get("Name") or new_id(), document.get("Labels") or {})
        return await request.connection.answer(request, 201, volume)

    async def _list_volumes(self, request: Request) -> bool:
        document = {"Volumes": list(self.volumes.values()), "Warnings": None}
        return await request.connection.answer(request, 200, document)

    async def _inspect_volume(self, request: Request, name: str) -> bool:
        if name not in self.volumes:
            raise HttpError(404, f"get {name}: no such volume")
        return await request.connection.answer(request, 200, self.volumes[name])

    async def _remove_volume(self, request: Request, name: str) -> bool:
        if name not in self.volumes:
            raise HttpError(404, f"get {name}: no such volume")
        users = [each.id for each in self.containers.values() if name in each.volumes + each.anonymous]
        if users:
            raise HttpError(409, f"remove {name}: volume is in use - {users}".replace("'", ""))
        del self.volumes[name]
        self._tell("volume", "destroy", name, driver="local")
        return await request.connection.answer(request, 204)

    async def _create_network(self, request: Request) -> bool:
        document: dict[str, Any] = await request.document()
        network = {"Name": document["Name"], "Id": new_id(), "Created": CREATED, "Scope": "local", "Driver": "bridge"}
        network["Labels"] = document.get("Labels") or {}
        self.networks[network["Id"]] = network
        self._tell("network", "create", network["Id"], name=network["Name"], type="bridge")
        return await request.connection.answer(request, 201, {"Id": network["Id"], "Warning": ""})

    def _network(self, reference: str) -> dict[str, Any]:
        for network in self.networks.values():
            if reference in (network["Id"], network["Name"]):
                return network
        raise HttpError(404, f"network {reference} not found")

    async def _list_networks(self, request: Request) -> bool:
        return await request.connection.answer(request, 200, list(self.networks.values()))

    async def _inspect_network(self, request: Request, reference: str) -> bool:
        return await request.connection.answer(request, 200, self._network(reference))

    async def _remove_network(self, request: Request, reference: str) -> bool:
        network = self._network(reference)
        del self.networks[network["Id"]]
        self._tell("network", "destroy", network["Id"], name=network["Name"], type="bridge")
        return await request.connection.answer(request, 204)


async def _swallow(request: Request) -> tuple[bytes, int]:
    """Read a body. :returns: its beginning, and its size."""
    beginning, size = bytearray(), 0
    async for data in request.body():
        size += len(data)
        if len(beginning) < HEAD_OF_TAR:
            beginning += data
    return bytes(beginning), size


def _members(beginning: bytes) -> list[tuple[str, int]]:
    """Give the files of a tar of which only the beginning is here."""
    found: list[tuple[str, int]] = []
    with contextlib.suppress(tarfile.TarError), tarfile.open(fileobj=io.BytesIO(beginning)) as archive:
        while entry := archive.next():
            found.append((entry.name, entry.size))
    return found


def _contents(beginning: bytes) -> dict[str, bytes]:
    """Give the files at the beginning of a tar that are there as a whole."""
    found = {}
    with contextlib.suppress(tarfile.TarError), tarfile.open(fileobj=io.BytesIO(beginning)) as archive:
        for entry in archive:
            if entry.isfile() and entry.offset_data + entry.size <= len(beginning):
                file = archive.extractfile(entry)
                assert file is not None
                found[entry.name] = file.read()
    return found


class FakeEngineProcess:
    """A `FakeEngine` in a process of its own.

    :param path: of its unix socket.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path).resolve()
        self.address = f"unix://{self.path}"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> FakeEngineProcess:
        command = [sys.executable, "-m", __name__, str(self.path)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2])
        assert self._process.stdout is not None
        self._process.stdout.readline()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.terminate()
        with self._process:
            pass


if __name__ == "__main__":
    asyncio.run(FakeEngine(sys.argv[1]).serve(lambda: print("listening", flush=True)))  # noqa: T201
