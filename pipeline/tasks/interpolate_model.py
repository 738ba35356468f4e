"""Which network interpolates: what `model` names, what kind of network its weights are, and what a frame costs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from pipeline.config import InterpolateConfig
from pipeline.errors import ConfigError, UsageError, WeightsUnusable
from pipeline.media.encode import check_encoder
from pipeline.plan import cost
from pipeline.plan.grid import Grid
from pipeline.types import VideoInfo

if TYPE_CHECKING:  # torch comes with it, and probing and joining do without
    from models.cain_sd.adaptive import CAINSD
    from models.rife.checkpoint import Sizes
    from models.weights import Weights
    from pipeline.tasks.interpolators import Interpolator

RIFE = "rife-4.14"
FINDER = "rife-finder"
COMPACT = "cain-sd-compact"


@dataclass(frozen=True)
class Facts:
    """What is known of weights without keeping them. Of `cain` and `rife`, the one that the weights are is set."""

    name: str
    sha256: str
    cain: dict[str, int] | None = None
    rife: Sizes | None = None
    sd: CAINSD | None = None
    """Where the weights choose scale and depth for each patch: the networks' sizes, without their numbers."""
    aligned: bool = False
    """They want frames in which most of the motion is gone (models/alignment.py): their file says so."""


def choose(model: str) -> tuple[str, str]:
    """(what `model` comes to on this machine, why): only `auto` leaves a choice."""
    if model != "auto":
        return model, ""
    from models import weights

    if weights.available(RIFE):
        return RIFE, f"model auto: {RIFE}, whose weights are at {weights.cached(RIFE)}"
    return COMPACT, f"model auto: {COMPACT}, because {RIFE} is {weights.whereabouts(RIFE)}"


def load_weights(config: InterpolateConfig) -> tuple[Weights, Facts]:
    """The weights that `model` names, and what they are.

    Raises WeightsUnusable when they are missing, damaged, not the ones declared, or no network's that is known here;
    ConfigError where the network cannot do what the configuration asks for.
    """
    loaded, facts = _load(config.model)
    _check(config, facts)
    return loaded, facts


def _load(model: str) -> tuple[Weights, Facts]:
    from models import weights
    from models.cain_sd import adaptive, cain
    from models.rife import checkpoint

    try:
        loaded = weights.load(model)
        if any(name.startswith("encode.cnn") for name in loaded.tensors):
            return loaded, Facts(loaded.name, loaded.sha256, rife=checkpoint.infer_sizes(loaded.tensors))
        if adaptive.is_adaptive(loaded.tensors):
            network = adaptive.CAINSD.from_tensors(loaded.tensors).to("meta")
            return loaded, Facts(loaded.name, loaded.sha256, network.cain.sizes, sd=network, aligned=loaded.aligned)
        return loaded, Facts(loaded.name, loaded.sha256, cain.infer_sizes(loaded.tensors), aligned=loaded.aligned)
    except weights.WeightsError as error:
        raise WeightsUnusable(str(error)) from error
    except (KeyError, ValueError) as error:
        raise WeightsUnusable(f"model={model}: {error.args[0]}") from error


def _check(config: InterpolateConfig, facts: Facts) -> None:
    if facts.rife is not None:
        if config.blocks > len(facts.rife.widths):
            raise ConfigError(f"blocks={config.blocks}: model={config.model} has exits 1 to {len(facts.rife.widths)}")
        if config.adaptive is True and len(facts.rife.widths) != 4:
            raise ConfigError(
                f"adaptive=true: {FINDER} judges networks of 4 blocks, model={config.model} has "
                f"{len(facts.rife.widths)}; take adaptive=auto"
            )
        return
    assert facts.cain is not None
    if config.adaptive is True and facts.sd is None:
        raise ConfigError(
            f"adaptive=true: the weights of model={config.model} do not choose scale and depth; take CAIN-SD's, or auto"
        )
    if config.exit_depth > facts.cain["groups"]:
        raise ConfigError(f"exit_depth={config.exit_depth}: model={config.model} has exits 1 to {facts.cain['groups']}")
    if config.times == "straight" and not is_aligned(config, facts):
        raise ConfigError(
            f"times=straight: model={config.model} is given frames that are not aligned; set align=true, or "
            "times=recursion"
        )
    if goes_straight(config, facts):
        return
    try:
        config.check_midpoints()
    except ValueError as error:
        raise ConfigError(str(error)) from None


def is_aligned(config: InterpolateConfig, facts: Facts) -> bool:
    """Whether the model is given frames in which most of the motion is gone."""
    return facts.aligned if config.align == "auto" else config.align


def goes_straight(config: InterpolateConfig, facts: Facts) -> bool:
    """Whether CAIN reaches every place exactly, in one pass."""
    return config.times != "recursion" and is_aligned(config, facts)


def finder(config: InterpolateConfig, facts: Facts) -> Weights | None:
    """The weights that choose an exit of RIFE for each patch; None where every patch gets all blocks.

    They know the errors of the published network: other weights of its kind have them only on demand.
    """
    from models import weights

    published = weights.TABLE[RIFE].sha256
    if facts.rife is None or not config.adaptive or (config.adaptive == "auto" and facts.sha256 != published):
        return None
    try:
        return weights.load(FINDER)
    except weights.WeightsError as error:
        raise WeightsUnusable(str(error)) from error


def build(config: InterpolateConfig, device: str, precision: str) -> tuple[Interpolator, str, str]:
    """The interpolator that the configuration asks for, its weights' name and their digest.

    Raises as load_weights does.
    """
    from models.cain_sd import CAIN, adaptive
    from models.rife import IFNet
    from models.rife.adaptive import AdaptiveIFNet
    from models.rife.finder import Finder
    from pipeline.tasks.adaptive import AdaptiveMidpoints
    from pipeline.tasks.adaptive_cain import CainBackbone
    from pipeline.tasks.any_time import AnyTimeModel
    from pipeline.tasks.any_time_adaptive import AdaptiveAnyTimeModel
    from pipeline.tasks.interpolators import Blend, MidpointModel

    if config.model == "blend":
        return Blend(), config.model, ""
    loaded, facts = load_weights(config)
    made: Interpolator
    aligned = is_aligned(config, facts)
    try:
        if facts.rife is not None:
            rife = IFNet.from_reference(loaded.tensors)
            if (judge := finder(config, facts)) is None:
                made = AnyTimeModel(rife, config, device, precision)
            else:
                adaptive_rife = AdaptiveIFNet(rife, Finder.from_reference(judge.tensors))
                made = AdaptiveAnyTimeModel(adaptive_rife, config, device, precision)
        elif facts.sd is not None and config.adaptive:
            backbone = CainBackbone(adaptive.CAINSD.from_tensors(loaded.tensors), config.exit_depth, device)
            made = AdaptiveMidpoints(backbone, config, device, precision, aligned=aligned)
        else:
            plain = adaptive.split_parts(loaded.tensors)["cain"] if facts.sd is not None else loaded.tensors
            made = MidpointModel(CAIN.from_reference(plain), config, device, precision, aligned=aligned)
    except (KeyError, ValueError) as error:
        raise WeightsUnusable(f"model={config.model}: {error.args[0]}") from error
    return made, loaded.name, loaded.sha256


@lru_cache(maxsize=8)
def _facts(model: str) -> Facts:
    return _load(model)[1]


def check_node(config: InterpolateConfig) -> None:
    """Raises UsageError where this machine lacks the encoder, or weights that are fetched to each machine."""
    check_encoder(config.encode.codec)
    if config.model == RIFE:
        from models import weights

        if not weights.available(RIFE):
            raise UsageError(
                f"model={RIFE}: {weights.whereabouts(RIFE)}, on every node; or give a URI that all can read"
            )


def flops(config: InterpolateConfig, info: VideoInfo, grid: Grid) -> int:
    """Of a whole video at most: two a multiply-accumulate, convolutions."""
    if config.model == "blend":
        return 0
    facts = _facts(config.model)
    if facts.rife is not None:
        from models.rife import cost as rife

        scales = rife.NATIVE[: config.blocks]
        once = rife.frame_macs(info.height, info.width, scales, facts.rife)
        encode = rife.encode_macs(facts.rife) * rife.padded_area(info.height, info.width, scales)
        return 2 * (once * cost.inner_frames(info.pts, grid) + round(encode) * len(info.pts))
    if goes_straight(config, facts):
        passes = cost.inner_frames(info.pts, grid)
    else:
        passes = cost.midpoint_passes(info.pts, grid, config.max_t_error, config.max_depth)
    if facts.sd is not None and config.adaptive:
        from pipeline.tasks.adaptive import most_flops
        from pipeline.tasks.adaptive_cain import CainBackbone

        return passes * most_flops(CainBackbone(facts.sd, config.exit_depth, "meta"), config, info.height, info.width)
    sizes = facts.cain
    assert sizes is not None
    once = cost.cain_macs(
        info.height, info.width, sizes["channels"], sizes["rcabs"], sizes["shuffle"], config.exit_depth,
        sizes["shuffle"],
    )  # fmt: skip
    return 2 * once * passes
