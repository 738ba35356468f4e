#!/usr/bin/env python
"""Write recognition records as COCO JSON, or as a folder that FiftyOne and labelling tools import.

python jobs/recognize_export.py OUTPUT found.json [--video NAME]
python jobs/recognize_export.py OUTPUT FOLDER --format fiftyone --input INPUT [--every 10]
"""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # beside a checkout, without being installed

import typer


class Format(StrEnum):
    coco = "coco"
    fiftyone = "fiftyone"


def main(
    output: Annotated[str, typer.Argument(metavar="OUTPUT", help="What jobs/recognize.py wrote to; any fsspec URL.")],
    target: Annotated[Path, typer.Argument(metavar="TARGET", help="A file (coco) or a folder (fiftyone).")],
    form: Annotated[
        Format, typer.Option("--format", help="coco: one JSON file; fiftyone: with pictures.")
    ] = Format.coco,
    input: Annotated[str | None, typer.Option(help="fiftyone: the INPUT that the run was given.")] = None,
    video: Annotated[str | None, typer.Option(help="One video: its name, URI or video_id. Default: all.")] = None,
    every: Annotated[int, typer.Option(min=1, help="Only each n-th frame of a video.")] = 1,
) -> None:
    """Export the records of OUTPUT. Exit codes: 0 done, 2 usage, 1 failed."""
    from pipeline.config import DecodeConfig, InputConfig
    from pipeline.errors import ConfigError
    from pipeline.records import read_recognition
    from pipeline.records.recognition_export import export_coco, export_fiftyone
    from pipeline.run import exits
    from pipeline.storage import Storage

    def job() -> int:
        records = (one for one in read_recognition(output, video) if one.frame_index % every == 0)
        if form is Format.coco:
            done = export_coco(records, target)
        else:
            if input is None:
                raise ConfigError("--format fiftyone shows the frames: give --input, the INPUT that the run was given")
            from pipeline.tasks.recognize_pictures import SourcePictures

            with SourcePictures(input, Storage(), InputConfig(), DecodeConfig()) as pictures:
                done = export_fiftyone(records, target, pictures)
        print(f"{done.images} images, {done.annotations} annotations in {done.path}")
        return 0

    sys.exit(exits.guarded(job, lambda text: print(text, file=sys.stderr, flush=True)))


if __name__ == "__main__":
    typer.run(main)
