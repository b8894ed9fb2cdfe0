"""Refuses containers of an image that is not named with a version: no tag, or the tag "latest"."""

from docker_tracker.engine.document import Document
from docker_tracker.engine.operation import Operation
from docker_tracker.exchange import Answer, Exchange, Stage
from docker_tracker.interceptor import Interceptor, Plugin


class NoLatest(Interceptor):
    fail_closed = True  # if this breaks, nothing is created

    def wants(self, operation: Operation) -> Stage:
        return Stage.REQUEST_JSON if operation.name == "container_create" else Stage.NOTHING

    async def request_json(self, exchange: Exchange, document: Document) -> Answer | None:
        image = str(document.get("Image", default=""))
        tag = image.rpartition("/")[2].partition(":")[2]
        if "@" in image or tag not in ("", "latest"):
            return None  # unchanged
        return Answer.error(
            403, f"the image {image} has no version: name one, as in {image.removesuffix(':latest')}:1.0"
        )


no_latest = Plugin(name="no-latest", make=lambda settings, job, daemon: NoLatest())
