"""Weights as files."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import safe_open

from pipeline.training.export import save_weights


class Two:
    def to_reference(self) -> dict[str, torch.Tensor]:
        return {"b.weight": torch.arange(6.0).reshape(2, 3), "a.count": torch.tensor([7])}


def test_the_same_tensors_and_notes_are_the_same_bytes(tmp_path: Path) -> None:
    """The library writes notes in an order of its own, another one each time."""
    notes = {name: name * 2 for name in ("steps", "seed", "network", "classes", "größe", "kind", "side")}
    digests = {save_weights(Two(), tmp_path / f"{n}.safetensors", notes) for n in range(12)}
    assert len(digests) == 1
    with safe_open(tmp_path / "0.safetensors", "pt") as file:
        assert file.metadata() == notes
        assert torch.equal(file.get_tensor("b.weight"), Two().to_reference()["b.weight"].half())
        assert file.get_tensor("a.count").tolist() == [7]


def test_a_file_without_notes_is_whole(tmp_path: Path) -> None:
    save_weights(Two(), tmp_path / "w.safetensors", {})
    with safe_open(tmp_path / "w.safetensors", "pt") as file:
        assert sorted(file.keys()) == ["a.count", "b.weight"]
