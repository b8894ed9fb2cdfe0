"""Writes the page of the documentation: ``python -m benchmarks.page RESULTS.JSON DIRECTORY``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from benchmarks import report


def main(arguments: list[str]) -> int:
    """Write benchmarks.rst and benchmarks.svg. :returns: the exit status."""
    if len(arguments) != 2:
        sys.stderr.write(f"{__doc__}\n")
        return 2
    results = json.loads(Path(arguments[0]).read_text())
    directory = Path(arguments[1])
    (directory / "benchmarks.rst").write_text(report.page(results))
    (directory / "benchmarks.svg").write_text(report.plot(results))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
