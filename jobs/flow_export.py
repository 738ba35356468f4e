#!/usr/bin/env python
"""Write flow records as one file a field: Middlebury .flo, or KITTI's 16-bit PNG.

python jobs/flow_export.py OUTPUT FOLDER --format flo [--video NAME] [--only-valid]
"""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # beside a checkout, without being installed

import typer


class Format(StrEnum):
    flo = "flo"
    kitti = "kitti"


def main(
    output: Annotated[str, typer.Argument(metavar="OUTPUT", help="What jobs/flow.py wrote to; any fsspec URL.")],
    folder: Annotated[str, typer.Argument(metavar="FOLDER", help="Where the files go; any fsspec URL.")],
    form: Annotated[Format, typer.Option("--format", help="flo: exact; kitti: 1/64 px within 512 px.")] = Format.flo,
    video: Annotated[str | None, typer.Option(help="One video: its name, URI or video_id. Default: all.")] = None,
    only_valid: Annotated[
        bool, typer.Option("--only-valid", help="Mark pixels that are not valid as unknown.")
    ] = False,
) -> None:
    """Export the flow of OUTPUT into FOLDER/<video>/forward|backward/<frame>. Exit codes: 0 done, 2 usage, 1 failed."""
    from pipeline.records.flow_export import export
    from pipeline.run import exits

    def job() -> int:
        done = export(output, folder, form.value, video=video, only_valid=only_valid)
        print(f"{done.files} files in {folder}")
        if done.out_of_range:
            print(f"{done.out_of_range} pixels move by more than KITTI's PNG holds (512 px): marked as unknown")
        return 0

    sys.exit(exits.guarded(job, lambda text: print(text, file=sys.stderr, flush=True)))


if __name__ == "__main__":
    typer.run(main)
