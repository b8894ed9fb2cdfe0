"""The values that jobs are made of: what is refused before anything is made of it."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from docker_tracker.errors import RefusedError
from docker_tracker.job import JobRequest, check_cgroup_parent

PARENTS = (
    *("/ci", "/ci/a b", "ci/jobs", "/", "/a..b/...c", "/\u00e9", "/user.slice/ci.slice", "/" + "a" * 255),
    *("ci.slice", "a-b_c.d.slice", "-.slice", r"a\x2db.slice", "self", "caller"),
)
REFUSED: tuple[tuple[str, str], ...] = (
    *((path, "no '.', no '..'") for path in ("..", "../x", "/../x", "/a/..", "a b/../../..", "/./a", ".", "a/.")),
    *((path, "no empty parts") for path in ("//", "//a", "/a//b", "/a/")),
    *((text, "control characters") for text in ("/a\n", " /a", "/a ", "/\x7f")),
    *((name, "a slice's name") for name in (".slice", "-a.slice", "a-.slice", "a--b.slice", "a:b.slice", "a b.slice")),
    ("a" * 250 + ".slice", "a slice's name"),
    ("/" + "a" * 256, "at most 255 bytes"),
    ("/" + "\u00e9" * 128, "at most 255 bytes"),
    *((text, "several words") for text in ("a b", "self caller", "ci/a b")),
    ("", "it is empty"),
)


class CgroupParentTests(SynchronousTestCase):
    def test_taken(self) -> None:
        """Paths, names of slices and the two words are."""
        for parent in PARENTS:
            self.assertEqual(check_cgroup_parent(parent), parent)
            self.assertEqual(JobRequest.of({"name": "a", "cgroup_parent": parent}).cgroup_parent, parent)

    def test_refused(self) -> None:
        """What leads elsewhere, or is no path and no slice, is refused in one sentence, by 400."""
        for parent, problem in REFUSED:
            with self.subTest(parent=parent):
                error = self.assertRaises(RefusedError, JobRequest.of, {"name": "a", "cgroup_parent": parent})
                self.assertEqual(error.status, 400)
                self.assertIn(problem, error.message)
                self.assertIn("write /PATH, NAME.slice, self or caller", error.message)

    def test_kept(self) -> None:
        """What an older ledger has is read, for the job's end; nothing more is created with it."""
        request = JobRequest.of({"name": "a", "cgroup_parent": "../x"}, kept=True)
        self.assertEqual(request.cgroup_parent, "../x")
