"""The names of the published MXNet checkpoints, and how tensors get from them into our modules.

One file holds a whole model: feature network, flow network and task network side by side (`rfcn_dff_flownet_vid`), or
one of them alone. Each network takes its own part. A tensor is known by

    arg:res2a_branch1_weight   its name in an MXNet .params file; `aux:` marks the statistics of batch norms
    res2a_branch1_weight       the same without the mark
    res2a_branch1.weight       the same as a PyTorch module would name it (bn….weight is gamma, bn….bias is beta)

Layouts are the same in both frameworks, so loading is renaming (specs/dff.md, section 10).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

PARTS = {  # which part of a model a tensor belongs to, by its name without mark
    "feature network": re.compile(r"(conv1|bn_conv1|(res|bn)[2-5]([a-f]|b\d+)_branch[12][abc]?|feat_conv_3x3)_"),
    "flow network": re.compile(r"(flow_conv1|conv[2-6](_1)?|deconv\d|upsample_flow\dto\d|Convolution\d(_scale)?)_"),
    "R-FCN head": re.compile(r"(rpn_cls_score|rpn_bbox_pred|rfcn_cls|rfcn_bbox)_"),
    "segmentation head": re.compile(r"score_"),
}
STATISTICS = ("_moving_mean", "_moving_var")
TORCH_ENDINGS = {".weight": "_weight", ".bias": "_bias"}
TORCH_NORM_ENDINGS = {
    ".weight": "_gamma", ".bias": "_beta", ".running_mean": "_moving_mean", ".running_var": "_moving_var",
}  # fmt: skip


def bare_name(name: str) -> str:
    """A tensor's published name without its mark, from any of its three names."""
    name = name.removeprefix("arg:").removeprefix("aux:")
    endings = TORCH_NORM_ENDINGS if name.startswith("bn") else TORCH_ENDINGS
    for ending, published in endings.items():
        if name.endswith(ending):
            return name.removesuffix(ending) + published
    return name


def marked(name: str) -> str:
    """A bare name as the .params file has it."""
    return ("aux:" if name.endswith(STATISTICS) else "arg:") + name


def own_part(part: str, tensors: Mapping[str, Any]) -> dict[str, Any]:
    """The tensors of one part under their bare names. Raises KeyError for names that belong to no part."""
    own, strangers = {}, []
    for name, value in tensors.items():
        bare = bare_name(name)
        if bare.endswith("num_batches_tracked"):  # of PyTorch's batch norms alone; the statistics are fixed
            continue
        if PARTS[part].match(bare):
            own[bare] = value
        elif not any(pattern.match(bare) for pattern in PARTS.values()):
            strangers.append(name)
    if strangers:
        raise KeyError(
            f"not a Deep Feature Flow checkpoint: {len(strangers)} unknown names {sorted(strangers)[:3]}; "
            f"the {part}'s look like {EXAMPLES[part]!r}"
        )
    if not own:
        raise KeyError(f"the checkpoint has no {part}: no name of {len(tensors)} looks like {EXAMPLES[part]!r}")
    return own


EXAMPLES = {
    "feature network": "arg:res2a_branch1_weight",
    "flow network": "arg:flow_conv1_weight",
    "R-FCN head": "arg:rfcn_cls_weight",
    "segmentation head": "arg:score_weight",
}


def shape_of(own: Mapping[str, Any], name: str, part: str) -> tuple[int, ...]:
    """The shape that tells a network's size. Raises KeyError where it is missing."""
    if name not in own:
        raise KeyError(f"the checkpoint's {part} has no tensor {marked(name)!r}, which tells its size")
    return tuple(own[name].shape)


def fill(network: nn.Module, own: Mapping[str, Any], published: Callable[[str], str], part: str) -> None:
    """Give a network (it may be on the meta device) the tensors of its part, as fp32 copies.

    published: our parameter's name -> its bare published name. Raises KeyError for missing or surplus tensors,
    ValueError for shapes.
    """
    names = {published(name): name for name in network.state_dict()}
    missing, unknown = sorted(names.keys() - own.keys()), sorted(own.keys() - names.keys())
    if missing or unknown:
        raise KeyError(
            f"the checkpoint's {part} does not fit {type(network).__name__}: {len(missing)} tensors missing "
            f"{[marked(name) for name in missing[:3]]}, {len(unknown)} surplus {[marked(name) for name in unknown[:3]]}"
        )
    expected, state = network.state_dict(), {}
    for name, ours in names.items():
        value = torch.as_tensor(own[name])
        if value.shape != expected[ours].shape:
            raise ValueError(
                f"{marked(name)} has shape {list(value.shape)}; this {part} needs {list(expected[ours].shape)}"
            )
        state[ours] = value.detach().to(dtype=torch.float32, copy=True)
    adopt(network, state)


def adopt(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Put tensors in place of a network's own, trainable, and channels last: convolutions then are a tenth quicker
    on the CPU, and warping and pooling, which read all channels of a cell, ten times."""
    network.load_state_dict(state, assign=True)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    for parameter in network.parameters():
        parameter.requires_grad_(True)


def reference(network: nn.Module, published: Callable[[str], str]) -> dict[str, Tensor]:
    """The inverse of fill: tensors under their names in a .params file."""
    return {marked(published(name)): value for name, value in network.state_dict().items()}
