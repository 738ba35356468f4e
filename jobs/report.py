#!/usr/bin/env python
"""The report of a run, made anew from what is in its output prefix: one HTML file that works offline.

python jobs/report.py OUTPUT [--html FILE]
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # beside a checkout, without being installed

import typer


def main(
    output: Annotated[str, typer.Argument(metavar="OUTPUT", help="Of a job: a folder or any fsspec URL.")],
    html: Annotated[Path | None, typer.Option(help="Local file; default: OUTPUT/_motionmill/report.html.")] = None,
) -> None:
    """Write the HTML report of a run. Exit codes: 0 written, 2 there is no run, 1 the store failed."""
    from pipeline.errors import MotionmillError, UsageError
    from pipeline.layout import Layout
    from pipeline.report import build, write
    from pipeline.storage import Storage, absolute, redact

    layout = Layout(absolute(output))
    try:
        if html is None:
            print(f"report     {redact(write(Storage(), layout))}")
            return
        html.write_text(build(Storage(), layout), encoding="utf-8")
        print(f"report     {html}")
    except (MotionmillError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2 if isinstance(error, UsageError) else 1) from None


if __name__ == "__main__":
    typer.run(main)
