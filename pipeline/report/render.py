"""The page: facts and samples through a template into one HTML file that loads nothing from anywhere."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from fractions import Fraction
from functools import cache
from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from pipeline import __version__
from pipeline.layout import Layout
from pipeline.records.commit import VideoCommit
from pipeline.report import figures
from pipeline.report.gather import Facts, gather, lines, visible
from pipeline.report.samples import Sample, samples
from pipeline.storage import Storage

FILES = "pipeline.report.page"


def write(storage: Storage, layout: Layout, recent: Collection[str] | None = None) -> str:
    """Builds the report of what is in the prefix and puts it there; returns its URI. Errors of the store are raised."""
    storage.put(layout.report, build(storage, layout, recent).encode())
    return layout.report


def build(storage: Storage, layout: Layout, recent: Collection[str] | None = None) -> str:
    """The report of an output prefix as HTML. Raises InputNotFound where no run has begun there.

    `recent`: video_ids that the last session worked on; without them, the first videos of the prefix are shown.
    """
    facts = gather(storage, layout, recent)
    return page(facts, samples(storage, layout, facts))


def page(facts: Facts, shown: list[Sample]) -> str:
    """The HTML of facts and samples."""
    charts: dict[str, figures.Figure] = {}

    def chart(name: str, figure: figures.Figure | None) -> str | None:
        if figure is None:
            return None
        charts[name] = figure
        return name

    summary = facts.summary
    speed = summary.get("speed") or {}
    overall = {
        "throughput": chart(
            "throughput", figures.throughput(summary.get("timeline") or [], summary.get("model_ceiling"))
        ),
        "stages": chart("stages", figures.stages(summary.get("stage_s") or {})),
        "shares": chart("shares", figures.shares(_shares(speed))),
    }
    drawn = [
        {
            "sample": sample,
            "charts": [
                (title, chart(f"sample-{place}-{number}", figure))
                for number, (title, figure) in enumerate(sample.charts)
            ],
        }
        for place, sample in enumerate(shown)
    ]
    maps = {str(place): sample.maps for place, sample in enumerate(shown) if sample.maps}
    return _template().render(
        version=__version__,
        facts=facts,
        summary=summary,
        cards=_cards(facts),
        overall=overall,
        samples=drawn,
        videos=[_video(commit) for commit in facts.commits],
        data=_json({"charts": charts, "maps": maps}),
        style=Markup(_file("report.css")),
        script=Markup(_file("report.js")),
        plotly=Markup(get_plotlyjs()),
        visible=visible,
        lines=lines,
        number=_number,
        size=_size,
    )


def _cards(facts: Facts) -> list[tuple[str, str, str]]:
    """(label, value, remark) of the figures that everybody asks for first."""
    s = facts.summary
    if not s:
        return [("videos with a commit", _number(facts.videos), "no session has ended yet")]
    reached, ceiling = s.get("frames_per_second"), s.get("model_ceiling")
    share = f"{reached / ceiling:.0%} of {ceiling:.2f} that the model alone would reach" if reached and ceiling else ""
    return [
        ("videos done", _number(s.get("videos_committed")), f"{_number(s.get('videos_skipped'))} done before"),
        ("quarantined", _number(facts.in_quarantine), f"{_number(s.get('videos_quarantined'))} videos by this session"),
        ("frames made", _number(s.get("frames")), _kinds(s.get("frames_by_kind") or {})),
        ("output", _size(s.get("output_bytes")), f"{_number(s.get('files'))} files finished"),
        ("frames/s", f"{reached:.2f}" if reached else "–", share),
        ("wall time", _duration(s.get("wall_s")), f"{_duration(s.get('start_up_s'))} until the first clip"),
    ]


def _kinds(kinds: Mapping[str, int]) -> str:
    return ", ".join(f"{_number(count)} {kind.replace('_', ' ')}" for kind, count in kinds.items())


def _shares(speed: Mapping[str, Any]) -> dict[str, float]:
    found = speed.get("shares") or {}
    return {str(name): float(value) for name, value in found.items() if value}


def _video(commit: VideoCommit) -> dict[str, Any]:
    failure = commit.failure
    own = [output for output in commit.outputs if not output.shared]
    return {
        "name": visible(commit.name),
        "status": "done" if failure is None else "quarantined",
        "frames": commit.extra.get("source_frames", 0),
        "made": sum((commit.extra.get("kinds") or {}).values()),
        "bytes": sum(output.size for output in own) if own else None,
        "clips": commit.clips,
        "remark": visible(
            f"{failure.error_type}: {failure.message}" if failure else "; ".join(map(str, _remarks(commit.extra)))
        ),
        "uri": visible(commit.uri + (f"#{commit.member}" if commit.member else "")),
    }


def _remarks(extra: Mapping[str, Any]) -> list[object]:
    found: list[object] = list(extra.get("notes") or [])
    t_error = str(extra.get("max_t_error", "0"))
    if Fraction(t_error):
        found.append(f"t_error up to {t_error}")
    return found


def _number(value: object) -> str:
    return f"{value:,}".replace(",", "\u202f") if isinstance(value, int) else "–"


def _size(value: object) -> str:
    if not isinstance(value, int | float):
        return "–"
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.4g} TB"


def _duration(seconds: object) -> str:
    if not isinstance(seconds, int | float):
        return "–"
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(int(minutes), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest:.0f} s" if minutes else f"{rest:.1f} s"


def _json(value: object) -> Markup:
    """JSON that may stand inside <script>: nothing in it can end the element."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def _file(name: str) -> str:
    return resources.files(FILES).joinpath(name).read_text(encoding="utf-8")


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    return environment.from_string(_file("report.html.j2"))
