"""Losses: pure functions of tensors, one family a file, each registered under its own name."""

from xmodal.losses.contrastive import clip_contrastive, soft_contrastive
from xmodal.losses.feature import feature_cosine, feature_mse
from xmodal.losses.registration import LOSSES, Input, Kind, Loss, loss
from xmodal.losses.response import kl_divergence

__all__ = [
    "LOSSES",
    "Input",
    "Kind",
    "Loss",
    "clip_contrastive",
    "feature_cosine",
    "feature_mse",
    "kl_divergence",
    "loss",
    "soft_contrastive",
]
