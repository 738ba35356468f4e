#!/usr/bin/env python
"""Train CAIN on clips, MEMFOF on made scenes or flow data sets, or Deep Feature Flow on labelled pictures.

python jobs/train.py --config configs/train/cain_compact.yaml --data CLIPS --output FOLDER [--set key=value] [--resume]
python jobs/train.py --config configs/train/memfof_kitti.yaml --data kitti=FOLDER --output FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # beside a checkout, without being installed

import typer


def main(
    config: Annotated[Path, typer.Option(help="A recipe: configs/train/*.yaml.")],
    data: Annotated[list[Path], typer.Option(help="Folder of videos or pictures, or SET=FOLDER, as the recipe needs.")],
    output: Annotated[Path, typer.Option(help="Folder for checkpoints, history and weights.safetensors.")],
    set_: Annotated[list[str] | None, typer.Option("--set", help="dotted.key=value, over the recipe.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from OUTPUT's last checkpoint.")] = False,
    cache: Annotated[Path | None, typer.Option(help="Folder for decoded frames; default OUTPUT/frames.")] = None,
) -> None:
    """Train, checkpointing; ends with OUTPUT/weights.safetensors. Exit codes: 0 done, 2 usage, 1 failed."""
    from pipeline import config as configuration
    from pipeline.run import exits
    from pipeline.training import kinds, ray_train

    def job() -> int:
        recipe = configuration.load(kinds.recipe_type(config), config, set_ or [])  # type: ignore[type-var]  # any pydantic model
        outcome = ray_train.run(recipe, data, output, resume=resume, cache=cache)
        print("\n".join(f"{key:18} {value}" for key, value in outcome.items()))
        return 0

    sys.exit(exits.guarded(job, lambda text: print(text, file=sys.stderr, flush=True)))


if __name__ == "__main__":
    typer.run(main)
