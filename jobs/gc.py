#!/usr/bin/env python
"""Remove what crashed runs have left in an output prefix: only what no commit names, and only once it is old.

python jobs/gc.py OUTPUT                          # says what it would remove, and removes nothing
python jobs/gc.py OUTPUT --older-than 2d --delete
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # beside a checkout, without being installed

import typer

SHOWN = 20


def main(
    output: Annotated[str, typer.Argument(metavar="OUTPUT", help="What a job wrote to; any fsspec URL.")],
    older_than: Annotated[str, typer.Option(help="By the store's clock: 90s, 30m, 12h, 1d.")] = "1d",
    delete: Annotated[bool, typer.Option("--delete", help="Remove it. Default: only say what would go.")] = False,
    json_: Annotated[Path | None, typer.Option("--json", help="Write all paths here.")] = None,
) -> None:
    """Orphans of OUTPUT: data that no commit names, marks of dead sessions, unfinished writes. A run at work is safe.

    Exit codes: 0 done, 2 usage, 1 failed.
    """
    import json

    from pipeline import collect
    from pipeline.layout import Layout
    from pipeline.run import exits
    from pipeline.storage import Storage, absolute, redact

    def job() -> int:
        storage, layout = Storage(), Layout(absolute(output))
        seconds = collect.age(older_than)
        found = collect.survey(storage, layout, seconds)
        removed = collect.remove(storage, layout, found, seconds) if delete else None
        print(f"{redact(layout.output)}: {'removed' if delete else 'would be removed (dry run; --delete removes it)'}")
        gone = found.garbage if removed is None else removed
        print(collect.table(gone, found.now))
        for one in gone[:SHOWN]:
            print(f"  {one.path}")
        if len(gone) > SHOWN:
            print(f"  and {len(gone) - SHOWN} more")
        print(
            f"kept: {found.young} younger than {older_than}, {found.reachable} that a session at work may still need"
            + (f", {found.undated} of unknown age" if found.undated else "")
        )
        for note in found.notes:
            print(f"note: {note}")
        if found.at_work:
            print(f"at work, or dead for less than {older_than}: {', '.join(sorted(found.at_work))}")
        if removed is not None and len(removed) < len(found.garbage):
            print(f"{len(found.garbage) - len(removed)} have changed, or a session has begun, meanwhile: kept")
        if json_ is not None:
            json_.write_text(json.dumps(collect.document(found, removed), indent=1) + "\n", encoding="utf-8")
        return 0

    sys.exit(exits.guarded(job, lambda text: print(text, file=sys.stderr, flush=True)))


if __name__ == "__main__":
    typer.run(main)
