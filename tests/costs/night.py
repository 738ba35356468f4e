"""How a run's costs grow, solved from nine small runs; and what that foresees for a night."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil

from pipeline.ranged import READAHEAD, READAHEAD_MAX
from pipeline.records.catalogue import WORTH
from pipeline.storage import FETCHED
from pipeline.stores.s3 import PART_SIZE

Counts = Mapping[tuple[str, str], float]
PAGE = 1000
"""Keys that a listing, or a deletion, takes at once."""
MANY_CLIPS = 4
"""Clips a video in the run of many clips."""
PICTURED, REPORTED = 6, (2000, 200)
"""Videos of which a report shows pictures; of this run, and earlier ones, of which it reads the commits."""
CALIBRATION = "calibration.json"
CALIBRATIONS = 3
"""Times that a run stores it, at most."""
COMMITS = ("GET", "videos")


@dataclass(frozen=True)
class Rule:
    """Requests by (kind, what for): a run = fixed + videos * video + clips * clip + videos done before * earlier."""

    fixed: Counts
    """Of a run into an empty output."""
    resumed: Counts
    """Of a run that finds earlier videos, and has some to do."""
    idle: Counts
    """Of a run that has nothing to do."""
    video: Counts
    clip: Counts
    earlier: Counts
    """For each video that is done already and not in the catalogue, where there are others to do."""
    earlier_idle: Counts
    """The same where there is nothing to do."""
    report: Counts
    """Of a report on two videos."""
    shared: Counts
    """Of putting two videos' outputs into one file."""


@dataclass(frozen=True)
class Catalogue:
    """What reading so many commits from the catalogue takes."""

    commits: int
    reads: float

    def __call__(self, commits: int) -> float:
        return self.reads * commits / self.commits


def solve(runs: Mapping[str, Counts]) -> Rule:
    """The rule behind the counts of these runs, which make no report, and whose videos share no files:

    "one": a video of one clip; "two": two such; "many": two of MANY_CLIPS clips; "one more", "two more": another video
    for the outputs of the first and second; "idle 2", "idle 3": nothing to do in those, which then have 2 and 3 videos;
    and of two more that are as "two": "reported" with a report, "shared" (if the task can) with a file for both.
    """
    runs = {name: {key: n for key, n in counts.items() if key[1] != CALIBRATION} for name, counts in runs.items()}
    calibration = {("PUT", CALIBRATION): float(CALIBRATIONS)}
    clip = _over(_less(runs["many"], runs["two"]), 2 * (MANY_CLIPS - 1))
    video = _less(_less(runs["two"], runs["one"]), clip)
    earlier = _less(runs["two more"], runs["one more"])
    earlier_idle = _less(runs["idle 3"], runs["idle 2"])
    fixed = _less(_less(runs["one"], video), clip)
    resumed = _less(_less(_less(runs["one more"], video), clip), earlier)
    idle = _less(runs["idle 2"], {key: 2 * count for key, count in earlier_idle.items()})
    report, shared = (_less(runs.get(name, runs["two"]), runs["two"]) for name in ("reported", "shared"))
    return Rule(fixed | calibration, resumed | calibration, idle, video, clip, earlier, earlier_idle, report, shared)


def foreseen(
    rule: Rule,
    catalogue: Catalogue,
    clips: int,
    videos: int,
    earlier: int = 0,
    *,
    sharing: int = 0,
    may_share: bool = False,
) -> Counter[str]:
    """Requests by kind of a run of so many clips in so many videos, with `earlier` videos done before.

    The most that it can be: WORTH - 1 of the earlier videos are in no catalogue yet. `sharing`: videos, earlier ones
    too, that are put into files with others; a task that `may_share` looks through all commits once for that, and once
    more where it does (grouping.py). Listings of the whole take a request for each PAGE keys.
    """
    base = rule.idle if not videos else rule.resumed if earlier else rule.fixed
    total: Counter[str] = Counter()
    for part, times in ((base, 1), (rule.video, videos), (rule.clip, clips), (rule.shared, sharing / 2)):
        for (kind, _), count in part.items():
            total[kind] += count * times
    each = dict(rule.earlier if videos else rule.earlier_idle)
    if may_share and videos:
        each[COMMITS] = each.get(COMMITS, 0) + (2 if sharing else 1)
    for key, count in each.items():
        known = max(0, earlier - WORTH + 1) if key == COMMITS else 0
        total[key[0]] += count * (earlier - known + catalogue(known))
    keys = {"videos": earlier + videos, "attempts": clips + videos, "input": earlier + videos}
    for (kind, purpose), count in base.items():
        if kind == "LIST":
            total[kind] += count * max(0, -(-keys.get(purpose, 0) // PAGE) - 1)
    if videos:
        total["DELETE"] += max(0, -(-keys["attempts"] // PAGE) - 1)  # of the marks, at the end
        _add_report(total, rule.report, videos, earlier)
    return Counter({kind: round(count) for kind, count in total.items() if round(count) > 0})


def _add_report(total: Counter[str], report: Counts, videos: int, earlier: int) -> None:
    """Of two videos it read: what grows with the pictures, what grows with the table, and the rest."""
    for key, count in report.items():
        times = 1.0
        if key[1] in ("input", "output"):
            times = min(videos + earlier, PICTURED) / 2
        elif key == COMMITS:
            times = (min(videos, REPORTED[0]) + min(earlier, REPORTED[1])) / 2
        total[key[0]] += count * times


def by_bytes(clips: int, source: float, output: float, rereads: bool, seeks: float = 0.0) -> Counter[str]:
    """What a video takes beyond its rule, which was found in videos of a few kB: reads and writes go in blocks.

    source, output: bytes of the whole video, and of what is made of it; `rereads`: whether the source is read once more
    when it is joined (for its sound). `seeks`: reads out of sequence, each time that the video is opened.
    """
    each_in, each_out = source / clips, output / clips
    reads = clips * (_blocks(each_in) - 1 + _ranges(each_out) - 1) + (_blocks(source) - 1 if rereads else 0)
    writes = clips * (_parts(each_out) - 1) + _parts(output) - 1
    return Counter({"GET": round(reads + seeks * opened(clips, rereads)), "PUT": writes})


def opened(clips: int, rereads: bool) -> int:
    """Times that a video of so many clips is opened: to be probed, for each clip, and perhaps to be joined."""
    return 1 + clips + rereads


def _blocks(size: float) -> int:
    """Ranges in which a RangedFile is read from its beginning to its end."""
    count, block, place = 0, READAHEAD, 0
    while place < size or not count:
        count, place, block = count + 1, place + block, min(2 * block, READAHEAD_MAX)
    return count


def _ranges(size: float) -> int:
    """In which Storage.get_file fetches."""
    return max(1, ceil(size / FETCHED))


def _parts(size: float) -> int:
    """Requests that Storage.put_file makes: from two parts on, beside them one to begin and one to end."""
    return ceil(size / PART_SIZE) + 2 if size > 2 * PART_SIZE else 1


def by_kind(counts: Counts) -> Counter[str]:
    total: Counter[str] = Counter()
    for (kind, _), count in counts.items():
        total[kind] += count
    return total


def _less(one: Counts, other: Counts) -> dict[tuple[str, str], float]:
    left = {key: one.get(key, 0) - other.get(key, 0) for key in sorted({*one, *other})}
    return {key: count for key, count in left.items() if count}


def _over(counts: Counts, number: int) -> dict[tuple[str, str], float]:
    return {key: count / number for key, count in counts.items()}
