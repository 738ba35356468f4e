"""A whole model of Deep Feature Flow in one file: feature network, flow network, head, and what its classes are called.

    features.<published name>    ResNetV2's tensors, or the paper's feature network's
    flow.<published name>        FlowNet's, of any width
    head.<published name>        the segmentation head's, R-FCN's, or the dense head's

with `kind`, `classes` (a JSON list of names) and how frames are to be sized in the file's metadata. A published
checkpoint, whose names need no prefix, is taken too; it says nothing of its classes, so theirs are known here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

from torch import Tensor

from models.dff import dense_head, fine_head
from models.dff.dense_head import DenseHead
from models.dff.fine_head import FineHead
from models.dff.flownet import FlowNet
from models.dff.model import DeepFeatureFlow, PaperNetwork, from_reference
from models.dff.preprocess import LONG, SHORT
from models.dff.resnet import FeatureNet
from models.dff.resnet_v2 import ResNetV2
from models.dff.rfcn import RFCNHead
from models.dff.segmentation import Placement, SegHead

Kind = Literal["segmentation", "detection"]
PARTS = ("features", "flow", "head")

CITYSCAPES = (
    "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation", "terrain",
    "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle",
)  # fmt: skip
IMAGENET_VID = (
    "airplane", "antelope", "bear", "bicycle", "bird", "bus", "car", "cattle", "dog", "domestic cat", "elephant", "fox",
    "giant panda", "hamster", "horse", "lion", "lizard", "monkey", "motorcycle", "rabbit", "red panda", "sheep",
    "snake", "squirrel", "tiger", "train", "turtle", "watercraft", "whale", "zebra",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Bundle:
    """A model, and what is needed to use it. Raises ValueError where classes and head do not fit."""

    model: DeepFeatureFlow
    kind: Kind
    classes: tuple[str, ...]
    short: int | None = None
    """px that a frame's short side is brought to; None: frames stay as they are."""
    long: int | None = None
    """px that its long side may then have."""

    def __post_init__(self) -> None:
        head = getattr(self.model.network, "task", None)
        known = head.sizes["classes"] if isinstance(head, (SegHead, RFCNHead, DenseHead)) else len(self.classes)
        if known != len(self.classes):
            raise ValueError(f"the head tells {known} classes apart, {len(self.classes)} are named: {self.classes[:5]}")

    def __repr__(self) -> str:
        return f"Bundle({self.kind}, {len(self.classes)} classes)"


def unpack(tensors: Mapping[str, Any], metadata: Mapping[str, str], classes: tuple[str, ...] | None = None) -> Bundle:
    """The model of a file's tensors, ready for evaluation. `classes`: names, instead of the file's own.

    Raises KeyError for names, ValueError for shapes, for classes that do not fit, and where none are known.
    """
    parts: dict[str, dict[str, Any]] = {part: {} for part in PARTS}
    for name, value in tensors.items():
        part, _, rest = name.partition(".")
        if part in parts and rest:
            parts[part][rest] = value
    if sum(len(part) for part in parts.values()) < len(tensors):
        return _published(tensors, classes)
    for part, own in parts.items():
        if not own:
            raise KeyError(f"not a recognition model: no tensor is called {part}.…")
    features = parts["features"]
    backbone = ResNetV2 if "conv0.weight" in features else FeatureNet
    kind = metadata.get("kind", "segmentation")
    if kind not in ("segmentation", "detection"):
        raise ValueError(f"the weights are for {kind!r}; segmentation and detection are known")
    head: SegHead | RFCNHead | DenseHead
    if kind == "segmentation":
        fine = any(name.startswith(fine_head.MARK) for name in parts["head"])
        head = (FineHead if fine else SegHead).from_reference(parts["head"])
        head.placement = cast("Placement", metadata.get("placement", head.placement))
    else:
        dense = any(name.startswith(dense_head.MARK) for name in parts["head"])
        head = (DenseHead if dense else RFCNHead).from_reference(parts["head"])
    model = DeepFeatureFlow(
        PaperNetwork(backbone.from_reference(features), head), FlowNet.from_reference(parts["flow"])
    ).eval()
    if classes is None:
        if "classes" not in metadata:
            raise ValueError("the weights do not say what their classes are called; give the names as `classes`")
        classes = tuple(json.loads(metadata["classes"]))
    short, long = (int(metadata[key]) if key in metadata else None for key in ("short_side", "long_side"))
    return Bundle(model, cast("Kind", kind), classes, short, long)


def _published(tensors: Mapping[str, Any], classes: tuple[str, ...] | None) -> Bundle:
    model = from_reference(tensors)
    head = cast("PaperNetwork", model.network).task
    if isinstance(head, SegHead):
        bundle = Bundle(model, "segmentation", classes or _known(CITYSCAPES, head.sizes["classes"]))
    else:
        bundle = Bundle(model, "detection", classes or _known(IMAGENET_VID, head.classes), SHORT, LONG)
    return bundle


def _known(names: tuple[str, ...], count: int) -> tuple[str, ...]:
    if len(names) != count:
        raise ValueError(f"a checkpoint of {count} classes does not say what they are called; give the names")
    return names


def pack(bundle: Bundle) -> tuple[dict[str, Tensor], dict[str, str]]:
    """(tensors, metadata) that `unpack` makes the model of. Its batch norms must not be folded (ValueError)."""
    network, flow = bundle.model.network, bundle.model.flow
    if not isinstance(network, PaperNetwork) or not isinstance(flow, FlowNet):
        raise ValueError(f"{bundle} has a network of its own: only the paper's parts can be packed")
    parts = {"features": network.backbone, "flow": flow, "head": network.task}
    tensors = {
        f"{part}.{name}": value
        for part, module in parts.items()
        for name, value in module.to_reference().items()  # type: ignore[operator]
    }
    metadata = {"kind": bundle.kind, "classes": json.dumps(list(bundle.classes))}
    if isinstance(network.task, SegHead):
        metadata["placement"] = network.task.placement
    sides = {"short_side": bundle.short, "long_side": bundle.long}
    metadata |= {key: str(value) for key, value in sides.items() if value is not None}
    return tensors, metadata
