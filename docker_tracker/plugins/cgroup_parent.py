"""Interceptor ``cgroup-parent``: what a job creates is put under one cgroup, whatever its client asks for.

On container create, on classic builds, and on those of BuildKit's own protocol, where it is an option of the frontend.
BuildKit behind ``/build?version=2`` takes no notice of ``cgroupparent`` (``daemon/internal/builder-next/builder.go``
doesn't pass it on), services have no such field, execs join a container.
"""

from __future__ import annotations

from typing import Any, Final

import attrs
from twisted.logger import Logger

from docker_tracker.builds import BuildEdit, BuildRequest
from docker_tracker.cgroups import caller_parent, hidden, own_parent, uses_version_2
from docker_tracker.engine import query
from docker_tracker.engine.document import Document
from docker_tracker.engine.identity import is_podman
from docker_tracker.engine.operation import Operation
from docker_tracker.engine.start import check_start
from docker_tracker.errors import BadDocumentError, ConfigurationError, RefusedError
from docker_tracker.exchange import Exchange, Peer, Stage
from docker_tracker.http1.head import RequestHead
from docker_tracker.interceptor import Interceptor, Plugin
from docker_tracker.interfaces import IDaemon, IEngine, IJob
from docker_tracker.job import DEFAULT, check_cgroup_parent, is_slice
from docker_tracker.own_container import OwnContainer
from docker_tracker.processes import PROC, identify, status

log = Logger()

_START: Final = "container_start"
_BUILDS: Final = "grpc"
_STAGES: Final = {
    "container_create": Stage.REQUEST_JSON,
    _START: Stage.REQUEST_JSON,
    "image_build": Stage.REQUEST_HEAD,
    _BUILDS: Stage.BUILD_REQUEST,
    "libpod_container_create": Stage.REQUEST_JSON,
    "libpod_pod_create": Stage.REQUEST_JSON,
    "libpod_image_build": Stage.REQUEST_HEAD,
}
_OWN: Final = "libpod_"  # of Podman's own API, where it stands at the top of the body (pkg/specgen)
_SLICE: Final = ".slice"
_MODES: Final = ("", "default", "enabled", "no-conmon")  # that put a container where it is asked to be
_IGNORED: Final = "the engine's BuildKit takes no notice of the cgroup-parent"
_OPTION: Final = "cgroup-parent"  # of a Dockerfile's frontend (buildkit: ``frontend/dockerui/attr.go``)

# The fields of HostConfig that engines up to 20.10 also read at the top of the body, if there is no HostConfig
# (runconfig/config_unix.go: ContainerConfigWrapper). Those that they read there in any case are not among them
# (getHostConfig: Memory, MemorySwap, CpuShares, CpusetCpus, Cpuset, VolumeDriver), nor is the one that is overridden.
_AT_THE_TOP: Final = (
    *("AutoRemove", "Binds", "BlkioDeviceReadBps", "BlkioDeviceReadIOps", "BlkioDeviceWriteBps"),
    *("BlkioDeviceWriteIOps", "BlkioWeight", "BlkioWeightDevice", "CapAdd", "CapDrop", "Cgroup", "CgroupnsMode"),
    *("ConsoleSize", "ContainerIDFile", "CpuCount", "CpuPercent", "CpuPeriod", "CpuQuota", "CpuRealtimePeriod"),
    *("CpuRealtimeRuntime", "CpusetMems", "DeviceCgroupRules", "DeviceRequests", "Devices", "Dns", "DnsOptions"),
    *("DnsSearch", "ExtraHosts", "GroupAdd", "IOMaximumBandwidth", "IOMaximumIOps", "Init", "IpcMode", "Isolation"),
    *("KernelMemory", "KernelMemoryTCP", "Links", "LogConfig", "MaskedPaths", "MemoryReservation"),
    *("MemorySwappiness", "Mounts", "NanoCpus", "NetworkMode", "OomKillDisable", "OomScoreAdj", "PidMode"),
    *("PidsLimit", "PortBindings", "Privileged", "PublishAllPorts", "ReadonlyPaths", "ReadonlyRootfs"),
    *("RestartPolicy", "Runtime", "SecurityOpt", "ShmSize", "StorageOpt", "Sysctls", "Tmpfs", "UTSMode", "Ulimits"),
    *("UsernsMode", "VolumesFrom"),
)
_BUILDKIT: Final = "2"  # of the parameter ``version`` (api/types/build/build.go: BuilderBuildKit)
_TAKES_IT: Final = 23  # the first release of engines whose BuildKit reads the option

_FOR_BUILDS: Final = ("constant", "job", "off")

_EVEN_EMPTY: Final = ("MaskedPaths", "ReadonlyPaths")  # there an empty array is not the same as none


def _says_nothing(value: Any) -> bool:
    """Whether a value is what Go would have without it: null, false, zero, empty, or made of such."""
    if isinstance(value, dict):
        return all(map(_says_nothing, value.values()))
    return all(map(_says_nothing, value)) if isinstance(value, list) else not value


def check_top_level(document: Document) -> None:
    """Refuse a body that means something else once it has a HostConfig.

    Engines up to 20.10 take the fields from the top of a body without a HostConfig, newer ones pass over them; with the
    HostConfig that we must write, none takes them. To move them would make newer engines do what they don't.

    :raises BadDocumentError: names the field.
    """
    if document.get("HostConfig") is not None:
        return
    for name in _AT_THE_TOP:
        value = document.get(name)
        if value is not None and (name in _EVEN_EMPTY or not _says_nothing(value)):
            raise BadDocumentError(
                f"{name} stands at the top of the body, where engines differ on it: put it in HostConfig"
            )


def _one_of(_: object, __: attrs.Attribute[str], value: str) -> None:
    if value not in _FOR_BUILDS:
        raise ValueError(f"builds must be one of {', '.join(_FOR_BUILDS)}, not {value!r}")


@attrs.frozen
class CgroupParentSettings:
    """The table [interceptor.cgroup-parent].

    :ivar builds: What BuildKit's steps are put under: ``constant``, the daemon's own setting if that is the same for
        all; ``job``, what containers are put under, which costs the build cache that jobs share; ``off``, nothing.
    """

    builds: str = attrs.field(default="constant", validator=_one_of)


@attrs.define(eq=False)
class Parent:
    """The cgroup parent to set, in a form that the engine's cgroup driver takes.

    :ivar wanted: A cgroup path or slice; ``self``: that of the tracker's own container; ``caller``: where the client
        is; "": none was given.
    :ivar own_of: The ID of the job whose own cgroup it is instead, or the empty string.
    """

    wanted: str
    engine: IEngine
    own: OwnContainer
    own_of: str = ""
    _info: dict[str, Any] | None = None
    _found: str | None = None

    async def get(self, peer: Peer) -> str:
        """Return the value; what was found once is kept, what was not found is looked for anew.

        :param peer: Who asks.
        :raises RefusedError: there is none, so that nothing may be created; a 500, for it is the operator's to mend.
        :raises docker_tracker.errors.EngineError: the engine could not be asked.
        """
        if self._found is not None:
            return self._found
        if not self.wanted and not self.own_of:
            raise RefusedError("the tracker's cgroup-parent is set to nothing: set it to a cgroup, or take it out", 500)
        if self._info is None:
            info = await self.engine.get("/info")
            if self.wanted == "caller" and not self.own_of and await self.own.hides_cgroups():
                raise hidden()
            self._info = info if isinstance(info, dict) else {}
        systemd = self._info.get("CgroupDriver") == "systemd"
        if self.own_of:
            value = own_parent(self.own_of, systemd)
        elif self.wanted == "caller":
            return self._of_caller(peer, systemd)
        else:
            value = await self.own.cgroup_parent(systemd) if self.wanted == "self" else self.wanted
        # daemon/daemon_unix.go: verifyPlatformContainerSettings
        if systemd and not is_slice(value):
            raise RefusedError(
                f"the tracker's cgroup-parent is {value!r}, but the engine uses systemd: it must be a NAME.slice",
                500,
            )
        if value is self.wanted:  # of a job, perhaps, that was made before this was looked at
            check_cgroup_parent(value)
        self._found = value
        return value

    @property
    def is_taken_by_builds(self) -> bool:
        """Whether the engine's BuildKit takes a cgroup parent, as far as its version says: known after `get`."""
        major = str((self._info or {}).get("ServerVersion", "")).partition(".")[0]
        return not major.isdecimal() or int(major) >= _TAKES_IT

    def _of_caller(self, peer: Peer, systemd: bool) -> str:
        proc, info = self.own.proc, self._info or {}
        if not peer.pid:
            raise RefusedError(
                "the cgroup-parent is caller, but this client's process is not known:"
                " connect by a unix socket, from a pid name space that the tracker sees",
                500,
            )
        process = identify(peer, proc)
        rootless = "name=rootless" in (info.get("SecurityOptions") or ())
        value = (
            ""
            if process is None
            else caller_parent(peer.pid, systemd, unified=uses_version_2(info), rootless=rootless, proc=proc)
        )
        now = status(peer.pid, proc)
        if process is None or now is None or now.started != process.started:
            raise RefusedError("the cgroup-parent is caller, but the process that connected has ended", 500)
        return value


@attrs.frozen
class CgroupParent(Interceptor):
    """Overwrites the cgroup parent that clients ask for.

    :ivar parent: Of containers, and of the steps of classic builds.
    :ivar of_builds: Of BuildKit's steps; None: it is not ours to say.
    """

    parent: Parent
    of_builds: Parent | None
    fail_closed = True

    def wants(self, operation: Operation) -> Stage:
        """Ask for the body of a create or a start, the head of a classic build, and BuildKit's requests."""
        if operation.name == _BUILDS and self.of_builds is None:
            return Stage.NOTHING
        return _STAGES.get(operation.name, Stage.NOTHING)

    async def request_json(self, exchange: Exchange, document: Document) -> Document | None:
        """Set it in the container's HostConfig, and let nobody give another one at the start."""
        if exchange.call.operation.name == _START:
            check_start(document)
            return None
        if exchange.call.operation.name.startswith(_OWN):
            return await self._podman(exchange, document)
        check_top_level(document)
        parent = await self.parent.get(exchange.peer)
        if document.get("HostConfig", "CgroupParent") == parent:
            return None
        return document.with_value(("HostConfig", "CgroupParent"), parent)

    async def _podman(self, exchange: Exchange, document: Document) -> Document | None:
        if document.get("cgroups_mode", default="") not in _MODES:
            raise RefusedError("cgroups_mode takes the container out of the cgroup that it has to be in", 403)
        parent = await self.parent.get(exchange.peer)
        path = ("cgroup_parent",)
        return None if document.get(*path) == parent else document.with_value(path, parent)

    async def build_request(self, exchange: Exchange, request: BuildRequest) -> BuildEdit | None:
        """Set it as an option of the frontend that puts a build's steps together.

        Steps that a client puts together by itself (LLB) have one of their own, which cannot be changed: their digests
        are all that names them. So to builds it is no boundary.
        """
        if self.of_builds is None or not request.frontend:
            return None
        parent = await self.of_builds.get(exchange.peer)
        if not self.of_builds.is_taken_by_builds:
            exchange.notes["remark"] = _IGNORED
        return None if request.attributes.get(_OPTION) == parent else BuildEdit(attributes={_OPTION: parent})

    async def request_head(self, exchange: Exchange, head: RequestHead) -> RequestHead | None:
        """Set it in the build's query."""
        path, _, before = head.target.partition("?")
        if query.get(before, "version") == _BUILDKIT:
            exchange.notes["remark"] = _IGNORED
        parent = await self.parent.get(exchange.peer)
        # Podman puts a step into that cgroup itself, and runc takes none that others are in (buildah: run_linux.go).
        if not parent.endswith(_SLICE) and is_podman(await self.parent.engine.identity()):
            parent = f"{parent}/build-{exchange.id}"
        after = query.replace(before, "cgroupparent", parent)
        return None if after == before else head.with_target(f"{path}?{after}")


def make(settings: CgroupParentSettings, job: IJob, daemon: IDaemon) -> CgroupParent:
    """Return the interceptor of a job: what the job was asked to be goes before the daemon's setting.

    :raises ConfigurationError: no cgroup parent is set, or the job has two.
    """
    asked = job.request.cgroup_parent
    if job.request.own_cgroup and asked is not None:
        raise ConfigurationError("cgroup_parent", "the job is to have a cgroup of its own, too: ask for one of them")
    constant = daemon.settings.cgroup_parent
    wanted = constant if asked is None else asked
    if wanted is None and not job.request.own_cgroup:
        raise ConfigurationError(
            "cgroup-parent", "the interceptor needs --cgroup-parent: a cgroup path, a slice, self, or caller"
        )
    own_of = job.id if job.request.own_cgroup else ""
    own = OwnContainer(daemon.engine, PROC)
    parent = Parent(wanted or "", daemon.engine, own, own_of)
    of_builds: Parent | None = None
    if settings.builds == "job":
        of_builds = parent
        if job.name == DEFAULT:  # made once, at the start
            log.warn(
                "cgroup-parent: builds is {builds!r}: jobs with different cgroups share no build cache,"
                " as BuildKit keeps the steps of each cgroup apart",
                builds=settings.builds,
            )
    elif settings.builds == "constant" and constant not in (None, "caller"):
        of_builds = Parent(constant, daemon.engine, own) if asked is not None or own_of else parent
    return CgroupParent(parent, of_builds)


cgroup_parent = Plugin(name="cgroup-parent", make=make, settings=CgroupParentSettings)
