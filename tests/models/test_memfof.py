"""MEMFOF against the official code's outputs (tests/golden; specs 14 states the tolerances)."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models.memfof import MEMFOF, Prediction, Sizes, sequence_loss
from models.memfof.loss import negative_log_likelihood
from tests.models.memfof_weights import COMPACT, GOLDEN, clip, compact, published, published_shapes, triplets

FIRST = "memfof_256x304_seed0.npz"
ODD = "memfof_277x501_seed1_iters4.npz"


def frames_of(golden: dict[str, np.ndarray]) -> Tensor:
    return torch.from_numpy(golden["frames"]).permute(0, 3, 1, 2)[None]


def stored_pixels(fields: Tensor) -> np.ndarray:
    """The golden files keep every fifth row and column."""
    return fields[0, ..., ::5, ::5].numpy()


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    return dict(np.load(GOLDEN / FIRST))


@pytest.fixture(scope="module")
def network() -> MEMFOF:
    return published(seed=0)


@pytest.fixture(scope="module")
def run(network: MEMFOF, golden: dict[str, np.ndarray]) -> tuple[Prediction, dict[str, Tensor]]:
    """Every iteration's prediction, and what the modules put out when first called."""
    taps: dict[str, Tensor] = {}

    def keep(name: str, _module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        count = sum(key.startswith(name + ".") for key in taps)
        taps[f"{name}.{count}"] = output.detach().clone()
        if name == "motion" and not count:
            taps["enc_in_corr.0"] = inputs[0].detach().clone()

    modules = {
        "cnet": network.cnet,
        "init_conv": network.init_conv,
        "fnet": network.fnet,
        "flow_head": network.flow_head,
        "motion": network.update_block.encoder,
        "motion_global": network.update_block.aggregator,
        "net": network.update_block,
    }
    handles = [module.register_forward_hook(partial(keep, name)) for name, module in modules.items()]
    with torch.no_grad():
        prediction = network(frames_of(golden), 8, every_iteration=True)
    for handle in handles:
        handle.remove()
    return prediction, taps


@pytest.fixture(scope="module")
def small() -> MEMFOF:
    return compact().requires_grad_(False)


@pytest.mark.parametrize(("iterations", "tolerance"), [(0, 1e-5), (1, 1e-4), (4, 2e-3), (8, 2e-3)])
def test_flow_agrees_with_the_official_code(run, golden, iterations: int, tolerance: float) -> None:
    prediction = (*run[0].earlier, run[0])[iterations]
    expected = golden["flow"] if iterations == 8 else golden["flow_iters_0_1_4"][(0, 1, 4).index(iterations)]
    if iterations == 8:
        assert np.abs(expected).max() > 50  # the test weights make large motion
    np.testing.assert_allclose(stored_pixels(prediction.flow), expected, rtol=0, atol=tolerance)


def test_the_mixture_agrees_with_the_official_code(run, golden) -> None:
    np.testing.assert_allclose(stored_pixels(run[0].info), golden["info"], rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("tap", "ours", "step"),
    [
        ("cnet", "cnet.0", 1),
        ("init_conv", "init_conv.0", 1),
        ("fnet.1", "fnet.1", 1),
        ("flow_head.0", "flow_head.0", 1),
        ("enc_in_corr.0", "enc_in_corr.0", 18),
        ("motion.0", "motion.0", 1),
        ("motion_global.0", "motion_global.0", 1),
        ("net.0", "net.0", 1),
    ],
)
def test_every_stage_agrees_with_the_official_code(run, golden, tap: str, ours: str, step: int) -> None:
    expected = golden["tap/" + tap]
    found = run[1][ours]
    if tap == "flow_head.0":
        found = found.flatten(1, 2)
    found = found[:, ::step][:, : expected.shape[1]]
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=2e-5 * np.abs(expected).max())


def test_the_training_loss_agrees_with_the_official_code(run, golden) -> None:
    target, valid = torch.from_numpy(golden["gt"])[None], torch.from_numpy(golden["valid"])[None]
    loss = sequence_loss(run[0], target, valid, gamma=0.85)
    assert loss.item() == pytest.approx(float(golden["loss_gamma_0.85"]), rel=1e-5)


def test_bf16_stays_closer_to_fp32_than_the_official_code_does(network: MEMFOF, run, golden) -> None:
    """Upstream under autocast: 0.16 px on the mean, 1.5 px at most (specs 7); its flow is bf16, ours fp32."""
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        prediction = network(frames_of(golden), 8)
    assert prediction.flow.dtype == prediction.info.dtype == torch.float32
    error = (prediction.flow - run[0].flow).abs()
    assert error.mean() < 0.15
    assert error.max() < 1.5


def test_odd_sizes_agree_with_the_official_code() -> None:
    golden = dict(np.load(GOLDEN / ODD))
    with torch.no_grad():
        prediction = published(seed=1)(frames_of(golden), 4)
    assert prediction.flow.shape == (1, 2, 2, 277, 501)
    np.testing.assert_allclose(stored_pixels(prediction.flow), golden["flow"], rtol=0, atol=2e-3)
    np.testing.assert_allclose(stored_pixels(prediction.info), golden["info"], rtol=0, atol=1e-4)


def test_a_checkpoint_goes_in_and_out_under_the_published_names() -> None:
    with torch.device("meta"):
        full = MEMFOF()
    assert {name: tuple(value.shape) for name, value in full.to_reference().items()} == published_shapes()
    network = compact()
    assert network.sizes == COMPACT
    again = MEMFOF.from_reference(network.to_reference())
    for name, value in network.to_reference().items():
        assert torch.equal(again.to_reference()[name], value), name


def test_building_from_a_checkpoint_copies_its_tensors() -> None:
    tensors = compact().to_reference()
    network = MEMFOF.from_reference(tensors)
    before = tensors["init_conv.bias"].clone()
    with torch.no_grad():
        network.init_conv.bias.add_(1)
    assert torch.equal(tensors["init_conv.bias"], before)


def test_a_strange_checkpoint_is_refused_by_name() -> None:
    tensors = compact().to_reference()
    with pytest.raises(KeyError, match=r"1 tensors missing \['init_conv.bias'\]"):
        MEMFOF.from_reference({name: value for name, value in tensors.items() if name != "init_conv.bias"})
    with pytest.raises(KeyError, match=r"unknown \['surplus'\]"):
        MEMFOF.from_reference({**tensors, "surplus": torch.zeros(1)})
    with pytest.raises(KeyError, match=r"prefix 'model\.'"):
        MEMFOF.from_reference({"model." + name: value for name, value in tensors.items()})
    with pytest.raises(KeyError, match="not a MEMFOF checkpoint"):
        MEMFOF.from_reference({"conv.weight": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"flow_head.2.bias has shape \[13\]"):
        MEMFOF.from_reference({**tensors, "flow_head.2.bias": torch.zeros(13)})
    with pytest.raises(ValueError, match="takes 7 correlations"):
        MEMFOF.from_reference({**tensors, "update_block.encoder.convc1.weight": torch.zeros(64, 7, 1, 1)})


def test_sizes_that_cannot_be_are_refused() -> None:
    for wrong in ({"dim": 31}, {"dim": 4}, {"widths": (8, 0, 8)}, {"corr_radius": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Sizes(**wrong)


@pytest.mark.parametrize("sizes", [Sizes(16, (8, 8, 8), (1, 1, 1), 1, 3, 3), Sizes(24, (8, 8, 16), (2, 1, 1), 3, 5, 4)])
def test_other_sizes_are_read_off_the_tensors(sizes: Sizes) -> None:
    assert MEMFOF.from_reference(MEMFOF(sizes).to_reference()).sizes == sizes


@pytest.mark.parametrize("size", [(1, 1), (16, 40), (90, 250), (129, 128)])
def test_frames_of_any_size_have_a_finite_flow(small: MEMFOF, size: tuple[int, int]) -> None:
    """Upstream raises below 241 px."""
    prediction = small(torch.randint(0, 256, (1, 3, 3, *size), dtype=torch.uint8), 2)
    assert prediction.flow.shape == (1, 2, 2, *size)
    assert prediction.info.shape == (1, 2, 4, *size)
    assert prediction.flow.isfinite().all()


def test_uint8_and_float_frames_give_the_same_bits(small: MEMFOF) -> None:
    frames = triplets(clip(3, 130, 150))
    assert torch.equal(small(frames, 1).flow, small(frames.float(), 1).flow)


def test_a_sample_does_not_depend_on_its_batch(small: MEMFOF) -> None:
    frames = triplets(clip(5, 140, 170))
    together = small(frames, 3, every_iteration=True)
    assert len(together.earlier) == 3
    for i in range(len(frames)):
        alone = small(frames[i : i + 1], 3)
        assert torch.equal(together.flow[i : i + 1], alone.flow)
        assert torch.equal(together.info[i : i + 1], alone.info)


def test_the_frames_are_not_written_to(small: MEMFOF) -> None:
    frames = triplets(clip(3, 128, 128)).float()
    before = frames.clone()
    small(frames, 1)
    assert torch.equal(frames, before)


def test_wrong_input_is_refused(small: MEMFOF) -> None:
    with pytest.raises(ValueError, match=r"triplets \[N,3,3,H,W\].*got \[1, 2, 3, 64, 64\]"):
        small(torch.zeros(1, 2, 3, 64, 64))
    with pytest.raises(ValueError, match="iterations is -1"):
        small(torch.zeros(1, 3, 3, 64, 64), -1)


def test_training_returns_every_prediction_and_reaches_every_weight() -> None:
    network = compact().train()
    prediction = network(triplets(clip(4, 128, 160)), 2)
    assert len(prediction.earlier) == 2
    target = torch.zeros(2, 2, 2, 128, 160)
    sequence_loss(prediction, target, torch.ones(2, 2, 128, 160)).backward()
    silent = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert silent == []


def test_the_loss_leaves_out_what_is_not_valid() -> None:
    flow, info = torch.randn(1, 2, 2, 8, 8), torch.randn(1, 2, 4, 8, 8)
    target = torch.randn(1, 2, 2, 8, 8)
    valid = torch.ones(1, 2, 8, 8)
    valid[:, 0] = 0  # no backward ground truth
    valid[:, 1, 4:] = 0
    target[:, 0], target[:, :, :, 4:] = torch.nan, torch.inf
    far = target.clone()
    far[:, 1, :, 0] = 600  # beyond 512 px
    expected = negative_log_likelihood(flow, info, target)[:, 1, :, :4].mean()
    assert sequence_loss(Prediction(flow, info), target, valid).item() == pytest.approx(expected.item(), rel=1e-5)
    nearer = negative_log_likelihood(flow, info, target)[:, 1, :, 1:4].mean()
    assert sequence_loss(Prediction(flow, info), far, valid).item() == pytest.approx(nearer.item(), rel=1e-5)
    assert sequence_loss(Prediction(flow, info), target, valid * 0).item() == 0
