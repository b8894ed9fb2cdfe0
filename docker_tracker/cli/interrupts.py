"""What Ctrl-C does before there is anything to clean up. Layer: the client command.

Imports next to nothing: whatever is imported before `end_at_once` is called can be interrupted with a traceback.
"""

from __future__ import annotations

import os
import signal

INTERRUPTED = 130


def end_at_once() -> None:
    """Have Ctrl-C end the process without a word, unless it is ignored. See `process.interruptible`."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, end)


def end(number: int, frame: object) -> None:
    """End the process: a signal's handler."""
    os._exit(INTERRUPTED)
