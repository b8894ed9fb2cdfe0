"""Files that others could change are not read, and plug-ins that others could change are not run."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from shutil import rmtree
from unittest.mock import patch

from twisted.trial.unittest import SynchronousTestCase

from docker_tracker.errors import ConfigurationError
from docker_tracker.permissions import check_private, check_tree

US = os.geteuid()
STRANGER = 54321


class Case(SynchronousTestCase):
    """Has a private directory with a file, and above it only root's directories and sticky ones."""

    def setUp(self) -> None:
        self.top = Path(tempfile.mkdtemp(dir="/tmp"))
        self.addCleanup(rmtree, self.top)
        self.directory = self.top / "etc"
        self.directory.mkdir(mode=0o755)
        self.file = self.directory / "a.toml"
        self.file.write_text("")
        self.file.chmod(0o644)

    def refused(self, path: Path) -> ConfigurationError:
        error: ConfigurationError = self.assertRaises(ConfigurationError, check_private, path, US)
        return error


class FileTests(Case):
    """`check_private`."""

    def test_private(self) -> None:
        """A file that only its owner can write is taken, and one that is not there."""
        check_private(self.file, US)
        check_private(self.directory / "missing", US)
        check_private(self.file / "below a file", US)

    def test_writable(self) -> None:
        """The file itself, its directory and those above must not be writable by the group or by all."""
        for place in (self.file, self.directory, self.top):
            for bits in (0o020, 0o002):
                with self.subTest(f"{place} {bits:o}"):
                    before = place.stat().st_mode
                    place.chmod(before | bits)
                    error = self.refused(self.file)
                    self.assertEqual(error.where, str(place))
                    self.assertIn(f"chmod go-w {place}", error.problem)
                    place.chmod(before)
        check_private(self.file, US)

    def test_sticky(self) -> None:
        """A shared directory with the sticky bit may be above, but is no place for the file itself."""
        self.top.chmod(0o1777)
        check_private(self.file, US)
        self.directory.chmod(0o1777)
        self.assertEqual(self.refused(self.file).where, str(self.directory))

    def test_missing_in_a_writable_directory(self) -> None:
        """Where anyone could put the file, its absence is no comfort."""
        self.directory.chmod(0o777)
        self.assertEqual(self.refused(self.directory / "missing").where, str(self.directory))

    def test_owner(self) -> None:
        """What belongs to someone else is refused, whatever its mode."""
        with patch("docker_tracker.permissions.Path.lstat", autospec=True, side_effect=_owned_by(STRANGER, self.file)):
            error = self.refused(self.file)
        self.assertEqual(error.where, str(self.file))
        self.assertIn(f"belongs to uid {STRANGER}", error.problem)
        self.assertIn(f"chown --no-dereference {US} {self.file}", error.problem)

    def test_owner_for_real(self) -> None:
        """The same with a real other owner; the daemon's own user, when it is another than root, is taken."""
        if US != 0:
            self.skipTest("only root can give files away")
        for place in (self.file, self.directory):
            os.chown(place, STRANGER, 0)
            self.assertEqual(self.refused(self.file).where, str(place))
            check_private(self.file, STRANGER)
            os.chown(place, 0, 0)

    def test_links(self) -> None:
        """Every directory on the way is looked at: the link's own, and those where it leads."""
        other = self.top / "other"
        other.mkdir(mode=0o755)
        (other / "relative").symlink_to("../etc/a.toml")
        (other / "absolute").symlink_to(self.file)
        (other / "directory").symlink_to(self.directory)
        ways = [other / "relative", other / "absolute", other / "directory" / "a.toml"]
        for way in ways:
            check_private(way, US)
        for place in (self.directory, other):
            place.chmod(0o775)
            for way in ways:
                with self.subTest(f"{way} {place}"):
                    self.assertEqual(self.refused(way).where, str(place))
            place.chmod(0o755)

    def test_link_by_way_of_a_writable_directory(self) -> None:
        """A link to a link: the directory in the middle is looked at, too."""
        shared, other = self.top / "shared", self.top / "other"
        for place in (shared, other):
            place.mkdir()
        (shared / "middle").symlink_to(self.file)
        (other / "first").symlink_to(shared / "middle")
        shared.chmod(0o777)
        self.assertEqual(self.refused(other / "first").where, str(shared))

    def test_endless_links(self) -> None:
        """A link to itself is refused."""
        loop = self.directory / "loop"
        loop.symlink_to(loop)
        self.assertIn("Too many levels", self.refused(loop / "file").problem)

    def test_unreadable(self) -> None:
        """What cannot be looked at is refused."""
        with patch("docker_tracker.permissions.Path.lstat", side_effect=PermissionError(13, "Permission denied")):
            error = self.refused(self.file)
        self.assertEqual(str(error), "/: cannot be looked at: Permission denied")


class TreeTests(Case):
    """`check_tree`."""

    def setUp(self) -> None:
        super().setUp()
        self.package = self.directory / "package"
        self.package.mkdir(mode=0o755)
        self.module = self.package / "policy.py"
        self.module.write_text("")
        self.module.chmod(0o644)

    def refused_tree(self) -> ConfigurationError:
        error: ConfigurationError = self.assertRaises(ConfigurationError, check_tree, self.directory, US)
        return error

    def test_all(self) -> None:
        """Every file and directory below counts, caches of bytecode and of plug-ins among them."""
        check_tree(self.directory, US)
        for place in (self.directory, self.file, self.package, self.module):
            with self.subTest(place):
                place.chmod(place.stat().st_mode | 0o002)
                self.assertEqual(self.refused_tree().where, str(place))
                place.chmod(place.stat().st_mode & ~0o002)

    def test_unreadable(self) -> None:
        """A directory whose content cannot be seen is refused."""
        with patch("docker_tracker.permissions.Path.iterdir", side_effect=PermissionError(13, "Permission denied")):
            self.assertEqual(str(self.refused_tree()), f"{self.directory}: cannot be looked at: Permission denied")

    def test_linked(self) -> None:
        """What a link leads to counts as well; links in a circle end."""
        outside = self.top / "outside"
        outside.mkdir()
        (outside / "theirs.py").write_text("")
        (self.package / "linked").symlink_to(outside)
        (outside / "back").symlink_to(self.directory)
        check_tree(self.directory, US)
        (outside / "theirs.py").chmod(0o666)
        self.assertIn("theirs.py", self.refused_tree().where)


def _owned_by(uid: int, path: Path):  # type: ignore[no-untyped-def]
    """Return a `Path.lstat` that gives one path to another user."""
    real = Path.lstat

    def lstat(self: Path) -> os.stat_result:
        found = real(self)
        if self != path:
            return found
        return os.stat_result((*found[:4], uid, *found[5:10]))

    return lstat
