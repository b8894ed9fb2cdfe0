"""A service that does one thing from its start to its stop. Layer: tracking."""

from __future__ import annotations

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure


class Worker(Service):
    """Runs `work` while it is started; whoever asks it to stop waits for its end.

    :cvar defect: What is logged if the work ends by a fault of ours: it is not begun again.
    """

    log = Logger()
    defect = "the work of a service has ended"

    _working: Deferred[None] | None = None

    async def work(self) -> None:
        """Do it; cancelled at the stop."""
        raise NotImplementedError

    def startService(self) -> None:
        """Begin."""
        super().startService()  # type: ignore[no-untyped-call]
        self._working = Deferred.fromCoroutine(self.work())
        self._working.addErrback(self._ended)

    def stopService(self) -> Deferred[None]:
        """Stop; fires when nothing is done any more."""
        super().stopService()  # type: ignore[no-untyped-call]
        if self._working is None:
            return succeed(None)
        self._working.cancel()
        return self._working

    def _ended(self, failure: Failure) -> None:
        if not failure.check(CancelledError):  # type: ignore[no-untyped-call]
            self.log.failure(self.defect, failure)
