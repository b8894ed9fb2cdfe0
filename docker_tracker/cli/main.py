"""The entry point of ``docker-tracker``. Layer: the client command."""

from __future__ import annotations

import os
import sys
from typing import Final

_STREAMS: Final = (("stdin", "r"), ("stdout", "w"), ("stderr", "w"))


def main() -> None:
    """Run the command; ends the process."""
    _fill_streams()
    try:
        from docker_tracker.cli.app import tracker
    except ModuleNotFoundError as error:
        if error.name not in ("click", "rich"):
            raise
        sys.stderr.write(
            f"docker-tracker: the client command needs {error.name}, which is not installed:"
            " pip install 'docker-tracker[cli]'\n"
        )
        sys.exit(1)
    tracker(prog_name="docker-tracker")


def _fill_streams() -> None:
    """Have something stand for standard streams that are closed, else the next file that is opened would.

    A child finds them closed: nothing that Python opens is handed on.
    """
    for name, mode in _STREAMS:
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115  # until we end


if __name__ == "__main__":
    main()
