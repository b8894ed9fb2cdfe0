"""The ways to create: what is done, and what it must lead to."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import attrs

from docker_tracker.engine.reference import familiar
from tests.engines.place import CGROUP, IMAGE, Place, WayError, until

VOLUME_IMAGE = "docker-tracker-conformance:volume"
SLEEP = ["sleep", "600"]
PLUGIN = {"description": "x", "interface": {"types": ["docker.dummy/1.0"], "socket": "x.sock"}, "entrypoint": ["/x"]}
PLUGIN |= {"network": {"type": "none"}, "linux": {"capabilities": []}}
POD = {"infra_image": IMAGE, "infra_command": SLEEP}


@attrs.frozen
class Thing:
    """What a way has led to.

    :ivar kind, reference: As the engine knows it.
    :ivar labelled: Whether a label is looked for on it: an exec takes none.
    """

    kind: str
    reference: str
    labelled: bool = True


@attrs.frozen
class Made:
    """What came of a way.

    :ivar things: All that it led to.
    :ivar cgroup: Whether its steps ran below the cgroup parent; None: it has no steps.
    """

    things: tuple[Thing, ...]
    cgroup: bool | None = None


@attrs.frozen(kw_only=True)
class Way:
    """A way to create.

    :ivar name: As the page has it.
    :ivar make: Does it.
    :ivar needs: What the engine must have: ``docker``, ``podman``, ``swarm``, ``cli``, ``buildx``, ``compose``.
    :ivar interceptors: The job's own settings of them.
    """

    name: str
    make: Callable[[Place], Made]
    needs: frozenset[str] = frozenset()
    interceptors: Mapping[str, Mapping[str, str]] = attrs.field(factory=dict)


def archive(**files: str | bytes) -> bytes:
    """Return a tar archive; a double underscore in a name stands for a slash."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name, text in files.items():
            content = text.encode() if isinstance(text, str) else text
            entry = tarfile.TarInfo(name.replace("__", "/"))
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return stream.getvalue()


def create(place: Place, name: str = "c", version: str = "", image: str = IMAGE, **body: Any) -> str:
    """Create a container. :returns: its ID."""
    path = f"{version}/containers/create?name={place.mark}-{name}"
    answer = place.api("POST", path, {"Image": image, "Cmd": SLEEP, "StopTimeout": 0, **body})
    return str(answer["Id"])


def mounted(place: Place, container: str) -> list[Thing]:
    """Return the volumes that a container has."""
    document = place.engine.has("container", container)
    return [Thing("volume", mount["Name"]) for mount in document["Mounts"] if mount["Type"] == "volume"]


def image_id(place: Place, name: str) -> str:
    """Return the ID of an image."""
    document = place.engine.has("image", name)
    if document is None:
        raise WayError(f"there is no image {name}")
    identifier = str(document["Id"])
    return identifier if identifier.startswith("sha256:") else f"sha256:{identifier}"


def image(place: Place, name: str) -> tuple[Thing, ...]:
    """Return an image and its tag."""
    return Thing("image", image_id(place, name)), Thing("image", name)


def _container(place: Place) -> Made:
    container = create(place)
    place.api("POST", f"/containers/{container}/start")
    return Made((Thing("container", container),))


def _copied(place: Place) -> Made:
    container = create(place)
    place.api("PUT", f"/containers/{container}/archive?path=/", data=archive(file="x"))
    return Made((Thing("container", container),))


def _with_volumes(**body: Any) -> Callable[[Place], Made]:
    def make(place: Place) -> Made:
        text = json.dumps(body).replace("MARK", place.mark)
        container = create(place, **json.loads(text))
        found = mounted(place, container)
        if not found:
            raise WayError("the container has no volume")
        return Made((Thing("container", container), *found))

    return make


def _image_volume(place: Place) -> Made:
    recipe = f"FROM {IMAGE}\nVOLUME /data\n"
    status, answer = place.engine.api("POST", f"/build?t={VOLUME_IMAGE}", data=archive(Dockerfile=recipe))
    if status != 200:
        raise WayError(f"no image with a volume: {answer}")
    container = create(place, image=VOLUME_IMAGE)
    return Made((Thing("container", container), *mounted(place, container)))


def _exec(place: Place) -> Made:
    container = create(place)
    place.api("POST", f"/containers/{container}/start")
    answer = place.api("POST", f"/containers/{container}/exec", {"Cmd": SLEEP})
    return Made((Thing("container", container), Thing("exec", answer["Id"], labelled=False)))


def _volume(place: Place) -> Made:
    return Made((Thing("volume", place.api("POST", "/volumes/create", {"Name": f"{place.mark}-v"})["Name"]),))


def _network(place: Place) -> Made:
    return Made((Thing("network", place.api("POST", "/networks/create", {"Name": f"{place.mark}-n"})["Id"]),))


def _commit(place: Place) -> Made:
    container = create(place)
    name = f"{place.mark}-committed:1"
    place.api("POST", f"/commit?container={container}&repo={place.mark}-committed&tag=1", {})
    return Made((Thing("container", container), *image(place, name)))


def _import(place: Place) -> Made:
    name = f"{place.mark}-imported"
    parameters = f"fromSrc=-&repo={name}&tag=latest"
    place.api("POST", f"/images/create?{parameters}", data=archive(file=place.mark))
    return Made(image(place, f"{name}:latest"))


def _load(place: Place) -> Made:
    name = f"{place.mark}-loaded:1"
    config = json.dumps({"architecture": "amd64", "os": "linux", "config": {"Env": [place.mark]}, "rootfs": {}})
    layer = archive(file=place.mark)
    rootfs = {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]}
    config = json.dumps({**json.loads(config), "rootfs": rootfs})
    manifest = json.dumps([{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}])
    files: dict[str, str | bytes] = {"config.json": config, "layer.tar": layer, "manifest.json": manifest}
    place.api("POST", "/images/load", data=archive(**files))
    tag = familiar(place.engine.has("image", name)["RepoTags"][0])  # Podman loads it as one of localhost
    return Made(tuple(attrs.evolve(thing, labelled=False) for thing in image(place, tag)))


def _tag(place: Place) -> Made:
    place.api("POST", f"/images/{IMAGE}/tag?repo={place.mark}-tag&tag=1")
    return Made((Thing("image", f"{place.mark}-tag:1", labelled=False),))


def _recipe(place: Place) -> str:
    return f"FROM {IMAGE}\nRUN cat /proc/self/cgroup && echo {place.mark} > /file\n"


def _build(place: Place) -> Made:
    name = f"{place.mark}-built:1"
    answer = place.api("POST", f"/build?t={name}", data=archive(Dockerfile=_recipe(place)))
    return Made(image(place, name), CGROUP in str(answer))


def _build_by_cli(*words: str, buildkit: str = "1") -> Callable[[Place], Made]:
    def make(place: Place) -> Made:
        name = f"{place.mark}-built:1"
        place.write("Dockerfile", _recipe(place))
        target = json.dumps({"target": {"default": {"tags": [name]}}})
        place.write("bake.json", target)
        more = ["--file=bake.json"] if words[-1] == "bake" else [f"--tag={name}", "."]
        output = place.cli(*words, "--progress=plain", *more, DOCKER_BUILDKIT=buildkit)
        return Made(image(place, name), CGROUP in output)

    return make


def _compose(place: Place) -> Made:
    project = _write_project(place)
    place.cli("compose", "-p", project, "up", "--detach", "--build")
    return _of_compose(place, project)


def _compose_inside(place: Place) -> Made:
    """Have compose up by a container that has the engine's socket mounted, for which it gets its job's."""
    project = _write_project(place)
    settings = place.directory / "config"
    settings.mkdir(exist_ok=True)
    plugins = Path(place.engine.environment.get("DOCKER_CONFIG", "~/.docker")).expanduser() / "cli-plugins"
    if plugins.exists() and not (settings / "cli-plugins").exists():
        (settings / "cli-plugins").symlink_to(plugins)
    client = Path(place.engine.cli)  # with all that it needs in the folder above its own, or in the system's
    mounts = [f"{path}:{path}:ro" for path in (client.parents[1], "/lib", "/lib64")]
    mounts += [f"{place.directory}:{place.directory}", "/var/run/docker.sock:/var/run/docker.sock"]
    options = ["--rm", *(f"--volume={mount}" for mount in mounts), f"--workdir={place.directory}"]
    command = [str(client), "compose", "-p", project, "up", "--detach", "--build"]
    place.cli("run", *options, f"--env=DOCKER_CONFIG={settings}", IMAGE, *command)
    return _of_compose(place, project)


def _write_project(place: Place) -> str:
    place.write("Dockerfile", f"FROM {IMAGE}\nLABEL of={place.mark}\n")
    service = {"build": ".", "command": SLEEP, "stop_grace_period": "0s", "volumes": ["data:/data"]}
    place.write("compose.yaml", json.dumps({"services": {"web": service}, "volumes": {"data": {}}}))
    return f"{place.mark}p"


def _of_compose(place: Place, project: str) -> Made:
    found = place.engine.api("GET", f"/containers/json?all=1&{_of_project(project)}")[1]
    networks = place.engine.api("GET", f"/networks?{_of_project(project)}")[1]
    things = [Thing("container", each["Id"]) for each in found]
    things += [Thing("network", each["Id"]) for each in networks]
    return Made((*things, Thing("volume", f"{project}_data"), *image(place, f"{project}-web:latest")))


def _of_project(name: str, label: str = "com.docker.compose.project") -> str:
    return urlencode({"filters": json.dumps({"label": [f"{label}={name}"]})})


def _service(place: Place) -> Made:
    mount = {"Type": "volume", "Source": f"{place.mark}-sv", "Target": "/v"}
    container = {"Image": IMAGE, "Command": SLEEP, "StopGracePeriod": 0, "Mounts": [mount]}
    body = {"Name": f"{place.mark}-s", "TaskTemplate": {"ContainerSpec": container}, "EndpointSpec": {"Mode": "dnsrr"}}
    service = place.api("POST", "/services/create", body)["ID"]
    return Made((Thing("service", service), *_tasks(place, service), Thing("volume", f"{place.mark}-sv")))


def _tasks(place: Place, service: str) -> list[Thing]:
    """Wait for the container of a service's task."""
    found: list[Thing] = []

    def there() -> bool:
        listing = place.engine.api("GET", f"/containers/json?{_of_project(service, 'com.docker.swarm.service.id')}")[1]
        found[:] = [Thing("container", each["Id"]) for each in listing]
        return bool(found)

    if not until(there, 40):
        raise WayError("the service's task did not come")
    return found


def _swarm_thing(kind: str) -> Callable[[Place], Made]:
    def make(place: Place) -> Made:
        body = {"Name": f"{place.mark}-{kind}", "Data": base64.b64encode(b"x").decode()}
        return Made((Thing(kind, place.api("POST", f"/{kind}s/create", body)["ID"]),))

    return make


def _stack(place: Place) -> Made:
    service: dict[str, Any] = {
        "image": IMAGE,
        "command": SLEEP,
        "stop_grace_period": "0s",
        "configs": ["conf"],
        "networks": ["net"],
    }
    service["deploy"] = {"endpoint_mode": "dnsrr"}
    place.write("conf", place.mark)
    stack = {"version": "3.8", "services": {"web": service}, "networks": {"net": {}}}
    place.write("stack.json", json.dumps({**stack, "configs": {"conf": {"file": "./conf"}}}))
    place.cli("stack", "deploy", "--resolve-image=never", "-c", "stack.json", place.mark)
    of_stack = _of_project(place.mark, "com.docker.stack.namespace")
    things = []
    for kind in ("service", "config", "network"):
        listing = place.engine.api("GET", f"/{kind}s?{of_stack}")[1]
        things += [Thing(kind, each.get("ID") or each["Id"]) for each in listing]
    services = [thing.reference for thing in things if thing.kind == "service"]
    return Made((*things, *(task for service in services for task in _tasks(place, service))))


def _plugin(place: Place) -> Made:
    name = f"{place.mark}-plugin"
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        text = json.dumps(PLUGIN).encode()
        entry = tarfile.TarInfo("config.json")
        entry.size = len(text)
        tar.addfile(entry, io.BytesIO(text))
        folder = tarfile.TarInfo("rootfs")
        folder.type, folder.mode = tarfile.DIRTYPE, 0o755
        tar.addfile(folder)
    place.api("POST", f"/plugins/create?name={name}", data=stream.getvalue())
    return Made((Thing("plugin", f"{name}:latest", labelled=False),))


def _version(place: Place) -> Made:
    """All that takes labels, in the words of the oldest version that all engines have."""
    old = "/v1.24"
    container = create(place, version=old)
    volume = place.api("POST", f"{old}/volumes/create", {"Name": f"{place.mark}-v"})["Name"]
    network = place.api("POST", f"{old}/networks/create", {"Name": f"{place.mark}-n"})["Id"]
    name = f"{place.mark}-built:1"
    place.api("POST", f"{old}/build?t={name}", data=archive(Dockerfile=_recipe(place)))
    things = (Thing("container", container), Thing("volume", volume), Thing("network", network))
    return Made((*things, *image(place, name)))


def _own(path: str) -> str:
    return f"/v4.0.0/libpod{path}"


def _own_container(place: Place) -> Made:
    volumes = [{"Name": f"{place.mark}-v", "Dest": "/v"}, {"Dest": "/w", "IsAnonymous": True}]
    body = {"name": f"{place.mark}-c", "image": IMAGE, "command": SLEEP, "stop_timeout": 0, "volumes": volumes}
    container = place.api("POST", _own("/containers/create"), body)["Id"]
    return Made((Thing("container", container), *mounted(place, container)))


def _own_pod(place: Place) -> Made:
    body = {"name": f"{place.mark}-p", **POD, "volumes": [{"Name": f"{place.mark}-v", "Dest": "/v"}]}
    pod = place.api("POST", _own("/pods/create"), body)["Id"]
    container = {"name": f"{place.mark}-c", "image": IMAGE, "command": SLEEP, "stop_timeout": 0, "pod": pod}
    found = place.api("POST", _own("/containers/create"), container)["Id"]
    place.api("POST", _own(f"/pods/{pod}/start"))
    return Made((Thing("container", found), Thing("pod", pod), Thing("volume", f"{place.mark}-v")))


def _own_things(place: Place) -> Made:
    volume = place.api("POST", _own("/volumes/create"), {"Name": f"{place.mark}-v"})["Name"]
    network = place.api("POST", _own("/networks/create"), {"name": f"{place.mark}-n"})["id"]
    secret = place.api(
        *("POST", _own(f"/secrets/create?name={place.mark}-s")), data=b"x", content_type="application/octet-stream"
    )["ID"]
    return Made((Thing("volume", volume), Thing("network", network), Thing("secret", secret)))


def _own_build(place: Place) -> Made:
    name = f"localhost/{place.mark}-built:1"
    answer = place.api("POST", _own(f"/build?t={quote(name)}"), data=archive(Dockerfile=_recipe(place)))
    return Made(image(place, name), CGROUP in str(answer))


def _own_commit(place: Place) -> Made:
    container = create(place)
    name = f"{place.mark}-committed"
    place.api("POST", _own(f"/commit?container={container}&repo={name}&tag=1"))
    return Made((Thing("container", container), *image(place, f"localhost/{name}:1")))


def _own_import(place: Place) -> Made:
    name = f"{place.mark}-imported:1"
    place.api("POST", _own(f"/images/import?reference={name}"), data=archive(file=place.mark))
    return Made(image(place, f"localhost/{name}"))


def _own_run(place: Place) -> Made:
    name = f"{place.mark}-r"
    place.cli("--remote", "--url", f"unix://{place.socket}", "run", "-d", f"--name={name}", "--init=false",
              "--stop-timeout=0", "-v", f"{place.mark}-v:/v", IMAGE, *SLEEP)  # fmt: skip
    document = place.engine.has("container", name)
    return Made((Thing("container", document["Id"]), *mounted(place, name)))


_NAMED = {"HostConfig": {"Mounts": [{"Type": "volume", "Source": "MARK-v", "Target": "/v"}]}}
_DOCKER, _PODMAN, _SWARM = frozenset({"docker"}), frozenset({"podman"}), frozenset({"docker", "swarm"})

WAYS: tuple[Way, ...] = (
    Way(name="container", make=_container),
    Way(name="container, copied into", make=_copied),
    Way(name="container, named volume (Mounts)", make=_with_volumes(**_NAMED)),
    Way(
        name="container, anonymous volume (Mounts)",
        make=_with_volumes(HostConfig={"Mounts": [{"Type": "volume", "Target": "/v"}]}),
    ),
    Way(name="container, named volume (Binds)", make=_with_volumes(HostConfig={"Binds": ["MARK-v:/v"]})),
    Way(
        name="container, named volume (Binds), mounted",
        make=_with_volumes(HostConfig={"Binds": ["MARK-v:/v"]}),
        interceptors={"labels": {"implicit-volumes": "mount"}},
    ),
    Way(name="container, anonymous volume (Volumes)", make=_with_volumes(Volumes={"/v": {}})),
    Way(name="container, volume of its image", make=_image_volume),
    Way(name="exec", make=_exec),
    Way(name="volume", make=_volume),
    Way(name="network", make=_network),
    Way(name="commit", make=_commit),
    Way(name="import", make=_import),
    Way(name="load", make=_load),
    Way(name="tag", make=_tag),
    Way(name="classic build", make=_build),
    Way(name="docker build (BuildKit)", make=_build_by_cli("build"), needs=_DOCKER | {"cli", "buildkit"}),
    Way(name="docker buildx build", make=_build_by_cli("buildx", "build"), needs=_DOCKER | {"cli", "buildx"}),
    Way(name="docker buildx bake", make=_build_by_cli("buildx", "bake"), needs=_DOCKER | {"cli", "buildx"}),
    Way(name="docker compose up --build", make=_compose, needs=_DOCKER | {"cli", "compose"}),
    Way(name="docker compose up --build, in a container", make=_compose_inside, needs=_DOCKER | {"cli", "compose"}),
    Way(name="plugin", make=_plugin, needs=_DOCKER),
    Way(name="secret", make=_swarm_thing("secret"), needs=_SWARM),
    Way(name="config", make=_swarm_thing("config"), needs=_SWARM),
    Way(name="service", make=_service, needs=_SWARM),
    Way(name="docker stack deploy", make=_stack, needs=_SWARM | {"cli"}),
    Way(name="all of API 1.24", make=_version),
    Way(name="libpod: container, with volumes", make=_own_container, needs=_PODMAN),
    Way(name="libpod: pod, with a container and a volume", make=_own_pod, needs=_PODMAN),
    Way(name="libpod: volume, network, secret", make=_own_things, needs=_PODMAN),
    Way(name="libpod: build", make=_own_build, needs=_PODMAN),
    Way(name="libpod: commit", make=_own_commit, needs=_PODMAN),
    Way(name="libpod: import", make=_own_import, needs=_PODMAN),
    Way(name="podman --remote run", make=_own_run, needs=_PODMAN | {"cli"}),
)
