"""Lets jobs build, and keeps them from all else that BuildKit's connection offers: the cache and builds of others."""

from docker_tracker.engine.operation import Operation
from docker_tracker.errors import RefusedError
from docker_tracker.exchange import Exchange, Stage
from docker_tracker.interceptor import Interceptor, Plugin

_ALLOWED = (
    *("/moby.buildkit.v1.Control/Solve", "/moby.buildkit.v1.Control/Status", "/moby.buildkit.v1.Control/ListWorkers"),
    *("/moby.buildkit.v1.Control/Info", "/moby.buildkit.v1.frontend.LLBBridge/"),
    *("/containerd.services.content.v1.Content/", "/opentelemetry.proto.collector.trace.v1.TraceService/"),
)


class OnlyBuilds(Interceptor):
    fail_closed = True

    def wants(self, operation: Operation) -> Stage:
        return Stage.BUILD_CALL if operation.name == "grpc" else Stage.NOTHING

    def build_call(self, exchange: Exchange, path: str, build: str) -> None:
        if not path.startswith(_ALLOWED):
            raise RefusedError(f"{path.rpartition('/')[2]} is not for jobs: ask the operator of this host", 403)


only_builds = Plugin(name="only-builds", make=lambda settings, job, daemon: OnlyBuilds())
