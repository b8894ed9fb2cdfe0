"""The Engine API in two tables: what can be asked, and what kinds of things there are.

The order is that in which dockerd registers its routes (``daemon/command/daemon.go``: ``buildRouters``), for the first
that matches wins. The paths are its own patterns, without the version prefix.
"""

from __future__ import annotations

from typing import Any, Final

from docker_tracker.engine.libpod import LIBPOD_OPERATIONS
from docker_tracker.engine.operation import (
    Effect,
    Identity,
    IdentityPlace,
    LabelPlace,
    LabelSlot,
    Operation,
    RequestBody,
    ResourceKind,
    ResponseBody,
)

_LABELS: Final = LabelSlot(LabelPlace.BODY, ("Labels",))
_SERVICE_LABELS: Final = (_LABELS, LabelSlot(LabelPlace.BODY, ("TaskTemplate", "ContainerSpec", "Labels")))
_CHANGES: Final = LabelSlot(LabelPlace.QUERY_CHANGES, ("changes",), image=True)
_BODY_ID: Final = Identity(IdentityPlace.BODY, "Id")
_BODY_CAPITAL_ID: Final = Identity(IdentityPlace.BODY, "ID")
_IN_LINES: Final = Identity(IdentityPlace.LINES)

_JSON_REQUEST: Final[dict[str, Any]] = {"request": RequestBody.JSON}
_NO_ANSWER: Final[dict[str, Any]] = {"response": ResponseBody.NONE}
_STREAM_ANSWER: Final[dict[str, Any]] = {"response": ResponseBody.STREAM}
_LINES_ANSWER: Final[dict[str, Any]] = {"response": ResponseBody.LINES}
_UPGRADE: Final[dict[str, Any]] = {"response": ResponseBody.UPGRADE, "effect": Effect.CHANGE}
_CHANGE: Final[dict[str, Any]] = {"effect": Effect.CHANGE, **_NO_ANSWER}
_REMOVE: Final[dict[str, Any]] = {"effect": Effect.REMOVE, **_NO_ANSWER}
_PRUNE: Final[dict[str, Any]] = {"effect": Effect.PRUNE}
_CREATE: Final[dict[str, Any]] = {"effect": Effect.CREATE, **_JSON_REQUEST}


def _rows(source: str, kind: str | None, *rows: tuple[str, str, str, dict[str, Any]]) -> tuple[Operation, ...]:
    """Return the operations of one router file; a row is (name, method, path, what is not the usual)."""
    path = f"daemon/server/router/{source}.go"
    return tuple(
        Operation(name=name, method=method, path=pattern, **{"kind": kind, "source": path, **more})
        for name, method, pattern, more in rows
    )


_CHECKPOINTS: Final = _rows(
    "checkpoint/checkpoint",
    None,
    ("checkpoint_list", "GET", "/containers/{name:.*}/checkpoints", {}),
    ("checkpoint_create", "POST", "/containers/{name:.*}/checkpoints", {**_CHANGE, **_JSON_REQUEST}),
    ("checkpoint_remove", "DELETE", "/containers/{name}/checkpoints/{checkpoint}", _CHANGE),
)

_CONTAINERS: Final = _rows(
    "container/container",
    "container",
    ("container_archive_info", "HEAD", "/containers/{name:.*}/archive", _NO_ANSWER),
    ("container_list", "GET", "/containers/json", {}),
    ("container_export", "GET", "/containers/{name:.*}/export", _STREAM_ANSWER),
    ("container_changes", "GET", "/containers/{name:.*}/changes", {}),
    ("container_inspect", "GET", "/containers/{name:.*}/json", {}),
    ("container_top", "GET", "/containers/{name:.*}/top", {}),
    ("container_logs", "GET", "/containers/{name:.*}/logs", _STREAM_ANSWER),
    ("container_stats", "GET", "/containers/{name:.*}/stats", _STREAM_ANSWER),
    ("container_attach_ws", "GET", "/containers/{name:.*}/attach/ws", _UPGRADE),
    ("exec_inspect", "GET", "/exec/{id:.*}/json", {"kind": "exec"}),
    ("container_archive_get", "GET", "/containers/{name:.*}/archive", _STREAM_ANSWER),
    ("container_create", "POST", "/containers/create", {**_CREATE, "identity": _BODY_ID, "labels": (_LABELS,)}),
    ("container_kill", "POST", "/containers/{name:.*}/kill", _CHANGE),
    ("container_pause", "POST", "/containers/{name:.*}/pause", _CHANGE),
    ("container_unpause", "POST", "/containers/{name:.*}/unpause", _CHANGE),
    ("container_restart", "POST", "/containers/{name:.*}/restart", _CHANGE),
    ("container_start", "POST", "/containers/{name:.*}/start", {**_CHANGE, **_JSON_REQUEST}),  # see start.py
    ("container_stop", "POST", "/containers/{name:.*}/stop", _CHANGE),
    ("container_wait", "POST", "/containers/{name:.*}/wait", _STREAM_ANSWER),
    ("container_resize", "POST", "/containers/{name:.*}/resize", _CHANGE),
    ("container_attach", "POST", "/containers/{name:.*}/attach", {**_UPGRADE, "hijack": True}),
    ("container_copy", "POST", "/containers/{name:.*}/copy", {**_STREAM_ANSWER, **_JSON_REQUEST}),  # gone after 20.10
    ("exec_create", "POST", "/containers/{name:.*}/exec", {**_CREATE, "kind": "exec", "identity": _BODY_ID}),
    ("exec_start", "POST", "/exec/{name:.*}/start", {**_UPGRADE, **_JSON_REQUEST, "kind": "exec", "hijack": True}),
    ("exec_resize", "POST", "/exec/{name:.*}/resize", {**_CHANGE, "kind": "exec"}),
    ("container_rename", "POST", "/containers/{name:.*}/rename", _CHANGE),
    ("container_update", "POST", "/containers/{name:.*}/update", {"effect": Effect.CHANGE, **_JSON_REQUEST}),
    ("container_prune", "POST", "/containers/prune", _PRUNE),
    (
        "container_commit",
        "POST",
        "/commit",
        {
            **_CREATE,
            "kind": "image",
            "identity": _BODY_ID,
            "labels": (_CHANGES, LabelSlot(LabelPlace.BODY, ("Labels",), image=True)),
        },
    ),
    (
        "container_archive_put",
        "PUT",
        "/containers/{name:.*}/archive",
        {**_CHANGE, "request": RequestBody.TAR},
    ),
    ("container_remove", "DELETE", "/containers/{name:.*}", _REMOVE),
)

_IMAGES: Final = _rows(
    "image/image",
    "image",
    ("image_list", "GET", "/images/json", {}),
    ("image_search", "GET", "/images/search", {}),
    ("image_save", "GET", "/images/get", _STREAM_ANSWER),
    ("image_save_one", "GET", "/images/{name:.*}/get", _STREAM_ANSWER),
    ("image_history", "GET", "/images/{name:.*}/history", {}),
    ("image_inspect", "GET", "/images/{name:.*}/json", {}),
    ("image_attestations", "GET", "/images/{name:.*}/attestations", {}),
    (
        "image_load",
        "POST",
        "/images/load",
        {**_LINES_ANSWER, "request": RequestBody.TAR, "effect": Effect.CREATE, "identity": _IN_LINES},
    ),
    (
        "image_create",  # a pull with fromImage, else an import
        "POST",
        "/images/create",
        {
            **_LINES_ANSWER,
            "request": RequestBody.STREAM,
            "effect": Effect.CREATE,
            "identity": _IN_LINES,
            "labels": (_CHANGES,),
        },
    ),
    ("image_push", "POST", "/images/{name:.*}/push", {**_LINES_ANSWER, "request": RequestBody.STREAM}),
    (
        "image_tag",
        "POST",
        "/images/{name:.*}/tag",
        {**_NO_ANSWER, "effect": Effect.CREATE, "identity": Identity(IdentityPlace.QUERY, "repo")},
    ),
    ("image_prune", "POST", "/images/prune", _PRUNE),
    ("image_remove", "DELETE", "/images/{name:.*}", {"effect": Effect.REMOVE}),
)

_SYSTEM: Final = _rows(
    "system/system",
    None,
    ("options", "OPTIONS", "/{anyroute:.*}", _NO_ANSWER),
    ("ping", "GET", "/_ping", _STREAM_ANSWER),
    ("ping_head", "HEAD", "/_ping", _NO_ANSWER),
    ("events", "GET", "/events", _LINES_ANSWER),
    ("info", "GET", "/info", {}),
    ("version", "GET", "/version", {}),
    ("disk_usage", "GET", "/system/df", {}),
    ("auth", "POST", "/auth", _JSON_REQUEST),
)

_VOLUMES: Final = _rows(
    "volume/volume",
    "volume",
    ("volume_list", "GET", "/volumes", {}),
    ("volume_inspect", "GET", "/volumes/{name:.*}", {}),
    (
        "volume_create",
        "POST",
        "/volumes/create",
        {**_CREATE, "identity": Identity(IdentityPlace.BODY, "Name"), "labels": (_LABELS,)},
    ),
    ("volume_prune", "POST", "/volumes/prune", _PRUNE),
    ("volume_update", "PUT", "/volumes/{name:.*}", {**_CHANGE, **_JSON_REQUEST}),
    ("volume_remove", "DELETE", "/volumes/{name:.*}", _REMOVE),
)

_BUILDS: Final = _rows(
    "build/build",
    None,
    (
        "image_build",
        "POST",
        "/build",
        {
            **_LINES_ANSWER,
            "kind": "image",
            "request": RequestBody.TAR,
            "effect": Effect.CREATE,
            "identity": _IN_LINES,
            "labels": (LabelSlot(LabelPlace.QUERY_JSON, ("labels",), image=True),),
        },
    ),
    ("build_prune", "POST", "/build/prune", _PRUNE),
    ("build_cancel", "POST", "/build/cancel", _CHANGE),
)

_SESSION: Final = _rows("session/session", None, ("session", "POST", "/session", _UPGRADE))

_SWARM: Final = _rows(
    "swarm/cluster",
    None,
    ("swarm_init", "POST", "/swarm/init", {"effect": Effect.CHANGE, **_JSON_REQUEST}),
    ("swarm_join", "POST", "/swarm/join", {**_CHANGE, **_JSON_REQUEST}),
    ("swarm_leave", "POST", "/swarm/leave", _CHANGE),
    ("swarm_inspect", "GET", "/swarm", {}),
    ("swarm_unlock_key", "GET", "/swarm/unlockkey", {}),
    ("swarm_update", "POST", "/swarm/update", {**_CHANGE, **_JSON_REQUEST}),
    ("swarm_unlock", "POST", "/swarm/unlock", {**_CHANGE, **_JSON_REQUEST}),
    ("service_list", "GET", "/services", {"kind": "service"}),
    ("service_inspect", "GET", "/services/{id}", {"kind": "service"}),
    (
        "service_create",
        "POST",
        "/services/create",
        {**_CREATE, "kind": "service", "identity": _BODY_CAPITAL_ID, "labels": _SERVICE_LABELS},
    ),
    (
        "service_update",
        "POST",
        "/services/{id}/update",
        {"kind": "service", "effect": Effect.CHANGE, **_JSON_REQUEST, "labels": _SERVICE_LABELS},
    ),
    ("service_remove", "DELETE", "/services/{id}", {"kind": "service", **_REMOVE}),
    ("service_logs", "GET", "/services/{id}/logs", {"kind": "service", **_STREAM_ANSWER}),
    ("node_list", "GET", "/nodes", {}),
    ("node_inspect", "GET", "/nodes/{id}", {}),
    ("node_remove", "DELETE", "/nodes/{id}", _CHANGE),
    ("node_update", "POST", "/nodes/{id}/update", {**_CHANGE, **_JSON_REQUEST}),
    ("task_list", "GET", "/tasks", {}),
    ("task_inspect", "GET", "/tasks/{id}", {}),
    ("task_logs", "GET", "/tasks/{id}/logs", _STREAM_ANSWER),
    *(
        row
        for kind in ("secret", "config")
        for row in (
            (f"{kind}_list", "GET", f"/{kind}s", {"kind": kind}),
            (
                f"{kind}_create",
                "POST",
                f"/{kind}s/create",
                {**_CREATE, "kind": kind, "identity": _BODY_CAPITAL_ID, "labels": (_LABELS,)},
            ),
            (f"{kind}_remove", "DELETE", f"/{kind}s/{{id}}", {"kind": kind, **_REMOVE}),
            (f"{kind}_inspect", "GET", f"/{kind}s/{{id}}", {"kind": kind}),
            (
                f"{kind}_update",
                "POST",
                f"/{kind}s/{{id}}/update",
                {"kind": kind, **_CHANGE, **_JSON_REQUEST, "labels": (_LABELS,)},
            ),
        )
    ),
)

_PLUGINS: Final = _rows(
    "plugin/plugin",
    "plugin",
    ("plugin_list", "GET", "/plugins", {}),
    ("plugin_inspect", "GET", "/plugins/{name:.*}/json", {}),
    ("plugin_privileges", "GET", "/plugins/privileges", {}),
    ("plugin_remove", "DELETE", "/plugins/{name:.*}", {"effect": Effect.REMOVE}),
    ("plugin_enable", "POST", "/plugins/{name:.*}/enable", _CHANGE),
    ("plugin_disable", "POST", "/plugins/{name:.*}/disable", _CHANGE),
    (
        "plugin_pull",
        "POST",
        "/plugins/pull",
        {**_CREATE, **_LINES_ANSWER, "identity": Identity(IdentityPlace.HEADER, "Docker-Plugin-Name")},
    ),
    ("plugin_push", "POST", "/plugins/{name:.*}/push", {**_LINES_ANSWER, "request": RequestBody.STREAM}),
    (
        "plugin_upgrade",
        "POST",
        "/plugins/{name:.*}/upgrade",
        {**_LINES_ANSWER, **_JSON_REQUEST, "effect": Effect.CHANGE},
    ),
    ("plugin_set", "POST", "/plugins/{name:.*}/set", {**_CHANGE, **_JSON_REQUEST}),
    (
        "plugin_create",
        "POST",
        "/plugins/create",
        {
            **_NO_ANSWER,
            "request": RequestBody.TAR,
            "effect": Effect.CREATE,
            "identity": Identity(IdentityPlace.QUERY, "name"),
        },
    ),
)

_DISTRIBUTION: Final = _rows(
    "distribution/distribution", None, ("distribution_inspect", "GET", "/distribution/{name:.*}/json", {})
)

_NETWORKS: Final = _rows(
    "network/network",
    "network",
    ("network_list", "GET", "/networks", {}),
    ("network_list_slash", "GET", "/networks/", {}),
    ("network_inspect", "GET", "/networks/{id:.+}", {}),
    ("network_create", "POST", "/networks/create", {**_CREATE, "identity": _BODY_ID, "labels": (_LABELS,)}),
    ("network_connect", "POST", "/networks/{id:.*}/connect", {**_CHANGE, **_JSON_REQUEST}),
    ("network_disconnect", "POST", "/networks/{id:.*}/disconnect", {**_CHANGE, **_JSON_REQUEST}),
    ("network_prune", "POST", "/networks/prune", _PRUNE),
    ("network_remove", "DELETE", "/networks/{id:.*}", _REMOVE),
)

_DEBUG: Final = _rows(
    "debug/debug",
    None,
    ("debug_vars", "GET", "/debug/vars", _STREAM_ANSWER),
    ("debug_index", "GET", "/debug/pprof/", _STREAM_ANSWER),
    ("debug_cmdline", "GET", "/debug/pprof/cmdline", _STREAM_ANSWER),
    ("debug_profile", "GET", "/debug/pprof/profile", _STREAM_ANSWER),
    ("debug_symbol", "GET", "/debug/pprof/symbol", _STREAM_ANSWER),
    ("debug_trace", "GET", "/debug/pprof/trace", _STREAM_ANSWER),
    ("debug_pprof", "GET", "/debug/pprof/{name}", _STREAM_ANSWER),
)

_GRPC: Final = _rows("grpc/grpc", None, ("grpc", "POST", "/grpc", _UPGRADE))

# Ours: the engine knows no such paths. Unversioned only.
TRACKER_PAGE: Final = Operation(name="tracker_page", method="GET", path="/tracker", response=ResponseBody.STREAM)
TRACKER_OTHER: Final = Operation(name="tracker_other", method="*", path="/tracker/{rest:.*}")

LIBPOD: Final = Operation(
    name="libpod",
    method="*",
    path="/libpod/{rest:.*}",
    request=RequestBody.STREAM,
    response=ResponseBody.STREAM,
    source="pkg/api/server of Podman",
)
"""What no row of Podman's own API matches, which stands beside Docker's: dockerd knows no such paths."""

UNKNOWN: Final = Operation(
    name="unknown", method="*", path="/{path:.*}", request=RequestBody.STREAM, response=ResponseBody.STREAM
)
"""What no row matches: passed, or refused if the job's policy says so."""

OPERATIONS: Final[tuple[Operation, ...]] = (
    *_CHECKPOINTS,
    *_CONTAINERS,
    *_IMAGES,
    *_SYSTEM,
    *_VOLUMES,
    *_BUILDS,
    *_SESSION,
    *_SWARM,
    *_PLUGINS,
    *_DISTRIBUTION,
    *_NETWORKS,
    *_DEBUG,
    *_GRPC,
    TRACKER_PAGE,
    TRACKER_OTHER,
    *LIBPOD_OPERATIONS,
    LIBPOD,
)

_BY_NAME: Final = {row.name: row for row in (*OPERATIONS, UNKNOWN)}


def operation(name: str) -> Operation:
    """Return a row by its name.

    :raises KeyError: there is none.
    """
    return _BY_NAME[name]


def _kind(name: str, order: int, *gone: str) -> ResourceKind:
    return ResourceKind(name, f"{name}_list", f"{name}_inspect", f"{name}_remove", order, name, frozenset(gone))


RESOURCE_KINDS: Final[dict[str, ResourceKind]] = {
    row.name: row
    for row in (
        ResourceKind("exec", None, "exec_inspect", None, 0),  # ends with its container
        _kind("service", 10, "remove"),  # before containers: it would start them anew
        _kind("container", 20, "destroy"),
        # Podman's. After the containers in it: it takes all that are left, and only its own should be.
        ResourceKind(
            "pod", "libpod_pod_list", "libpod_pod_inspect", "libpod_pod_remove", 25, "pod", frozenset({"remove"})
        ),
        _kind("network", 30, "destroy", "remove"),  # remove: of swarm's scope
        _kind("volume", 40, "destroy"),
        _kind("secret", 50, "remove"),
        _kind("config", 50, "remove"),
        _kind("plugin", 60, "remove"),
        _kind("image", 70, "delete"),
    )
}
