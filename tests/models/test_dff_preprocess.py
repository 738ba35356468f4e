from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from models.dff.preprocess import resized, working_size


@pytest.mark.parametrize(
    ("height", "width", "size"),
    [(720, 1280, (562, 1000)), (960, 1280, (600, 800)), (1280, 720, (1000, 562)), (600, 600, (600, 600)),
     (300, 400, (600, 800)), (100, 1000, (100, 1000))],
)  # fmt: skip
def test_the_short_side_is_600_unless_the_long_one_would_exceed_1000(
    height: int, width: int, size: tuple[int, int]
) -> None:
    found, scale = working_size(height, width)
    assert found == size
    assert max(abs(found[0] - height * scale), abs(found[1] - width * scale)) <= 0.5


@pytest.mark.parametrize("scale", [0.5, 0.75, 1.0, 2.0])
def test_frames_are_resized_bilinearly_around_pixel_centres(scale: float) -> None:
    frames = torch.randint(0, 256, (2, 3, 24, 40), dtype=torch.uint8)
    ours = resized(frames, (round(24 * scale), round(40 * scale)), scale)
    expected = F.interpolate(frames.float(), scale_factor=scale, mode="bilinear", align_corners=False)
    assert ours.shape == expected.shape
    assert (ours - expected).abs().max() <= 1e-2


def test_a_size_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="0x40 px"):
        working_size(0, 40)
