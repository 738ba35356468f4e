"""The detection head: R-FCN on propagated features (Dai et al., NIPS 2016; specs/dff.md, section 5).

Half of the features proposes regions, the other half scores them: all convolutions are 1x1 and shared by all regions,
so the head is cheap enough for every frame.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.dff.boxes import RATIOS, anchor_grid, clip, decode, greedy, nms, overlaps, reference_anchors
from models.dff.checkpoint import fill, own_part, reference, shape_of
from models.dff.protocol import Detections
from models.dff.psroi import grouped_weights, ps_roi_vote
from models.memfof.precision import full_precision

STRIDE = 16
SCALES = (8, 16, 32)  # anchors' sides in units of 16 px
RPN_STD = (0.1, 0.1, 0.4, 0.4)  # the proposals' regression targets are trained divided by these
BOX_STD = (0.1, 0.1, 0.2, 0.2)  # the same of the detections'; published test weights have them multiplied in
CANDIDATES = 6000  # best anchors that enter the proposals' suppression
PROPOSALS = 300
PROPOSAL_OVERLAP = 0.7  # IoU above which the worse of two proposals is dropped
OVERLAP = 0.3  # the same of two detections of one class
LEAST_SCORE = 1e-4
DETECTIONS = 300  # kept of a frame
PART = "R-FCN head"


class RFCNHead(nn.Module):
    """Features -> objects.

    classes    without the background, which is class 0 inside; 30 in ImageNet VID
    channels   of the features; half for proposals, half for detection
    bins       of position-sensitive pooling, in each direction
    scales     anchors' sides in units of 16 px: with three ratios, nine anchors a cell
    stride     pixels a feature cell
    """

    def __init__(
        self,
        classes: int = 30,
        channels: int = 1024,
        bins: int = 7,
        scales: tuple[int, ...] = SCALES,
        stride: int = STRIDE,
    ) -> None:
        super().__init__()
        self.sizes = {"classes": classes, "channels": channels, "bins": bins, "scales": scales, "stride": stride}
        self.classes, self.bins, self.stride, self.scales = classes, bins, stride, scales
        self.proposing = channels // 2
        anchors = len(RATIOS) * len(scales)
        self.rpn_cls_score = nn.Conv2d(self.proposing, 2 * anchors, 1)
        self.rpn_bbox_pred = nn.Conv2d(self.proposing, 4 * anchors, 1)
        self.rfcn_cls = nn.Conv2d(channels - self.proposing, bins**2 * (classes + 1), 1)
        self.rfcn_bbox = nn.Conv2d(channels - self.proposing, bins**2 * 8, 1)
        for layer in (self.rpn_cls_score, self.rpn_bbox_pred, self.rfcn_cls, self.rfcn_bbox):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, features: Tensor, size: tuple[int, int], scale: float = 1.0) -> list[Detections]:
        """Objects of each frame.

        features   [N,channels,h,w] of images of `size` (H, W) px
        scale      those images' size by the frames'; boxes are divided by it
        Classes of the result count from 0, without the background.
        """
        with full_precision(features):  # boxes are pixels, and suppression compares them
            rois = self.propose(*self.rpn(features.float()), size)
        logits, deltas = self.scored(features, rois)
        return self.detections(rois, logits.softmax(-1), deltas, size, scale)

    def rpn(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """(logits [N,h*w*A,2] of background and object, normalised deltas [N,h*w*A,4]); anchors innermost."""
        own = features[:, : self.proposing]
        logits = self.rpn_cls_score(own).unflatten(1, (2, -1)).permute(0, 3, 4, 2, 1)  # (N, h, w, A, 2)
        deltas = self.rpn_bbox_pred(own).unflatten(1, (-1, 4)).permute(0, 3, 4, 1, 2)  # (N, h, w, A, 4)
        return logits.flatten(1, 3), deltas.flatten(1, 3)

    def anchors(self, size: tuple[int, int], like: Tensor) -> Tensor:
        """[h*w*A,4] px of all anchors of images of `size`, in rpn's order."""
        height, width = (-(-side // self.stride) for side in size)
        return anchor_grid(reference_anchors(self.scales).to(like.device), height, width, self.stride)

    @torch.no_grad()
    def propose(self, logits: Tensor, deltas: Tensor, size: tuple[int, int]) -> Tensor:
        """Regions [N,PROPOSALS,4] px that may hold an object, best first; fewer are repeated in turn."""
        anchors = self.anchors(size, logits)
        boxes = clip(decode(anchors, deltas * deltas.new_tensor(RPN_STD)), size)
        scores = logits.softmax(-1)[..., 1]
        # Cells that the frame covers in part take no part (the official operator's grid is H // 16).
        height, width = (-(-side // self.stride) for side in size)
        whole = torch.zeros(height, width, dtype=torch.bool, device=logits.device)
        whole[: size[0] // self.stride, : size[1] // self.stride] = True
        covered = whole.flatten().repeat_interleave(len(anchors) // whole.numel())
        scores = scores.masked_fill(~covered, -1.0)
        order = torch.sort(scores, dim=1, descending=True, stable=True).indices[:, :CANDIDATES]
        rois = []
        for candidates in boxes.gather(1, order[..., None].expand(-1, -1, 4)):
            kept = nms(candidates, PROPOSAL_OVERLAP, PROPOSALS)
            rois.append(candidates[kept[torch.arange(PROPOSALS, device=kept.device) % len(kept)]])
        return torch.stack(rois)

    def scored(self, features: Tensor, rois: Tensor) -> tuple[Tensor, Tensor]:
        """Regions [N,R,4] px -> (class logits [N,R,classes+1], box deltas [N,R,8]): background's, then objects'."""
        own = features[:, self.proposing :].permute(0, 2, 3, 1)  # (N, h, w, channels / 2)
        table = F.linear(own, *grouped_weights([self.rfcn_cls, self.rfcn_bbox], self.bins)).float()
        votes = ps_roi_vote(table.reshape(*own.shape[:3], self.bins**2, -1), rois, self.bins, self.stride)
        return votes[..., : self.classes + 1], votes[..., self.classes + 1 :]

    @torch.no_grad()
    def detections(
        self, rois: Tensor, probabilities: Tensor, deltas: Tensor, size: tuple[int, int], scale: float = 1.0
    ) -> list[Detections]:
        """Regions, class probabilities and deltas of N frames -> what remains after suppression within each class."""
        boxes = clip(decode(rois, deltas[..., 4:]), size) / scale
        return [best(frame, scores[:, 1:]) for frame, scores in zip(boxes, probabilities, strict=True)]

    @classmethod
    def from_reference(cls, tensors: Mapping[str, Any], *, scales: tuple[int, ...] = SCALES) -> RFCNHead:
        """The head of a published checkpoint's tensors, under their published names (checkpoint.py).

        Where the checkpoint holds `rfcn_bbox_weight_test` and `…_bias_test`, these are taken: the trained ones give
        normalised deltas. Anchors' scales are not in a checkpoint; their number is checked. Raises KeyError for
        names, ValueError for shapes.
        """
        own = own_part(PART, tensors)
        for name in ("rfcn_bbox_weight", "rfcn_bbox_bias"):
            if f"{name}_test" in own:
                own[name] = own.pop(f"{name}_test")
        bins = round((shape_of(own, "rfcn_bbox_bias", PART)[0] / 8) ** 0.5)
        with torch.device("meta"):
            head = cls(
                shape_of(own, "rfcn_cls_bias", PART)[0] // bins**2 - 1,
                2 * shape_of(own, "rfcn_cls_weight", PART)[1],
                bins,
                scales,
            )
        fill(head, own, lambda name: name.replace(".", "_"), PART)
        return head.eval()

    def to_reference(self) -> dict[str, Tensor]:
        return reference(self, lambda name: name.replace(".", "_"))


def best(boxes: Tensor, scores: Tensor, overlap: float = OVERLAP) -> Detections:
    """One frame's boxes [R,4] with scores [R,C] of every class -> its best DETECTIONS, suppressed within classes.

    All classes share the boxes, and so one matrix of overlaps.
    """
    ranked, order = torch.sort(scores.t(), dim=1, descending=True, stable=True)  # (C, R)
    overlapping = overlaps(boxes, boxes) > overlap
    suppresses = overlapping[order[:, :, None], order[:, None, :]]  # (C, R, R)
    # Whoever is below the least score comes after everyone it could suppress, so it may stay in the matrix.
    alive = greedy(suppresses) & (ranked > LEAST_SCORE)
    classes, rank = alive.nonzero(as_tuple=True)
    kept = ranked[classes, rank]
    if len(kept) > DETECTIONS:
        chosen = kept >= kept.topk(DETECTIONS).values[-1]
        classes, rank, kept = classes[chosen], rank[chosen], kept[chosen]
    return Detections(boxes[order[classes, rank]].float(), kept.float(), classes)
