"""Interceptor ``labels``: all that a job creates bears the job's labels, and nobody can forge them.

Where an operation takes labels is the catalogue's to say (`LabelSlot`); this is a loop over it. Only volumes that a
container or a service brings along stand elsewhere: in ``Mounts``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any, Final

import attrs

from docker_tracker.builds import BuildEdit, BuildRequest
from docker_tracker.engine import query
from docker_tracker.engine.document import Change, Document, Path, parse_map
from docker_tracker.engine.identity import is_podman
from docker_tracker.engine.operation import LabelPlace, LabelSlot, Operation
from docker_tracker.engine.start import check_start
from docker_tracker.errors import BadDocumentError, BadTargetError, RefusedError
from docker_tracker.exchange import Exchange, Stage
from docker_tracker.http1.head import RequestHead
from docker_tracker.interceptor import Interceptor, Plugin
from docker_tracker.interfaces import IDaemon, IEngine, IJob
from docker_tracker.label_templates import Template, check_listeners, parse_labels, plain_labels

NAME_SPACE: Final = "docker-tracker."
RETAIN: Final = "docker-tracker.retain"  # a client's wish to keep a thing: the one name of ours that it may set

_OF_SERVICES: Final[tuple[Path, ...]] = (("TaskTemplate", "ContainerSpec", "Mounts"),)
_MOUNTS: Final[dict[str, tuple[Path, ...]]] = {
    # Engines up to 20.10 read them at the top, too, if there is no HostConfig (runconfig/config_unix.go).
    "container_create": (("HostConfig", "Mounts"), ("Mounts",)),
    "service_create": _OF_SERVICES,
    "service_update": _OF_SERVICES,
}
_BUILDS: Final = "grpc"  # BuildKit's calls: what labels an image there is not in the catalogue
_START: Final = "container_start"  # could bring a HostConfig along, and volumes in it
_LIBPOD: Final = "libpod"  # of Podman's own API what is not in the catalogue: it may create what cannot be labelled
_READS: Final = ("GET", "HEAD", "DELETE")  # removals are seen by the engine's events
_MORE_STAGES: Final = {_START: Stage.REQUEST_JSON, _LIBPOD: Stage.REQUEST_HEAD, _BUILDS: Stage.BUILD_REQUEST}
_IMAGE_SLOT: Final = LabelSlot(LabelPlace.BODY, ("config", "Labels"), image=True)
_MOST_CONFIGS: Final = 4 * 2**20  # bytes of one request, as of other bodies: all else waits while they are read
_BUILD_LABEL: Final = "label:"  # the prefix of a Dockerfile frontend's options that are labels
_VOLUME_SLOT: Final = LabelSlot(LabelPlace.BODY, ("VolumeOptions", "Labels"))
# An image made of a container inherits the container's labels (daemon/commit.go: merge), and whatever is made of the
# image inherits them in turn. None of that is this job's container: what selects it must not find the image.
_INHERITS: Final = ("container_commit", "libpod_image_commit")
_PULLS: Final = "image_create"  # with fromImage: then it takes no labels (image_routes.go: postImagesCreate)

_IMAGE_LABELS: Final = ("static", "full", "none")
_IMPLICIT: Final = ("record", "mount")
_CREATE: Final = "container_create"
_MOUNTS_SINCE: Final = (1, 25)  # the API's version (docs/api/version-history.md)
# A volume's name (daemon/names/names.go), and where it is mounted. With a mode the engine would label the files for
# SELinux in another way (daemon/volumes_unix.go: setBindModeIfNull), and a Mounts entry knows none.
_NAMED_BIND: Final = re.compile(r"([a-zA-Z0-9][a-zA-Z0-9_.-]+):(/[^:]+)")
# Names of ours in the text of a Dockerfile line, but for the one that is the client's.
_FORGED: Final = re.compile(r"(?!docker-tracker\.retain(?:[\"'\s=]|$))(?i:docker-tracker\.)")
_ESCAPE_DIRECTIVE: Final = re.compile(r"^[^\S\n]*#\s*escape\s*=", re.IGNORECASE | re.MULTILINE)


def _one_of(*values: str) -> Any:
    def check(_: object, field: attrs.Attribute[str], value: str) -> None:
        if value not in values:
            name = field.name.replace("_", "-")
            raise ValueError(f"{name} must be one of {', '.join(values)}, not {value!r}")

    return check


@attrs.frozen
class LabelsSettings:
    """The table [interceptor.labels].

    :ivar image_labels: What images get: ``static``, the operator's labels; ``full``, the job's, too, by names of
        their own; ``none``.
    :ivar implicit_volumes: What becomes of volumes that are named in ``Binds`` and that Docker makes without labels:
        ``record``, they are only recorded; ``mount``, they are asked for in ``Mounts``, with labels, where that means
        exactly the same.
    """

    image_labels: str = attrs.field(default="static", validator=_one_of(*_IMAGE_LABELS))
    implicit_volumes: str = attrs.field(default="record", validator=_one_of(*_IMPLICIT))


def is_ours(name: str) -> bool:
    """Whether a label's name is in our name space, in whatever case, and not the client's to set."""
    return name != RETAIN and name.casefold().startswith(NAME_SPACE)


def quoted(text: str) -> str:
    """Return text as one word that a Dockerfile's parser reads back as it is.

    Between double quotes only these three mean anything (``frontend/dockerfile/shell/lex.go``: processDoubleQuote).
    """
    return '"' + re.sub(r'(["\\$])', r"\\\1", text) + '"'


def change_line(name: str, value: str) -> str:
    """Return the Dockerfile line that sets a label, as ``changes`` takes it; Podman reads only one in a line."""
    return f"LABEL {quoted(name)}={quoted(value)}"


def check_change(change: str) -> None:
    r"""Refuse a client's Dockerfile lines that would forge our labels, or swallow the line that sets them.

    The engine joins all ``changes`` by newlines and parses them as one Dockerfile, ours at the end
    (``daemon/builder/dockerfile/builder.go``: BuildFromConfig; ``frontend/dockerfile/parser/parser.go``: Parse).
    Without this, ``CMD a \`` makes ``CMD a LABEL …`` of both (seen on 20.10). A name that is put together, of variables
    or escapes, can't be seen here, as nothing can in a Dockerfile: an image's labels are for people, not for proof.

    :raises BadTargetError: says which rule it breaks.
    """
    if _FORGED.search(change):
        raise BadTargetError(f"the parameter changes sets a label under {NAME_SPACE}: take it out, the tracker sets it")
    if _ESCAPE_DIRECTIVE.search(change):
        raise BadTargetError("the parameter changes has an escape directive; escape by backslashes")
    lines = [line.strip() for line in change.split("\n")]
    told = [line for line in lines if line and not line.startswith("#")]
    if told and told[-1].endswith("\\"):
        raise BadTargetError("the parameter changes ends in a line continuation; take the last backslash out")


def _without_forged(labels: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in labels.items() if not is_ours(name)}


@attrs.frozen
class Labels(Interceptor):
    """Puts labels on what a job creates.

    :ivar job_labels: Ours, for all but images.
    :ivar image_labels: Ours, for images.
    :ivar operators: The operator's and the job's own, for all; ``on_images`` says whether for images, too.
    :ivar engine: Set if volumes that are named in ``Binds`` are to be asked for in ``Mounts``.
    """

    job_labels: Mapping[str, str]
    image_labels: Mapping[str, str]
    operators: Mapping[str, Template]
    on_images: bool
    engine: IEngine | None = None
    fail_closed = True

    def wants(self, operation: Operation) -> Stage:
        """Ask for what labels stand in by the catalogue, for a start's body, and for Podman's own calls."""
        stages = _MORE_STAGES.get(operation.name, Stage.NOTHING)
        for slot in operation.labels:
            stages |= Stage.REQUEST_JSON if slot.place is LabelPlace.BODY else Stage.REQUEST_HEAD
        return stages

    def _added(self, slot: LabelSlot, exchange: Exchange) -> dict[str, str]:
        if slot.image and not self.on_images:
            return {}
        operators = {name: template.render(exchange) for name, template in self.operators.items()}
        return {**operators, **(self.image_labels if slot.image else self.job_labels)}

    async def request_json(self, exchange: Exchange, document: Document) -> Document | None:
        """Set the labels in the body, and on the volumes in ``Mounts``."""
        if exchange.call.operation.name == _START:
            check_start(document)
            return None
        edited = document
        slots = exchange.call.operation.labels
        # What is in the query overrides the body, and an empty body means more than one with labels
        # (daemon/commit.go): so there the body is cleaned only.
        in_query = any(slot.place is not LabelPlace.BODY for slot in slots)
        for slot in slots:
            if slot.place is LabelPlace.BODY:
                edited = _labelled(edited, slot.path, {} if in_query else self._added(slot, exchange))
        if exchange.call.operation.name == _CREATE and self.engine is not None:
            edited = await self._without_implicit(exchange, edited, self.engine)
        for mounts in _MOUNTS.get(exchange.call.operation.name, ()):
            edited = self._volumes(edited, mounts, exchange)
        return edited if edited.changed else None

    async def _without_implicit(self, exchange: Exchange, document: Document, engine: IEngine) -> Document:
        """Ask for volumes of ``Binds`` in ``Mounts``, if all that is mounted stays what it was."""
        if not _has_mounts(exchange.call.version) or not _can_be_moved(document):
            return document
        if is_podman(await engine.identity()):  # which takes no labels in Mounts
            return document
        return _with_mounts(document)

    def _volumes(self, document: Document, mounts: Path, exchange: Exchange) -> Document:
        entries = document.get(*mounts)
        if not isinstance(entries, list):  # none, or the engine will say what is wrong
            return document
        added = self._added(_VOLUME_SLOT, exchange)
        volumes: list[Any] = []
        changes = list(document.changes)
        for index, entry in enumerate(entries):
            volume = Document(entry, b"")
            if volume.get("Type") == "volume":
                volume = _labelled(volume, _VOLUME_SLOT.path, added)
                changes += [Change((*mounts, index, *each.path), each.old, each.new) for each in volume.changes]
            volumes.append(volume.value)
        if len(changes) == len(document.changes):
            return document
        # One edit for all: one for each would copy the array as often as it is long.
        return attrs.evolve(document.with_value(mounts, volumes), changes=tuple(changes))

    async def build_request(self, exchange: Exchange, request: BuildRequest) -> BuildEdit | None:
        """Label the image that a build makes: as its frontend's options, and in the configs that clients hand back.

        A client that hands back steps of its own (LLB) without a config has no place for labels: the exporter makes
        one up (buildkit: ``exporter/containerimage/writer.go``), and the image is recorded only.

        :raises RefusedError: the image's whole config is given as an exporter's option, or by the way of BuildKit's
            first clients (``frontend/gateway/gateway.go``: Final), where the labels would be lost; or it is too large.
        """
        if request.final:
            raise RefusedError("the build hands back its image in a way that takes no labels: use a newer client", 403)
        forged = next((name for each in request.exporters for name in each.attributes if _is_config(name)), None)
        if forged is not None:
            raise RefusedError(f"the exporter's option {forged[:80]} replaces the image's labels: take it out", 403)
        slot = _IMAGE_SLOT
        wanted = {f"{_BUILD_LABEL}{name}": value for name, value in self._added(slot, exchange).items()}
        options: dict[str, str | None] = {}
        if request.frontend:
            given = [name for name in request.attributes if name.startswith(_BUILD_LABEL)]
            options = {name: None for name in given if is_ours(name.removeprefix(_BUILD_LABEL))}
            options |= wanted
            options = {name: value for name, value in options.items() if request.attributes.get(name) != value}
        if sum(map(len, request.image_configs.values())) > _MOST_CONFIGS:
            raise RefusedError(f"the image's config is larger than {_MOST_CONFIGS // 2**20} MiB", 413)
        configs: dict[str, bytes | None] = {}
        for key, config in request.image_configs.items():
            document = Document.parse(config)
            edited = _labelled(document, ("config", "Labels"), self._added(slot, exchange))
            if edited.changed:
                configs[key] = edited.encode()
        return BuildEdit(attributes=options, image_configs=configs)

    async def request_head(self, exchange: Exchange, head: RequestHead) -> RequestHead | None:
        """Set the labels in the query.

        :raises RefusedError: it is a call of Podman's own API that may create what cannot be labelled.
        """
        if exchange.call.operation.name == _LIBPOD:
            if exchange.received.method not in _READS:
                raise RefusedError(
                    f"what {exchange.call.path[:80]} creates could not be labelled: create it by other calls", 403
                )
            return None
        path, _, before = head.target.partition("?")
        after = before
        for slot in exchange.call.operation.labels:
            if slot.place is LabelPlace.QUERY_JSON:
                after = _with_json(after, slot.path[0], self._added(slot, exchange))
            elif slot.place is LabelPlace.QUERY_CHANGES:
                labels = self._added(slot, exchange)
                if exchange.call.operation.name == _PULLS and query.get(before, "fromImage"):
                    continue
                if exchange.call.operation.name in _INHERITS:
                    labels = {**dict.fromkeys(self.job_labels, ""), **labels}
                after = _with_changes(after, slot.path[0], labels)
        return None if after == before else head.with_target(f"{path}?{after}")


def _has_mounts(version: str | None) -> bool:
    """Whether a version of the API, None for the engine's own, has ``Mounts`` for containers."""
    if version is None:
        return True
    parts = version.split(".")
    return all(part.isdecimal() for part in parts[:2]) and tuple(map(int, parts[:2])) >= _MOUNTS_SINCE


def _can_be_moved(document: Document) -> bool:
    """Whether a create's ``Binds`` name volumes, and nothing else in it gives another sense to them.

    A driver for them would be another one's, and what is mounted at one place twice is refused in ``Binds`` only.
    """
    host = document.get("HostConfig")
    if not isinstance(host, dict) or any(document.get("HostConfig", key) for key in ("VolumeDriver", "Tmpfs")):
        return False
    mounts = document.get("HostConfig", "Mounts")
    return bool(_named_binds(document)) and (mounts is None or isinstance(mounts, list))


def _named_binds(document: Document) -> list[str]:
    binds = document.get("HostConfig", "Binds")
    return [bind for bind in _texts(binds) if _NAMED_BIND.fullmatch(bind)]


def _texts(value: Any) -> list[str]:
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []


def _with_mounts(document: Document) -> Document:
    """Return a create that has its named volumes in ``Mounts``; those with a mode stay in ``Binds``."""
    moved = _named_binds(document)
    binds = [bind for bind in document.get("HostConfig", "Binds") if bind not in moved]
    mounts = []
    for bind in moved:
        name, _, target = bind.partition(":")
        mounts.append({"Type": "volume", "Source": name, "Target": target})
    document = document.with_value(("HostConfig", "Binds"), binds)
    return document.with_value(("HostConfig", "Mounts"), [*document.get("HostConfig", "Mounts", default=[]), *mounts])


def _is_config(option: str) -> bool:
    """Whether an exporter's option replaces an image's config (buildkit: ``exporter/containerimage/exptypes``)."""
    return option.casefold().startswith("containerimage.config")


def _labelled(document: Document, path: Path, added: Mapping[str, str]) -> Document:
    labels = document.get(*path)
    if path[-2:-1] == ("ContainerSpec",) and document.get(*path[:-1]) is None:
        return document  # a service without containers to label: a plug-in, say
    if labels is None:
        return document.with_value(path, dict(added)) if added else document
    if not isinstance(labels, dict):
        raise BadDocumentError(f"{'.'.join(map(str, path))} must be an object of strings")
    new = {**_without_forged(labels), **added}
    return document if new == labels else document.with_value(path, new)


def _with_json(text: str, name: str, added: Mapping[str, str]) -> str:
    given = query.get(text, name) or ""
    labels = parse_map(given.encode("utf-8", "surrogateescape"))
    new = {**_without_forged(labels), **added}
    # Written as one document: the engine's reader and ours can't differ on it any more.
    return text if new == labels else query.replace(text, name, Document.of(new).encode().decode("ascii"))


def _with_changes(text: str, name: str, added: Mapping[str, str]) -> str:
    for change in query.get_all(text, name):
        check_change(change)
    for label, value in added.items():
        text = query.append(text, name, change_line(label, value))
    return text


def make(settings: LabelsSettings, job: IJob, daemon: IDaemon) -> Labels:
    """Return the interceptor of a job.

    :raises docker_tracker.errors.ConfigurationError: a label of the operator's or of the job's own is unusable.
    """
    operators = parse_labels(daemon.settings.labels, job.name, os.environ)
    check_listeners(operators, daemon.settings.listeners)
    operators = {**plain_labels(job.request.labels), **operators}
    identity = {"job-id": job.id, "job": job.name, "instance": daemon.instance}
    full = settings.image_labels == "full"
    return Labels(
        job_labels={NAME_SPACE + name: value for name, value in identity.items()},
        image_labels={f"{NAME_SPACE}image-{name}": value for name, value in identity.items()} if full else {},
        operators=operators,
        on_images=settings.image_labels != "none",
        engine=daemon.engine if settings.implicit_volumes == "mount" else None,
    )


labels = Plugin(name="labels", settings=LabelsSettings, make=make)
