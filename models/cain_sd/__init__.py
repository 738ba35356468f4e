"""Adaptive interpolation: CAIN, and what CAIN-SD puts around it: motion, choice of scale and depth, enlargement."""

from models.cain_sd.adaptive import CAINSD
from models.cain_sd.cain import CAIN
from models.cain_sd.carn import CARNM
from models.cain_sd.pwcnet import PWCNet
from models.cain_sd.sd_finder import SDFinder

__all__ = ["CAIN", "CAINSD", "CARNM", "PWCNet", "SDFinder"]
