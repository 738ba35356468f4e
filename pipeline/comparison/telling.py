"""A comparison as people read it, and as JSON."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from pipeline.comparison.frames import Pairing
from pipeline.comparison.runs import differing_keys
from pipeline.comparison.verdict import Comparison, Measures, Video
from pipeline.storage import redact

SHOWN = 20
"""Videos in the table; the JSON has all."""


def table(found: Comparison) -> str:
    """The runs' own differences, the videos that differ most, and the sums."""
    lines = [f"A          {redact(found.first.output)}", f"B          {redact(found.second.output)}"]
    keys = differing_keys(found.first, found.second)
    if found.first.fingerprint == found.second.fingerprint:
        lines.append("fingerprint the same: the runs were asked for the same")
    lines += [f"differ in  {key}: {_short(old)} -> {_short(new)}" for key, (old, new) in keys.items()]
    names = [name for name in found.measures if ":" not in name]
    lines.append("")
    head = " ".join(f"{name:>14}" for name in names)
    lines.append(f"{'video':40} {'frames':>8} {'missing':>8} {'times':>6} {head}")
    worst = sorted(found.videos, key=lambda one: (-_worth(one, found.main), one.name))
    for one in worst[:SHOWN]:
        lines.append(_line(one.name, one.pairing, one.measures, names))
    if len(worst) > SHOWN:
        lines.append(f"and {len(worst) - SHOWN} that differ less")
    lines.append(_line(f"all {len(found.videos)}", found.pairing, found.measures, names))
    classes = sorted({name.partition(":")[2] for name in found.measures if ":" in name}, key=_motion)
    for motion in classes:
        values = " ".join(f"{_number(found.measures.get(f'{name}:{motion}')):>14}" for name in names)
        lines.append(f"{'  motion ' + motion + ' px':40} {'':>8} {'':>8} {'':>6} {values}")
    for title, videos in (
        ("only in A", found.only_a),
        ("only in B", found.only_b),
        ("failed in both", found.failed),
        ("of other versions", found.other_versions),
    ):
        if videos:
            more = f", … ({len(videos)})" if len(videos) > 5 else ""
            lines.append(f"{title}: {', '.join(videos[:5])}{more}")
    return "\n".join(lines)


def document(found: Comparison, reasons: Sequence[str]) -> dict[str, Any]:
    """As JSON values: numbers that are not finite become strings."""
    return {
        "a": redact(found.first.output),
        "b": redact(found.second.output),
        "task": found.first.task,
        "differing_keys": differing_keys(found.first, found.second),
        "within": not reasons,
        "reasons": list(reasons),
        "main": found.main,
        "measures": _plain(found.measures),
        "detail": _plain(found.detail),
        "frames": asdict(found.pairing),
        "videos": [
            {
                "name": one.name,
                "frames": asdict(one.pairing),
                "measures": _plain(one.measures),
                "detail": _plain(one.detail),
            }
            for one in found.videos
        ],
        "only_a": found.only_a,
        "only_b": found.only_b,
        "failed_in_both": found.failed,
        "other_versions": found.other_versions,
    }


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _line(name: str, pairing: Pairing, measures: Measures, names: Sequence[str]) -> str:
    values = " ".join(f"{_number(measures.get(one)):>14}" for one in names)
    missing = pairing.only_a + pairing.only_b
    return f"{name[-40:]:40} {pairing.frames:>8} {missing:>8} {pairing.other_times:>6} {values}"


def _worth(one: Video, main: str) -> float:
    if one.pairing.differs:
        return math.inf
    value = one.measures.get(main)
    return 0.0 if value is None else value


def _motion(name: str) -> int:
    found = re.search(r"\d+", name)
    return int(found[0]) if found else 0


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.6g}"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "…"
