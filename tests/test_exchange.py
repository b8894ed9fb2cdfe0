"""`docker_tracker.exchange`: who asks."""

from __future__ import annotations

import os
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from docker_tracker.exchange import Peer


class PeerTests(SynchronousTestCase):
    def test_cgroup(self) -> None:
        """Of several hierarchies the last counts in which the process is not at the top."""
        for text, cgroup in (
            ("0::/a.slice/b.scope\n", "/a.slice/b.scope"),
            ("0::/\n", "/"),
            ("3:memory:/ci/a\n2:cpu,cpuacct:/\n1:name=systemd:/\n0::/\n", "/ci/a"),
            ("3:memory:/ci/a\n1:name=systemd:/s:1\n0::/\n", "/s:1"),
            ("", ""),
        ):
            self.patch(Peer, "_read", lambda peer, name, text=text: text)
            self.assertEqual(Peer(pid=5).cgroup, cgroup, text)

    def test_own(self) -> None:
        """It is read of the process that is meant; of one that is gone, or unknown, nothing is."""
        self.assertIn(Peer(pid=os.getpid()).cgroup + "\n", Path("/proc/self/cgroup").read_text())
        for pid in (None, 2**22 + 1):
            self.assertEqual((Peer(pid=pid).cgroup, Peer(pid=pid).command), ("", ""))
