"""What carrying features costs a segmentation model: on labelled pictures with made motion, and on real clips.

    python -m pipeline.training.segmentation_evaluation WEIGHTS FOLDER [CLIP …] [--subset dev] [--every 1] [--reach 1]

FOLDER has SUBSET/*.jpg and SUBSET_labels/*.png. Its frames may be seconds apart, with none between; so followers of
a key frame are made of it (segmentation_motion.py), with motion that grows with the gap and reaches the recipe's limits
(times --reach) nine frames away. Clips have no labels: there, agreement with the per-frame network is measured.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import av
import numpy as np
import torch
from torch import Tensor

from models import weights
from models.dff import DeepFeatureFlow, Segmentation, fixed_keys, subtract_mean, warp
from models.dff.bundle import unpack
from pipeline.errors import ConfigError
from pipeline.metrics_recognition import Confusion
from pipeline.records.rle import Labels
from pipeline.training.segmentation_motion import Place, camera_flow, look
from pipeline.training.segmentation_recipe import CameraRecipe
from pipeline.training.segmentation_sampling import IGNORED, Labelled, load_labelled

FARTHEST = 9  # frames from a key frame, at a budget of 1/10
SHORT = 360  # px that clips are scaled down to
Carry = Callable[[Tensor, Tensor, Tensor], Tensor]  # features, key frame, current frame -> its features


def ways(model: DeepFeatureFlow) -> dict[str, Carry]:
    """How features come to a frame: the method, and what is left of it without the scale or without the flow."""

    def flow_alone(features: Tensor, key: Tensor, current: Tensor) -> Tensor:
        return warp(features, model.flow(subtract_mean(current), subtract_mean(key))[0])

    return {
        "per frame": lambda features, key, current: model.network.features(current),
        "dff": model.carried,
        "dff without scale": flow_alone,
        "key features unmoved": lambda features, key, current: features,
    }


def labels_of(model: DeepFeatureFlow, features: Tensor, size: Sequence[int]) -> Labels:
    found = model.network.head(features, (size[0], size[1]))
    if not isinstance(found, Segmentation):
        raise ConfigError("the weights are of a detector; labels of pixels are what is measured here")
    labels: Labels = found.labels[0].numpy()
    return labels


@torch.no_grad()
def per_frame(model: DeepFeatureFlow, pictures: Sequence[Labelled], classes: int) -> Confusion:
    total = Confusion(classes)
    for one in pictures:
        features = model.network.features(one.picture[None])
        total.add(labels_of(model, features, one.labels.shape), one.labels.numpy())
    return total


@torch.no_grad()
def made_motion(
    model: DeepFeatureFlow, pictures: Sequence[Labelled], classes: int, seed: int = 0, reach: float = 1.0
) -> list[dict[str, Confusion]]:
    """[gap 0..FARTHEST] way -> confusion on all pictures' followers at that gap. reach: factor on the motion."""
    gaps = [{way: Confusion(classes) for way in ways(model)} for _ in range(FARTHEST + 1)]
    recipe = CameraRecipe(still=0)
    for number, one in enumerate(pictures):
        size = (one.labels.shape[0], one.labels.shape[1])
        key = one.picture[None].float()
        features = model.network.features(key)
        rng = np.random.default_rng([seed, number])
        field = camera_flow(size, recipe, rng, reach)
        for gap, totals in enumerate(gaps):
            if gap == 0:
                own = labels_of(model, features, size)
                for total in totals.values():
                    total.add(own, one.labels.numpy())
                continue
            view = look(one.picture, one.labels, size, Place(0, 0, 1), field * gap / FARTHEST, IGNORED)
            for way, carry in ways(model).items():
                carried = carry(features, key, view.image[None])
                totals[way].add(labels_of(model, carried, size), view.labels.numpy())
    return gaps


@torch.no_grad()
def agreement(model: DeepFeatureFlow, frames: Sequence[Tensor], classes: int, interval: int) -> dict[str, Confusion]:
    """With the per-frame network's labels, on the frames that are no key frames, at the paper's schedule."""
    totals = {way: Confusion(classes) for way in ways(model) if way != "per frame"}
    features = torch.empty(0)
    keys = fixed_keys(len(frames), interval)
    for number, frame in enumerate(frames):
        own = model.network.features(frame)
        if keys[number] == number:
            features = own
            continue
        truth = labels_of(model, own, frame.shape[-2:])
        for way, total in totals.items():
            carried = ways(model)[way](features, frames[keys[number]], frame)
            total.add(labels_of(model, carried, frame.shape[-2:]), truth)
    return totals


def first_frames(clip: Path, count: int) -> list[Tensor]:
    """[1,3,H,W] each, at most SHORT px high."""
    frames: list[Tensor] = []
    with av.open(str(clip)) as container:
        for frame in container.decode(video=0):
            scale = min(1.0, SHORT / frame.height)
            size = (round(frame.width * scale), round(frame.height * scale))
            array = frame.to_ndarray(format="rgb24", width=size[0], height=size[1], interpolation="AREA")
            frames.append(torch.from_numpy(array).permute(2, 0, 1)[None].contiguous())
            if len(frames) == count:
                break
    return frames


def summed(gaps: Sequence[dict[str, Confusion]], interval: int) -> dict[str, float]:
    """mIoU over the gaps 0..interval-1, of each way."""
    return {way: round(sum((g[way] for g in gaps[1:interval]), gaps[0][way]).miou, 4) for way in gaps[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("weights", help="name, path or URI")
    parser.add_argument("folder", type=Path)
    parser.add_argument("clips", type=Path, nargs="*")
    parser.add_argument("--subset", default="dev")
    parser.add_argument("--every", type=int, default=1, help="made motion on each n-th picture alone")
    parser.add_argument("--reach", type=float, default=1.0, help="factor on the made motion")
    parser.add_argument("--frames", type=int, default=60, help="of each clip, from its beginning")
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    found = weights.load(asked.weights)
    bundle = unpack(found.tensors, found.metadata)
    classes, model = bundle.classes, bundle.model
    pictures = load_labelled([asked.folder], asked.subset)
    still = per_frame(model, pictures, len(classes))
    iou = {name: round(float(value), 3) for name, value in zip(classes, still.iou, strict=True)}
    report(per_frame=round(still.miou, 4), accuracy=round(still.pixel_accuracy, 4), pictures=len(pictures), iou=iou)
    gaps = made_motion(model, pictures[:: asked.every], len(classes), reach=asked.reach)
    for interval in (5, FARTHEST + 1):
        report(made_motion=f"1/{interval}", miou=summed(gaps, interval))
    for clip in asked.clips:
        frames = first_frames(clip, asked.frames)
        for interval in (5, 10):
            found_labels = agreement(model, frames, len(classes), interval)
            report(
                clip=clip.name, frames=len(frames), budget=f"1/{interval}",
                agreeing_pixels={way: round(total.pixel_accuracy, 4) for way, total in found_labels.items()},
                miou={way: round(total.miou, 4) for way, total in found_labels.items()},
            )  # fmt: skip


def report(**values: object) -> None:
    print(json.dumps(values), flush=True)


if __name__ == "__main__":
    main()
