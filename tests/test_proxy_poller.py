"""The poller: who is called, who is not, and what becomes of those that fail."""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Callable

from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IReadDescriptor
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from docker_tracker.proxy.pipe import SIZE, WORTH
from docker_tracker.proxy.poller import Poller
from tests.support.hand_reactor import HandReactor


class Owner:
    """Notes what it is told, and does what a test wants.

    :param does: Called when its descriptor is ready.
    """

    def __init__(self, does: Callable[[], object] = lambda: None, fails: Callable[[], object] = lambda: None) -> None:
        self.seen: list[int | str] = []
        self._does, self._fails = does, fails

    def ready(self, events: int) -> None:
        self.seen.append(events)
        self._does()

    def failed(self, error: Exception) -> None:
        self.seen.append(repr(error))
        self._fails()


class PollerTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.reactor = HandReactor()
        self.poller = Poller(self.reactor)  # type: ignore[arg-type]
        self.addCleanup(self.poller.close)

    def pair(self) -> tuple[socket.socket, socket.socket]:
        """Return a socket to watch, and its far end."""
        near, far = socket.socketpair()
        self.addCleanup(near.close)
        self.addCleanup(far.close)
        return near, far

    def test_interface(self) -> None:
        """The reactor finds what it calls; before the first use, and after the last, there is no descriptor."""
        verifyObject(IReadDescriptor, self.poller)
        self.assertTrue(self.poller.logPrefix())
        self.assertEqual((self.poller.fileno(), self.reactor.descriptors), (-1, 0))
        near, _ = self.pair()
        self.poller.watch(near.fileno(), select.EPOLLIN, Owner())
        self.assertGreaterEqual(self.poller.fileno(), 0)
        self.poller.connectionLost(Failure(ConnectionDone()))
        self.poller.close()
        self.poller.close()
        self.assertEqual((self.poller.fileno(), self.reactor.descriptors, len(self.poller)), (-1, 0, 0))

    def test_many_are_one(self) -> None:
        """The reactor has one descriptor for all."""
        for _ in range(5):
            self.poller.watch(self.pair()[0].fileno(), select.EPOLLIN, Owner())
        self.assertEqual((self.reactor.descriptors, len(self.poller)), (1, 5))

    def test_events(self) -> None:
        """One is told what it asked for, and of a hang-up in any case, until it is forgotten."""
        near, far = self.pair()
        owner = Owner()
        self.poller.watch(near.fileno(), select.EPOLLIN, owner)
        self.reactor.turn()
        self.assertEqual(owner.seen, [])
        far.send(b"x")
        self.reactor.turn()
        self.poller.watch(near.fileno(), select.EPOLLOUT, owner)
        self.reactor.turn()
        self.poller.watch(near.fileno(), 0, owner)
        self.reactor.turn()
        far.close()
        self.reactor.turn()
        self.assertEqual(owner.seen, [select.EPOLLIN, select.EPOLLOUT, select.EPOLLHUP])
        self.poller.unwatch(near.fileno())
        self.poller.unwatch(near.fileno())
        self.assertFalse(self.reactor.busy)

    def test_share(self) -> None:
        """One that is ready alone may read much; each of several reads no more than is worth a turn."""
        shares: list[int] = []
        far_ends = []
        for _ in range(20):
            near, far = self.pair()
            far_ends.append(far)
            self.poller.watch(near.fileno(), select.EPOLLIN, Owner(lambda: shares.append(self.poller.share)))
        for count in (1, 2, 20):
            for far in far_ends[:count]:
                far.send(b"x")
            self.reactor.turn()
        self.assertEqual(shares, [SIZE] + [WORTH] * 22)

    def test_failure(self) -> None:
        """One that fails is told so, and the others have their turn, even if it fails at that too."""

        def failing() -> None:
            raise ValueError("oops")

        owners = [Owner(failing, failing), Owner(failing), Owner()]
        for owner in owners:
            near, far = self.pair()
            far.send(b"x")
            self.poller.watch(near.fileno(), select.EPOLLIN, owner)
        self.reactor.turn()
        told: list[int | str] = [select.EPOLLIN, "ValueError('oops')"]
        self.assertEqual([owner.seen for owner in owners], [told, told, [select.EPOLLIN]])
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 3)

    def test_closed_in_the_same_turn(self) -> None:
        """Events of a descriptor that another closes meanwhile are nobody's, nor those of the next with its number."""
        (one, one_far), (two, two_far) = self.pair(), self.pair()
        later, later_far = self.pair()
        newcomer = Owner()

        def close(mine: socket.socket, other: socket.socket) -> None:
            number = other.fileno()
            if number < 0:
                return
            self.poller.closing(number)
            other.close()
            os.dup2(later.fileno(), number)
            self.addCleanup(os.close, number)
            self.poller.watch(number, select.EPOLLIN, newcomer)
            self.poller.unwatch(mine.fileno())

        owners = [Owner(lambda: close(one, two)), Owner(lambda: close(two, one))]
        for near, far, owner in ((one, one_far, owners[0]), (two, two_far, owners[1])):
            far.send(b"x")
            self.poller.watch(near.fileno(), select.EPOLLIN, owner)
        self.reactor.turn()
        self.assertEqual(sorted(len(owner.seen) for owner in owners), [0, 1])
        self.assertEqual(newcomer.seen, [])
        later_far.send(b"x")
        self.reactor.turn()
        self.assertEqual(newcomer.seen, [select.EPOLLIN])

    def test_closed_by_one_of_them(self) -> None:
        """Whoever closes the set in its turn has the last turn."""
        owners = [Owner(self.poller.close), Owner(self.poller.close)]
        for owner in owners:
            near, far = self.pair()
            far.send(b"x")
            self.poller.watch(near.fileno(), select.EPOLLIN, owner)
        self.reactor.turn()
        self.assertEqual(sorted(len(owner.seen) for owner in owners), [0, 1])
