"""Recognition of video at a fraction of the cost: Deep Feature Flow, its networks and heads."""

from models.dff.dense_head import DenseHead
from models.dff.flownet import FlowNet
from models.dff.model import DeepFeatureFlow, PaperNetwork, fixed_keys, from_reference
from models.dff.protocol import Detections, FrameNetwork, PairFlow, Prediction, Segmentation
from models.dff.resnet import FeatureNet, subtract_mean
from models.dff.resnet_v2 import ResNetV2
from models.dff.rfcn import RFCNHead
from models.dff.segmentation import SegHead
from models.dff.warp import cells_from_pixels, warp

__all__ = [
    "DeepFeatureFlow",
    "DenseHead",
    "Detections",
    "FeatureNet",
    "FlowNet",
    "FrameNetwork",
    "PairFlow",
    "PaperNetwork",
    "Prediction",
    "RFCNHead",
    "ResNetV2",
    "SegHead",
    "Segmentation",
    "cells_from_pixels",
    "fixed_keys",
    "from_reference",
    "subtract_mean",
    "warp",
]
