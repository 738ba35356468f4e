"""MEMFOF's evaluation as its authors' code does it, with our modules and weights: what jobs/benchmark.py compares with.

Nothing is shared between triplets or between iterations (specs 1 to 7, 9): three frames are encoded anew for every
triplet; each level of each correlation is a product of its own; reads are `grid_sample`s of 81 points; the wide layers
of a refinement block run as they are; batch normalisation is a step of its own; the mask head runs after the first
regression and after every iteration, though only the last mask is used, all of it at once.

Same output as MEMFOF.forward up to rounding. No budgets, no precision guards but those of the modules themselves.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.memfof import MEMFOF, Prediction
from models.memfof.attention import Weighting
from models.memfof.encoder import STRIDE, BasicBlock, Encoder, crop, normalise, pad, padding_of
from models.memfof.update import Refine, UpdateBlock
from models.memfof.upsample import DIRECTIONS, NEIGHBOURS


@torch.no_grad()
def evaluate_as_upstream(network: MEMFOF, frames: Tensor, iterations: int) -> Prediction:
    """Flows of triplets [N,3,3,H,W], RGB in 0..255, padded to whole cells alone.

    Raises ValueError where the coarsest level has a side of one cell, as upstream fails there: its reads divide by
    the side less one.
    """
    height, width = frames.shape[-2:]
    padding = padding_of(height, width, smallest=0)
    images = pad(normalise(frames), padding)
    coarsest = STRIDE << (network.sizes.corr_levels - 1)
    if min(images.shape[-2:]) < 2 * coarsest:
        raise ValueError(f"frames of {width}x{height}: upstream takes sides of {2 * coarsest - STRIDE + 1} px and more")
    previous, current, following = (_encoded(network.fnet, images[:, i]) for i in range(3))
    net, context = network.init_conv(_encoded(network.cnet, images.flatten(1, 2))).chunk(2, 1)
    attention = network.att(context)
    levels, radius = network.sizes.corr_levels, network.sizes.corr_radius
    volumes = [_volume(current, other, levels) for other in (previous, following)]

    fields = network.flow_head(net)  # (N, 2, 6, h, w)
    mask = 0.25 * network.upsample_weight(net)
    for _ in range(iterations):
        flow = fields[:, :, :2]
        corr = torch.cat([_read(volume, flow[:, i], radius) for i, volume in enumerate(volumes)], 1)
        net = _updated(network.update_block, net, context, corr, flow.flatten(1, 2), attention)
        change = network.flow_head(net)
        fields = torch.cat([flow + change[:, :, :2], change[:, :, 2:]], 2)
        mask = 0.25 * network.upsample_weight(net)

    flow, info = STRIDE * fields[:, :, :2], fields[:, :, 2:]
    return Prediction(crop(_upsampled(flow, mask), padding), crop(_upsampled(info, mask), padding))


def _encoded(encoder: Encoder, x: Tensor) -> Tensor:
    trunk = encoder.resnet
    x = F.relu(trunk.bn1(trunk.conv1(x)), inplace=True)
    for stage in (trunk.layer1, trunk.layer2, trunk.layer3):
        for block in stage:
            assert isinstance(block, BasicBlock)
            x = _residual(block, x)
    out: Tensor = encoder.final_conv(x)
    return out


def _residual(block: BasicBlock, x: Tensor) -> Tensor:
    y = F.relu(block.bn1(block.conv1(x)), inplace=True)
    y = block.bn2(block.conv2(y))
    if isinstance(block.downsample, nn.Sequential):
        for layer in block.downsample:  # not its forward, which folds the normalisation into the convolution
            x = layer(x)
    return F.relu(x + y, inplace=True)


def _volume(source: Tensor, target: Tensor, levels: int) -> list[Tensor]:
    """Maps [N,D,h,w] -> for each level [N n, 1, h/2^l, w/2^l]: the target halved, and multiplied anew."""
    samples, depth = source.shape[:2]
    query = source.flatten(2).transpose(1, 2)  # (N, n, D)
    out = []
    for level in range(levels):
        if level:
            target = F.interpolate(target, scale_factor=0.5, mode="bilinear", align_corners=False)
        height, width = target.shape[-2:]
        product = torch.bmm(query, target.flatten(2)) / depth**0.5
        out.append(product.view(samples * query.shape[1], 1, height, width))
    return out


def _read(volume: list[Tensor], flow: Tensor, radius: int) -> Tensor:
    """flow [N,2,h,w] in cells -> [N, levels * (2 radius + 1)², h, w]: level-major, then x offset, then y."""
    samples, _, height, width = flow.shape
    flow = flow.float()
    y = torch.arange(height, device=flow.device, dtype=flow.dtype)
    x = torch.arange(width, device=flow.device, dtype=flow.dtype)
    centre = flow + torch.stack([x.expand(height, width), y[:, None].expand(height, width)])
    centre = centre.permute(0, 2, 3, 1).reshape(-1, 1, 1, 2)  # (N n, 1, 1, 2)
    offset = torch.arange(-radius, radius + 1, device=flow.device, dtype=flow.dtype)
    window = torch.stack(torch.meshgrid(offset, offset, indexing="ij"), -1)  # (x, y, 2)
    out = []
    for level, values in enumerate(volume):
        at = centre / 2**level + window
        sides = torch.tensor([values.shape[3] - 1, values.shape[2] - 1], device=flow.device)
        read = F.grid_sample(values.float(), 2 * at / sides - 1, align_corners=True)
        out.append(read.view(samples, height, width, -1))
    return torch.cat(out, -1).permute(0, 3, 1, 2).contiguous()


def _updated(
    block: UpdateBlock, net: Tensor, context: Tensor, corr: Tensor, flow: Tensor, attention: Weighting
) -> Tensor:
    motion = block.encoder(corr, flow)
    everywhere = block.aggregator(attention, motion)
    for refine in block.refine:
        assert isinstance(refine, Refine)
        x = torch.cat([net, context, motion, everywhere], 1)
        y = refine.norm(refine.dwconv(x).permute(0, 2, 3, 1))
        y = refine.gamma * refine.pwconv2(F.gelu(refine.pwconv1(y)))
        net = refine.final(x + y.permute(0, 3, 1, 2))
    return net


def _upsampled(values: Tensor, mask: Tensor) -> Tensor:
    """values [N,2,C,h,w] by mask [N, 2*9*256, h, w] -> [N,2,C,16 h,16 w]: nine times the output exists at once."""
    samples, _, channels, height, width = values.shape
    weights = mask.view(samples * DIRECTIONS, 1, NEIGHBOURS, STRIDE, STRIDE, height, width).softmax(2)
    around = F.unfold(values.flatten(0, 1), (3, 3), padding=1)
    around = around.view(samples * DIRECTIONS, channels, NEIGHBOURS, 1, 1, height, width)
    pixels = (weights * around).sum(2).permute(0, 1, 4, 2, 5, 3)  # (2 N, C, h, 16, w, 16)
    return pixels.reshape(samples, DIRECTIONS, channels, STRIDE * height, STRIDE * width)
