"""Interceptor ``cgroup-parent``: what a job creates is put under one cgroup, whatever its client asks for.

On container create and on classic builds. BuildKit takes no notice of ``cgroupparent`` (the builder in
``daemon/internal/builder-next/builder.go`` doesn't pass it on), services have no such field, execs join a container.
"""

from __future__ import annotations

from typing import Any, Final

import attrs

from docker_tracker.builds import BuildEdit, BuildRequest
from docker_tracker.cgroups import caller_parent, own_parent
from docker_tracker.engine import query
from docker_tracker.engine.document import Document
from docker_tracker.engine.operation import Operation
from docker_tracker.engine.start import check_start
from docker_tracker.errors import BadDocumentError, ConfigurationError, RefusedError
from docker_tracker.exchange import Exchange, Peer, Stage
from docker_tracker.http1.head import RequestHead
from docker_tracker.interceptor import Interceptor, NoSettings, Plugin
from docker_tracker.interfaces import IDaemon, IEngine, IJob
from docker_tracker.own_container import OwnContainer
from docker_tracker.processes import PROC, identify, status

_START: Final = "container_start"
_STAGES: Final = {
    "container_create": Stage.REQUEST_JSON,
    _START: Stage.REQUEST_JSON,
    "image_build": Stage.REQUEST_HEAD,
    "grpc": Stage.BUILD_REQUEST,
}
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
            self._info = info if isinstance(info, dict) else {}
        systemd = self._info.get("CgroupDriver") == "systemd"
        if self.own_of:
            value = own_parent(self.own_of, systemd)
        elif self.wanted == "caller":
            return self._of_caller(peer, systemd)
        else:
            value = await self.own.cgroup_parent(systemd) if self.wanted == "self" else self.wanted
        # daemon/daemon_unix.go: verifyPlatformContainerSettings
        if systemd and (len(value) <= len(".slice") or not value.endswith(".slice")):
            raise RefusedError(
                f"the tracker's cgroup-parent is {value!r}, but the engine uses systemd: it must be a NAME.slice",
                500,
            )
        self._found = value
        return value

    def _of_caller(self, peer: Peer, systemd: bool) -> str:
        proc = self.own.proc
        if not peer.pid:
            raise RefusedError(
                "the cgroup-parent is caller, but this client's process is not known:"
                " connect by a unix socket, from a pid name space that the tracker sees",
                500,
            )
        process = identify(peer, proc)
        security = (self._info or {}).get("SecurityOptions") or ()
        value = (
            "" if process is None else caller_parent(peer.pid, systemd, rootless="name=rootless" in security, proc=proc)
        )
        now = status(peer.pid, proc)
        if process is None or now is None or now.started != process.started:
            raise RefusedError("the cgroup-parent is caller, but the process that connected has ended", 500)
        return value


@attrs.frozen
class CgroupParent(Interceptor):
    """Overwrites the cgroup parent that clients ask for."""

    parent: Parent
    fail_closed = True

    def wants(self, operation: Operation) -> Stage:
        """Ask for the body of a create or a start, and the head of a build."""
        return _STAGES.get(operation.name, Stage.NOTHING)

    async def request_json(self, exchange: Exchange, document: Document) -> Document | None:
        """Set it in the container's HostConfig, and let nobody give another one at the start."""
        if exchange.call.operation.name == _START:
            check_start(document)
            return None
        check_top_level(document)
        parent = await self.parent.get(exchange.peer)
        if document.get("HostConfig", "CgroupParent") == parent:
            return None
        return document.with_value(("HostConfig", "CgroupParent"), parent)

    async def build_request(self, exchange: Exchange, request: BuildRequest) -> BuildEdit | None:
        """Set it as an option of what runs a build's steps."""
        parent = await self.parent.get(exchange.peer)
        if not request.frontend or request.attributes.get(_OPTION) == parent:
            return None
        return BuildEdit(attributes={_OPTION: parent})

    async def request_head(self, exchange: Exchange, head: RequestHead) -> RequestHead | None:
        """Set it in the build's query."""
        path, _, before = head.target.partition("?")
        after = query.replace(before, "cgroupparent", await self.parent.get(exchange.peer))
        return None if after == before else head.with_target(f"{path}?{after}")


def make(settings: NoSettings, job: IJob, daemon: IDaemon) -> CgroupParent:
    """Return the interceptor of a job: what the job was asked to be goes before the daemon's setting.

    :raises ConfigurationError: no cgroup parent is set, or the job has two.
    """
    asked = job.request.cgroup_parent
    if job.request.own_cgroup and asked is not None:
        raise ConfigurationError("cgroup_parent", "the job is to have a cgroup of its own, too: ask for one of them")
    wanted = daemon.settings.cgroup_parent if asked is None else asked
    if wanted is None and not job.request.own_cgroup:
        raise ConfigurationError(
            "cgroup-parent", "the interceptor needs --cgroup-parent: a cgroup path, a slice, self, or caller"
        )
    own_of = job.id if job.request.own_cgroup else ""
    return CgroupParent(Parent(wanted or "", daemon.engine, OwnContainer(daemon.engine, PROC), own_of))


cgroup_parent = Plugin(name="cgroup-parent", make=make)
