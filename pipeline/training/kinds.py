"""What a recipe trains: which data it reads, and which sampler, trainer and network it makes of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
import yaml

from pipeline.errors import ConfigError
from pipeline.training.clips import Clip, load_clips
from pipeline.training.detection_loop import DetectionTrainer
from pipeline.training.detection_recipe import DetectionRecipe
from pipeline.training.detection_sampling import DetectionSampler
from pipeline.training.detection_sources import classes_of, load_sources
from pipeline.training.flow_dataset_sampling import DatasetSampler
from pipeline.training.flow_datasets import FlowSet, load_sets
from pipeline.training.flow_loop import FlowTrainer
from pipeline.training.flow_recipe import FlowRecipe
from pipeline.training.flow_sampling import SceneSampler
from pipeline.training.flow_textures import Pyramid, load_pyramids
from pipeline.training.loop import Trainer
from pipeline.training.recipe import Recipe
from pipeline.training.rife_finder_lessons import LessonSampler, load_lessons
from pipeline.training.rife_finder_loop import FinderTrainer
from pipeline.training.rife_finder_recipe import FinderRecipe
from pipeline.training.rife_lessons import load_school
from pipeline.training.rife_loop import RifeTrainer
from pipeline.training.rife_recipe import RifeRecipe
from pipeline.training.rife_sampling import RifeSampler
from pipeline.training.sampling import TripletSampler
from pipeline.training.sd_loop import SDTrainer
from pipeline.training.sd_recipe import SDRecipe
from pipeline.training.sd_sampling import SDSampler
from pipeline.training.segmentation_loop import SegmentationTrainer
from pipeline.training.segmentation_recipe import SegmentationRecipe
from pipeline.training.segmentation_sampling import PairSampler, load_labelled
from pipeline.training.trainer import BaseTrainer, Sampler

AnyRecipe = Recipe | FlowRecipe | SegmentationRecipe | DetectionRecipe | SDRecipe | FinderRecipe | RifeRecipe
RecipeType = (
    type[Recipe]
    | type[FlowRecipe]
    | type[SegmentationRecipe]
    | type[DetectionRecipe]
    | type[SDRecipe]
    | type[FinderRecipe]
    | type[RifeRecipe]
)


@dataclass(frozen=True)
class Kind:
    """`sources` reads folders (and may keep decoded frames in a cache); the others take what it returned."""

    recipe: RecipeType
    network: str  # of the exported weights, as models/weights.py names it
    sources: Callable[[Any, Sequence[Path], Path], Any]
    sampler: Callable[[Any, Any], Sampler[Any]]
    held_out: Callable[[Any, Any], Sampler[Any] | None]
    trainer: Callable[[Any, torch.device | None, Sampler[Any] | None], BaseTrainer[Any, Any]]


def _clips(recipe: Recipe | SDRecipe, folders: Sequence[Path], cache: Path) -> list[Clip]:
    return [clip for one in folders for clip in load_clips(one, cache, recipe.data.scales, recipe.largest_crop)]


def _flow_sources(recipe: FlowRecipe, folders: Sequence[Path], cache: Path) -> list[FlowSet] | list[Pyramid]:
    return load_sets(recipe.datasets, folders) if recipe.datasets else load_pyramids(folders)


def _segmentation(
    recipe: SegmentationRecipe, device: torch.device | None, sampler: Sampler[Any] | None
) -> SegmentationTrainer:
    return SegmentationTrainer(recipe, device, cast("PairSampler | None", sampler))


def _detection(recipe: DetectionRecipe, device: torch.device | None, sampler: Sampler[Any] | None) -> DetectionTrainer:
    classes = classes_of(Path(recipe.labels))
    return DetectionTrainer(recipe, classes, device, cast("DetectionSampler | None", sampler))


KINDS = {
    "cain": Kind(
        recipe=Recipe,
        network="models.cain_sd.CAIN",
        sources=_clips,
        sampler=lambda recipe, clips: TripletSampler(clips, recipe),
        held_out=lambda recipe, clips: TripletSampler(clips, recipe, held_out=True) if recipe.data.held_out else None,
        trainer=lambda recipe, device, sampler: Trainer(recipe, device),
    ),
    "cain-sd": Kind(
        recipe=SDRecipe,
        network="models.cain_sd.CAINSD",
        sources=_clips,
        sampler=lambda recipe, clips: SDSampler(clips, recipe),
        held_out=lambda recipe, clips: SDSampler(clips, recipe, held_out=True) if recipe.data.held_out else None,
        trainer=lambda recipe, device, sampler: SDTrainer(recipe, device),
    ),
    "memfof": Kind(
        recipe=FlowRecipe,
        network="models.memfof.MEMFOF",
        sources=_flow_sources,
        sampler=lambda recipe, some: DatasetSampler(some, recipe) if recipe.datasets else SceneSampler(some, recipe),
        held_out=lambda recipe, some: None if recipe.datasets else SceneSampler(some, recipe, held_out=True),
        trainer=lambda recipe, device, sampler: FlowTrainer(recipe, device, sampler),
    ),
    "dff": Kind(
        recipe=SegmentationRecipe,
        network="models.dff.bundle.unpack",
        sources=lambda recipe, folders, cache: load_labelled(folders),
        sampler=lambda recipe, pictures: PairSampler(pictures, recipe),
        held_out=lambda recipe, pictures: None,
        trainer=_segmentation,
    ),
    "dff-detection": Kind(
        recipe=DetectionRecipe,
        network="models.dff.bundle.unpack",
        sources=lambda recipe, folders, cache: load_sources(
            Path(recipe.labels), folders, cache, recipe.data.short_side
        ),
        sampler=lambda recipe, labelled: DetectionSampler(labelled, recipe),
        held_out=lambda recipe, labelled: None,
        trainer=_detection,
    ),
    "rife-finder": Kind(
        recipe=FinderRecipe,
        network="models.rife.finder.Finder",
        sources=load_lessons,
        sampler=lambda recipe, lessons: LessonSampler(lessons.taught, recipe),
        held_out=lambda recipe, lessons: LessonSampler(lessons.kept, recipe),
        trainer=lambda recipe, device, sampler: FinderTrainer(recipe, device),
    ),
    "rife": Kind(
        recipe=RifeRecipe,
        network="models.rife.IFNet",
        sources=load_school,
        sampler=lambda recipe, school: RifeSampler(school, recipe),
        held_out=lambda recipe, school: RifeSampler(school, recipe, held_out=True),
        trainer=lambda recipe, device, sampler: RifeTrainer(recipe, device),
    ),
}


def network_of(recipe: AnyRecipe) -> str:
    """The key in KINDS."""
    return "cain" if isinstance(recipe, Recipe) else recipe.network


def kind_of(recipe: AnyRecipe) -> Kind:
    return KINDS[network_of(recipe)]


def recipe_type(path: Path) -> RecipeType:
    """By the file's key `network`; CAIN's where it has none. Raises ConfigError for a network unknown here."""
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError):
        return Recipe  # reading it again says what is wrong
    name = document.get("network", "cain") if isinstance(document, dict) else "cain"
    if name not in KINDS:
        raise ConfigError(f"{path}: network is {name!r}; known here: {', '.join(sorted(KINDS))}")
    return KINDS[name].recipe
