"""Small recognition models in files, and clips processed and joined as workers do it, without a cluster."""

from __future__ import annotations

import io
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from models.dff import DeepFeatureFlow, FlowNet, PaperNetwork, ResNetV2, RFCNHead, SegHead
from models.dff.bundle import Bundle, pack
from pipeline.config import load
from pipeline.config_recognize import RecognizeConfig
from pipeline.media.probe import probe
from pipeline.plan.clips import plan_clips
from pipeline.records.recognition import read_recognition_file
from pipeline.records.recognition_schema import RecognitionRecord
from pipeline.run.rows import headers_only
from pipeline.tasks.base import ClipOutput, ClipPart, VideoOutput
from pipeline.tasks.recognize import RecognizeTask
from pipeline.types import VideoInfo, VideoRef
from tests.media_factory import as_video

CLASSES = ("sky", "road", "tree", "car", "person")


def small(detects: bool = False) -> Bundle:
    """Random networks whose classes vary over a picture, and whose flow moves features."""
    torch.manual_seed(5)
    head = RFCNHead(len(CLASSES), 64, 3) if detects else SegHead(len(CLASSES), 64)
    for parameter in head.parameters():
        parameter.data.normal_(0, 0.3)
    flow = FlowNet(1 / 16, 64)
    flow.Convolution5.weight.data.normal_(0, 0.1)
    model = DeepFeatureFlow(PaperNetwork(ResNetV2(4), head), flow).eval()
    return Bundle(model, "detection" if detects else "segmentation", CLASSES)


def weights_file(folder: Path, detects: bool = False) -> Path:
    tensors, metadata = pack(small(detects))
    path = folder / ("tiny-detector.safetensors" if detects else "tiny-segmenter.safetensors")
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, str(path), metadata)
    return path


@pytest.fixture(scope="session")
def segmenter(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Weights of a segmentation model that takes milliseconds a frame."""
    return str(weights_file(tmp_path_factory.mktemp("weights")))


@pytest.fixture(scope="session")
def detector(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(weights_file(tmp_path_factory.mktemp("weights"), True))


def task_of(model: str, *overrides: str) -> RecognizeTask:
    return RecognizeTask(load(RecognizeConfig, None, [f"model={model}", *overrides]))


def probed(data: bytes, task: RecognizeTask, name: str = "video.mp4") -> tuple[VideoRef, VideoInfo]:
    video, file = as_video(data, name)
    return video, probe(file, video, task.config.input, task.config.decode)


def process(task: RecognizeTask, data: bytes, folder: Path, beats: list[str] | None = None) -> list[ClipOutput]:
    """Every clip of a video, as the worker does it: with headers only."""
    video, info = probed(data, task)
    processor = task.load("cpu", 1)
    outputs = []
    for clip in plan_clips(video, info, task.config.clip.frames, task.halo()):
        scratch = folder / f"clip-{clip.index}"
        scratch.mkdir(parents=True)
        beat = (beats if beats is not None else []).append
        outputs.append(processor.process(clip, headers_only(info), io.BytesIO(data), scratch, beat))
    return outputs


def join(task: RecognizeTask, data: bytes, clips: list[ClipOutput], folder: Path) -> list[tuple[VideoOutput, bytes]]:
    """A video's final outputs, each with its file's bytes."""
    video, info = probed(data, task)
    parts = [
        ClipPart(clip.rows, clip.path.stat().st_size, clip.extra, partial(Path, clip.path))
        for clip in clips
        if clip.path is not None
    ]
    made = []
    for output in task.join(video, headers_only(info), parts, io.BytesIO(data), folder, True):
        made.append((output, output.path.read_bytes()))
        output.path.unlink()
    return made


def records(task: RecognizeTask, data: bytes, folder: Path) -> list[RecognitionRecord]:
    """A video's records, from its clips through its joined file."""
    folder.mkdir(exist_ok=True)
    ((_, content),) = join(task, data, process(task, data, folder), folder)
    path = folder / "whole.parquet"
    path.write_bytes(content)
    return list(read_recognition_file(str(path)))


FACTS = (
    "video_uri", "video_version", "video_id", "shot", "frame_index", "pts", "time_base", "height", "width",
    "previous_pts", "is_key", "promoted", "key_pts", "gap", "side", "residual", "other_key_pts", "share", "flops",
    "model", "weights_sha256", "precision", "kind", "classes",
)  # fmt: skip


def same(one: RecognitionRecord, other: RecognitionRecord) -> bool:
    """Bit for bit, in all that does not say which clip the record came from."""
    if any(getattr(one, name) != getattr(other, name) for name in FACTS):
        return False
    if one.labels is not None and other.labels is not None:
        return bool((one.labels == other.labels).all())
    ours, theirs = one.detections, other.detections
    assert ours is not None
    assert theirs is not None
    return all(
        getattr(ours, name).tobytes() == getattr(theirs, name).tobytes() for name in ("boxes", "scores", "classes")
    )
