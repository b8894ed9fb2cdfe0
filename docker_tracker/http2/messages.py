"""The messages of BuildKit's API that are read: as `docker_tracker.builds` has them, and back.

Field numbers are those of moby/buildkit ``api/services/control/control.proto`` and
``frontend/gateway/pb/gateway.proto``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from docker_tracker.builds import BuildEdit, BuildRequest, BuildStep, Exporter
from docker_tracker.errors import BadGrpcError
from docker_tracker.http2.grpc import MAX_ID
from docker_tracker.http2.protobuf import Message, as_bytes

#: The calls of a build, by their path.
STEPS: Final = {
    "/moby.buildkit.v1.Control/Solve": BuildStep.SOLVE,
    "/moby.buildkit.v1.frontend.LLBBridge/Solve": BuildStep.FRONTEND,
    "/moby.buildkit.v1.frontend.LLBBridge/Return": BuildStep.RESULT,
}

_IMAGE_CONFIG = "containerimage.config"
_ATTRIBUTES = {BuildStep.SOLVE: 7, BuildStep.FRONTEND: 3}


def _is_config(key: str) -> bool:
    return key == _IMAGE_CONFIG or key.startswith(_IMAGE_CONFIG + "/")


def _solve(data: bytes, build: str) -> BuildRequest:
    message = Message(data)
    if len(as_bytes(message.text(1))) > MAX_ID:
        raise BadGrpcError(f"the build's ID is longer than {MAX_ID} bytes")
    exporters = [_exporter(message.part(value), 1, 2) for value in message.values(13)]
    # Engines of BuildKit before 0.13 read the deprecated one only, later ones only if there is no other.
    deprecated = _exporter(message, 3, 4)
    if message.text(3) and deprecated not in exporters:
        exporters.append(deprecated)
    return BuildRequest(
        step=BuildStep.SOLVE,
        build=message.text(1),
        frontend=message.text(6),
        attributes=message.texts(7),
        session=message.text(5),
        exporters=tuple(exporters),
        definition=any(message.values(2)),
    )


def _exporter(message: Message, kind: int, attributes: int) -> Exporter:
    return Exporter(message.text(kind), message.texts(attributes))


def _frontend(data: bytes, build: str) -> BuildRequest:
    message = Message(data)
    return BuildRequest(
        step=BuildStep.FRONTEND,
        build=build,
        frontend=message.text(2),
        attributes=message.texts(3),
        definition=any(message.values(1)),
        final=message.flag(10),
    )


def _result(data: bytes, build: str) -> BuildRequest:
    message = Message(data)
    # Several results are one to the engine, each read by itself: protobuf's rule for messages that stand twice.
    metadata: dict[str, bytes] = {}
    for value in message.values(1):
        metadata |= message.part(value).entries(10)
    return BuildRequest(
        step=BuildStep.RESULT,
        build=build,
        image_configs={key: value for key, value in metadata.items() if _is_config(key)},
        failed=bool(message.values(2)),
    )


_READERS: Final[Mapping[BuildStep, Callable[[bytes, str], BuildRequest]]] = {
    BuildStep.SOLVE: _solve,
    BuildStep.FRONTEND: _frontend,
    BuildStep.RESULT: _result,
}


def read_request(step: BuildStep, data: bytes, build: str) -> BuildRequest:
    """Return what a request's message says.

    :param build: The build's ID of the headers; SOLVE has its own.
    :raises BadGrpcError: it cannot be read as the engine would read it.
    """
    return _READERS[step](data, build)


def edited(step: BuildStep, data: bytes, edit: BuildEdit) -> bytes:
    """Return a request's message with an edit; what the edit does not name keeps its bytes and its place.

    :raises BadGrpcError: the message cannot be read.
    """
    if step in _ATTRIBUTES and edit.attributes:
        data = Message(data).with_entries(_ATTRIBUTES[step], _encoded(edit.attributes))
    if step is BuildStep.SOLVE and edit.exporter_attributes:
        data = _with_exporters(Message(data), _encoded(edit.exporter_attributes))
    if step is BuildStep.RESULT and edit.image_configs:
        data = _with_metadata(Message(data), edit.image_configs)
    return data


def _encoded(changes: Mapping[str, str | None]) -> dict[str, bytes | None]:
    return {key: None if value is None else as_bytes(value) for key, value in changes.items()}


def _with_exporters(message: Message, changes: Mapping[str, bytes | None]) -> bytes:
    exporters = [field for field in message.fields if field.number == 13]
    data = message.replaced({field: message.part(message.value(field)).with_entries(2, changes) for field in exporters})
    return Message(data).with_entries(4, changes) if message.values(3) else data


def _with_metadata(message: Message, changes: Mapping[str, bytes | None]) -> bytes:
    results = [field for field in message.fields if field.number == 1]
    # The time it takes must not grow with results times changes: a client may send ten thousands of both.
    new = {field: message.part(message.value(field)).without_entries(10, changes) for field in results}
    if results:
        new[results[-1]] = message.part(new[results[-1]]).with_entries(10, changes)
    return message.replaced(new)


def read_answer(data: bytes) -> dict[str, str]:
    """Return what the exporters answered (``ExporterResponse`` of a SolveResponse).

    :raises BadGrpcError: it cannot be read.
    """
    return Message(data).texts(1)
