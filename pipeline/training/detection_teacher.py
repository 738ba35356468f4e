"""A teacher's boxes for training videos and photographs, as a COCO file: YOLOX-nano, read from its ncnn graph.

    python -m pipeline.training.detection_teacher GRAPH.param WEIGHTS.npz OUT.json FOLDER … [--every 3]

GRAPH.param is ncnn's text: a layer a line, with its inputs, outputs and parameters. WEIGHTS.npz holds `NAME.weight` and
`NAME.bias` of each convolution, batch norms folded in. The teacher is needed to make labels and for nothing else: its
weights are part of no model here. Images of videos are called <video without suffix>/<frame>.jpg, as
`jobs/evaluate.py recognize --boxes` expects, so a file of other clips tells how far a detector agrees with it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from models.dff.boxes import nms
from pipeline.errors import ConfigError
from pipeline.training.clips import VIDEO_SUFFIXES, decode
from pipeline.training.flow_textures import PHOTO_SUFFIXES

LONGEST = 640  # px that pictures' long side is brought to
STRIDES = (8, 16, 32)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLASSES = ("person", "car")
COCO_CLASSES = {0: 0, 2: 1, 5: 1, 7: 1}  # COCO's number -> ours: cars, buses and trucks are cars
OVERLAP = 0.6  # IoU above which the worse of two boxes is dropped
LEAST = 0.1  # score


@dataclass(frozen=True)
class Layer:
    kind: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    parameters: Mapping[int, float]


def read_graph(text: str) -> list[Layer]:
    """Layers in order of an ncnn .param file. Raises ConfigError for another format."""
    lines = text.splitlines()
    if not lines or lines[0].strip() != "7767517":
        raise ConfigError("not an ncnn graph: its first line is 7767517")
    layers = []
    for line in lines[2:]:
        if not (words := line.split()):
            continue
        kind, name, inputs, outputs = words[0], words[1], int(words[2]), int(words[3])
        blobs, rest = words[4 : 4 + inputs + outputs], words[4 + inputs + outputs :]
        parameters = {int(key): float(value) for key, value in (pair.split("=") for pair in rest)}
        layers.append(Layer(kind, name, tuple(blobs[:inputs]), tuple(blobs[inputs:]), parameters))
    return layers


class Teacher:
    """YOLOX, as the graph says it."""

    def __init__(self, graph: Sequence[Layer], weights: Mapping[str, Tensor]) -> None:
        self._graph, self._weights = graph, weights

    @classmethod
    def load(cls, graph: Path, weights: Path) -> Teacher:
        with np.load(weights, allow_pickle=False) as arrays:
            return cls(read_graph(graph.read_text()), {name: torch.from_numpy(arrays[name]) for name in arrays.files})

    @torch.no_grad()
    def raw(self, image: Tensor) -> Tensor:
        """Normalised image [1,3,H,W], sides multiples of 32 -> [places,85]: box, objectness, 80 classes' scores."""
        blobs: dict[str, Tensor] = {}
        made: list[Tensor] = []
        for layer in self._graph:
            given = [blobs[name] for name in layer.inputs]
            if layer.kind == "Input":
                made = [image]
            elif layer.kind == "Split":
                made = [given[0]] * len(layer.outputs)
            else:
                made = [self._apply(layer, given)]
            blobs.update(zip(layer.outputs, made, strict=True))
        return made[0]

    def _apply(self, layer: Layer, given: list[Tensor]) -> Tensor:
        x, p = given[0], layer.parameters
        if layer.kind == "YoloV5Focus":  # a pixel of each 2x2 after the other: rows alternate faster
            return torch.cat([x[..., i::2, j::2] for j in (0, 1) for i in (0, 1)], 1)
        if layer.kind in ("Convolution", "ConvolutionDepthWise"):
            y = F.conv2d(
                x, self._weights[f"{layer.name}.weight"], self._weights[f"{layer.name}.bias"],
                int(p.get(3, 1)), int(p.get(4, 0)), 1, int(p.get(7, 1)),
            )  # fmt: skip
            return y.sigmoid() if p.get(9) == 4 else y
        if layer.kind == "Swish":
            return F.silu(x)
        if layer.kind == "BinaryOp" and not p.get(0):
            return x + given[1]
        if layer.kind == "Concat":
            return torch.cat(given, 1)
        if layer.kind == "Pooling":
            return F.max_pool2d(x, int(p[1]), int(p.get(2, 1)), int(p[3]))
        if layer.kind == "Interp":
            return F.interpolate(x, scale_factor=p[1], mode="nearest")
        if layer.kind == "Reshape":
            return x.flatten(2)[0]  # (85, places)
        if layer.kind == "Permute":
            return x.t()
        raise ConfigError(f"the graph has a layer {layer.kind} ({layer.name}); YOLOX-nano's are known")

    def boxes(self, picture: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """uint8 RGB [3,H,W] -> (boxes [K,4] xyxy px, scores [K], classes [K] of CLASSES), suppressed over both."""
        height, width = picture.shape[-2:]
        scale = LONGEST / max(height, width)
        size = (max(1, round(height * scale)), max(1, round(width * scale)))
        image = F.interpolate(picture[None].float(), size, mode="bilinear", antialias=scale < 1)
        image = F.pad(image, (0, -size[1] % 32, 0, -size[0] % 32), value=114.0) / 255
        image = (image - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
        raw = self.raw(image)
        grids = []
        for stride in STRIDES:
            rows, columns = (torch.arange(side // stride) for side in image.shape[-2:])
            y, x = torch.meshgrid(rows, columns, indexing="ij")
            grids.append(torch.stack([x, y, torch.full_like(x, stride)], -1).reshape(-1, 3))
        grid = torch.cat(grids).float()
        centre, half = (raw[:, :2] + grid[:, :2]) * grid[:, 2:], raw[:, 2:4].exp() * grid[:, 2:] / 2
        found = torch.cat([centre - half, centre + half], 1) / scale
        score, number = (raw[:, 4:5] * raw[:, 5:]).max(1)
        wanted = torch.tensor([one in COCO_CLASSES for one in range(80)])[number] & (score > LEAST)
        found, score, number = found[wanted], score[wanted], number[wanted]
        classes = torch.tensor([COCO_CLASSES.get(int(one), 0) for one in number], dtype=torch.int64)
        order = torch.sort(score, descending=True, stable=True).indices
        found, score, classes = found[order], score[order], classes[order]
        kept = nms(found + 4096.0 * classes[:, None], OVERLAP, 300)  # apart: classes do not suppress each other
        limits = torch.tensor([width, height, width, height], dtype=torch.float32)
        return torch.minimum(found[kept].clamp(min=0), limits), score[kept], classes[kept]


def label(teacher: Teacher, folders: Sequence[Path], every: int) -> dict[str, Any]:
    """A COCO document of all videos (each `every`-th frame) and photographs; annotations have a `score`."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    files = [file for one in folders for file in (sorted(one.rglob("*")) if one.is_dir() else [one])]
    for path in files:
        suffix = path.suffix.lower()
        if suffix not in VIDEO_SUFFIXES | PHOTO_SUFFIXES:
            continue
        for number, frame in enumerate(decode(path)):
            if number % every:
                continue
            picture = torch.from_numpy(np.ascontiguousarray(frame)).permute(2, 0, 1)
            name = f"{path.stem}/{number:06d}.jpg"
            images.append({"id": len(images) + 1, "file_name": name, "height": frame.shape[0], "width": frame.shape[1]})
            for (x1, y1, x2, y2), score, which in zip(*(part.tolist() for part in teacher.boxes(picture)), strict=True):
                annotations.append(
                    {
                        "id": len(annotations) + 1, "image_id": len(images), "category_id": which + 1, "iscrowd": 0,
                        "bbox": [round(x1, 2), round(y1, 2), round(x2 - x1, 2), round(y2 - y1, 2)],
                        "area": round((x2 - x1) * (y2 - y1), 2), "score": round(score, 4),
                    }
                )  # fmt: skip
    categories = [{"id": number + 1, "name": name} for number, name in enumerate(CLASSES)]
    return {"images": images, "annotations": annotations, "categories": categories}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("graph", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("folders", type=Path, nargs="+", help="of videos and photographs, or single files")
    parser.add_argument("--every", type=int, default=3, help="n: each n-th frame")
    parser.add_argument("--surer", type=float, default=0.0, help="only boxes with at least this score")
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    document = label(Teacher.load(asked.graph, asked.weights), asked.folders, asked.every)
    document["annotations"] = [one for one in document["annotations"] if one["score"] >= asked.surer]
    asked.output.write_text(json.dumps(document))
    print(f"{asked.output}: {len(document['annotations'])} boxes on {len(document['images'])} images")


if __name__ == "__main__":
    main()
