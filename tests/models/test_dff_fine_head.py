"""The fine head: labels are the argmax of its upsampled scores, its tensors survive a file, it fits the protocol."""

from __future__ import annotations

import pytest
import torch

from models.dff import PaperNetwork, ResNetV2, Segmentation
from models.dff.fine_head import FINER, FineHead

SIZE = (90, 120)  # px: rows that do not fill the last cell


def head(classes: int = 5) -> FineHead:
    torch.manual_seed(0)
    made = FineHead(classes, channels=32, width=16)
    torch.nn.init.normal_(made.score.weight, std=0.5)
    return made.eval()


def test_scores_are_four_times_as_fine_as_the_features() -> None:
    assert head()(torch.randn(2, 32, 6, 8)).shape == (2, 5, 6 * FINER, 8 * FINER)


def test_labels_are_the_argmax_of_scores_upsampled_to_the_frame() -> None:
    ours, features = head(), torch.randn(2, 32, 6, 8)
    expected = ours(features, SIZE).argmax(1)
    labels = ours.labels(features, SIZE)
    assert expected.shape == (2, *SIZE)
    assert labels.dtype == torch.uint8
    assert (labels != expected).float().mean() < 1e-4  # equal but for ties to rounding
    assert len(labels.unique()) > 2


def test_a_place_of_a_cell_sees_its_own_score_channels() -> None:
    ours = head(classes=2)
    with torch.no_grad():
        ours.score.weight.zero_()
        ours.score.bias.zero_()
        ours.score.bias[FINER**2 + 1 * FINER + 2] = 1.0  # class 1 in row 1, column 2 of every cell
    won = ours(torch.randn(1, 32, 2, 2))[0, 1] > 0
    assert won.nonzero().tolist() == [[1, 2], [1, 6], [5, 2], [5, 6]]


def test_a_batch_gives_what_its_frames_give_alone() -> None:
    ours, features = head(), torch.randn(3, 32, 6, 8)
    with torch.no_grad():
        assert torch.equal(ours(features), torch.cat([ours(one[None]) for one in features]))


def test_reading_back_its_own_tensors_changes_nothing() -> None:
    ours, features = head(), torch.randn(1, 32, 6, 8)
    again = FineHead.from_reference(ours.to_reference())
    assert again.sizes == ours.sizes
    with torch.no_grad():
        torch.testing.assert_close(again(features), ours(features), rtol=1e-4, atol=1e-5)


def test_tensors_of_another_head_are_refused_by_name() -> None:
    with pytest.raises(KeyError, match=r"fine_score\.bias"):
        FineHead.from_reference({"score_weight": torch.zeros(2, 4, 1, 1)})


def test_features_of_another_frame_size_are_refused() -> None:
    with pytest.raises(ValueError, match="90x120"):
        head().labels(torch.randn(1, 32, 7, 8), SIZE)


def test_it_is_a_frame_networks_head() -> None:
    network = PaperNetwork(ResNetV2(2), head()).eval()
    with torch.no_grad():
        found = network.head(network.features(torch.rand(1, 3, *SIZE) * 255), SIZE)
    assert isinstance(found, Segmentation)
    assert found.labels.shape == (1, *SIZE)
