"""What the process has of its own: standard streams, and Ctrl-C. Layer: the client command."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final, TextIO

from docker_tracker.cli.interrupts import end

_STREAMS: Final = (("stdin", "r"), ("stdout", "w"), ("stderr", "w"))


def fill_streams() -> None:
    """Have something stand for standard streams that are closed, else the next file that is opened would.

    A child finds them closed: nothing that Python opens is handed on.
    """
    for name, mode in _STREAMS:
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115  # until we end


def silence(stream: TextIO) -> None:
    """Have what a stream still holds go nowhere: the interpreter tries to write it at its end, and would complain."""
    with suppress(OSError, ValueError):  # one that has no descriptor is no file
        nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.dup2(nowhere, stream.fileno(), inheritable=False)
        finally:
            os.close(nowhere)


@contextmanager
def interruptible() -> Iterator[None]:
    """Have Ctrl-C be a `KeyboardInterrupt` while this is entered, where it would end the process at once."""
    if signal.getsignal(signal.SIGINT) is not end:
        yield
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, end)
