"""Logs exchanges that took long."""

from __future__ import annotations

import attrs
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from docker_tracker.engine.operation import Operation, ResponseBody
from docker_tracker.exchange import Exchange, Outcome, Stage
from docker_tracker.interceptor import Interceptor, Plugin
from docker_tracker.interfaces import IDaemon, IJob


@attrs.frozen
class Settings:
    """The table [interceptor.theirs].

    :ivar longer_than: What takes more seconds than this is logged.
    """

    longer_than: float = attrs.field(default=5.0, validator=attrs.validators.gt(0))


@attrs.frozen
class Theirs(Interceptor):
    """Only watches: if it fails, the exchange goes on."""

    longer_than: float
    clock: IReactorTime
    log = Logger()

    def wants(self, operation: Operation) -> Stage:
        """Called once for each operation; streams are long by nature."""
        streams = (ResponseBody.STREAM, ResponseBody.LINES, ResponseBody.UPGRADE)
        return Stage.NOTHING if operation.response in streams else Stage.FINISHED

    def finished(self, exchange: Exchange, outcome: Outcome) -> None:
        """Called exactly once for each exchange."""
        seconds = self.clock.seconds() - exchange.started
        if seconds > self.longer_than:
            self.log.info(
                "{operation} took {seconds:.1f} s: {outcome}",
                operation=exchange.call.operation.name,
                seconds=seconds,
                outcome=outcome.value,
            )


def make(settings: Settings, job: IJob, daemon: IDaemon) -> Theirs:
    """Return the interceptor of a job."""
    return Theirs(settings.longer_than, daemon.clock)


theirs = Plugin(name="theirs", settings=Settings, make=make)
