"""Finds interceptors by the names that the configuration gives them. A name that is not found stops the start."""

from __future__ import annotations

import importlib
import pkgutil
import traceback
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import attrs
from twisted.plugin import getPlugins

from docker_tracker import plugins
from docker_tracker.config import Settings, section
from docker_tracker.engine.catalogue import OPERATIONS, UNKNOWN
from docker_tracker.errors import ConfigurationError, TrackerError
from docker_tracker.exchange import Stage
from docker_tracker.interfaces import IDaemon, IInterceptor, IInterceptorPlugin, IJob


@attrs.frozen
class Chosen:
    """A plug-in that the configuration names, with its settings."""

    plugin: IInterceptorPlugin
    settings: Any


def choose(settings: Settings) -> list[Chosen]:
    """Return the plug-ins that the settings name, in their order.

    :raises ConfigurationError: one is not found, cannot be imported, or has unusable settings.
    """
    if not settings.interceptors and not settings.interceptor_sections:
        return []
    found = _find(settings.plugin_dirs)
    for name in (*settings.interceptors, *settings.interceptor_sections):
        if name not in found:
            raise ConfigurationError("interceptors", _missing(name, found))
    tables = {name: settings.interceptor_sections.get(name, {}) for name in settings.interceptors}
    tables |= settings.interceptor_sections  # of those that are off as well: what is wrong there is wrong
    read: dict[str, Any] = {
        name: section(found[name].settings, table, f"interceptor.{name}") for name, table in tables.items()
    }
    return [Chosen(found[name], read[name]) for name in settings.interceptors]


def make(chosen: Chosen, job: IJob, daemon: IDaemon) -> IInterceptor:
    """Return a job's interceptor, after a look at what it asks for.

    :raises ConfigurationError: the plug-in fails, or asks for what is no stage; it says which one, and where.
    :raises TrackerError: what the plug-in itself raised of these.
    """
    where = f"interceptor {chosen.plugin.name}"
    try:
        interceptor = chosen.plugin.build(chosen.settings, job, daemon)
        wanted: list[tuple[str, object]] = [(row.name, interceptor.wants(row)) for row in (*OPERATIONS, UNKNOWN)]
    except TrackerError:
        raise
    except Exception as error:  # others' code: whatever it raises is the answer to why it cannot be used
        place = traceback.extract_tb(error.__traceback__)[-1]
        raise ConfigurationError(where, f"fails in {place.filename}, line {place.lineno}: {error!r}") from error
    for name, stages in wanted:
        if not isinstance(stages, Stage):
            cls = type(interceptor)
            raise ConfigurationError(
                where,
                f"{cls.__module__}.{cls.__qualname__}.wants must return a Stage (Stage.NOTHING for none), "
                f"not {stages!r} as for {name}",
            )
    return interceptor


def _find(directories: Sequence[Path]) -> dict[str, IInterceptorPlugin]:
    for directory in directories:
        if str(directory) not in plugins.__path__:
            plugins.__path__.append(str(directory))
    found: dict[str, IInterceptorPlugin] = {}
    for plugin in getPlugins(IInterceptorPlugin, plugins):
        if plugin.name in found:
            raise ConfigurationError("interceptors", f"two plug-ins are named {plugin.name!r}; take one away")
        found[plugin.name] = plugin
    return found


def _missing(name: str, found: Iterable[str]) -> str:
    """Say what there is, and which modules could not be imported: `twisted.plugin` only logs those."""
    broken = []
    for module in pkgutil.iter_modules(plugins.__path__):
        try:
            importlib.import_module(f"{plugins.__name__}.{module.name}")
        except Exception as error:  # others' code: whatever it raises is the answer to why it is not there
            broken.append(f"; {module.name} in {getattr(module.module_finder, 'path', '?')} fails: {error!r}")
    return f"there is no interceptor {name!r}; there are {', '.join(sorted(found))}{''.join(broken)}"
