"""What was measured, as Markdown for the README."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.config_flow import FilesConfig
from tests.costs.night import MANY_CLIPS, Catalogue, Rule, by_bytes, by_kind, foreseen, opened, solve
from tests.costs.proxy import BILLED

CLIPS_A_VIDEO, FRAMES_A_CLIP = 20, 120
NIGHTS = ((1_000, 0), (100_000, 0), (100_000, 50_000), (0, 50_000))
"""(clips, videos that are there)."""
SHARES = {"interpolate": False, "flow": True, "recognize": True}
SHARES_BELOW = FilesConfig().group_below
"""Bytes of a video's output."""
REREADS = ("interpolate",)
"""Jobs that read the source once more when they join, for its sound."""


def table(results: Mapping[str, dict[str, Any]]) -> str:
    """All tables, of results by task (see __main__)."""
    rules = {task: solve(_runs(result["small"])) for task, result in results.items()}
    parts = [
        _requests(rules), _nights(rules, results), _real(rules, results), _bytes(results), _sizes(results),
    ]  # fmt: skip
    return "\n\n".join("\n".join(lines) for lines in parts) + "\n"


def _runs(small: Mapping[str, list[tuple[str, str, float]]]) -> dict[str, dict[tuple[str, str], float]]:
    return {name: {(kind, purpose): count for kind, purpose, count in counts} for name, counts in small.items()}


def _requests(rules: Mapping[str, Rule]) -> list[str]:
    """A row for each thing that asks; jobs that ask for the same share one."""
    jobs: dict[tuple[str, str], list[str]] = {}
    for task, rule in rules.items():
        for what, counts in (
            ("a clip", rule.clip),
            ("a video", rule.video),
            ("two videos that share a file", rule.shared),
            ("a video done earlier, not in the catalogue", rule.earlier),
            ("a run into an empty output", rule.fixed),
            ("a run that goes on", rule.resumed),
            ("a run with nothing to do", rule.idle),
            ("a report on two videos", rule.report),
        ):
            if counts:
                totals = by_kind(counts)
                jobs.setdefault((what, " | ".join(_number(totals[kind]) for kind in BILLED)), []).append(task)
    rows = sorted(jobs, key=lambda row: [what for what, _ in jobs].index(row[0]))
    return [
        *_head("requests, measured"),
        *(f"| {what} ({', '.join(jobs[what, cells])}) | {cells} |" for what, cells in rows),
    ]


def _nights(rules: Mapping[str, Rule], results: Mapping[str, dict[str, Any]]) -> list[str]:
    lines = _head("a night, extrapolated", ("state kept", "output"))
    for task, rule in rules.items():
        result = results[task]
        catalogue, like = _catalogue(result), _like(task, result)
        together = int(SHARES_BELOW // max(1.0, like.output)) if SHARES[task] else 0
        seeks = _seeks(rule, result, task in REREADS)
        large = by_bytes(CLIPS_A_VIDEO, like.source, like.output, task in REREADS, seeks)
        for clips, before in NIGHTS:
            videos = clips // CLIPS_A_VIDEO
            sharing = videos + min(before, together) if together and videos else 0
            count = foreseen(rule, catalogue, clips, videos, before, sharing=sharing, may_share=SHARES[task])
            count.update({kind: number * videos for kind, number in large.items()})
            what = f"{clips:,} clips" if clips else "nothing to do"
            what += f", {before:,} videos there" if before else ""
            sizes = (_size(videos * _state_of_a_video(result)), _size(videos * like.output))
            cells = [*(f"{count[kind]:,}" for kind in BILLED), *(sizes if videos else ("", ""))]
            lines.append(f"| {task}: {what} | {' | '.join(cells)} |")
    return lines


def _real(rules: Mapping[str, Rule], results: Mapping[str, dict[str, Any]]) -> list[str]:
    """What the rule says of the real run beside what that run asked for."""
    lines = _head("the real run: counted (foreseen)")
    for task, rule in rules.items():
        result = results[task]
        videos = result["real"]["videos"]
        seeks = _seeks(rule, result, task in REREADS)
        count = foreseen(rule, _catalogue(result), len(videos), len(videos))
        for name, facts in videos.items():
            count.update(by_bytes(1, facts["bytes"], _made(result, name), task in REREADS, seeks))
        counted: Counter[str] = Counter()
        for kind, _, number in result["real"]["requests"]:
            counted["PUT" if kind == "MULTIPART" else kind] += int(number)
        cells = [f"{counted[kind]} ({count[kind]})" for kind in BILLED]
        lines.append(f"| {task} | {' | '.join(cells)} |")
    return lines


def _head(title: str, more: tuple[str, ...] = ()) -> list[str]:
    return [f"| {' | '.join((title, *BILLED, *more))} |", "| --- |" + " ---: |" * (len(BILLED) + len(more))]


def _catalogue(result: dict[str, Any]) -> Catalogue:
    found = result["catalogue"]
    reads = sum(count for kind, purpose, count in found["requests"] if (kind, purpose) == ("GET", "videos.parquet"))
    return Catalogue(found["commits"], reads)


def _seeks(rule: Rule, result: dict[str, Any], rereads: bool) -> float:
    """Reads of a video out of sequence each time that it is opened: what the real run had beyond rule and bytes."""
    real, key = result["real"], ("GET", "input")
    found = sum(count for *what, count in real["requests"] if tuple(what) == key)
    for facts in real["videos"].values():
        found -= rule.clip.get(key, 0) + rule.video.get(key, 0) + by_bytes(1, facts["bytes"], 0, rereads)["GET"]
    return max(0.0, float(found / (len(real["videos"]) * opened(1, rereads))))


@dataclass(frozen=True)
class _Video:
    """Bytes of the source, and of what is made of it."""

    source: float
    output: float


def _like(task: str, result: dict[str, Any]) -> _Video:
    """A video of CLIPS_A_VIDEO clips that is otherwise as the widest of the real run."""
    name, facts = max(result["real"]["videos"].items(), key=lambda item: int(item[1]["width"]))
    longer = CLIPS_A_VIDEO * FRAMES_A_CLIP / facts["frames"]
    return _Video(facts["bytes"] * longer, _made(result, name) * longer)


def _state_of_a_video(result: dict[str, Any]) -> float:
    """Bytes: its commit, and that in the catalogue."""
    real, catalogue = result["real"], result["catalogue"]
    return float(real["state"]["videos"] / len(real["videos"]) + catalogue["bytes"] / catalogue["commits"])


def _bytes(results: Mapping[str, dict[str, Any]]) -> list[str]:
    lines = ["| bytes, memory | " + " | ".join(results) + " |", "| --- |" + " --- |" * len(results)]
    rows = {task: _byte_row(result) for task, result in results.items()}
    for name in next(iter(rows.values()), {}):
        lines.append(f"| {name} | {' | '.join(row[name] for row in rows.values())} |")
    return lines


def _byte_row(result: dict[str, Any]) -> dict[str, str]:
    state, peaks, real = result["state"], result["real"]["peaks"], result["real"]
    clips = _commits(state["many"]) - _commits(state["two"])
    report = Counter(real["state"])
    kept = report["videos"]
    return {
        "kept: a video's commit": _size(kept / len(real["videos"])),
        "kept: its place in the catalogue": _size(result["catalogue"]["bytes"] / result["catalogue"]["commits"]),
        "kept: a clip": _size(clips / (2 * (MANY_CLIPS - 1))),
        "kept: each session's summary": _size(report["runs"]),
        "kept: report": _size(report["report.html"]),
        "kept: run, last summary, calibration, empty quarantine": _size(
            report["run.json"] + report["summary.json"] + report["calibration.json"] + report["quarantine"]
        ),
        "temporary in the bucket at the peak, of the outputs": _share(
            peaks["temporary in the bucket"], sum(real["outputs"].values())
        ),
        "scratch: a worker or join": _size(peaks["scratch, a try"]),
        "peak RSS: an actor": _size(peaks.get("actor", 0)),
        "peak RSS: driver": _size(peaks.get("driver", 0)),
        "peak RSS: a probe or join": _size(peaks.get("probe or join", 0)),
    }


def _commits(state: Mapping[str, int]) -> int:
    return state.get("videos", 0) + state.get("commit", 0) + state.get("segments", 0) + state.get("attempts", 0)


def _sizes(results: Mapping[str, dict[str, Any]]) -> list[str]:
    lines = ["| output a minute of video | " + " | ".join(results) + " |", "| --- |" + " --- |" * len(results)]
    names = sorted({name for result in results.values() for name in result["real"]["videos"]})
    for name in names:
        cells, told = [], name
        for result in results.values():
            facts = result["real"]["videos"][name]
            told = f"{name}, {facts['width']}x{facts['height']}, {facts['frames'] / facts['seconds']:.0f} frames/s"
            made = _made(result, name)
            cells.append(_size(made * 60 / facts["seconds"]) if made else "-")
        lines.append(f"| {told} | {' | '.join(cells)} |")
    return lines


def _made(result: dict[str, Any], name: str) -> int:
    """Bytes of a video's outputs."""
    return sum(size for path, size in result["real"]["outputs"].items() if name in path)


def _number(count: float) -> str:
    return f"{count:.2f}".rstrip("0").rstrip(".") if abs(count) >= 0.005 else "0"


def _share(part: int, whole: int) -> str:
    return f"{_size(part)} ({100 * part / max(1, whole):.0f} %)"


def _size(count: float) -> str:
    if count >= 10e9:
        return f"{count / 1e9:.1f} GB"
    if count >= 10e6:
        return f"{count / 1e6:.0f} MB"
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.1f} kB" if count >= 1e3 else f"{count:.0f} B"
