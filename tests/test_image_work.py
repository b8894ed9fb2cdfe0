"""Builds and loads that are under way: they wait for removals of images, and are told apart by job."""

from __future__ import annotations

import contextlib

from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase

from docker_tracker.image_work import ImageWork, ImageWorks


class ImageWorksTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.works = ImageWorks()

    def begin(self, job_id: str = "a") -> tuple[ImageWork, Deferred[None]]:
        work = ImageWork(job_id, f"job {job_id}")
        return work, Deferred.fromCoroutine(self.works.begin(work))

    def test_at_once(self) -> None:
        """Without a removal nothing is waited for, nor after one that is over, were it broken off."""
        self.successResultOf(self.begin()[1])
        with contextlib.suppress(ZeroDivisionError), self.works.removal():
            raise ZeroDivisionError
        self.successResultOf(self.begin()[1])

    def test_waits(self) -> None:
        """All that begin during removals wait for the last one, and are known meanwhile."""
        with self.works.removal():
            with self.works.removal():
                begun = [self.begin(job_id) for job_id in "ab"]
                self.assertEqual(self.works.beside(""), [work for work, _ in begun])
            begun.append(self.begin("c"))
            for _, beginning in begun:
                self.assertNoResult(beginning)
        for _, beginning in begun:
            self.successResultOf(beginning)

    def test_given_up(self) -> None:
        """One that is given up keeps no other from beginning."""
        with self.works.removal():
            begun = [self.begin()[1] for _ in range(3)]
            begun[1].cancel()
            self.failureResultOf(begun[1], CancelledError)
            self.assertNoResult(begun[0])
        for beginning in (begun[0], begun[2]):
            self.successResultOf(beginning)

    def test_ends_once(self) -> None:
        """Of two ends of one work, one counts; works are told apart, whatever they say."""
        work, twin = self.begin()[0], self.begin()[0]
        for _ in range(2):
            self.works.end(work)
            self.assertEqual((self.works.ended, self.works.beside("")), (1, [twin]))
        self.works.end(twin)
        self.assertEqual((self.works.ended, self.works.beside("")), (2, []))

    def test_beside(self) -> None:
        """A job's own work is none beside it."""
        (first, _), (second, _), (third, _) = (self.begin(job_id) for job_id in "aba")
        self.assertEqual(self.works.beside("a"), [second])
        self.assertEqual(self.works.beside("b"), [first, third])
        self.assertEqual(self.works.beside("c"), [first, second, third])
