"""A whole recognition model in one file: what goes in comes out, and what does not fit is refused by name."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from models.dff import DeepFeatureFlow, FlowNet, PaperNetwork, ResNetV2, RFCNHead, SegHead
from models.dff.bundle import CITYSCAPES, Bundle, pack, unpack
from models.dff.protocol import Segmentation
from tests.models import dff_weights

CLASSES = ("sky", "road", "tree")
torch.set_num_threads(1)


def small(detects: bool = False) -> Bundle:
    torch.manual_seed(3)
    head = RFCNHead(3, 64, 3) if detects else SegHead(3, 64, placement="cells")
    model = DeepFeatureFlow(PaperNetwork(ResNetV2(4), head), FlowNet(1 / 16, 64)).eval()
    return Bundle(model, "detection" if detects else "segmentation", CLASSES, 360, 1000)


@pytest.mark.parametrize("detects", [False, True])
def test_what_is_packed_is_unpacked(detects: bool) -> None:
    bundle = small(detects)
    found = unpack(*pack(bundle))
    assert (found.kind, found.classes, found.short, found.long) == (bundle.kind, CLASSES, 360, 1000)
    frames = torch.randint(0, 256, (2, 3, 50, 70), dtype=torch.uint8)
    for one, other in ((bundle, found), (found, unpack(*pack(small(detects))))):
        with torch.no_grad():
            ours, theirs = (each.model.clip_features(frames, [0, 0]) for each in (one, other))
        assert torch.allclose(ours, theirs, atol=1e-4)
    if not detects:
        predicted = found.model.predict(frames, [0, 0])
        assert isinstance(predicted, Segmentation)
        assert predicted.labels.shape == (2, 50, 70)
        assert found.model.network.task.placement == "cells"  # type: ignore[attr-defined]


def test_half_precision_is_read_as_single() -> None:
    tensors, metadata = pack(small())
    found = unpack({name: tensor.half() for name, tensor in tensors.items()}, metadata)
    assert {parameter.dtype for parameter in found.model.parameters()} == {torch.float32}


def test_names_of_classes_can_be_given_and_must_be_as_many_as_the_head_tells_apart() -> None:
    tensors, metadata = pack(small())
    assert unpack(tensors, metadata, ("a", "b", "c")).classes == ("a", "b", "c")
    with pytest.raises(ValueError, match="tells 3 classes apart, 2 are named"):
        unpack(tensors, metadata, ("a", "b"))
    with pytest.raises(ValueError, match="do not say what their classes are called"):
        unpack(tensors, {})


def test_a_part_that_is_missing_is_named() -> None:
    tensors, metadata = pack(small())
    with pytest.raises(KeyError, match=r"no tensor is called flow\."):
        unpack({name: value for name, value in tensors.items() if not name.startswith("flow.")}, metadata)
    with pytest.raises(KeyError, match="not a Deep Feature Flow checkpoint"):
        unpack({"layer.weight": torch.zeros(1)}, {})
    with pytest.raises(ValueError, match="'panoptic'"):
        unpack(tensors, metadata | {"kind": "panoptic"})


def test_a_published_checkpoint_needs_no_prefixes_and_its_classes_are_known() -> None:
    head = dff_weights.resized(SegHead(19, 1024).to_reference())
    tensors = {
        **dff_weights.resized(dff_weights_of_a_small_backbone()),
        **dff_weights.resized(FlowNet(1 / 16, 1024).to_reference()),
        **head,
    }
    found = unpack(tensors, {})
    assert (found.kind, found.classes, found.short) == ("segmentation", CITYSCAPES, None)
    with pytest.raises(ValueError, match="tells 19 classes apart, 3 are named"):
        unpack(tensors, {}, CLASSES)


def dff_weights_of_a_small_backbone() -> dict[str, torch.Tensor]:
    from models.dff import FeatureNet

    return FeatureNet(50, 2, 1024).to_reference()


def test_a_network_of_ones_own_is_not_packed() -> None:
    bundle = small()
    other = replace(bundle, model=DeepFeatureFlow(bundle.model.network, lambda current, key: (current, None)))
    with pytest.raises(ValueError, match="only the paper's parts"):
        pack(other)
