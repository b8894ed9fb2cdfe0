"""Directories whose paths are short enough for unix sockets; trial's own are not, in a deep checkout."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from unittest import TestCase


def short_directory(test: TestCase) -> Path:
    """Return a new directory that is removed at the end of the test."""
    directory = Path(tempfile.mkdtemp(prefix="dt-"))
    test.addCleanup(shutil.rmtree, directory)
    return directory
