"""The dense head: boxes from distances, what survives, and its file."""

from __future__ import annotations

import pytest
import torch

from models.dff import DeepFeatureFlow, DenseHead, FlowNet, PaperNetwork, ResNetV2
from models.dff.bundle import Bundle, pack, unpack
from models.dff.dense_head import PLACE, UNIT, boxes_of


def head(contexts: int = 3) -> DenseHead:
    torch.manual_seed(1)
    return DenseHead(2, 64, 16, contexts).eval()


def test_distances_become_boxes_about_the_places_middles() -> None:
    distances = torch.zeros(1, 4, 3, 5)
    distances[0, :, 1, 2] = torch.tensor([16.0, 8.0, 64.0, 32.0]).div(UNIT).log()
    box = boxes_of(distances)[0, :, 1, 2]
    x, y = 2.5 * PLACE - 0.5, 1.5 * PLACE - 0.5
    assert torch.allclose(box, torch.tensor([x - 16, y - 8, x + 64, y + 32]))


def test_the_surest_of_overlapping_boxes_of_a_class_survives_and_other_classes_do_not_matter() -> None:
    boxes = torch.tensor([[10.0, 10, 50, 50], [12, 11, 51, 52], [10, 10, 50, 50], [100, 10, 140, 50]])
    scores = torch.tensor([[0.6, 0.0], [0.9, 0.0], [0.0, 0.8], [0.5, 0.0]])
    found = head().chosen(scores, boxes)
    kept = {(int(kind), round(float(score), 2)) for kind, score in zip(found.classes, found.scores, strict=True)}
    assert kept == {(0, 0.9), (1, 0.8), (0, 0.5)}


@torch.no_grad()
def test_objects_lie_within_the_frame_and_do_not_depend_on_the_batch() -> None:
    network, features = head(), torch.randn(2, 64, 3, 5)
    network.score.bias.data[: 2 * 4] = 0  # surer than untrained
    found = network(features, (44, 70))
    for index, one in enumerate(found):
        assert len(one) > 1
        assert float(one.boxes.min()) >= 0
        assert float(one.boxes[:, 2].max()) <= 69
        assert float(one.boxes[:, 3].max()) <= 43
        alone = network(features[index : index + 1], (44, 70))[0]
        assert torch.equal(alone.boxes, one.boxes)
        assert torch.equal(alone.scores, one.scores)
    with pytest.raises(ValueError, match=r"a frame of 44x90 px has \[3, 6\] cells"):
        network(features, (44, 90))


@pytest.mark.parametrize("contexts", [3, 4])
def test_a_model_with_it_goes_into_a_file_and_back(contexts: int) -> None:
    model = DeepFeatureFlow(PaperNetwork(ResNetV2(4), head(contexts)), FlowNet(1 / 16, 64)).eval()
    tensors, metadata = pack(Bundle(model, "detection", ("person", "car"), 360, 800))
    bundle = unpack(tensors, metadata)
    assert (bundle.kind, bundle.classes, bundle.short, bundle.long) == ("detection", ("person", "car"), 360, 800)
    assert bundle.model.network.task.sizes["contexts"] == contexts  # type: ignore[union-attr]
    frames = torch.randint(0, 256, (1, 3, 48, 64), dtype=torch.uint8)
    with torch.no_grad():
        one, other = (each.model.network.head(each.model.network.features(frames), (48, 64))
                      for each in (Bundle(model, "detection", ("person", "car")), bundle))  # fmt: skip
    assert torch.allclose(one[0].boxes, other[0].boxes, atol=1e-3)  # type: ignore[index]
    missing = {name: tensor for name, tensor in tensors.items() if name != "head.dense_reduce.weight"}
    with pytest.raises(KeyError, match=r"no tensor 'dense_reduce\.weight'"):
        unpack(missing, metadata)
    with pytest.raises(ValueError, match="tells 2 classes apart, 1 are named"):
        unpack(tensors, metadata, ("person",))
