"""The paper's fixed key frames beside those chosen by looking ahead, on real clips, at the same number of key frames.

There are no labels of real clips' every frame: the per-frame network stands for the truth. On all frames that are no
key frames of a schedule, carried features are set against the frame's own,

    feature_error   sum of absolute differences over the sum of the own features' absolute values, mean over frames
    miou            of the labels, with the own features' labels as the truth

Look-ahead may not go beyond the budget here (promote_above is off), so that both schedules have as many key frames.
"""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path

import torch
from torch import Tensor

from models.dff.protocol import Segmentation
from pipeline import config as configuration
from pipeline.benchmark_recognize_loops import Bare, Plan
from pipeline.config_recognize import RecognizeConfig
from pipeline.errors import ConfigError
from pipeline.metrics_recognition import Confusion, relative_l1
from pipeline.plan.key_frames import Carried
from pipeline.plan.key_schedule import schedule_clip
from pipeline.records.rle import Labels

SCHEDULES = ("fixed", "lookahead")


@dataclass(frozen=True, slots=True)
class ScheduleScore:
    clip: str
    budget: str
    schedule: str
    frames: int
    keys: int
    feature_error: float
    worst_feature_error: float
    """Of the twentieth of the carried frames that is worst, the least."""
    miou: float


def compare(
    clips: Sequence[Path], settings: Sequence[str], budgets: Sequence[Fraction], frames: int, threads: int
) -> Iterator[ScheduleScore]:
    """A score for each clip, budget and schedule, on a clip's first frames. ConfigError for a detector."""
    for clip in clips:
        bare = Bare(Plan(str(clip), tuple(settings), threads, ()), frames)
        own = [bare.features(number) for number in range(bare.count)]
        labels = [_labels(bare, features) for features in own]
        for budget in budgets:
            for schedule in SCHEDULES:
                chosen = _schedule(bare, settings, schedule, budget)
                total = Confusion(bare.classes)
                errors = []
                for carried in chosen:
                    if carried.is_key:
                        continue
                    features = bare.carried(own[carried.key], carried, defaultdict(float))
                    errors.append(relative_l1(features.numpy(), own[carried.frame].numpy()))
                    total.add(_labels(bare, features), labels[carried.frame])
                keys = sum(carried.is_key for carried in chosen)
                yield ScheduleScore(
                    clip.name, str(budget), schedule, bare.count, keys, statistics.fmean(errors),
                    sorted(errors)[int(0.95 * (len(errors) - 1))], total.miou,
                )  # fmt: skip


def _schedule(bare: Bare, settings: Sequence[str], schedule: str, budget: Fraction) -> tuple[Carried, ...]:
    own = (f"key_frames.schedule={schedule}", f"key_frames.budget={budget}", "key_frames.promote_above=null")
    config = configuration.load(RecognizeConfig, None, [*settings, *own])
    whole = range(bare.count)
    return schedule_clip(whole, bare.count, 0, bare.thumbnails, config.cuts, config.key_frames).frames


def _labels(bare: Bare, features: Tensor) -> Labels:
    with torch.no_grad():
        found = bare.network.head(features, bare.size)
    if not isinstance(found, Segmentation):
        raise ConfigError("the weights are a detector's; schedules are compared by the labels of pixels")
    labels: Labels = found.labels[0].numpy()
    return labels


def table(scores: Sequence[ScheduleScore]) -> str:
    """A line a clip and budget, both schedules side by side; the means over clips last."""
    lines = [f"{'':<24}{'budget':>7}{'keys':>10}{'feature error':>20}{'worst 5 %':>20}{'mIoU':>20}   fixed, lookahead"]
    groups: dict[tuple[str, str], list[ScheduleScore]] = defaultdict(list)
    for one in scores:
        groups[one.clip, one.budget].append(one)
    if len({one.clip for one in scores}) > 1:
        for one in scores:
            groups["mean", one.budget].append(one)
    for (clip, budget), own in groups.items():
        cells = []
        for name, digits in (("keys", 0), ("feature_error", 4), ("worst_feature_error", 4), ("miou", 4)):
            means = [
                statistics.fmean(getattr(one, name) for one in own if one.schedule == schedule)
                for schedule in SCHEDULES
            ]
            cells.append("  ".join(f"{mean:.{digits}f}" for mean in means))
        lines.append(f"{clip[:24]:<24}{budget:>7}{cells[0]:>10}" + "".join(f"{cell:>20}" for cell in cells[1:]))
    return "\n".join(lines)


def write_json(path: Path, scores: Sequence[ScheduleScore]) -> None:
    path.write_text(json.dumps([asdict(one) for one in scores], indent=1) + "\n", encoding="utf-8")
