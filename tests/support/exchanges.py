"""Exchanges and daemons for tests that call interceptors directly."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import attrs

from docker_tracker.engine.recognise import recognise
from docker_tracker.exchange import Exchange, Peer
from docker_tracker.http1.head import RequestHead
from docker_tracker.interfaces import IDaemon, IJob
from docker_tracker.job import JobRequest


def exchange(method: str, target: str, peer: Peer | None = None) -> Exchange:
    """Return an exchange as it is when its head came in."""
    head = RequestHead.parse(f"{method} {target} HTTP/1.1\r\nHost: docker\r\n\r\n".encode())
    return Exchange(
        id=1,
        job_id="id-1",
        job="job-1",
        listener="unix:///s",
        peer=Peer(pid=7, uid=1000, gid=100) if peer is None else peer,
        call=recognise(method, target),
        received=head,
        started=0.0,
    )


@attrs.frozen
class Job:
    """A job, as far as interceptors look at it."""

    id: str = "id-1"
    name: str = "job-1"
    request: JobRequest = attrs.field(factory=lambda: JobRequest(name="job-1"))
    socket: str = ""


@attrs.define
class Engine:
    """An engine that answers GETs from a table; what is not in it is a 404."""

    answers: Mapping[str, Any] = attrs.field(factory=dict)
    asked: list[str] = attrs.field(factory=list)
    address: str = "unix:///engine"
    name: str = "id in /var/lib/docker"

    async def identity(self) -> str:
        return self.name

    async def get(self, path: str, parameters: Mapping[str, str] | None = None) -> Any:
        self.asked.append(path)
        answer = self.answers.get(path)
        if isinstance(answer, Exception):
            raise answer
        return answer


@attrs.frozen
class Listener:
    """A listener, as far as its kind goes."""

    kind: str


@attrs.frozen
class Settings:
    """The part of the settings that interceptors look at."""

    labels: dict[str, str] = attrs.field(factory=dict)
    listeners: tuple[Listener, ...] = (Listener("unix"),)
    cgroup_parent: str | None = None


@attrs.frozen
class Daemon:
    """What a plug-in may use of the daemon, as far as these tests need it."""

    settings: Settings = attrs.field(factory=Settings)
    engine: Engine = attrs.field(factory=Engine)
    instance: str = "instance-1"


def job(socket: str = "", **request: Any) -> IJob:
    """Return a job that is asked to be so."""
    return cast(IJob, Job(request=JobRequest(name="job-1", **request), socket=socket))


def daemon(engine: Engine | None = None, **settings: Any) -> IDaemon:
    """Return a daemon with these settings."""
    return cast(IDaemon, Daemon(settings=Settings(**settings), engine=engine or Engine()))
