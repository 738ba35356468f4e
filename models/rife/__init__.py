"""RIFE 4.14: the frame at any time between two frames, by intermediate flow."""

from models.rife.ifnet import SCALES, Encoded, IFNet, Synthesis
from models.rife.static import copy_static

__all__ = ["SCALES", "Encoded", "IFNet", "Synthesis", "copy_static"]
