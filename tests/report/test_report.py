"""The page without a browser: everything is in it, nothing in it can run or be fetched, and its size is bounded."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from jobs import report as job
from pipeline.errors import InputNotFound
from pipeline.layout import Layout
from pipeline.report import build, figures, gather
from pipeline.report import samples as sampling
from pipeline.report.gather import visible
from pipeline.storage import Storage
from tests.report.prefix import HOSTILE, SECRET, made

TASKS = ("interpolate", "flow", "recognize")
ADDRESSES = {"src", "href", "action", "formaction", "poster", "srcset", "data", "background"}


class Reader(HTMLParser):
    """Tags, attributes, the text outside of scripts, and the scripts."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.scripts: list[str] = []
        self._inside = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts[-1] += data
        elif self._inside != "style":
            self.text += data


@pytest.fixture(scope="module", params=TASKS)
def page(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Reader]:
    layout = made(tmp_path_factory.mktemp("report"), request.param)
    return request.param, Reader(build(Storage(), layout))


def embedded(reader: Reader) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(reader.scripts[0])
    return found


def test_nothing_is_fetched_from_anywhere(page: tuple[str, Reader]) -> None:
    _, reader = page
    policy = next(a["content"] for tag, a in reader.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    assert "connect-src" not in policy
    assert not re.search(r"https?:", policy)
    for tag, attributes in reader.tags:
        for name in ADDRESSES & attributes.keys():
            value = attributes[name] or ""
            assert value.startswith(("data:image/jpeg;base64,", "#")), (tag, name, value[:80])
        assert tag not in ("link", "iframe", "object", "embed", "form", "base")


def test_names_and_messages_cannot_run(page: tuple[str, Reader]) -> None:
    _, reader = page
    assert len(reader.scripts) == 3
    assert not any("alert(" in script for script in (reader.scripts[0], reader.scripts[2]))
    assert not any(name.startswith("on") for _, attributes in reader.tags for name in attributes)
    assert "<script>alert(1)</script>" in reader.text
    assert "{{ 7 * 7 }}" in reader.text
    assert "\\u202egpj.4pm" in reader.text
    assert "\u202e" not in reader.text
    assert "line\\u000abreak\\u2028end" in reader.text


def test_every_failure_is_there_with_its_reason(page: tuple[str, Reader]) -> None:
    _, reader = page
    assert sum(attributes.get("class") == "failure" for _, attributes in reader.tags) == len(HOSTILE)
    assert sum((a.get("class") or "").startswith("group") for tag, a in reader.tags if tag == "details") == 2


def test_each_task_shows_its_own_pictures_and_charts(page: tuple[str, Reader]) -> None:
    task, reader = page
    pictures = [attributes for tag, attributes in reader.tags if tag == "img"]
    data = embedded(reader)
    assert pictures
    assert {"throughput", "stages"} <= data["charts"].keys()
    assert {a["data-chart"] for _, a in reader.tags if "data-chart" in a} == data["charts"].keys()
    assert bool(data["maps"]) == (task == "interpolate")
    if task == "recognize":
        keys = data["charts"]["sample-0-0"]["data"][2]
        assert len(keys["x"]) == 4
    if task == "interpolate":
        frames = data["maps"]["0"]["frames"]
        assert [frame["depth"] for frame in frames] == [[1 + n // 4, 0] for n in range(1, 20, 2)]
        assert frames[0]["patches"] == [[0, 0, 48, 40], [0, 24, 48, 40]]
        kinds = [attributes["alt"] for attributes in pictures]
        assert any("synthesised, t = 1/2" in (kind or "") for kind in kinds)
    if task == "flow":
        assert "full colour" in (pictures[0]["alt"] or "")


def test_figures_of_the_run_are_shown(page: tuple[str, Reader]) -> None:
    _, reader = page
    assert "1\u202f234\u202f567" in reader.text
    assert "88% of 4.00 that the model alone would reach" in reader.text
    assert "1 min 16 s" in reader.text
    assert "20261120T000000-bb" in reader.text


def test_a_picture_that_cannot_be_made_says_why_and_hides_nothing_else(tmp_path: Path) -> None:
    layout = made(tmp_path, "interpolate")
    Path(layout.uri("video/a.mp4")).write_bytes(b"no video")
    reader = Reader(build(Storage(), layout))
    assert "not shown: InvalidDataError" in reader.text
    assert not [tag for tag, _ in reader.tags if tag == "img"]
    assert sum(attributes.get("class") == "failure" for _, attributes in reader.tags) == len(HOSTILE)


def test_tables_are_bounded_and_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = made(tmp_path, "flow")
    monkeypatch.setattr(gather, "MOST_VIDEOS", 3)
    monkeypatch.setattr(gather, "MOST_FAILURES", 2)
    facts = gather.gather(Storage(), layout)
    assert (len(facts.commits), facts.videos) == (3, 1 + len(HOSTILE))
    assert sum(len(group.rows) for group in facts.failures) == 2
    assert sum(group.count for group in facts.failures) == len(HOSTILE) == facts.in_quarantine
    assert "the table holds 3 of them" in Reader(build(Storage(), layout)).text


def test_videos_of_the_last_session_come_first_and_few_others_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout, storage = made(tmp_path, "flow"), Storage()
    everything = [commit.video_id for commit in gather.gather(storage, layout).commits]
    monkeypatch.setattr(gather, "MOST_EARLIER", 2)
    recent = sorted(everything)[-2:]
    read: list[str] = []
    real = storage.read_many

    def counted(uris: Any, **options: Any) -> Any:
        read.extend(uris := list(uris))
        return real(uris, **options)

    monkeypatch.setattr(storage, "read_many", counted)
    facts = gather.gather(storage, layout, recent)
    assert [commit.video_id for commit in facts.commits] == [*recent, *sorted(everything)[:2]]
    assert (len(read), facts.videos) == (4, len(everything))


def test_secrets_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = made(tmp_path, "flow")
    storage = Storage()
    document = storage.read_json(layout.summary)
    document["remarks"] = {f"s3://{SECRET}:wJalrXUtnFEMI@host/in?X-Amz-Signature=abcdef": 1}
    storage.put(layout.summary, json.dumps(document).encode())
    html = build(storage, layout)
    assert "wJalrXUtnFEMI" not in html
    assert "abcdef" not in Reader(html).text


def test_a_prefix_whose_run_has_not_ended_has_a_report_too(tmp_path: Path) -> None:
    layout = made(tmp_path, "recognize")
    for uri in (layout.summary, layout.quarantine, layout.session_summary("20261121T000000-aa"),
                layout.session_summary("20261120T000000-bb")):  # fmt: skip
        Path(uri).unlink()
    text = Reader(build(Storage(), layout)).text
    assert "no session has ended yet" in text
    assert "Nothing is in quarantine." in text


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputNotFound, match=r"no run's output.*give the OUTPUT of a job"):
        build(Storage(), Layout(str(tmp_path)))


def test_the_job_writes_it_beside_the_run_or_where_it_is_told(tmp_path: Path) -> None:
    layout = made(tmp_path, "flow")
    app = job.typer.Typer()
    app.command()(job.main)
    assert CliRunner().invoke(app, [layout.output]).exit_code == 0
    assert Path(layout.report).read_text().startswith("<!doctype html>")
    assert CliRunner().invoke(app, [layout.output, "--html", str(tmp_path / "r.html")]).exit_code == 0
    assert (tmp_path / "r.html").read_text() == Path(layout.report).read_text()
    assert CliRunner().invoke(app, [str(tmp_path / "nothing")]).exit_code == 2


def test_long_names_are_shortened_in_their_middle() -> None:
    assert visible("n" * 500) == "n" * 149 + "…" + "n" * 149
    assert visible("a\tb\n", keep=("\n",)) == "a\\u0009b\n"


def test_throughput_is_the_slope_of_the_timeline() -> None:
    points = [{"t": 0.0, "frames": 0}, {"t": 2.0, "frames": 10}, {"t": 2.0, "frames": 12}, {"t": 4.0, "frames": 20}]
    figure = figures.throughput(points, None)
    assert figure is not None
    assert (figure["data"][0]["x"], figure["data"][0]["y"]) == ([0.0, 2.0, 4.0], [5.0, 5.0, 4.0])
    assert figures.throughput(points[:1], 3.0) is None


def test_pictures_of_many_videos_are_of_few() -> None:
    assert len(gather.spread(list(range(100)), sampling.MOST)) == sampling.MOST  # type: ignore[arg-type]
