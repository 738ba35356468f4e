"""Small recognition models in files, and clips processed and joined as workers do it, without a cluster."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from models.dff import DeepFeatureFlow, FlowNet, PaperNetwork, ResNetV2, RFCNHead, SegHead
from models.dff.bundle import Bundle, pack
from pipeline.config import load
from pipeline.config_recognize import RecognizeConfig
from pipeline.records.recognition import read_recognition_file
from pipeline.records.recognition_schema import RecognitionRecord
from pipeline.tasks.recognize import RecognizeTask
from tests.tasks.clip_support import joined_file

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


def records(task: RecognizeTask, data: bytes, folder: Path) -> list[RecognitionRecord]:
    """A video's records, from its clips through its joined file."""
    return list(read_recognition_file(joined_file(task, data, folder)))


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
