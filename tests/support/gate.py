"""Holds builds at one point, so that a test can end them there: a plug-in, which a tracker takes by ``--plugin-dir``.

The file ``at`` beside it says where: ``connection`` (``POST /grpc``, before the engine is asked), or a step of
`BuildStep`; ``reached`` is made there when a build is held, until ``at`` is gone.
"""

from pathlib import Path

from twisted.internet import reactor
from twisted.internet.task import deferLater

from docker_tracker.builds import BuildEdit, BuildRequest
from docker_tracker.engine.operation import Operation
from docker_tracker.exchange import Answer, Exchange, Stage
from docker_tracker.http1.head import RequestHead
from docker_tracker.interceptor import Interceptor, Plugin

PLACE = Path(__file__).parent


class Gate(Interceptor):
    """The interceptor."""

    def wants(self, operation: Operation) -> Stage:
        """See `IInterceptor.wants`."""
        return Stage.REQUEST_HEAD | Stage.BUILD_REQUEST if operation.name == "grpc" else Stage.NOTHING

    async def request_head(self, exchange: Exchange, head: RequestHead) -> RequestHead | Answer | None:
        """See `IInterceptor.request_head`."""
        await self._pass("connection")
        return None

    async def build_request(self, exchange: Exchange, request: BuildRequest) -> BuildEdit | None:
        """See `IInterceptor.build_request`."""
        if not request.is_probe:
            await self._pass(request.step.value)
        return None

    async def _pass(self, place: str) -> None:
        at = PLACE / "at"
        if at.exists() and at.read_text() == place:
            (PLACE / "reached").touch()
            while at.exists():
                await deferLater(reactor, 0.05)


gate = Plugin(name="gate", make=lambda settings, job, daemon: Gate())
