"""The shipped detector: it loads by name, fits in its file, and finds nothing where there is nothing."""

from __future__ import annotations

import torch

from models import weights
from models.dff import DenseHead, PaperNetwork
from models.dff.bundle import unpack
from pipeline.config import load
from pipeline.config_recognize import RecognizeConfig


def test_it_loads_by_name_below_twenty_megabytes_with_its_classes() -> None:
    found = weights.load("dff-detect")
    entry = weights.TABLE["dff-detect"]
    assert entry.size is not None
    assert entry.size < 20_000_000
    bundle = unpack(found.tensors, found.metadata)
    assert (bundle.kind, bundle.classes, bundle.short, bundle.long) == ("detection", ("person", "car"), 360, 800)
    assert isinstance(bundle.model.network, PaperNetwork)
    assert isinstance(bundle.model.network.task, DenseHead)
    assert load(RecognizeConfig, None, ["task=detection"]).model == "dff-detect"


@torch.no_grad()
def test_an_empty_wall_has_nobody_in_it() -> None:
    shipped = weights.load("dff-detect")
    model = unpack(shipped.tensors, shipped.metadata).model
    torch.manual_seed(0)
    wall = (torch.full((1, 3, 192, 256), 150.0) + 3 * torch.randn(1, 3, 192, 256)).clamp(0, 255)
    features = model.network.features(wall)
    for each in (features, model.carried(features, wall, wall)):
        (objects,) = model.network.head(each, (192, 256))  # type: ignore[misc]
        assert len(objects.above(0.4)) == 0
