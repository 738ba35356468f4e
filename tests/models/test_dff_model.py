from __future__ import annotations

import pytest
import torch
from torch import Tensor

from models.dff import (
    DeepFeatureFlow,
    FeatureNet,
    FlowNet,
    PaperNetwork,
    ResNetV2,
    RFCNHead,
    SegHead,
    Segmentation,
    fixed_keys,
    from_reference,
    subtract_mean,
    warp,
)
from models.dff.model import check_keys
from tests.models.dff_weights import resized

CHANNELS = 16


def tensors(head: SegHead | RFCNHead) -> dict[str, Tensor]:
    """A whole small model's checkpoint, as one file would hold it."""
    parts = (FeatureNet(50, 4, CHANNELS), FlowNet(1 / 16, CHANNELS), head)
    return {
        name: torch.from_numpy(value)
        for part in parts
        for name, value in resized(part.to_reference()).items()
    }  # fmt: skip


@pytest.fixture(scope="module")
def model() -> DeepFeatureFlow:
    return from_reference(tensors(SegHead(5, CHANNELS)))


def clip(count: int, height: int = 50, width: int = 70, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8,
                         generator=torch.Generator().manual_seed(seed))  # fmt: skip


def test_key_frames_keep_their_features_and_the_others_take_theirs_straight_from_a_key(model: DeepFeatureFlow) -> None:
    """From the key frame that `keys` names, before or after it, and never from a frame that was itself warped."""
    frames, keys = clip(5), [0, 0, 3, 3, 3]
    with torch.inference_mode():
        features = model.clip_features(frames, keys)
        assert isinstance(model.network, PaperNetwork)
        assert isinstance(model.flow, FlowNet)
        for frame, key in enumerate(keys):
            expected = model.network.backbone(subtract_mean(frames[key : key + 1]))
            if frame != key:
                pair = (subtract_mean(frames[at : at + 1]) for at in (frame, key))
                expected = warp(expected, *model.flow(*pair))
            assert torch.equal(features[frame], expected[0]), (frame, key)


def test_a_frames_result_does_not_depend_on_the_clip_around_it(model: DeepFeatureFlow) -> None:
    frames, keys = clip(6), fixed_keys(6, 3)
    whole, part = model.predict(frames, keys), model.predict(frames[3:], [0, 0, 0])
    assert isinstance(whole, Segmentation)
    assert isinstance(part, Segmentation)
    assert torch.equal(whole.labels[3:], part.labels)


def test_the_feature_network_sees_key_frames_alone_and_each_once(model: DeepFeatureFlow) -> None:
    assert isinstance(model.network, PaperNetwork)
    seen: list[int] = []
    hook = model.network.backbone.conv1.register_forward_hook(lambda _m, inputs, _o: seen.append(len(inputs[0])))  # type: ignore[union-attr]
    model.clip_features(clip(7), fixed_keys(7, 3))
    hook.remove()
    assert sum(seen) == 3


def test_the_fixed_schedule_begins_with_a_key_frame_and_repeats() -> None:
    assert fixed_keys(7, 3) == [0, 0, 0, 3, 3, 3, 6]
    assert fixed_keys(2, 10) == [0, 0]
    assert fixed_keys(3, 1) == [0, 1, 2]
    with pytest.raises(ValueError, match="interval is 0"):
        fixed_keys(3, 0)


def test_a_frame_whose_key_frame_is_none_is_refused() -> None:
    check_keys([0, 0, 2], 3)
    with pytest.raises(ValueError, match="frame 2 takes its features from frame 1, which is no key frame"):
        check_keys([0, 0, 1], 3)
    with pytest.raises(ValueError, match="frame 1 takes its features from frame 5"):
        check_keys([0, 5], 2)
    with pytest.raises(ValueError, match="2 key numbers for 3 frames"):
        check_keys([0, 0], 3)


def test_in_training_pairs_of_one_frame_take_its_features_as_they_are_and_teach_no_flow() -> None:
    model = from_reference(tensors(SegHead(5, CHANNELS)), folded=False).train()
    key, current = clip(2), clip(2, seed=1)
    same = torch.tensor([True, True])
    alone = model(key, key, same)
    assert torch.equal(alone, model.network.features(key))
    alone.sum().backward()
    assert all(p.grad is None for p in model.flow.parameters())  # type: ignore[union-attr]

    mixed = model(key, torch.stack([key[0], current[1]]), torch.tensor([True, False]))
    assert torch.allclose(mixed[0], alone[0], atol=1e-5)
    assert torch.allclose(mixed[1], model(key[1:], current[1:])[0], atol=1e-5)


def test_a_loss_on_the_current_frame_teaches_all_three_networks() -> None:
    model = from_reference(tensors(SegHead(5, CHANNELS)), folded=False).train()
    assert isinstance(model.network, PaperNetwork)
    model.network.task(model(clip(1, 80, 96), clip(1, 80, 96, seed=1))).square().sum().backward()
    silent = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum()]
    assert silent == []


def test_published_training_freezes_the_stem_and_the_scales_bias() -> None:
    model = from_reference(tensors(SegHead(5, CHANNELS)), folded=False)
    model.freeze_as_published()
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    stem = {name for name, _ in model.named_parameters() if ".conv1." in name or ".blocks.2" in name}
    assert frozen == {*stem, "flow.Convolution5_scale.bias"}


def test_a_whole_detection_checkpoint_gives_boxes_for_every_frame() -> None:
    model = from_reference(tensors(RFCNHead(3, CHANNELS, bins=3)))
    found = model.predict(clip(3), [0, 0, 0])
    assert len(found) == 3
    assert all(len(objects) and objects.boxes.max() <= 69 for objects in found)  # type: ignore[union-attr]


def test_resnet_v2_takes_the_feature_networks_place_and_normalises_by_itself() -> None:
    backbone = ResNetV2(4).eval()
    model = DeepFeatureFlow(PaperNetwork(backbone, SegHead(5, 64)), FlowNet(1 / 16, 64)).eval()
    frames = clip(2)
    with torch.inference_mode():
        features = model.clip_features(frames, [0, 0])
        assert torch.equal(features[:1], backbone(frames[:1]))
    assert features.shape == (2, 64, 4, 5)
