"""A job's plan: which interceptors take part in an operation, at which stage. Computed once, looked up often."""

from __future__ import annotations

from collections.abc import Iterable

import attrs

from docker_tracker.counts import Counts
from docker_tracker.engine.catalogue import OPERATIONS, UNKNOWN
from docker_tracker.engine.operation import Operation, RequestBody, ResponseBody
from docker_tracker.exchange import Stage
from docker_tracker.interfaces import IInterceptor


@attrs.frozen
class Named:
    """An interceptor with the name that the configuration gives it.

    :ivar counts: Where it is counted that it failed.
    """

    name: str
    interceptor: IInterceptor
    counts: Counts = attrs.field(factory=Counts, eq=False, repr=False)


@attrs.frozen
class Steps:
    """The interceptors of one operation, by stage, in order."""

    started: tuple[Named, ...] = ()
    request_head: tuple[Named, ...] = ()
    request_json: tuple[Named, ...] = ()
    response_head: tuple[Named, ...] = ()
    response_json: tuple[Named, ...] = ()
    response_line: tuple[Named, ...] = ()
    stream_data: tuple[Named, ...] = ()
    build_call: tuple[Named, ...] = ()
    build_request: tuple[Named, ...] = ()
    build_finished: tuple[Named, ...] = ()
    finished: tuple[Named, ...] = ()

    @property
    def decides(self) -> bool:
        """Whether the request is held until somebody decided on it."""
        return bool(self.request_head or self.request_json)

    @property
    def builds(self) -> bool:
        """Whether somebody takes part in builds."""
        return bool(self.build_call or self.build_request or self.build_finished)


_OF_BUILDS = Stage.BUILD_CALL | Stage.BUILD_REQUEST | Stage.BUILD_FINISHED
_STAGES = {stage: stage.name.lower() for stage in Stage if stage.name}


class Plan:
    """What a job's interceptors want, operation by operation.

    :param interceptors: In the order of the configuration.
    """

    def __init__(self, interceptors: Iterable[Named]) -> None:
        self.interceptors = tuple(interceptors)
        self._steps = {
            operation: steps for operation in (*OPERATIONS, UNKNOWN) if (steps := self._ask(operation)) is not None
        }

    def steps(self, operation: Operation) -> Steps | None:
        """Return who takes part in an operation; None: nobody does, its traffic is not touched."""
        return self._steps.get(operation)

    def _ask(self, operation: Operation) -> Steps | None:
        wanted: dict[str, list[Named]] = {}
        for named in self.interceptors:
            stages = named.interceptor.wants(operation)
            if operation.request is not RequestBody.JSON:
                stages &= ~Stage.REQUEST_JSON
            if operation.response is not ResponseBody.JSON:
                stages &= ~Stage.RESPONSE_JSON
            if operation.response is not ResponseBody.LINES:
                stages &= ~Stage.RESPONSE_LINE
            if operation.name != "grpc":
                stages &= ~_OF_BUILDS
            for stage in stages:
                wanted.setdefault(_STAGES[stage], []).append(named)
        return Steps(**{stage: tuple(named) for stage, named in wanted.items()}) if wanted else None
