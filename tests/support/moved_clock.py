"""Runs a Python program whose machine's clock is moved by so many seconds as a file says, in text.

    python moved_clock.py FILE PROGRAM [ARGUMENT...]

Only the standard library is used: what a program imports later gets the moved clock.
"""

import runpy
import sys
import time
from pathlib import Path

file = Path(sys.argv[1])
real = time.time
time.time = lambda: real() + float(file.read_text())
sys.argv = sys.argv[2:]
runpy.run_path(sys.argv[0], run_name="__main__")
