"""The entry point of ``docker-tracker``. Layer: the client command."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command; ends the process."""
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


if __name__ == "__main__":
    main()
