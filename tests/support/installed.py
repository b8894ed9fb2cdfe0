"""Commands as a user has them who installed the package: without the checkout."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tests.support.daemon import ROOT


def run(*command: str | Path, cwd: Path = ROOT, status: int = 0) -> str:
    """Run a command without the checkout on Python's path. :returns: its output, with its errors."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
    )
    if done.returncode != status:
        raise AssertionError(f"{command} ended with {done.returncode}:\n{done.stdout}")
    return done.stdout
