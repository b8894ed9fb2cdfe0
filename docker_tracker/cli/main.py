"""The entry point of ``docker-tracker``. Layer: the client command."""

from __future__ import annotations

import sys

from docker_tracker.cli.interrupts import end_at_once

_RUN_FAILED = 125  # before its command was run: all else is the command's


def main() -> None:
    """Run the command; ends the process."""
    end_at_once()
    import errno

    from docker_tracker.cli.process import fill_streams, silence

    fill_streams()
    try:
        from docker_tracker.cli.app import tracker
    except ModuleNotFoundError as error:
        if error.name not in ("click", "rich"):
            raise
        _say(f"the client command needs {error.name}, which is not installed: install this package's extra, cli")
        sys.exit(_RUN_FAILED if _is_run(sys.argv[1:]) else 1)
    try:
        tracker(prog_name="docker-tracker")
    except OSError as error:
        if error.errno != errno.EPIPE:  # nobody reads, and whoever did knows that
            written = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF)
            what = "the output cannot be written" if written else str(error.filename or "it failed")
            _say(f"{what}: {error.strerror or error}")
        silence(sys.stdout)
        sys.exit(_RUN_FAILED if _is_run(sys.argv[1:]) else 1)


def _is_run(words: list[str]) -> bool:
    """Say whether the command is ``run``, where there is nobody to read the options before it."""
    rest = iter(words)
    for word in rest:
        if word == "--control":
            next(rest, "")
        elif not word.startswith("-"):
            return word == "run"
    return False


def _say(text: str) -> None:
    from docker_tracker.cli.process import silence

    try:
        sys.stderr.write(f"docker-tracker: {text}\n")
    except OSError:
        silence(sys.stderr)


if __name__ == "__main__":
    main()
