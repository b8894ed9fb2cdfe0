"""A client of a job: a process that makes things of all kinds, and writes down what it was told it has made."""

from __future__ import annotations

import hashlib
import io
import json
import random
import sys
import tarfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

from tests.support.dockerd import IMAGE
from tests.torture.wire import BROKEN, Connection

SLEEP: Final = ["sleep", "1000"]
#: A volume of a stranger, which jobs use.
OTHERS_VOLUME: Final = "stranger-volume"
#: Ends the names of images that stand in archives only.
LOADED: Final = "-loaded:1"
_WAIT_SECONDS: Final = 20.0


class Refused(Exception):
    """An answer that is no success; the act ends."""


class Maker:
    """Makes things over one connection.

    :param socket_path: Of the job.
    :param prefix: Of all names.
    :param answers: The file to which kind and ID of what was made are added, when the answer is there.
    """

    def __init__(self, socket_path: str, prefix: str, answers: Path) -> None:
        self._prefix = prefix
        self._answers = answers
        self._connection = Connection(socket_path)
        self._made = 0

    def act(self, name: str) -> None:
        """Carry out one act, as far as it goes."""
        try:
            ACTS[name](self)
        except BROKEN:
            self._connection.close()
        except Refused:
            pass

    def name(self) -> str:
        """Give a name that nobody has."""
        self._made += 1
        return f"{self._prefix}-{self._made}"

    def ask(self, method: str, target: str, body: Any = None, data: bytes | None = None) -> Any:
        """Send a request. :raises Refused: it was refused."""
        status, answer = self._connection.ask(method, target, body, data)
        if status not in range(200, 300) or "errorDetail" in str(answer):
            raise Refused(f"{method} {target}: {status} {answer}")
        return answer

    def made(self, kind: str, identifier: str) -> str:
        """Write down what an answer told."""
        with self._answers.open("a") as file:
            file.write(json.dumps([kind, identifier]) + "\n")
        return identifier

    def container(self, command: Sequence[str] = SLEEP, start: bool = False, **more: Any) -> str:
        """Make a container."""
        target = f"/containers/create?name={self.name()}"
        # A shell would not heed SIGTERM, and hold up the engine's restarts.
        body = {"Image": IMAGE, "Cmd": [*command], "StopSignal": "SIGKILL", **more}
        made = self.made("container", self.ask("POST", target, body)["Id"])
        if start:
            self.ask("POST", f"/containers/{made}/start")
        return made


def _anonymous(maker: Maker) -> None:
    maker.container(Volumes={"/a": {}, "/b": {}}, Labels={"a": "b"})


def _named(maker: Maker) -> None:
    binds = [f"{maker.name()}:/v", f"{OTHERS_VOLUME}:/o"]
    maker.container(HostConfig={"Binds": binds}, Volumes={"/a": {}})


def _short(maker: Maker) -> None:
    maker.container(["true"], start=True, HostConfig={"AutoRemove": True}, Volumes={"/a": {}})


def _long(maker: Maker) -> None:
    maker.container(start=True, HostConfig={"AutoRemove": True}, Volumes={"/a": {}})


def _always(maker: Maker) -> None:
    # With a time to stop in, as the rounds' configuration gives none: it is asked to end before it is removed.
    maker.container(start=True, StopTimeout=1, HostConfig={"RestartPolicy": {"Name": "always"}})


def _again_and_again(maker: Maker) -> None:
    maker.container(["true"], start=True, HostConfig={"RestartPolicy": {"Name": "always"}})


def _exec(maker: Maker) -> None:
    container = maker.container(start=True)
    made = maker.ask("POST", f"/containers/{container}/exec", {"Cmd": SLEEP})["Id"]
    maker.ask("POST", f"/exec/{made}/start", {"Detach": True})


def _network(maker: Maker) -> None:
    name = maker.name()
    maker.made("network", maker.ask("POST", "/networks/create", {"Name": name})["Id"])
    maker.container(start=True, HostConfig={"NetworkMode": name})


def _volume(maker: Maker) -> None:
    for body in ({"Name": maker.name()}, {}):
        maker.made("volume", maker.ask("POST", "/volumes/create", body)["Name"])


def _build(maker: Maker) -> None:
    name = f"{maker.name()}:1"
    context = tar_of({"Dockerfile": f"FROM scratch\nLABEL a={name}\nLABEL b=1\n".encode()})
    maker.ask("POST", f"/build?{urlencode({'t': name})}", data=context)
    maker.made("image", name)


def _build_untagged(maker: Maker) -> None:
    maker.ask("POST", "/build", data=tar_of({"Dockerfile": f"FROM scratch\nLABEL a={maker.name()}\n".encode()}))


def _commit(maker: Maker) -> None:
    container, name = maker.container(), maker.name()
    made = maker.ask("POST", f"/commit?container={container}&repo={name}&tag=1&comment={name}", {})["Id"]
    maker.made("image", made)


def _tag(maker: Maker) -> None:
    name = maker.name()
    maker.ask("POST", f"/images/{IMAGE}/tag?repo={name}&tag=1")
    maker.made("image", f"{name}:1")


def _import(maker: Maker) -> None:
    name = maker.name()
    maker.ask("POST", f"/images/create?fromSrc=-&repo={name}&tag=1", data=tar_of({"a": name.encode()}))
    maker.made("image", f"{name}:1")


def _load(maker: Maker) -> None:
    name = f"{maker.name()}{LOADED}"
    maker.ask("POST", "/images/load", data=saved_image(name))
    maker.made("image", name)


def _removed(maker: Maker) -> None:
    container = maker.container(Volumes={"/a": {}})
    maker.ask("DELETE", f"/containers/{container}?v=1")


def _plugin(maker: Maker) -> None:
    name = f"{maker.name()}:1"
    about = {"description": name, "interface": {"types": ["docker.dummy/1.0"], "socket": "none.sock"}}
    # Of files that no other one has: Docker 20.10 makes no second one of the same layer.
    files = {"config.json": json.dumps(about).encode(), "rootfs/name": name.encode()}
    maker.ask("POST", f"/plugins/create?name={name}", data=tar_of(files))
    maker.made("plugin", name)


def _secret(maker: Maker) -> None:
    for kind in ("secret", "config"):
        body = {"Name": maker.name(), "Data": "c2VjcmV0"}
        maker.made(kind, maker.ask("POST", f"/{kind}s/create", body)["ID"])


def _service(maker: Maker) -> None:
    name = maker.name()
    network = maker.ask("POST", "/networks/create", {"Name": name, "Driver": "overlay", "Attachable": True})["Id"]
    maker.made("network", network)
    task = {
        "ContainerSpec": {"Image": IMAGE, "Command": SLEEP, "StopSignal": "SIGKILL"},
        "Networks": [{"Target": network}],
    }
    body = {"Name": f"{name}-s", "TaskTemplate": task, "EndpointSpec": {"Mode": "dnsrr"}}
    maker.made("service", maker.ask("POST", "/services/create", body)["ID"])


ACTS: Final[dict[str, Callable[[Maker], None]]] = {
    "anonymous": _anonymous,
    "named": _named,
    "short": _short,
    "long": _long,
    "always": _always,
    "again and again": _again_and_again,
    "exec": _exec,
    "network": _network,
    "volume": _volume,
    "build": _build,
    "build untagged": _build_untagged,
    "commit": _commit,
    "tag": _tag,
    "import": _import,
    "load": _load,
    "removed": _removed,
    "plugin": _plugin,
    "secret": _secret,
    "service": _service,
}

SWARM_ACTS: Final = frozenset({"secret", "service"})


def tar_of(files: dict[str, bytes]) -> bytes:
    """Give a tar of files."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return stream.getvalue()


def saved_image(name: str) -> bytes:
    """Give what ``docker save`` gives for an image of one file, its tag."""
    layer = tar_of({"a": name.encode()})
    config: dict[str, Any] = {"architecture": "amd64", "os": "linux", "config": {}}
    config["rootfs"] = {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]}
    text = json.dumps(config).encode()
    file = f"{hashlib.sha256(text).hexdigest()}.json"
    manifest = json.dumps([{"Config": file, "RepoTags": [name], "Layers": ["layer.tar"]}]).encode()
    return tar_of({"manifest.json": manifest, file: text, "layer.tar": layer})


def main(socket_path: str, prefix: str, acts: Sequence[str], answers: str, stay: bool) -> None:
    """Be a client.

    :param socket_path: Is waited for.
    :param stay: Whether to stay until it is killed, or told to go by a file, or all is over.
    """
    end = time.monotonic() + _WAIT_SECONDS
    while not _is_there(socket_path):
        if time.monotonic() > end:
            raise SystemExit(f"nobody listens on {socket_path}")
        time.sleep(0.01)
    maker = Maker(socket_path, prefix, Path(answers))
    for act in acts:
        maker.act(act)
    Path(f"{answers}.done").touch()
    go = Path(f"{answers}.go")
    while stay and go.parent.exists() and not go.exists():
        time.sleep(0.02)


def run(control: str, job: str, *arguments: Any) -> None:
    """Be ``docker-tracker run`` with a client as its command.

    :param control: The control socket's address.
    :param arguments: Of `main`.
    """
    from docker_tracker.cli.main import main as command_line

    code = f"from tests.torture import client; client.main(*{arguments!r})"
    sys.argv = ["docker-tracker", "--control", control, "run", "--job", job, "--", sys.executable, "-c", code]
    command_line()


def _is_there(socket_path: str) -> bool:
    try:
        with Connection(socket_path) as connection:
            return connection.ask("GET", "/_ping")[0] == 200
    except BROKEN:
        return False


def choose(choice: random.Random, swarm: bool, most: int) -> list[str]:
    """Choose some acts, in an order."""
    possible = [act for act in ACTS if swarm or act not in SWARM_ACTS]
    return choice.sample(possible, choice.randint(2, min(most, len(possible))))
