"""Losses: pure functions of tensors, one family a file, each registered under its own name."""

from xmodal.losses.attention import attention_kl, attention_relation, attention_scores, attention_transfer
from xmodal.losses.contrastive import clip_contrastive, siglip, soft_contrastive, soft_sigmoid
from xmodal.losses.cross_model import augmented_feature, gradient_matching, interactive_contrastive
from xmodal.losses.feature import feature_cosine, feature_cosine_smooth_l1, feature_mse, feature_smooth_l1
from xmodal.losses.graph import (
    graph_propagation,
    instance_graph,
    layer_graph,
    multimodal_graph,
    neighbour_graph,
)
from xmodal.losses.registration import LOSSES, Input, Kind, Loss, loss
from xmodal.losses.relation import (
    contrastive_representation,
    flow_of_solution,
    gram_matrix,
    probabilistic_knowledge_transfer,
    rkd_angle,
    rkd_distance,
    similarity_preserving,
)
from xmodal.losses.response import (
    decoupled_kd,
    jensen_shannon,
    kl_divergence,
    logit_mse,
    reverse_kl,
    soft_cross_entropy,
)
from xmodal.losses.vocabulary import top_k_kl, universal_logit

__all__ = [
    "LOSSES",
    "Input",
    "Kind",
    "Loss",
    "attention_kl",
    "attention_relation",
    "attention_scores",
    "attention_transfer",
    "augmented_feature",
    "clip_contrastive",
    "contrastive_representation",
    "decoupled_kd",
    "feature_cosine",
    "feature_cosine_smooth_l1",
    "feature_mse",
    "feature_smooth_l1",
    "flow_of_solution",
    "gradient_matching",
    "gram_matrix",
    "graph_propagation",
    "instance_graph",
    "interactive_contrastive",
    "jensen_shannon",
    "kl_divergence",
    "layer_graph",
    "logit_mse",
    "loss",
    "multimodal_graph",
    "neighbour_graph",
    "probabilistic_knowledge_transfer",
    "reverse_kl",
    "rkd_angle",
    "rkd_distance",
    "siglip",
    "similarity_preserving",
    "soft_contrastive",
    "soft_cross_entropy",
    "soft_sigmoid",
    "top_k_kl",
    "universal_logit",
]
