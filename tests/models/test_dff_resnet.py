from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from models.dff import FeatureNet, subtract_mean
from models.dff.fold import StoredNorm, fold, is_folded
from models.dff.resnet import MEAN
from tests.models.dff_weights import KEY, SIZES, golden, images, published, relative, resized, shapes

NAMES = {50: "resnet50_feat", 101: "resnet101_feat"}


def compact(depth: int = 50, folded: bool = False) -> FeatureNet:
    tensors = resized(FeatureNet(depth, width=4, channels=8).to_reference())
    return FeatureNet.from_reference(tensors, folded=folded)


@pytest.mark.parametrize("depth", NAMES)
@pytest.mark.parametrize("folded", [False, True])
def test_features_are_the_official_ones_with_batch_norms_folded_or_not(depth: int, folded: bool) -> None:
    network, seen = FeatureNet.from_reference(published(NAMES[depth]), folded=folded), []
    assert is_folded(network) == folded
    network.conv1.register_forward_hook(lambda _m, _i, out: seen.append(out.relu()[:, ::8, ::3, ::3]))
    for size in SIZES:
        with torch.inference_mode():
            features = network(images(size)[KEY : KEY + 1])
        assert relative(features[:, ::8], golden(size)[f"r{depth}/feat_key"]) <= 1e-5
        assert relative(seen.pop(), golden(size)[f"r{depth}/conv1_relu"]) <= 1e-5


@pytest.mark.parametrize("depth", NAMES)
def test_a_fresh_network_has_the_published_names_and_shapes(depth: int) -> None:
    with torch.device("meta"):
        own = FeatureNet(depth).to_reference()
    assert {name: tuple(tensor.shape) for name, tensor in own.items()} == shapes(NAMES[depth])


def test_names_without_marks_and_torchs_names_load_the_same_network() -> None:
    tensors = compact().to_reference()
    plain = {name.partition(":")[2]: tensor for name, tensor in tensors.items()}
    endings = {"_gamma": ".weight", "_beta": ".bias", "_moving_mean": ".running_mean", "_moving_var": ".running_var",
               "_weight": ".weight", "_bias": ".bias"}  # fmt: skip
    torchs = {"bn_conv1.num_batches_tracked": torch.tensor(0)}
    for name, tensor in plain.items():
        ending = next(ending for ending in endings if name.endswith(ending))
        torchs[name.removesuffix(ending) + endings[ending]] = tensor
    for renamed in (plain, torchs):
        again = FeatureNet.from_reference(renamed, folded=False).to_reference()
        assert all(torch.equal(again[name], tensor) for name, tensor in tensors.items())


@pytest.mark.parametrize("depth", [50, 101])
def test_sizes_are_read_off_the_tensors(depth: int) -> None:
    assert compact(depth).sizes == {"depth": depth, "width": 4, "channels": 8}


@pytest.mark.parametrize(("height", "width"), [(1, 1), (16, 17), (33, 64), (47, 90)])
def test_any_size_gives_a_cell_for_every_16_pixels_or_part_of_them(height: int, width: int) -> None:
    with torch.inference_mode():
        features = compact()(torch.randn(1, 3, height, width))
    assert features.shape == (1, 8, -(-height // 16), -(-width // 16))


def test_conv5_sees_as_far_as_three_dilated_convolutions_and_the_reduction_allow() -> None:
    """Dilation (1, 2, 2), as torchvision would have it, reaches a cell less."""
    network = FeatureNet(50, width=4, channels=8)
    with torch.no_grad():  # all ones: whatever can matter does
        for parameter in network.parameters():
            parameter.fill_(1.0) if parameter.ndim == 4 else None
    stage = torch.nn.Sequential(*(block for name, block in network.blocks.items() if name.startswith("5")))
    at = torch.zeros(1, 64, 41, 41)
    at[:, :, 20, 20] = 1
    with torch.no_grad():
        seen = network.feat_conv_3x3(stage(at))[0, 0].nonzero()
    assert seen.min() == 20 - 3 * 2 - 6
    assert seen.max() == 20 + 3 * 2 + 6


def test_images_are_frames_less_the_mean() -> None:
    frames = torch.randint(0, 256, (2, 3, 4, 5), dtype=torch.uint8)
    expected = frames.numpy().astype(np.float32) - np.array(MEAN, np.float32)[:, None, None]
    assert np.array_equal(subtract_mean(frames).numpy(), expected)


def test_stored_statistics_are_used_and_kept_in_training() -> None:
    network = compact().train()
    images = torch.randn(2, 3, 32, 32) * 50
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    trained = network(images)
    with torch.inference_mode():
        assert (trained - network.eval()(images)).abs().max() <= 1e-5 * trained.abs().max()
    assert len(before) == 2 * sum(isinstance(module, StoredNorm) for module in network.modules())
    assert all(torch.equal(buffer, before[name]) for name, buffer in network.named_buffers())


def test_every_parameter_learns_but_the_frozen_stem() -> None:
    network = compact().train()
    network.freeze_stem()
    network(torch.randn(1, 3, 48, 48) * 50).square().sum().backward()
    still = {name for name, parameter in network.named_parameters() if parameter.grad is None}
    assert still == {name for name, _ in network.named_parameters() if name.startswith(("conv1.", "blocks.2"))}
    assert all(p.grad is None or p.grad.abs().sum() > 0 for p in network.parameters())


def test_an_images_bits_do_not_depend_on_its_batch() -> None:
    network, batch = compact(folded=True), torch.randn(3, 3, 50, 70) * 50
    with torch.inference_mode():
        together = network(batch)
        assert torch.equal(together, torch.cat([network(image[None]) for image in batch]))


def test_folding_twice_changes_nothing_and_a_folded_network_has_no_published_names() -> None:
    network, image = compact(folded=True), torch.randn(1, 3, 32, 32) * 50
    with torch.inference_mode():
        once = network(image)
        fold(network)
        assert torch.equal(once, network(image))
    with pytest.raises(ValueError, match="folded=False"):
        network.to_reference()


def test_wrong_checkpoints_are_refused_with_what_is_wrong() -> None:
    tensors: dict[str, Tensor] = compact().to_reference()
    gone = "aux:bn4c_branch2b_moving_var"
    with pytest.raises(KeyError, match=r"1 tensors missing \['aux:bn4c_branch2b_moving_var'\]"):
        FeatureNet.from_reference({name: tensor for name, tensor in tensors.items() if name != gone})
    with pytest.raises(KeyError, match=r"1 unknown names \['fc1000_weight'\]"):
        FeatureNet.from_reference({**tensors, "fc1000_weight": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"aux:bn4c_branch2b_moving_var has shape \[3\]; this feature network needs"):
        FeatureNet.from_reference({**tensors, gone: torch.zeros(3)})
    with pytest.raises(KeyError, match="the checkpoint has no feature network"):
        FeatureNet.from_reference({"arg:score_weight": torch.zeros(1)})
    with pytest.raises(ValueError, match="5 blocks in conv4"):
        FeatureNet.from_reference({name: tensor for name, tensor in tensors.items() if "4f_" not in name})


def test_the_parts_of_a_whole_models_checkpoint_do_not_disturb_each_other() -> None:
    others = {"arg:flow_conv1_weight": torch.zeros(1), "arg:conv2_weight": torch.zeros(1),
              "arg:rfcn_bbox_weight_test": torch.zeros(1), "arg:score_bias": torch.zeros(1)}  # fmt: skip
    tensors = compact().to_reference()
    again = FeatureNet.from_reference({**tensors, **others}, folded=False).to_reference()
    assert again.keys() == tensors.keys()


def test_wrong_shapes_and_depths_are_named() -> None:
    with pytest.raises(ValueError, match=r"got \[3, 32, 32\]"):
        compact()(torch.zeros(3, 32, 32))
    with pytest.raises(ValueError, match="depth is 34; the feature networks are ResNet-50 and -101"):
        FeatureNet(34)
