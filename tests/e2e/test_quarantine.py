"""Contracts 3 and 6: a clip that keeps failing ends in quarantine after the retry budget, while all others finish."""

from __future__ import annotations

from pathlib import Path

from tests.e2e.support import FAST, ROOT, Cluster, Done, Job, Output, frames_of, write
from tests.e2e.troubled import TROUBLES, WIDTHS
from tests.media_factory import make_video

ATTEMPTS = 2
SETS = (
    *FAST, "clip.frames=8", f"retry.attempts={ATTEMPTS}", "retry.hang_s=10", "resources.actors=2",
    "resources.cpu_threads=1",
)  # fmt: skip


def _run(source: Path, folder: Path, trouble: Path, cluster: Cluster, *flags: str) -> Done:
    script = str(Path(__file__).with_name("troubled.py"))
    with Job(
        [script, str(source), str(folder), str(trouble), *flags, *SETS], cluster.job_env(PYTHONPATH=str(ROOT))
    ) as job:
        return job.wait()


def test_what_crashes_hangs_or_raises_is_quarantined_after_its_tries_and_can_be_tried_again(
    tmp_path: Path, cluster: Cluster
) -> None:
    widths = {f"{name}.mp4": width for width, name in WIDTHS.items()}
    names = [f"{name}.mp4" for name in TROUBLES]
    videos = {
        name: make_video(frames=24, size=(widths.get(name, 64), 48)) for name in [*names, "good-1.mp4", "good-2.mp4"]
    }
    source = write(tmp_path / "in", videos)
    folder, trouble = tmp_path / "out", tmp_path / "trouble"
    trouble.mkdir()
    for name in TROUBLES:
        (trouble / name).write_text("")  # a line for each try is added

    done = _run(source, folder, trouble, cluster)
    assert done.code == 3, done.text
    output = Output.of(folder)
    output.check_settled()
    assert output.videos == ["good-1.mp4", "good-2.mp4"]
    for name in output.videos:
        assert len(output.frames(name)) == 48
    for name in TROUBLES:
        tries = (trouble / name).read_text().splitlines()
        assert len(tries) == ATTEMPTS, f"{name}: {tries}"

    rows = output.quarantine()
    assert {commit for commit, value in output.commits.items() if value["status"] == "error"} == set(names)
    by_video = {(Path(row["uri"]).stem, row["clip"] is None): row for row in rows}
    for name, (stage, error_type, says) in TROUBLES.items():
        row = by_video[name, True]
        assert (row["stage"], row["error_type"], row["attempts"]) == (stage, error_type, ATTEMPTS), row
        assert says in row["message"] or says in row["traceback"], row["message"]
        assert row["uri"] == str(source / f"{name}.mp4")
        if name.endswith("clip"):
            clip = by_video[name, False]
            assert clip["clip"].startswith("000001-"), "the second clip is the one in trouble"
            assert (clip["stage"], clip["error_type"], clip["attempts"]) == (stage, error_type, ATTEMPTS)
            assert row["prefix_frames"] == 16, "the clip before it is kept"
            assert len(frames_of(Path(row["prefix_uri"]))) == 16
        else:
            assert row["prefix_uri"] is None

    # The same again tries nothing, and still says 3; asked to, it tries again; the cause gone, it succeeds.
    again = _run(source, folder, trouble, cluster)
    assert again.code == 3, again.text
    assert all(len((trouble / name).read_text().splitlines()) == ATTEMPTS for name in TROUBLES)
    for name in TROUBLES:
        (trouble / name).unlink()
    healed = _run(source, folder, trouble, cluster, "--retry-quarantined")
    assert healed.code == 0, healed.text
    output = Output.of(folder)
    output.check_settled()
    assert output.quarantine() == []
    assert output.videos == sorted(["good-1.mp4", "good-2.mp4", *names])
    assert {len(output.frames(name)) for name in output.videos} == {48}
