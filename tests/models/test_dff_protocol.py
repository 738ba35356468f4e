"""A network of one's own in Deep Feature Flow: what it takes to plug one in, and what comes out."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.dff import (
    DeepFeatureFlow,
    Detections,
    FlowNet,
    FrameNetwork,
    PaperNetwork,
    ResNetV2,
    SegHead,
    Segmentation,
    cells_from_pixels,
)


class Brightness(nn.Module):
    """The example: features are the mean colours of 8x8 px, and a class is the brightest of red, green, blue."""

    stride = 8

    def features(self, frames: Tensor) -> Tensor:
        return F.avg_pool2d(frames.float(), self.stride, ceil_mode=True)

    def head(self, features: Tensor, size: tuple[int, int]) -> Segmentation:
        scores = F.interpolate(features, scale_factor=self.stride)[..., : size[0], : size[1]]
        return Segmentation(scores.argmax(1).to(torch.uint8))


def moved_by(x: float, y: float) -> object:
    """A source of flow that knows the motion from elsewhere: pixels, from the current frame to the key frame."""

    def flow(current: Tensor, key: Tensor) -> tuple[Tensor, None]:
        pixels = torch.tensor([x, y])[None, :, None, None].expand(len(current), 2, *current.shape[-2:])
        return cells_from_pixels(pixels, Brightness.stride), None

    return flow


def scene(shift: int) -> Tensor:
    """uint8 [3,32,48]: a red background, and a blue square of 16 px that starts at (8 + shift, 8)."""
    frame = torch.zeros(3, 32, 48, dtype=torch.uint8)
    frame[0] = 200
    frame[:, 8:24, 8 + shift : 24 + shift] = torch.tensor([0, 0, 250], dtype=torch.uint8)[:, None, None]
    return frame


def test_a_network_of_ones_own_finds_in_other_frames_what_it_saw_in_the_key_frame() -> None:
    network = Brightness()
    frames = torch.stack([scene(0), scene(8)])
    model = DeepFeatureFlow(network, moved_by(-8, 0))  # type: ignore[arg-type]
    found = model.predict(frames, [0, 0])
    assert isinstance(found, Segmentation)
    assert torch.equal(found.labels, network.head(network.features(frames), (32, 48)).labels)
    assert found.labels[1, 8:24, 16:32].eq(2).all()


def test_the_example_and_the_papers_networks_keep_the_protocol() -> None:
    assert isinstance(Brightness(), FrameNetwork)
    assert isinstance(PaperNetwork(ResNetV2(4), SegHead(3, 64)), FrameNetwork)


def test_a_network_without_the_members_is_refused_by_name() -> None:
    with pytest.raises(TypeError, match=r"Conv2d is no FrameNetwork: it needs stride, features\(frames\) and head"):
        DeepFeatureFlow(nn.Conv2d(3, 3, 1), FlowNet(1 / 16, 3))  # type: ignore[arg-type]


def test_flownets_cells_must_be_the_networks() -> None:
    with pytest.raises(ValueError, match="FlowNet's flow is in cells of 16 px; Brightness's are 8 px"):
        DeepFeatureFlow(Brightness(), FlowNet(1 / 16, 3))


def test_results_check_themselves() -> None:
    with pytest.raises(ValueError, match="must be uint8"):
        Segmentation(torch.zeros(1, 2, 3))
    with pytest.raises(ValueError, match=r"got \[2, 4\], \[3\] and \[2\]"):
        Detections(torch.zeros(2, 4), torch.zeros(3), torch.zeros(2, dtype=torch.int64))


def test_detections_above_a_score() -> None:
    found = Detections(torch.rand(3, 4), torch.tensor([0.2, 0.5, 0.9]), torch.tensor([0, 1, 2]))
    assert found.above(0.5).classes.tolist() == [1, 2]
