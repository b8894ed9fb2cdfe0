"""The base of interceptors does nothing; plug-ins are found where Twisted looks."""

from __future__ import annotations

from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.plugin import IPlugin, getPlugins
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

import docker_tracker.plugins
from docker_tracker.engine.catalogue import OPERATIONS, UNKNOWN
from docker_tracker.exchange import Outcome, Stage
from docker_tracker.interceptor import Interceptor, NoSettings, Plugin
from docker_tracker.interfaces import IInterceptor, IInterceptorPlugin


class InterceptorTests(SynchronousTestCase):
    def test_does_nothing(self) -> None:
        """The base wants nothing, changes nothing, and is no guard."""
        interceptor = Interceptor()
        self.assertTrue(verifyObject(IInterceptor, interceptor))
        self.assertFalse(interceptor.fail_closed)
        self.assertEqual({interceptor.wants(row) for row in (*OPERATIONS, UNKNOWN)}, {Stage.NOTHING})
        nothing = cast(Any, None)
        interceptor.started(nothing)
        interceptor.response_head(nothing, nothing)
        interceptor.response_line(nothing, nothing)
        interceptor.stream_data(nothing, True, b"x")
        interceptor.finished(nothing, Outcome.COMPLETED)
        for coroutine in (
            interceptor.request_head(nothing, nothing),
            interceptor.request_json(nothing, nothing),
            interceptor.response_json(nothing, nothing),
            interceptor.stop(),
        ):
            self.assertIsNone(self.successResultOf(Deferred.fromCoroutine(cast(Any, coroutine))))


class PluginTests(SynchronousTestCase):
    def test_builds(self) -> None:
        """A plug-in makes interceptors of what it is given."""
        made: list[tuple[Any, ...]] = []

        def make(*arguments: Any) -> Interceptor:
            made.append(arguments)
            return Interceptor()

        plugin = Plugin(name="a-1", make=make)
        self.assertTrue(verifyObject(IInterceptorPlugin, plugin))
        self.assertTrue(IPlugin.providedBy(plugin))
        self.assertIs(plugin.settings, NoSettings)
        built = plugin.build(NoSettings(), cast(Any, "job"), cast(Any, "daemon"))
        self.assertIsInstance(built, Interceptor)
        self.assertEqual(made, [(NoSettings(), "job", "daemon")])

    def test_names(self) -> None:
        """A name that the configuration could not hold is refused."""
        for name in ("", "A", "a_b", "-a", "a b"):
            self.assertRaises(ValueError, Plugin, name=name, make=cast(Any, None))

    def test_found(self) -> None:
        """Twisted finds the plug-ins of this package."""
        found = {plugin.name for plugin in getPlugins(IInterceptorPlugin, docker_tracker.plugins)}
        self.assertLessEqual({"labels", "cgroup-parent"}, found)
