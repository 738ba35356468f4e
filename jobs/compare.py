#!/usr/bin/env python
"""How two runs of a task differ: the check before weights, or a version, are changed in production.

python jobs/compare.py s3://out/flow-old s3://out/flow-new --fail-above 0.5 --json report.json
python jobs/compare.py old new --fail-above difference=0.02 --each
python jobs/compare.py old new --fail-below psnr=40 --fail-below ssim=0.98
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # beside a checkout, without being installed

import typer

EXIT_BEYOND = 4


def main(
    run_a: Annotated[str, typer.Argument(metavar="RUN_A", help="An OUTPUT of a job, the one to measure against.")],
    run_b: Annotated[str, typer.Argument(metavar="RUN_B", help="Another OUTPUT of the same task.")],
    json_: Annotated[Path | None, typer.Option("--json", help="Write everything here, video by video.")] = None,
    fail_above: Annotated[
        list[str] | None,
        typer.Option(help="NUMBER of the main measure (epe px, 1 - mIoU or mAP, rms of 255), or MEASURE=NUMBER."),
    ] = None,
    fail_below: Annotated[list[str] | None, typer.Option(help="MEASURE=NUMBER: psnr=40, miou=0.95, …")] = None,
    each: Annotated[bool, typer.Option("--each", help="Thresholds hold for every video too.")] = False,
    ssim_every: Annotated[int, typer.Option(min=1, help="Take the SSIM of every n-th frame only.")] = 10,
) -> None:
    """Differences of RUN_B to RUN_A.

    Exit codes: 0 within the thresholds, 4 beyond them or with videos, frames or times that differ, 2 usage, 1 failed.
    """
    import json

    from pipeline.comparison import telling, verdict
    from pipeline.run import exits

    def job() -> int:
        thresholds = [verdict.threshold(text, above=True) for text in fail_above or ()]
        thresholds += [verdict.threshold(text, above=False) for text in fail_below or ()]
        found = verdict.compare(run_a, run_b, thresholds, ssim_every=ssim_every)
        reasons = verdict.judge(found, thresholds, each=each)
        print(telling.table(found))
        for reason in reasons:
            print(f"beyond     {reason}")
        if not reasons:
            print(f"within     the same frames of the same videos{''.join(f'; not {one}' for one in thresholds)}")
        if json_ is not None:
            text = json.dumps(telling.document(found, reasons), indent=1, ensure_ascii=False, default=str)
            json_.write_text(text + "\n", encoding="utf-8")
        return EXIT_BEYOND if reasons else 0

    sys.exit(exits.guarded(job, lambda text: print(text, file=sys.stderr, flush=True)))


if __name__ == "__main__":
    typer.run(main)
