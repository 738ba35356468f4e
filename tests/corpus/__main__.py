"""Runs the corpus; see the package's docstring."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.corpus.run import run
from tests.e2e.support import ROOT


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.corpus", description=__doc__)
    parser.add_argument("--count", type=int, default=2400, help="files")
    parser.add_argument("--first", type=int, default=0, help="number of the first")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=ROOT / "out" / "corpus", help="folder for files that went wrong")
    arguments = parser.parse_args()
    totals = run(range(arguments.first, arguments.first + arguments.count), arguments.seed, arguments.keep)
    print(totals.text())
    return 1 if totals.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
