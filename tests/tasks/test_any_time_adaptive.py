"""RIFE with an exit for each patch, as the interpolation task uses it."""

from __future__ import annotations

import base64
import json
import zlib
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import pytest
import safetensors.torch
import torch
from torch import Tensor

from models.rife import IFNet
from models.rife.adaptive import AdaptiveIFNet
from models.rife.checkpoint import Sizes
from pipeline.config import InterpolateConfig, PatchConfig
from pipeline.errors import ConfigError
from pipeline.plan.adaptive import FrameDecisions
from pipeline.tasks.any_time import AnyTimeModel
from pipeline.tasks.any_time_adaptive import AdaptiveAnyTimeModel
from pipeline.tasks.interpolate import InterpolateTask
from pipeline.tasks.interpolate_model import build
from pipeline.tasks.interpolators import Made, Pair
from tests.media_factory import make_video
from tests.models.test_rife_adaptive import finder, network
from tests.tasks.test_interpolate import process, task_of

HALF = Fraction(1, 2)
THIRDS = (Fraction(1, 3), Fraction(2, 3))


def model_of(**settings: Any) -> AdaptiveAnyTimeModel:
    config = InterpolateConfig(model="rife-4.14", **settings)
    return AdaptiveAnyTimeModel(AdaptiveIFNet(network(), finder()), config, "cpu", "fp32")


def pictures(count: int, height: int = 140, width: int = 200) -> list[Tensor]:
    """Smooth noise that slides by three pixels a frame."""
    noise = torch.rand(1, 3, 20, 30, generator=torch.Generator().manual_seed(5))
    wide = torch.nn.functional.interpolate(noise, size=(height, width + 3 * count), mode="bicubic").clamp(0, 1)[0]
    return [wide[..., 3 * i : 3 * i + width].contiguous() for i in range(count)]


def only(made: list[list[Made]]) -> tuple[Tensor, FrameDecisions]:
    ((one,),) = made
    assert one.decisions is not None
    return one.picture, one.decisions


def test_patches_tile_the_frame_and_say_what_they_got() -> None:
    left, right = pictures(2)
    picture, decisions = only(model_of(quality=0.7).between([Pair(left, right, [HALF])]))
    assert picture.shape == left.shape
    covered = torch.zeros(140, 200, dtype=torch.int64)
    for patch in decisions.patches:
        covered[patch.top : patch.top + patch.height, patch.left : patch.left + patch.width] += 1
    assert covered.eq(1).all()
    assert {choice.depth for choice in decisions.choices} <= {1, 2, 3, 4}
    assert 0 < decisions.flops < decisions.full_flops


def test_full_quality_is_the_network_s_own_picture_and_more_quality_never_costs_less() -> None:
    left, right = pictures(2)
    pair = Pair(left, right, THIRDS)
    full = model_of(quality=1, copy_static=False).between([pair])[0]
    plain = AnyTimeModel(network(), InterpolateConfig(model="rife-4.14", copy_static=False), "cpu", "fp32")
    for (picture, place, decisions), (expected, _, _) in zip(full, plain.between([pair])[0], strict=True):
        assert decisions is not None
        assert decisions.flops == pytest.approx(decisions.full_flops, rel=0.05), "the finder's own come on top"
        torch.testing.assert_close(picture, expected, atol=2e-4, rtol=0)
        assert place in THIRDS
    spent = [only(model_of(quality=q).between([Pair(left, right, [HALF])]))[1].flops for q in (0, 0.2, 0.5, 0.9, 1)]
    assert spent == sorted(spent)
    assert spent[0] < spent[-1]


def test_a_budget_is_a_share_of_full_depth() -> None:
    left, right = pictures(2)
    for budget in (0.8, 0.6):
        _, decisions = only(model_of(quality=0.99, flops_budget=budget).between([Pair(left, right, [HALF])]))
        assert decisions.flops <= budget * decisions.full_flops


def test_a_picture_does_not_depend_on_what_was_made_with_it_or_before_it() -> None:
    frames = pictures(4)
    pairs = [Pair(frames[i], frames[i + 1], THIRDS) for i in range(3)]
    model = model_of()
    together = model.between(pairs)
    alone = [model_of().between([pair])[0] for pair in pairs]
    again = [model.between([pair])[0] for pair in reversed(pairs)][::-1]
    for other in (alone, again):
        for first, second in zip(together, other, strict=True):
            for a, b in zip(first, second, strict=True):
                assert torch.equal(a.picture, b.picture)
                assert a.decisions == b.decisions


def test_equal_frames_are_copied_without_any_network_and_equal_parts_too() -> None:
    left, right = pictures(2, 320, 320)
    model = model_of(quality=1)
    model._network.encode.register_forward_hook(lambda *_: pytest.fail("a still frame was encoded"))
    picture, decisions = only(model.between([Pair(left, left.clone(), [HALF])]))
    assert torch.equal(picture, left)
    assert decisions.flops == 0
    assert {choice.depth for choice in decisions.choices} == {0}

    mixed = left.clone()
    mixed[:, :50, :50] = right[:, :50, :50]
    picture, decisions = only(model_of(quality=1, copy_static=False).between([Pair(left, mixed, [HALF])]))
    assert torch.equal(picture[:, 128:], left[:, 128:])
    depths = [choice.depth for choice in decisions.choices]
    assert sum(depth > 0 for depth in depths) == 4
    assert len(depths) == 25


def test_a_frame_too_large_goes_in_parts_whose_decisions_are_told_as_one_grid() -> None:
    left, right = pictures(2, 190, 330)
    cut = PatchConfig(max_area=4096, size=160, overlap=32)
    pair = Pair(left, right, [HALF])
    picture, decisions = only(model_of(quality=1, patch=cut, copy_static=False).between([pair]))
    plain = AnyTimeModel(network(), InterpolateConfig(model="rife-4.14", patch=cut, copy_static=False), "cpu", "fp32")
    torch.testing.assert_close(picture, plain.between([pair])[0][0].picture, atol=2e-4, rtol=0)
    assert len(decisions.patches) == 3 * 6
    assert {choice.depth for choice in decisions.choices} == {4}
    assert decisions.flops > decisions.full_flops, "parts overlap, and are encoded anew"

    still = left.clone()
    still[:, :, -40:] = right[:, :, -40:]
    _, decisions = only(model_of(patch=cut).between([Pair(left, still, [HALF])]))
    depths = [choice.depth for choice in decisions.choices]
    assert [depth > 0 for depth in depths[:6]] == [False, False, False, True, True, True]


@pytest.fixture
def checkpoint(tmp_path: Path) -> str:
    path = tmp_path / "rife.safetensors"
    safetensors.torch.save_file(network().to_reference(), path)
    return str(path)


def test_weights_that_the_finder_was_not_made_for_are_adaptive_on_demand_only(checkpoint: str) -> None:
    def made(adaptive: bool | str) -> str:
        config = InterpolateConfig(model=checkpoint, adaptive=adaptive)  # type: ignore[arg-type]
        return type(build(config, "cpu", "fp32")[0]).__name__

    assert [made(x) for x in ("auto", False, True)] == ["AnyTimeModel", "AnyTimeModel", "AdaptiveAnyTimeModel"]


def test_the_finder_s_digest_is_part_of_the_run_s_fingerprint(checkpoint: str) -> None:
    on, off = (InterpolateTask(InterpolateConfig(model=checkpoint, adaptive=x)).fingerprint() for x in (True, False))
    assert set(on) - set(off) == {"finder.sha256"}
    assert len(on["finder.sha256"]) == 64


def test_other_numbers_of_blocks_cannot_be_made_adaptive(tmp_path: Path) -> None:
    path = tmp_path / "three.safetensors"
    sizes = Sizes(widths=(16, 8, 8), convs=1, hidden=8, features=4)
    safetensors.torch.save_file(IFNet(sizes).to_reference(), path)
    with pytest.raises(ConfigError, match="judges networks of 4 blocks"):
        build(InterpolateConfig(model=str(path), adaptive=True, blocks=3), "cpu", "fp32")


def test_a_video_s_frames_and_decisions_are_the_same_however_it_is_cut_into_clips(
    checkpoint: str, tmp_path: Path
) -> None:
    data = make_video(frames=7, size=(160, 96))
    seen: list[list[Any]] = []
    for frames in (3, 100):
        settings = [f"model={checkpoint}", "adaptive=true", f"clip.frames={frames}", "encode.crf=0"]
        folder = tmp_path / str(frames)
        folder.mkdir()
        outputs = process(task_of(*settings), data, folder)
        assert sum(output.extra["kinds"].get("synthesised", 0) for output in outputs) == 6
        rows = [(*row[:4], *row[5:]) for output in outputs for row in _rows(output.extra["decisions"])]
        pixels: list[bytes] = []
        for output in outputs:
            assert output.path is not None
            with av.open(str(output.path)) as container:
                pixels += [frame.to_ndarray().tobytes() for frame in container.decode(video=0)]
        seen.append([rows, pixels])
    assert seen[0] == seen[1]
    assert len(seen[0][1]) == 14


def _rows(packed: str) -> list[Any]:
    """Rows of a clip's note of decisions, as pipeline/tasks/decisions.py packs them."""
    rows: list[Any] = json.loads(zlib.decompress(base64.b64decode(packed)))["rows"]
    return rows
