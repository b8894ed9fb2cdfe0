"""What plug-ins are built from: an interceptor that does nothing yet, and the plug-in that makes it.

A plug-in module has the two of them (layer: between the interfaces and the rooms)::

    @attrs.frozen
    class Greeting(Interceptor):
        def wants(self, operation: Operation) -> Stage:
            return Stage.STARTED

        def started(self, exchange: Exchange) -> None:
            print(f"hello {exchange.job}")

    greeting = Plugin(name="greeting", make=lambda settings, job, daemon: Greeting())
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import attrs
from twisted.plugin import IPlugin
from zope.interface import implementer

from docker_tracker.builds import BuildEdit, BuildOutcome, BuildRequest
from docker_tracker.engine.document import Document
from docker_tracker.engine.operation import Operation
from docker_tracker.exchange import Answer, Exchange, Outcome, Stage
from docker_tracker.http1.head import RequestHead, ResponseHead
from docker_tracker.interfaces import IDaemon, IInterceptor, IInterceptorPlugin, IJob

_NAME = re.compile(r"[a-z0-9][a-z0-9-]*")


@implementer(IInterceptor)
class Interceptor:
    """Wants nothing and changes nothing: override what is to be different. `IInterceptor` tells what hooks are for."""

    fail_closed: bool = False

    def wants(self, operation: Operation) -> Stage:
        """Return the stages to be called for."""
        return Stage.NOTHING

    def started(self, exchange: Exchange) -> None:
        """The request's head is in."""

    async def request_head(self, exchange: Exchange, head: RequestHead) -> RequestHead | Answer | None:
        """The head is in, no byte of it went to the engine."""
        return None

    async def request_json(self, exchange: Exchange, document: Document) -> Document | Answer | None:
        """The whole JSON body is in."""
        return None

    def response_head(self, exchange: Exchange, head: ResponseHead) -> None:
        """The response's head is in."""

    async def response_json(self, exchange: Exchange, document: Document) -> None:
        """The whole JSON answer is in, and held back."""

    def response_line(self, exchange: Exchange, document: Document) -> None:
        """One line of a JSON stream went by."""

    def stream_data(self, exchange: Exchange, from_client: bool, data: bytes) -> None:
        """Bytes crossed an upgraded stream."""

    def build_call(self, exchange: Exchange, path: str, build: str) -> None:
        """A call of BuildKit's begins."""

    async def build_request(self, exchange: Exchange, request: BuildRequest) -> BuildEdit | None:
        """A request of a build is whole, and the engine did not see it."""
        return None

    async def build_finished(self, exchange: Exchange, request: BuildRequest, outcome: BuildOutcome) -> None:
        """A request of a build is over."""

    def finished(self, exchange: Exchange, outcome: Outcome) -> None:
        """The exchange is over."""

    async def stop(self) -> None:
        """The job ends or the daemon stops."""


@attrs.frozen
class NoSettings:
    """The settings of a plug-in that has none."""


def _check_name(_: Plugin, __: attrs.Attribute[str], name: str) -> None:
    if not _NAME.fullmatch(name):
        raise ValueError(f"a plug-in's name is lower case, digits and dashes, not {name!r}")


@implementer(IInterceptorPlugin, IPlugin)
@attrs.frozen(kw_only=True, eq=False)
class Plugin:
    """A plug-in: put one on the module's level, and `twisted.plugin` finds it.

    :ivar name: What the configuration calls it: lower case, digits and dashes.
    :ivar make: Called as `IInterceptorPlugin.build`.
    :ivar settings: An attrs class; built from the TOML table [interceptor.NAME].
    """

    name: str = attrs.field(validator=_check_name)
    make: Callable[[Any, IJob, IDaemon], IInterceptor]
    settings: type = NoSettings

    def build(self, settings: Any, job: IJob, daemon: IDaemon) -> IInterceptor:
        """Return the interceptor of a job."""
        return self.make(settings, job, daemon)
