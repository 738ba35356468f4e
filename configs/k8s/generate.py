#!/usr/bin/env python
"""Writes a RayJob and a RayCronJob for each job beside this file, all from template.yaml.

python configs/k8s/generate.py
"""

from __future__ import annotations

import string
import textwrap
from pathlib import Path

HERE = Path(__file__).parent
JOBS = ("interpolate", "flow", "recognize")
RAY, VERSION = "2.60.0", "0.1.0"
"""Of Ray, as in pyproject.toml, and of the image."""
STARTS = {"interpolate": "0 1 * * *", "flow": "0 2 * * *", "recognize": "0 3 * * *"}


def manifests() -> dict[str, str]:
    """The files' texts by name."""
    template = string.Template((HERE / "template.yaml").read_text(encoding="utf-8"))
    made = {}
    for job in JOBS:
        text = template.substitute(job=job, ray=RAY, version=VERSION)
        made[f"{job}.rayjob.yaml"] = text
        head, spec = text.split("\nspec:\n")
        head = head.replace("kind: RayJob", "kind: RayCronJob")
        notes = (
            "  # RayCronJob is alpha: KubeRay 1.6 or later, with the operator's --feature-gates=RayCronJob=true.\n"
            "  # The time is the operator's; KubeRay 1.7 takes a timeZone beside the schedule.\n"
        )
        made[f"{job}.raycronjob.yaml"] = (
            f'{head}\nspec:\n{notes}  schedule: "{STARTS[job]}"\n  jobTemplate:\n{textwrap.indent(spec, "  ")}'
        )
    return made


if __name__ == "__main__":
    for name, text in manifests().items():
        (HERE / name).write_text(text, encoding="utf-8")
        print(HERE / name)
