"""The networks with which a run of CAIN-SD starts."""

from __future__ import annotations

import torch
from torch import nn

from models import weights
from models.cain_sd import CAIN, CARNM, PWCNet, carn
from models.cain_sd.adaptive import CAINSD, is_adaptive
from models.cain_sd.light_sr import LightSizes, LightSR
from models.cain_sd.sd_finder import DecisionNet, SDFinder
from pipeline.training.sd_recipe import SDRecipe
from pipeline.training.start import start_as_average

PINNED = 100.0  # logit of what is not chosen but given: no price outweighs it


def build(recipe: SDRecipe) -> CAINSD:
    """Raises ValueError where the initial weights are of other sizes than the recipe's."""
    sizes = recipe.model.model_dump(exclude={"start_as_average"})
    motion = PWCNet.from_reference(weights.load(recipe.motion.weights).tensors) if recipe.motion.weights else None
    tensors = weights.load(recipe.initial_weights).tensors if recipe.initial_weights else {}
    if is_adaptive(tensors):
        network = CAINSD.from_tensors(tensors, motion)
        if recipe.finder.anew or network.finder.detail != recipe.finder.detail:  # which sees something else
            network.finder = start_even(SDFinder(3, network.depths, detail=recipe.finder.detail))
    else:
        cain = CAIN.from_reference(tensors) if tensors else CAIN(**sizes)
        if recipe.model.start_as_average and not tensors:
            start_as_average(cain)
        network = CAINSD(
            cain, enlarger_of(recipe), start_even(SDFinder(3, len(cain.groups), detail=recipe.finder.detail)), motion
        )
    if network.cain.sizes != sizes:
        raise ValueError(f"initial_weights {recipe.initial_weights} are of {network.cain.sizes}; the recipe: {sizes}")
    if "scale" not in recipe.adapts:
        pin(network.finder.scale_net, 0)
    if "depth" not in recipe.adapts:
        pin(network.finder.depth_net, network.depths - 1)
    return network


def enlarger_of(recipe: SDRecipe) -> LightSR | CARNM:
    enlarger = recipe.enlarger
    if enlarger.kind == "light":
        return LightSR(LightSizes(enlarger.width))
    if enlarger.initial_weights:
        return CARNM.from_reference(weights.load(enlarger.initial_weights).tensors)
    return CARNM(carn.Sizes(enlarger.width, enlarger.groups))


@torch.no_grad()
def start_even(finder: SDFinder) -> SDFinder:
    """Small last layers: every choice is about as likely as any other at first, so that all are tried."""
    for net in (finder.scale_net, finder.depth_net):
        net.conv3.weight.mul_(0.1)
        zero_(net.conv3)
    return finder


@torch.no_grad()
def pin(net: DecisionNet, choice: int) -> None:
    """Make a net answer the same everywhere."""
    net.conv3.weight.zero_()
    zero_(net.conv3)
    bias = net.conv3.bias
    assert bias is not None
    bias[choice] = PINNED


def zero_(conv: nn.Conv2d) -> None:
    assert conv.bias is not None
    conv.bias.zero_()
