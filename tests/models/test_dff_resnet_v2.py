from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from models.dff import ResNetV2
from tests.models.dff_weights import GOLDEN

WIDTH = 8


def tensors(seed: int = 0) -> dict[str, Tensor]:
    """Weights under the published names, with statistics far from those of a fresh batch norm."""
    generator = torch.Generator().manual_seed(seed)
    result = {}
    for name, like in ResNetV2(WIDTH).to_reference().items():
        noise = torch.randn(like.shape, generator=generator)
        if name.endswith("running_var"):
            result[name] = (0.3 * noise).exp()
        elif like.ndim == 4:
            result[name] = noise * (2 / like[0].numel()) ** 0.5
        else:
            result[name] = (0.5 if name.endswith("weight") else 0.0) + 0.2 * noise
    return result


def written_out(w: dict[str, Tensor], frames: Tensor) -> Tensor:
    """The network straight from its description: pre-activation, stride in the 3x3, projection after the first ReLU."""

    def norm(name: str, x: Tensor) -> Tensor:
        shift, scale = w[f"{name}.running_mean"], (w[f"{name}.running_var"] + 1e-5).sqrt()
        x = (x - shift[:, None, None]) / scale[:, None, None]
        return x * w[f"{name}.weight"][:, None, None] + w[f"{name}.bias"][:, None, None]

    mean, std = (torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    x = norm("bn0", (frames.float() / 255 - mean) / std)
    x = F.max_pool2d(F.relu(norm("bn1", F.conv2d(x, w["conv0.weight"], stride=2, padding=3))), 3, 2, 1)
    for stage, count in enumerate((3, 4, 6), start=1):
        for block in range(count):
            name = f"stage{stage}.{block}"
            stride = 2 if stage > 1 and block == 0 else 1
            active = F.relu(norm(f"{name}.bn1", x))
            y = F.relu(norm(f"{name}.bn2", F.conv2d(active, w[f"{name}.conv1.weight"])))
            y = F.relu(norm(f"{name}.bn3", F.conv2d(y, w[f"{name}.conv2.weight"], stride=stride, padding=1)))
            y = F.conv2d(y, w[f"{name}.conv3.weight"])
            x = y + (F.conv2d(active, w[f"{name}.down.weight"], stride=stride) if block == 0 else x)
    return x


@pytest.mark.parametrize("folded", [False, True])
@pytest.mark.parametrize(("height", "width"), [(64, 96), (45, 71)])
def test_features_are_those_of_the_network_written_out(folded: bool, height: int, width: int) -> None:
    weights, frames = tensors(), torch.randint(0, 256, (2, 3, height, width), dtype=torch.uint8)
    with torch.inference_mode():
        features = ResNetV2.from_reference(weights, folded=folded)(frames)
        expected = written_out(weights, frames)
    assert features.shape == (2, 16 * WIDTH, -(-height // 16), -(-width // 16))
    assert (features - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_a_fresh_network_has_the_published_names_and_numbers() -> None:
    with torch.device("meta"):
        network = ResNetV2()
    assert network.channels == 1024
    assert sum(p.numel() for p in network.parameters()) == 8_537_798
    published = json.loads((GOLDEN / "dff_resnet50v2_c4.state_dict.json").read_text())
    assert {name: list(tensor.shape) for name, tensor in network.to_reference().items()} == published


def test_half_precision_files_with_batch_counters_load_and_come_back() -> None:
    halves = {name: tensor.half() for name, tensor in tensors().items()}
    network = ResNetV2.from_reference({**halves, "bn0.num_batches_tracked": torch.zeros(1)}, folded=False)
    again = network.to_reference()
    assert again.keys() == halves.keys()
    assert all(torch.equal(again[name], tensor.float()) for name, tensor in halves.items())


def test_a_frames_bits_do_not_depend_on_its_batch() -> None:
    network, frames = ResNetV2.from_reference(tensors()), torch.rand(3, 3, 40, 56) * 255
    with torch.inference_mode():
        assert torch.equal(network(frames), torch.cat([network(frame[None]) for frame in frames]))


def test_every_parameter_learns() -> None:
    network = ResNetV2.from_reference(tensors(), folded=False).train()
    network(torch.rand(1, 3, 64, 64) * 255).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


def test_wrong_checkpoints_are_refused_with_what_is_wrong() -> None:
    weights = tensors()
    with pytest.raises(KeyError, match=r"no tensor 'conv0\.weight'"):
        ResNetV2.from_reference({"conv1.weight": torch.zeros(1)})
    with pytest.raises(KeyError, match=r"1 unknown \['stage4\.0\.bn1\.weight'\]"):
        ResNetV2.from_reference({**weights, "stage4.0.bn1.weight": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"bn0\.bias has shape \[4\]; needed is \[3\]"):
        ResNetV2.from_reference({**weights, "bn0.bias": torch.zeros(4)})
    with pytest.raises(ValueError, match="folded=False"):
        ResNetV2.from_reference(weights).to_reference()
