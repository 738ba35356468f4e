"""The table of decisions: from the frames of clips to a file beside the video, the same however the work was cut."""

from __future__ import annotations

import io
from collections.abc import Sequence
from fractions import Fraction
from functools import partial
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config import InterpolateConfig, load
from pipeline.plan.adaptive import Choice, FrameDecisions
from pipeline.plan.clips import plan_clips
from pipeline.plan.patches import Patch, patch_grid
from pipeline.records.decisions import read_decisions_file
from pipeline.records.decisions_overlay import SCALE_COLOURS
from pipeline.records.decisions_schema import DecisionRecord
from pipeline.run.rows import headers_only
from pipeline.tasks.base import ClipOutput, ClipPart, VideoOutput
from pipeline.tasks.decisions import FrameRow, Totals, named, pack, summed, told, unpack
from pipeline.tasks.interpolate import InterpolateTask
from pipeline.tasks.interpolators import Blend, Made, Pair
from tests.media_factory import RGB, make_video
from tests.tasks.clip_support import join, probed, process
from tests.tasks.flow_support import cutting
from tests.tasks.test_interpolate import weights_file

VFR = [0, 1, 4, 5, 6, 9, 11, 12, 13, 15, 18, 19, 20, 21]
DATA = make_video(frames=14, pts=VFR, time_base=Fraction(1, 50), image=cutting)


class Deciding(Blend):
    """The frame average, with decisions that depend on the pair of pictures alone."""

    adaptive = True

    def between(self, pairs: Sequence[Pair]) -> list[list[Made]]:
        made = super().between(pairs)
        return [
            [Made(one.picture, one.place, decided(pair)) for one in pictures]
            for pair, pictures in zip(pairs, made, strict=True)
        ]


def decided(pair: Pair) -> FrameDecisions:
    patches = tuple(patch_grid(*pair.left.shape[-2:], 32, 8, 8))
    changes = [
        float((pair.left - pair.right)[:, p.top : p.top + p.height, p.left : p.left + p.width].abs().sum())
        for p in patches
    ]
    options = (Choice(1, 0), Choice(1, 5), Choice(2, 3), Choice(4, 1))
    choices = tuple(options[int(change) % 4] for change in changes)
    return FrameDecisions(patches, choices, flops=sum(choice.depth for choice in choices), full_flops=5 * len(patches))


def task_of(*overrides: str) -> InterpolateTask:
    return InterpolateTask(load(InterpolateConfig, None, ["model=blend", "encode.preset=ultrafast", *overrides]))


def deciding(task: InterpolateTask, data: bytes, folder: Path) -> list[ClipOutput]:
    """`process`, with a model that decides."""
    video, info = probed(data, task)
    processor = task.load("cpu", 1)
    processor.interpolator, processor.adaptive = Deciding(), True
    outputs = []
    for clip in plan_clips(video, info, task.config.clip.frames, task.halo()):
        scratch = folder / f"clip-{clip.index}"
        scratch.mkdir(parents=True)
        outputs.append(processor.process(clip, headers_only(info), io.BytesIO(data), scratch, lambda _: None))
    return outputs


def by_suffix(made: Sequence[tuple[VideoOutput, bytes]]) -> dict[str, tuple[VideoOutput, bytes]]:
    return {output.suffix: (output, content) for output, content in made}


def records_of(content: bytes, folder: Path) -> list[DecisionRecord]:
    path = folder / "read.parquet"
    path.write_bytes(content)
    return list(read_decisions_file(str(path)))


def test_the_table_is_the_same_byte_for_byte_however_the_video_is_cut(tmp_path: Path) -> None:
    tables = []
    for length in (1, 4, 100):
        task, folder = task_of(f"clip.frames={length}"), tmp_path / str(length)
        made = by_suffix(join(task, DATA, deciding(task, DATA, folder), folder))
        assert list(made) == [".mp4", ".decisions.parquet"]
        output, content = made[".decisions.parquet"]
        assert not output.result
        tables.append((content, output.extra, output.rows))
    assert tables[0] == tables[1] == tables[2]
    records = records_of(tables[0][0], tmp_path)
    assert [record.frame_index for record in records] == list(range(28))
    video, info = probed(DATA, task)
    assert {record.video_id for record in records} == {video.video_id}
    kinds = [record.kind for record in records]
    assert kinds.count("source") == 14
    assert kinds[-1] == "held_end"
    assert "held_cut" in kinds
    for record in records:
        assert bool(record.patches) == (record.kind == "synthesised") == bool(record.full_flops)
        assert (record.t_error is None) == record.kind.startswith("held")
        assert record.t == (0 if record.kind == "source" else Fraction(1, 2))
        assert (record.height, record.width) == (48, 64)
        assert record.flops == sum(choice.depth for choice in record.choices)
    seconds = [record.pts * record.time_base for record in records if record.kind == "source"]
    assert seconds == [pts * info.time_base for pts in info.pts]
    totals = tables[0][1]["decisions"]
    assert totals["flops"] == sum(record.flops or 0 for record in records)
    assert sum(totals["patches"].values()) == sum(len(record.patches) for record in records)
    assert set(totals["patches"]) <= {"static", "1/5", "2/3", "4/1"}


@pytest.mark.parametrize(
    ("target", "error"), [("target.fps=60", Fraction(1, 16)), ("target.factor=3", Fraction(1, 16))]
)
def test_a_model_without_decisions_has_its_times_in_the_table_when_it_is_asked_for(
    target: str, error: Fraction, tmp_path: Path
) -> None:
    model = (f"model={weights_file(tmp_path)}", "exit_depth=2", target, "encode.preset=ultrafast")
    for flag in ("auto", "true"):
        task = InterpolateTask(load(InterpolateConfig, None, [*model, f"decisions={flag}"]))
        folder = tmp_path / flag
        made = by_suffix(join(task, DATA, process(task, DATA, folder), folder))
        assert (".decisions.parquet" in made) == (flag == "true"), "auto: only where the model decides"
    output, content = made[".decisions.parquet"]
    records = records_of(content, tmp_path)
    assert output.rows == len(records) == made[".mp4"][0].rows
    found = [record for record in records if record.kind == "synthesised"]
    errors = {record.t_error for record in found}
    assert str(max(one for one in errors if one is not None)) == made[".mp4"][0].extra["max_t_error"] != "0"
    assert max(one for one in errors if one is not None) <= error
    assert all(0 < record.t < 1 and not record.patches and record.flops is None for record in found)
    assert {record.weights_sha256 for record in records} == {task.fingerprint()["weights.sha256"]}
    with av.open(io.BytesIO(made[".mp4"][1])) as container:
        times = [frame.pts * frame.time_base for frame in container.decode(video=0)]
    assert [record.pts * record.time_base for record in records] == times


def test_no_table_where_none_is_wanted(tmp_path: Path) -> None:
    task = task_of("decisions=false")
    outputs = deciding(task, DATA, tmp_path)
    assert "decisions" not in outputs[0].extra
    assert list(by_suffix(join(task, DATA, outputs, tmp_path))) == [".mp4"]


def test_a_prefix_of_a_damaged_video_has_no_table(tmp_path: Path) -> None:
    task = task_of("decisions=true", "preview=true")
    (output,) = process(task, DATA, tmp_path)
    assert output.path is not None
    part = ClipPart(output.rows, output.path.stat().st_size, output.extra, partial(Path, output.path))
    video, info = probed(DATA, task)
    made = task.join(video, headers_only(info), [part], io.BytesIO(DATA), tmp_path, False)
    assert [one.suffix for one in made] == [".mp4"]


def test_the_preview_shows_every_frame_of_the_output_at_its_time(tmp_path: Path) -> None:
    data = make_video(frames=14, pts=VFR, time_base=Fraction(1, 50), image=grey)
    task = task_of("preview=true", "clip.frames=5", "target.fps=30000/1001")
    made = by_suffix(join(task, data, deciding(task, data, tmp_path), tmp_path))
    assert list(made) == [".mp4", ".decisions.parquet", ".preview.mp4"]
    output, content = made[".preview.mp4"]
    assert not output.result
    (pictures, times), (_, wanted) = (frames_of(data) for data in (content, made[".mp4"][1]))
    assert times == wanted
    assert output.rows == len(times)
    assert pictures[0].shape == (480, 640, 3), "small videos are enlarged"
    records = records_of(made[".decisions.parquet"][1], tmp_path)
    for record, shown in zip(records, pictures, strict=True):
        assert (shown[-1, :3].astype(int) < 60).all(), "the paper of a line of text at the bottom"
        for scale, colour in SCALE_COLOURS.items():
            near = np.abs(shown.astype(int) - np.array(colour)).sum(-1) < 60
            assert near.any() == any(choice.scale == scale and choice.depth for choice in record.choices)


def grey(index: int, width: int, height: int) -> RGB:
    return np.repeat(cutting(index, width, height)[:, :, :1], 3, axis=2)


def frames_of(data: bytes) -> tuple[list[np.ndarray], list[Fraction]]:
    with av.open(io.BytesIO(data)) as container:
        found = [(frame.to_ndarray(format="rgb24"), frame.pts * frame.time_base) for frame in container.decode(video=0)]
    return [picture for picture, _ in found], [time for _, time in found]


def test_a_preview_alone_needs_no_table(tmp_path: Path) -> None:
    odd = make_video(frames=4, size=(66, 49), pix_fmt="yuv444p")
    task = task_of("preview=true", "encode.pix_fmt=yuv420p", "target.factor=3")
    made = by_suffix(join(task, odd, process(task, odd, tmp_path), tmp_path))
    assert list(made) == [".mp4", ".preview.mp4"]
    assert len(frames_of(made[".preview.mp4"][1])[0]) == 12


PROBED = probed(DATA, task_of())
patches = st.builds(Patch, *[st.integers(0, 4000)] * 2, *[st.integers(1, 512)] * 2)
exact = st.fractions(0, 1, max_denominator=1001)


@st.composite
def frame_rows(draw: st.DrawFn) -> list[FrameRow]:
    grids = draw(st.lists(st.lists(patches, min_size=1, max_size=5).map(tuple), min_size=1, max_size=3))
    rows = []
    for pts in range(draw(st.integers(1, 12))):
        made = draw(st.sampled_from(["synthesised", "source", "held_cut"]))
        grid = draw(st.sampled_from([None, *grids])) if made == "synthesised" else None
        choices = tuple(Choice(draw(st.sampled_from([1, 2, 4])), draw(st.integers(0, 5))) for _ in grid or ())
        flops = draw(st.integers(0, 2**50))
        error = None if made == "held_cut" else draw(exact)
        rows.append(
            FrameRow(pts * 7, made, draw(exact), error, FrameDecisions(grid, choices, flops, 2**50) if grid else None)
        )
    return rows


@settings(max_examples=40)
@given(st.lists(frame_rows(), min_size=1, max_size=4))
def test_rows_come_back_from_their_text_as_they_were(clips: list[list[FrameRow]]) -> None:
    video, info = PROBED
    texts = [pack(rows, "model", "digest") for rows in clips]
    totals = Totals()
    records = list(totals.over(unpack(texts, video, info, Fraction(1, 600))))
    rows = [row for clip in clips for row in clip]
    assert len(records) == len(rows)
    for number, (row, record) in enumerate(zip(rows, records, strict=True)):
        assert (record.frame_index, record.pts, record.kind) == (number, row.pts, row.kind)
        assert (record.t, record.t_error) == (row.t, row.t_error)
        made = row.decisions
        assert record.patches == (made.patches if made else ())
        assert record.choices == (made.choices if made else ())
        assert record.flops == (made.flops if made else None if row.kind == "synthesised" else 0)
    counted = totals.as_record()
    assert summed(counted, {}) == summed({}, counted) == counted
    assert summed(counted, counted)["patches"] == {name: 2 * count for name, count in counted["patches"].items()}
    assert ("scale/exit" in told(counted)) == bool(counted["patches"])
    assert counted["flops"] == sum(row.decisions.flops for row in rows if row.decisions)
    assert sum(counted["patches"].values()) == sum(len(row.decisions.choices) for row in rows if row.decisions)
    assert named(Choice(1, 0)) == "static"
    assert named(Choice(4, 2)) == "4/2"


def test_a_clip_s_rows_take_few_bytes() -> None:
    rng = np.random.default_rng(1)
    grid = tuple(patch_grid(2160, 3840, 256, 16, 8))
    rows = []
    for pts in range(120):
        drawn = rng.integers(0, (3, 6), (len(grid), 2)).tolist()
        decisions = FrameDecisions(grid, tuple(Choice(1 << s, d) for s, d in drawn), 10**12, 2 * 10**13)
        rows.append(FrameRow(pts, "synthesised", Fraction(1, 2), Fraction(0), decisions))
    assert len(grid) > 130
    assert len(pack(rows, "cain-sd-compact", "0" * 64)) < 24_000, "even random choices take 1.3 bytes a patch"


def test_frames_keep_their_pictures_whether_or_not_rows_are_noted(tmp_path: Path) -> None:
    contents = []
    for flag in ("true", "false"):
        task = task_of(f"decisions={flag}", f"preview={flag}", "clip.frames=6")
        folder = tmp_path / flag
        contents.append(by_suffix(join(task, DATA, process(task, DATA, folder), folder))[".mp4"][1])
    assert contents[0] == contents[1]
