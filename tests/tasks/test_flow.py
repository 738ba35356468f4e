"""One clip in, one file of flow records out; a video's files from its clips: contract 1, shots, ends, damage."""

from __future__ import annotations

import io
import itertools
import pickle
import threading
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from models.memfof import Field, FrameFlow, halo, stream
from pipeline.errors import CorruptVideo, WeightsUnusable
from pipeline.media.colour import to_rgb
from pipeline.media.decode import decode_clip
from pipeline.plan.clips import plan_clips
from pipeline.records.flow import read_flow_file
from pipeline.tasks import flow, flow_clip, flow_model
from tests.media_factory import flat, make_video, scramble
from tests.tasks.clip_support import join, probed, process
from tests.tasks.flow_support import cutting, records, same, task_of, tiny

__all__ = ["tiny"]

SAMPLES = Path(__file__).parents[2] / "jobs" / "samples"
CUTS = {"image": cutting, "options": {"crf": "10"}, "size": (64, 48)}


def test_a_frame_s_records_do_not_depend_on_how_its_video_is_cut_into_clips(tiny: str, tmp_path: Path) -> None:
    data = make_video(frames=18, **CUTS)
    whole = records(task_of(tiny, "clip.frames=1000"), data, tmp_path / "whole")
    assert [record.shot for record in whole] == [0] * 7 + [1] * 7 + [2] * 4
    for frames in (1, 2, 3, 6, 7, 8):
        parts = records(task_of(tiny, f"clip.frames={frames}"), data, tmp_path / str(frames))
        assert len(parts) == len(whole)
        for one, other in zip(whole, parts, strict=True):
            assert same(one, other), f"frame {one.frame_index} with clips of {frames}"


def test_flows_are_those_of_the_model_on_the_decoded_frames(tiny: str, tmp_path: Path) -> None:
    data = make_video(frames=5, size=(70, 50))
    task = task_of(tiny, "codec=none")
    found = records(task, data, tmp_path)
    video, info = probed(data, task)
    (clip,) = plan_clips(video, info, 5, (0, 0))
    frames = [255 * to_rgb(frame, info.colour) for frame in decode_clip(io.BytesIO(data), clip, task.config.decode)]
    network, facts = flow_model.load_network(tiny)
    with torch.no_grad():
        expected = list(stream(network, [frame.round().to(torch.uint8) for frame in frames], 1))
    assert len(found) == len(expected)
    for record, one in zip(found, expected, strict=True):
        assert record.weights_sha256 == facts.sha256
        for name in ("forward", "backward"):
            field = getattr(one, name)
            if field is None:
                assert getattr(record, f"flow_{name}") is None
                continue
            assert np.array_equal(getattr(record, f"flow_{name}"), field.flow.numpy())
            assert np.array_equal(getattr(record, f"validity_{name}"), field.valid.numpy())
            assert np.array_equal(getattr(record, f"confidence_{name}"), field.confidence.numpy())


def test_no_flow_crosses_a_cut_and_neighbours_end_with_the_shot(tiny: str, tmp_path: Path) -> None:
    task = task_of(tiny, "clip.frames=4")
    data = make_video(frames=16, **CUTS)
    found = records(task, data, tmp_path)
    pts = [record.pts for record in found]
    for index, record in enumerate(found):
        first, last = index % 7 == 0, index % 7 == 6 or index == 15
        assert record.frame_index == index
        assert record.shot == index // 7
        assert record.previous_pts == (None if first else pts[index - 1])
        assert record.next_pts == (None if last else pts[index + 1])
        assert (record.flow_backward is None) == (record.validity_backward is None) == first
        assert (record.flow_forward is None) == (record.validity_forward is None) == last
    assert all(record.next_pts for record in records(task_of(tiny, "cuts.detect=false"), data, tmp_path / "uncut")[:-1])


def test_frames_are_counted_by_their_neighbours(tiny: str, tmp_path: Path) -> None:
    task = task_of(tiny, "clip.frames=5")
    data = make_video(frames=15, **CUTS)
    outputs = process(task, data, tmp_path)
    ((joined, _),) = join(task, data, outputs, tmp_path)
    assert joined.extra["kinds"] == {"first_of_shot": 2, "between": 10, "last_of_shot": 2, "alone": 1}
    assert joined.extra["rows"] == joined.rows == 15 == task.expected_rows(probed(data, task)[1])
    assert 0 < joined.extra["max_error_px"] <= 1 / 64


@pytest.mark.parametrize("frames", [1, 2, 3])
def test_videos_of_a_few_frames_have_the_flows_that_they_can_have(tiny: str, tmp_path: Path, frames: int) -> None:
    found = records(task_of(tiny), make_video(frames=frames), tmp_path)
    assert len(found) == frames
    assert [record.flow_backward is None for record in found] == [True] + [False] * (frames - 1)
    assert [record.flow_forward is None for record in found] == [False] * (frames - 1) + [True]


def test_what_the_model_alone_takes_is_timed_on_frames_that_it_computes(tiny: str, tmp_path: Path) -> None:
    """A shot's last frame comes with the one before it: two-frame clips once made the model 200 times as fast."""
    (two,) = process(task_of(tiny), make_video(frames=2), tmp_path / "two")
    assert two.bare == (0.0, 0.0)
    (cuts,) = process(task_of(tiny), make_video(frames=10, **CUTS), tmp_path / "cuts")
    work, seconds = cuts.bare
    assert work > 0
    assert seconds > 0


@pytest.mark.parametrize("size", [(16, 16), (130, 34), (66, 130)])
def test_sides_of_any_length_keep_their_size(tiny: str, tmp_path: Path, size: tuple[int, int]) -> None:
    found = records(task_of(tiny), make_video(frames=2, size=size), tmp_path)
    assert found[0].flow_forward is not None
    assert found[0].flow_forward.shape == (2, size[1], size[0])
    assert found[0].validity_forward is not None
    assert found[0].confidence_forward is not None
    assert found[0].validity_forward.shape == found[0].confidence_forward.shape == (size[1], size[0])


def test_frames_that_repeat_are_like_any_others(tiny: str, tmp_path: Path) -> None:
    data = make_video(frames=4, image=lambda i, w, h: flat((90, 20, 160), w, h))
    found = records(task_of(tiny), data, tmp_path)
    assert [record.shot for record in found] == [0, 0, 0, 0]
    assert sum(record.flow_forward is not None for record in found) == 3


def test_one_direction_alone_is_stored_where_asked_and_neighbours_are_still_named(tiny: str, tmp_path: Path) -> None:
    data = make_video(frames=4)
    both = records(task_of(tiny), data, tmp_path / "both")
    for direction, other in (("forward", "backward"), ("backward", "forward")):
        found = records(task_of(tiny, f"directions={direction}"), data, tmp_path / direction)
        for one, record in zip(both, found, strict=True):
            assert getattr(record, f"flow_{other}") is None
            assert (record.previous_pts, record.next_pts) == (one.previous_pts, one.next_pts)
            kept = getattr(record, f"flow_{direction}")
            assert kept is None or np.array_equal(kept, getattr(one, f"flow_{direction}"))


def test_fields_are_stored_smaller_where_asked(tiny: str, tmp_path: Path) -> None:
    found = records(task_of(tiny, "stored_scale=1/4"), make_video(frames=2, size=(66, 50)), tmp_path)
    assert found[0].flow_forward is not None
    assert found[0].flow_forward.shape == (2, 13, 17)
    assert (found[0].height, found[0].width, found[0].stored_scale) == (50, 66, Fraction(1, 4))


def test_damage_keeps_the_frames_whose_flow_needs_nothing_of_what_is_missing(tiny: str, tmp_path: Path) -> None:
    options = {"preset": "ultrafast", "x264-params": "bframes=0:threads=1"}
    data = make_video(frames=24, options=options, size=(128, 96))
    task = task_of(tiny)
    good = records(task, data, tmp_path / "good")
    (output,) = process(task, scramble(data, 0.6, 2000), tmp_path)
    assert isinstance(output.error, CorruptVideo)
    assert output.error.pts is not None
    decoded = [record.pts for record in good].index(output.error.pts) + 1
    assert output.rows == decoded - 2 > 0, "validity needs the flow of the frame after, and that the one after it"
    assert output.path is not None
    kept = list(read_flow_file(str(output.path)))
    assert all(same(one, other) for one, other in zip(kept, good[: output.rows], strict=True))


def test_vectors_that_are_no_numbers_are_stored_as_zero_and_invalid(
    tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = task_of(tiny)
    data = make_video(frames=3)

    def broken(*arguments: Any, **options: Any) -> Any:
        for one in stream(*arguments, **options):
            if one.forward is not None:
                one.forward.flow[1, 3, 5] = float("nan")
            yield one

    monkeypatch.setattr(flow_clip, "stream", broken)
    (output,) = clips = process(task, data, tmp_path)
    assert output.extra["not_finite_px"] == 2
    ((joined, content),) = join(task, data, clips, tmp_path)
    assert any("2 flow vectors were not finite" in note for note in joined.extra["notes"])
    monkeypatch.undo()
    path = tmp_path / "found.parquet"
    path.write_bytes(content)
    record = next(read_flow_file(str(path)))
    assert record.flow_forward is not None
    assert record.validity_forward is not None
    assert record.confidence_forward is not None
    assert record.flow_forward[:, 3, 5].tolist() == [0, 0]
    assert not record.validity_forward[3, 5]


def test_a_long_video_has_several_files_of_about_the_size_asked_for(tiny: str, tmp_path: Path) -> None:
    task = task_of(tiny, "clip.frames=9", "files.file_bytes=70000", "files.group_below=0", "files.row_group_bytes=9000")
    data = make_video(frames=30, size=(96, 64))
    made = join(task, data, process(task, data, tmp_path), tmp_path)
    assert len(made) > 2
    assert [output.suffix for output, _ in made] == [f".part-{index:05d}.parquet" for index in range(len(made))]
    assert sum(output.rows for output, _ in made) == 30
    assert not any(output.may_share for output, _ in made)
    tables = [pq.read_table(io.BytesIO(content), columns=["frame_index"]) for _, content in made]
    assert pa.concat_tables(tables)["frame_index"].to_pylist() == list(range(30))
    whole = records(task_of(tiny, "clip.frames=9"), data, tmp_path / "whole")
    assert len(whole) == 30


def test_the_halo_is_the_model_s() -> None:
    assert halo(validity=True) == flow.HALO


def test_every_frame_shows_life(tiny: str, tmp_path: Path) -> None:
    beats: list[str] = []
    process(task_of(tiny, "clip.frames=4"), make_video(frames=8), tmp_path, beats)
    assert beats.count("model") == 8
    assert beats.count("decode") >= 8


# ---- before any work


def test_precision_is_decided_once_and_says_why(tiny: str) -> None:
    assert task_of(tiny, "precision=bf16").on("cpu").precision == "bf16"
    assert task_of(tiny).on("cuda").precision == "bf16"
    exact = task_of(tiny, "codec=none").on("cpu")
    assert exact.precision == "fp32"
    assert "codec none" in exact.notes()[0]


@pytest.mark.skipif(not flow_model.has_bf16(), reason="this processor computes no bf16")
def test_auto_on_a_cpu_is_bf16_only_where_the_declared_error_allows_it(tiny: str) -> None:
    fine, rough = (task_of(tiny, f"max_error_px={bound}").on("cpu") for bound in ("1/1000", "8"))
    assert (fine.precision, rough.precision) == ("fp32", "bf16")
    assert "more than the declared max_error_px=1/1000" in fine.notes()[0]
    assert "within the declared max_error_px=8" in rough.notes()[0]
    assert fine.fingerprint()["precision"] == "fp32"
    error = flow_model.bf16_error(flow_model.load_network(tiny)[0], 1)
    assert 1 / 1000 < error <= 8


@pytest.mark.parametrize("content", [b"", b"not weights at all", None])
def test_weights_that_cannot_be_used_are_refused_before_any_work(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "bad.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(WeightsUnusable, match=r"bad\.safetensors"):
        task_of(str(path)).fingerprint()


def test_weights_of_another_network_are_refused_before_any_work(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_file({"layer.weight": torch.zeros(3)}, str(path))
    with pytest.raises(WeightsUnusable, match="not a MEMFOF"):
        task_of(str(path)).fingerprint()


def test_a_task_travels_to_workers(tiny: str) -> None:
    task: Any = task_of(tiny).on("cuda")
    assert pickle.loads(pickle.dumps(task)) == task


def test_the_estimate_of_arithmetic_is_what_a_video_s_clips_take(tiny: str) -> None:
    task = task_of(tiny, "clip.frames=4")
    _, info = probed(make_video(frames=10, size=(160, 144)), task)
    first, each = flow_model.macs(tiny, 144, 160, 1)
    assert first > each > 1e6
    assert task.flops(info) == 2 * (3 * first + (10 - 3 + 4) * each)
    assert task.flops(probed(make_video(frames=1), task)[1]) == 0


def test_the_estimate_of_bytes_follows_size_scale_directions_and_codec(tiny: str) -> None:
    _, info = probed(make_video(frames=40, size=(160, 144)), task_of(tiny))

    def estimated(*sets: str) -> int:
        return task_of(tiny, *sets).output_bytes(info, -1)

    full = estimated()
    assert estimated("directions=forward") == pytest.approx(full / 2, rel=0.05)
    assert full / 4 < estimated("stored_scale=1/2") < full / 2  # a smaller field is less smooth
    sizes = [estimated(f"max_error_px={bound}") for bound in ("4", "1", "1/10", "1/64", "1/128", "1/1024", "1/4096")]
    assert sizes == sorted(sizes)
    assert sizes[-1] < 5 * sizes[-3]
    assert estimated("codec=none") >= 39 * 2 * 160 * 144 * 12


def test_plain_lists_take_about_what_was_estimated(tiny: str, tmp_path: Path) -> None:
    task = task_of(tiny, "codec=none")
    data = make_video(frames=6, size=(160, 144))
    ((output, content),) = join(task, data, process(task, data, tmp_path), tmp_path)
    assert len(content) == pytest.approx(task.output_bytes(probed(data, task)[1], len(data)), rel=0.4)
    assert output.rows == 6


@pytest.mark.parametrize("sets", [[], ["max_error_px=1/8"], ["max_error_px=1/512"], ["stored_scale=1/4"]])
def test_flows_of_a_real_clip_take_about_what_was_estimated(tmp_path: Path, sets: list[str]) -> None:
    with av.open(str(SAMPLES / "cityCC0.mpg")) as container:
        pictures = [frame.to_ndarray(format="rgb24") for frame in itertools.islice(container.decode(video=0), 3)]
    data = make_video(frames=3, size=(360, 200), image=lambda index, width, height: pictures[index][:height, :width])
    task = task_of("memfof-compact", "iterations=4", *sets)
    ((_, content),) = join(task, data, process(task, data, tmp_path), tmp_path)
    estimate = task.output_bytes(probed(data, task)[1], len(data))
    assert estimate / 2 < len(content) < 2 * estimate


def test_an_error_in_the_model_ends_the_clip_and_its_threads(
    tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*arguments: Any, **options: Any) -> Any:
        yield next(stream(*arguments, **options))
        raise RuntimeError("out of memory")

    monkeypatch.setattr(flow_clip, "stream", failing)
    before = threading.active_count()
    with pytest.raises(RuntimeError, match="out of memory"):
        process(task_of(tiny), make_video(frames=12), tmp_path)
    assert threading.active_count() == before


def test_a_pan_comes_out_with_the_sign_and_the_axes_that_records_declare(
    tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a model that can do nothing but pans, and those exactly: correlation of the frames that it is handed."""

    def pan(one: torch.Tensor, other: torch.Tensor) -> Field:
        spectra = [torch.fft.fft2(frame.float().mean(0)) for frame in (one, other)]
        peak = torch.fft.ifft2(spectra[1] * spectra[0].conj()).real
        height, width = peak.shape
        y, x = divmod(int(peak.argmax()), width)
        moved = (x - width * (2 * x > width), y - height * (2 * y > height))
        flow = torch.tensor(moved, dtype=torch.float32).reshape(2, 1, 1).expand(2, height, width)
        return Field(flow, torch.ones(height, width), torch.ones(height, width, dtype=torch.bool))

    def exact(_network: Any, given: Any, _iterations: int, *, before: int, **_options: Any) -> Any:
        frames = list(given)
        for index in range(before, len(frames)):
            yield FrameFlow(
                pan(frames[index], frames[index - 1]) if index else None,
                pan(frames[index], frames[index + 1]) if index + 1 < len(frames) else None,
            )

    monkeypatch.setattr(flow_clip, "stream", exact)
    right, up = 5, 3
    texture = np.random.default_rng(2).integers(0, 255, (48, 64, 3)).astype(np.uint8)
    data = make_video(
        "ffv1",
        "matroska",
        frames=6,
        pix_fmt="yuv444p",
        image=lambda i, w, h: np.roll(texture, (-up * i, right * i), (0, 1)),
    )
    found = records(task_of(tiny, "clip.frames=4"), data, tmp_path)
    assert len(found) == 6
    for record in found:
        for field, sign in ((record.flow_forward, 1), (record.flow_backward, -1)):
            assert field is None or (field == np.array([sign * right, -sign * up]).reshape(2, 1, 1)).all()
    assert [record.flow_forward is None for record in found] == [False] * 5 + [True]
