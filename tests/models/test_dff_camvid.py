"""The shipped segmentation model: it loads by name, fits in its file, and knows a street when it sees one."""

from __future__ import annotations

import torch

from models import weights
from models.dff import Segmentation
from models.dff.bundle import unpack
from models.dff.cost import feature_cost, flow_cost


def test_it_loads_by_name_below_twenty_megabytes_with_its_classes_and_terms() -> None:
    found = weights.load("dff-camvid")
    entry = weights.TABLE["dff-camvid"]
    assert entry.size is not None
    assert entry.size < 20_000_000
    assert "non-commercial" in entry.licence
    bundle = unpack(found.tensors, found.metadata)
    assert (bundle.kind, len(bundle.classes), bundle.short) == ("segmentation", 11, 360)
    assert {"road", "car", "pedestrian"} <= set(bundle.classes)


def test_sky_is_above_and_road_below_in_a_drawn_street() -> None:
    shipped = weights.load("dff-camvid")
    bundle = unpack(shipped.tensors, shipped.metadata)
    torch.manual_seed(0)
    frame = torch.empty(1, 3, 240, 320)
    frame[:, :, :110] = torch.tensor([205.0, 215, 230])[:, None, None]
    frame[:, :, 110:] = torch.tensor([95.0, 95, 98])[:, None, None]
    frame[:, :, 120:, 158:162] = 220.0  # the line in the middle
    frame = (frame + 6 * torch.randn(frame.shape)).clamp(0, 255)
    model = bundle.model
    with torch.no_grad():
        features = model.network.features(frame)
        found = model.network.head(features, (240, 320))
        carried = model.network.head(model.carried(features, frame, frame), (240, 320))
    assert isinstance(found, Segmentation)
    assert isinstance(carried, Segmentation)
    sky, road = bundle.classes.index("sky"), bundle.classes.index("road")
    assert (found.labels[0, 10:80] == sky).float().mean() > 0.8
    assert (found.labels[0, 160:] == road).float().mean() > 0.6
    assert (carried.labels == found.labels).float().mean() > 0.9, "between a frame and itself, nothing moves"


def test_carrying_features_costs_a_fiftieth_of_making_them_or_less() -> None:
    found = weights.load("dff-camvid")
    model = unpack(found.tensors, found.metadata).model
    backbone = model.network.backbone  # type: ignore[union-attr]
    assert feature_cost(backbone, 360, 480) > 50 * flow_cost(model.flow, 360, 480)  # type: ignore[arg-type]
