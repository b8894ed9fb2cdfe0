"""Podman's own API (``/libpod/``) as rows of the catalogue: all that changes something, and what pods are looked up by.

What is not here either only reads, and passes as the operation ``libpod``, or could make what nobody here knows how to
label: that is refused by the interceptor ``labels``. ``pkg/api/server/register_*.go`` of Podman has the routes.

Not here on purpose: ``kube/play`` and ``quadlets`` (what they make stands in YAML and unit files), ``artifacts``,
``images/scp``, ``restore`` (it can make a container from an archive) and ``local/…`` (they read the host's files).
"""

from __future__ import annotations

from typing import Any, Final

from docker_tracker.engine.operation import (
    Effect,
    Identity,
    IdentityPlace,
    LabelPlace,
    LabelSlot,
    Operation,
    RequestBody,
    ResponseBody,
)

PREFIX: Final = "/v4.0.0"
"""What stands before our own calls' paths: Podman serves its own API under a version only."""

_LABELS: Final = (LabelSlot(LabelPlace.BODY, ("labels",)),)
# Both are read, and Labels goes first (pkg/api/handlers/libpod/volumes.go: CreateVolume).
_VOLUME_LABELS: Final = (LabelSlot(LabelPlace.BODY, ("Label",)), LabelSlot(LabelPlace.BODY, ("Labels",)))
_QUERY_LABELS: Final = (LabelSlot(LabelPlace.QUERY_JSON, ("labels",)),)
_IMAGE_LABELS: Final = (LabelSlot(LabelPlace.QUERY_JSON, ("labels",), image=True),)
_CHANGES: Final = (LabelSlot(LabelPlace.QUERY_CHANGES, ("changes",), image=True),)

_CHANGE: Final[dict[str, Any]] = {"effect": Effect.CHANGE, "response": ResponseBody.STREAM}
_JSON_CHANGE: Final[dict[str, Any]] = {**_CHANGE, "request": RequestBody.JSON}
_STREAM_CHANGE: Final[dict[str, Any]] = {**_CHANGE, "request": RequestBody.STREAM}
_REMOVE: Final[dict[str, Any]] = {"effect": Effect.REMOVE}
_PRUNE: Final[dict[str, Any]] = {"effect": Effect.PRUNE}
_RAW: Final[dict[str, Any]] = {
    "effect": Effect.CHANGE,
    "request": RequestBody.STREAM,
    "response": ResponseBody.UPGRADE,
    "hijack": True,
}
_CREATE: Final[dict[str, Any]] = {
    "effect": Effect.CREATE,
    "request": RequestBody.JSON,
    "identity": Identity(IdentityPlace.BODY, "Id"),
}
_IMAGE: Final[dict[str, Any]] = {
    "effect": Effect.CREATE,
    "response": ResponseBody.LINES,
    "identity": Identity(IdentityPlace.LINES),
}


def _rows(source: str, kind: str | None, *rows: tuple[str, str, str, dict[str, Any]]) -> tuple[Operation, ...]:
    """Return the operations of one file of routes; a row is (name, method, path, what is not the usual)."""
    return tuple(
        Operation(
            name=f"libpod_{name}",
            method=method,
            path=f"/libpod{path}",
            **{"kind": kind, "source": f"pkg/api/server/register_{source}.go of Podman", **more},
        )
        for name, method, path, more in rows
    )


LIBPOD_OPERATIONS: Final[tuple[Operation, ...]] = (
    *_rows(
        "containers",
        "container",
        ("container_create", "POST", "/containers/create", {**_CREATE, "labels": _LABELS}),
        ("container_prune", "POST", "/containers/prune", _PRUNE),
        ("container_remove", "DELETE", "/containers/{name}", _REMOVE),
        ("container_archive_put", "PUT", "/containers/{name}/archive", {**_CHANGE, "request": RequestBody.TAR}),
        ("container_attach", "POST", "/containers/{name}/attach", _RAW),
        ("container_checkpoint", "POST", "/containers/{name}/checkpoint", _CHANGE),
        *(
            (f"container_{verb}", "POST", f"/containers/{{name}}/{verb}", _CHANGE)
            for verb in ("init", "kill", "mount", "pause", "rename", "resize", "restart", "start", "stop", "unmount")
        ),
        ("container_unpause", "POST", "/containers/{name}/unpause", _CHANGE),
        ("container_update", "POST", "/containers/{name}/update", _STREAM_CHANGE),
        ("container_wait", "POST", "/containers/{name}/wait", _CHANGE),
    ),
    *_rows(
        "exec",
        "exec",
        ("exec_create", "POST", "/containers/{name}/exec", _CREATE),
        ("exec_start", "POST", "/exec/{id}/start", _RAW),
        ("exec_resize", "POST", "/exec/{id}/resize", _CHANGE),
        ("exec_remove", "POST", "/exec/{id}/remove", _STREAM_CHANGE),
    ),
    *_rows(
        "images",
        "image",
        (
            "image_build",
            "POST",
            "/build",
            {**_IMAGE, "request": RequestBody.TAR, "labels": _IMAGE_LABELS},
        ),
        ("image_commit", "POST", "/commit", {**_IMAGE, "request": RequestBody.STREAM, "labels": _CHANGES}),
        ("image_import", "POST", "/images/import", {**_IMAGE, "request": RequestBody.STREAM, "labels": _CHANGES}),
        ("image_load", "POST", "/images/load", {**_IMAGE, "request": RequestBody.TAR}),
        ("image_pull", "POST", "/images/pull", {**_IMAGE, "request": RequestBody.STREAM}),
        ("image_prune", "POST", "/images/prune", _PRUNE),
        ("image_push", "POST", "/images/{name:.*}/push", _STREAM_CHANGE),
        (
            "image_tag",
            "POST",
            "/images/{name:.*}/tag",
            {
                "effect": Effect.CREATE,
                "response": ResponseBody.NONE,
                "identity": Identity(IdentityPlace.QUERY, "repo"),
            },
        ),
        ("image_untag", "POST", "/images/{name:.*}/untag", _CHANGE),
        ("image_remove_many", "DELETE", "/images/remove", _REMOVE),
        ("image_remove", "DELETE", "/images/{name:.*}", _REMOVE),
    ),
    *_rows(
        "manifest",
        "image",
        ("manifest_push", "POST", "/manifests/{name:.*}/registry/{destination:.*}", _STREAM_CHANGE),
        # …/NAME/push and …/NAME/add, too, from version 4 on (seen on 4.3 and 5.4): there the name is all of it.
        ("manifest_create", "POST", "/manifests/{name:.*}", {**_IMAGE, "request": RequestBody.STREAM}),
        ("manifest_change", "PUT", "/manifests/{name:.*}", _STREAM_CHANGE),
    ),
    *_rows(
        "networks",
        "network",
        ("network_create", "POST", "/networks/create", {**_CREATE, "labels": _LABELS}),
        ("network_prune", "POST", "/networks/prune", _PRUNE),
        ("network_connect", "POST", "/networks/{name}/connect", _JSON_CHANGE),
        ("network_disconnect", "POST", "/networks/{name}/disconnect", _JSON_CHANGE),
        ("network_update", "POST", "/networks/{name}/update", _JSON_CHANGE),
        ("network_remove", "DELETE", "/networks/{name}", _REMOVE),
    ),
    *_rows(
        "pods",
        "pod",
        ("pod_list", "GET", "/pods/json", {}),
        ("pod_inspect", "GET", "/pods/{name}/json", {}),
        ("pod_create", "POST", "/pods/create", {**_CREATE, "labels": _LABELS}),
        ("pod_prune", "POST", "/pods/prune", _PRUNE),
        *(
            (f"pod_{verb}", "POST", f"/pods/{{name}}/{verb}", _CHANGE)
            for verb in ("kill", "pause", "restart", "start", "stop", "unpause")
        ),
        ("pod_remove", "DELETE", "/pods/{name}", _REMOVE),
    ),
    *_rows(
        "secrets",
        "secret",
        (
            "secret_create",
            "POST",
            "/secrets/create",
            {
                "effect": Effect.CREATE,
                "request": RequestBody.STREAM,
                "identity": Identity(IdentityPlace.BODY, "ID"),
                "labels": _QUERY_LABELS,
            },
        ),
        ("secret_remove", "DELETE", "/secrets/{name}", _REMOVE),
    ),
    *_rows(
        "volumes",
        "volume",
        (
            "volume_create",
            "POST",
            "/volumes/create",
            {**_CREATE, "identity": Identity(IdentityPlace.BODY, "Name"), "labels": _VOLUME_LABELS},
        ),
        ("volume_prune", "POST", "/volumes/prune", _PRUNE),
        ("volume_import", "POST", "/volumes/{name}/import", {**_CHANGE, "request": RequestBody.TAR}),
        ("volume_remove", "DELETE", "/volumes/{name}", _REMOVE),
    ),
    *_rows(
        "system",
        None,
        ("system_check", "POST", "/system/check", _CHANGE),
        ("system_prune", "POST", "/system/prune", _PRUNE),  # what went is seen by the engine's events
    ),
)
