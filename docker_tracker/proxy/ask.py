"""Calls interceptors: with a time limit, and with the rule for those that fail."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable
from typing import Any, TypeVar

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from docker_tracker.errors import EngineError, RefusedError, TrackerError
from docker_tracker.exchange import Exchange
from docker_tracker.proxy.plan import Named

log = Logger()

T = TypeVar("T")


def _failed(named: Named, exchange: Exchange, error: Exception) -> RefusedError | None:
    """Log and count a failure once; return the refusal if the interceptor guards, else None: the exchange goes on."""
    if isinstance(error, RefusedError) and named.interceptor.fail_closed:
        return attrs.evolve(error, by=named.name)
    named.counts.interceptor_errors[named.name] += 1
    if isinstance(error, TrackerError):
        log.error(
            "interceptor {name}, exchange {exchange}: {error}", name=named.name, exchange=exchange.id, error=error
        )
        reason = str(error)
    else:
        log.failure("interceptor {name} failed in exchange {exchange}", name=named.name, exchange=exchange.id)
        reason = "it took too long" if isinstance(error, DeferredTimeout) else "the daemon's log says why"
    if not named.interceptor.fail_closed:
        return None
    if isinstance(error, EngineError):
        return RefusedError(reason, error.status, by=named.name)
    return RefusedError(f"docker-tracker's interceptor {named.name} failed: {reason}", 500, by=named.name)


async def ask(
    named: Named,
    hook: Callable[[], Coroutine[Any, Any, T]],
    exchange: Exchange,
    clock: IReactorTime,
    seconds: float,
    is_over: Callable[[], bool],
) -> T | None:
    """Return what a deciding hook returns, or None if it failed and only watches.

    :param is_over: Whether the exchange is, so that the hook was cancelled and did not fail.

    :raises RefusedError: it failed, or was late, and guards.
    :raises CancelledError: the exchange ended meanwhile.
    """
    began = clock.seconds()
    try:
        deferred = Deferred.fromCoroutine(hook())
        if not deferred.called:
            deferred.addTimeout(seconds, clock)
        return await deferred
    except Exception as error:  # the border to others' code: any failure of theirs is handled by one rule
        if isinstance(error, CancelledError) and is_over():
            raise
        refusal = _failed(named, exchange, error)
        if refusal is not None:
            raise refusal from error
        return None
    finally:
        named.counts.interceptor_durations[named.name].add(clock.seconds() - began)


def tell(interceptors: Iterable[Named], hook: str, exchange: Exchange, *arguments: object) -> None:
    """Call a hook of several interceptors that are only told.

    :raises RefusedError: one of them failed and guards; the others were told all the same.
    """
    refusal = None
    for named in interceptors:
        try:
            getattr(named.interceptor, hook)(exchange, *arguments)
        except Exception as error:  # as in `ask`
            refusal = _failed(named, exchange, error) or refusal
    if refusal is not None:
        raise refusal
