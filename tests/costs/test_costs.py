"""Requests are told apart as a store bills them, and the rule found in small runs foresees a larger one."""

from __future__ import annotations

from collections import Counter

import pytest

from pipeline.records.catalogue import WORTH
from tests.costs.night import MANY_CLIPS, PAGE, Catalogue, Rule, by_bytes, by_kind, foreseen, solve
from tests.costs.proxy import classify
from tests.costs.table import table

OUT = "/costs/out/flow-a/"


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "/costs/in/a%20b.mp4", ("GET", "input")),
        ("HEAD", f"{OUT}flow/a.parquet", ("HEAD", "output")),
        ("PUT", f"{OUT}_motionmill/commit/v/0-0-48.json", ("PUT", "commit")),
        ("PUT", f"{OUT}_motionmill/probe-17ab", ("PUT", "probe")),
        ("GET", f"{OUT}_motionmill/videos.parquet", ("GET", "videos.parquet")),
        ("GET", "/costs?list-type=2&prefix=out%2Fflow-a%2F_motionmill%2Fvideos%2F&max-keys=1", ("LIST", "videos")),
        ("GET", "/costs?list-type=2&prefix=out/flow-a/_motionmill/commit/v/", ("LIST", "commit/*")),
        ("GET", "/costs?list-type=2&prefix=out/flow-a/flow/", ("LIST", "output")),
        ("GET", "/costs?uploads&prefix=out/flow-a/_motionmill/", ("LIST", "state")),
        ("POST", f"{OUT}flow/a.parquet?uploads", ("MULTIPART", "output")),
        ("PUT", f"{OUT}flow/a.parquet?partNumber=2&uploadId=u", ("MULTIPART", "output")),
        ("POST", "/costs?delete", ("DELETE", "any")),
    ],
)
def test_a_request_is_known_by_its_kind_and_what_it_is_for(method: str, path: str, expected: tuple[str, str]) -> None:
    assert classify(method, path) == expected


VIDEO, CLIP = {("PUT", "videos"): 1, ("LIST", "commit/*"): 2}, {("PUT", "commit"): 3, ("GET", "input"): 2}
EARLIER, FIXED = {("GET", "videos"): 2}, {("LIST", "videos"): 3, ("PUT", "run.json"): 1, ("PUT", "calibration.json"): 2}
RESUMED, IDLE = {("LIST", "videos"): 4}, {("LIST", "videos"): 1}
REPORT = {("GET", "output"): 6, ("GET", "videos"): 2, ("PUT", "report.html"): 1}


def _run(base: dict[tuple[str, str], int], videos: int, clips: int, earlier: int = 0) -> Counter[tuple[str, str]]:
    found: Counter[tuple[str, str]] = Counter()
    for part, times in ((base, 1), (VIDEO, videos), (CLIP, clips), (EARLIER, earlier)):
        for key, count in part.items():
            found[key] += count * times
    return found


def _rule() -> Rule:
    return solve(
        {
            "one": _run(FIXED, 1, 1), "two": _run(FIXED, 2, 2), "many": _run(FIXED, 2, 2 * MANY_CLIPS),
            "one more": _run(RESUMED, 1, 1, 1), "two more": _run(RESUMED, 1, 1, 2),
            "idle 2": _run(IDLE, 0, 0), "idle 3": _run(IDLE, 0, 0), "reported": _run(FIXED, 2, 2) + Counter(REPORT),
        }
    )  # fmt: skip


def test_the_rule_is_found_in_runs_that_follow_one() -> None:
    rule = _rule()
    assert rule.clip == CLIP
    assert rule.video == VIDEO
    assert rule.earlier == EARLIER
    assert by_kind(rule.fixed) == {"LIST": 3, "PUT": 1 + 3}, "a calibration is stored three times at most"
    assert {key: count for key, count in rule.resumed.items() if key[1] != "calibration.json"} == RESUMED
    assert rule.idle == IDLE
    assert rule.report == REPORT
    assert not rule.shared


def test_a_night_is_foreseen_with_pages_catalogue_and_a_bounded_report() -> None:
    rule, catalogue = _rule(), Catalogue(1000, 5)
    clips, videos, earlier = 100_000, 5_000, 50_000
    found = foreseen(rule, catalogue, clips, videos, earlier)
    assert found["PUT"] == videos + 3 * clips + 3 + 1
    assert found["LIST"] == 2 * videos + 4 * (earlier + videos) // PAGE
    catalogued = earlier - (WORTH - 1)
    assert found["GET"] == 2 * clips + 2 * (WORTH - 1 + round(catalogued * 5 / 1000)) + 3 * 6 + 2000 + 200
    looks = foreseen(rule, catalogue, clips, videos, earlier, may_share=True)["GET"] - found["GET"]
    assert looks == WORTH - 1 + round(catalogued * 5 / 1000)
    assert foreseen(rule, catalogue, 0, 0, earlier) == {"LIST": earlier // PAGE}
    assert foreseen(rule, catalogue, 1, 1) == {"LIST": 3 + 2, "PUT": 3 + 1 + 1 + 3 + 1, "GET": 2 + 3 + 1}


def test_the_table_says_what_was_measured() -> None:
    small = {
        name: [[kind, purpose, count] for (kind, purpose), count in run.items()]
        for name, run in {
            "one": _run(FIXED, 1, 1), "two": _run(FIXED, 2, 2), "many": _run(FIXED, 2, 2 * MANY_CLIPS),
            "one more": _run(RESUMED, 1, 1, 1), "two more": _run(RESUMED, 1, 1, 2),
            "idle 2": _run(IDLE, 0, 0), "idle 3": _run(IDLE, 0, 0), "reported": _run(FIXED, 2, 2) + Counter(REPORT),
        }.items()
    }  # fmt: skip
    facts = {"width": 1280, "height": 720, "frames": 50, "seconds": 2.0, "bytes": 1000}
    real = {
        "videos": {"a.mp4": facts},
        "outputs": {"flow/a.mp4.parquet": 3_000_000},
        "requests": [["MULTIPART", "output", 4], ["PUT", "videos", 2], ["GET", "input", 6], ["GET", "output", 1]],
        "state": {"videos": 1500, "runs": 2000, "report.html": 5_000_000},
        "peaks": {"actor": 900_000_000, "driver": 1, "temporary in the bucket": 3_000_000, "scratch, a try": 1234},
    }
    state = {"two": {"videos": 3000, "runs": 7}, "many": {"videos": 3600, "runs": 8}}
    catalogue = {"commits": 3000, "bytes": 750_000, "requests": [["GET", "videos.parquet", 9]]}
    text = table({"flow": {"small": small, "state": state, "real": real, "catalogue": catalogue}})
    assert "| a clip (flow) | 3 | 2 | 0 | 0 | 0 |" in text
    assert "| kept: a clip | 100 B |" in text
    assert "| kept: its place in the catalogue | 250 B |" in text
    assert "| peak RSS: an actor | 900 MB |" in text
    assert "| temporary in the bucket at the peak, of the outputs | 3.0 MB (100 %) |" in text
    assert "| a.mp4, 1280x720, 25 frames/s | 90 MB |" in text
    assert "| flow | 6 (9) | 7 (10) | 0 (0) | 0 (5) | 0 (0) |" in text, "uploads in parts are writes too"
    (night,) = (line for line in text.splitlines() if line.startswith("| flow: 100,000 clips |"))
    assert night.endswith("| 8.8 MB | 720.0 GB |"), night


def test_large_videos_take_requests_by_their_bytes() -> None:
    assert by_bytes(1, 1000, 1000, True) == {"GET": 0, "PUT": 0}
    mib = 1 << 20
    # 12 MiB are read as 1/4 + 1/2 + 1 + 2 + 4 + 4 + 1/4. Clips of 40 MiB are put in 3 parts, and fetched in 5 ranges.
    assert by_bytes(2, 24 * mib, 80 * mib, False) == {"GET": 2 * (6 + 4), "PUT": 2 * 4 + (5 + 2 - 1)}
    assert by_bytes(2, 24 * mib, 80 * mib, True)["GET"] == 2 * (6 + 4) + 9
    assert by_bytes(2, 24 * mib, 80 * mib, True, seeks=1.5)["GET"] == 2 * (6 + 4) + 9 + 1.5 * 4
