"""What a container's start may carry: nothing.

For versions of the API before 1.24, engines up to 20.10 read a whole HostConfig from its body, binds and cgroup parent
included (``daemon/server/router/container/container_routes.go``: postContainersStart); later versions refuse all bodies
longer than seven bytes.
"""

from __future__ import annotations

from docker_tracker.engine.document import Document
from docker_tracker.errors import BadDocumentError


def check_start(document: Document) -> None:
    """Refuse the body of a container's start, unless it is empty, null or an empty object.

    :raises BadDocumentError: it has something in it.
    """
    if document.value is not None and document.value != {}:
        raise BadDocumentError(
            "a container's start has a body, which old engines take for a HostConfig: "
            "send none, and give the HostConfig at create"
        )
