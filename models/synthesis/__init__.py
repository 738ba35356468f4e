"""The frame at any time between two others in one pass of a network for the middle, on splatted motion."""

from models.synthesis.moment import Between, compose
from models.synthesis.splatting import Splat, softmax_splat

__all__ = ["Between", "Splat", "compose", "softmax_splat"]
