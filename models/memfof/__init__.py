"""Optical flow of video: MEMFOF, its loss, its streaming form, and how far its flows can be trusted."""

from models.memfof.checkpoint import Sizes
from models.memfof.confidence import confidence, consistent, inside_frame
from models.memfof.loss import sequence_loss
from models.memfof.model import ITERATIONS, MEMFOF, Prediction
from models.memfof.stream import Field, FrameFlow, halo, stream

__all__ = [
    "ITERATIONS",
    "MEMFOF",
    "Field",
    "FrameFlow",
    "Prediction",
    "Sizes",
    "confidence",
    "consistent",
    "halo",
    "inside_frame",
    "sequence_loss",
    "stream",
]
