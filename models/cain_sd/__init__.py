"""Adaptive interpolation: CAIN now; CARN-M, PWC-Net and the scale and depth finder in a later part."""

from models.cain_sd.cain import CAIN

__all__ = ["CAIN"]
