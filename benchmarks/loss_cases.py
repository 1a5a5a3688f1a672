"""Every loss at a size of real training, and what its users could call instead, where a package has it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

Peer = Callable[..., Tensor]


@dataclass(frozen=True)
class LossCase:
    """``shapes``: of the loss's inputs in order, lists and mappings of shapes for inputs of several tensors.

    ``peer`` takes the same inputs, so that both sides compute the same thing up to a constant factor, and ``package``
    says whose it is. ``prepare`` makes of random floats what the loss takes: labels, probabilities.
    """

    shapes: tuple[Any, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    package: str = ""
    peer: Callable[[], Peer] | None = None
    prepare: Callable[[list[Any]], list[Any]] = list


def cases(batch: int = 256) -> dict[str, LossCase]:
    """Loss → case. Widths: 512 of a student, 768 of a teacher; 32 k words; 128 tokens; maps of 14 × 14."""
    length, vocab, words = 128, 1000, 32_000
    classes, tokens = (batch, vocab), (batch // 32, length, words)
    rows, wide = (batch, 512), (batch, 768)
    maps = (batch, 128, 14, 14)
    scores = (batch // 8, 12, length, length)
    states, wide_states = (batch // 8, length, 384), (batch // 8, length, 768)
    four = (rows, rows, wide, wide)
    scales = {"student_scale": 50.0, "teacher_scale": 100.0}
    biases = {"student_bias": -10.0, "teacher_bias": -10.0}
    return {
        "kl_divergence": LossCase((classes, classes), {"temperature": 4.0}, "torchdistill", kd_loss),
        "reverse_kl": LossCase((tokens, tokens)),
        "jensen_shannon": LossCase((tokens, tokens)),
        "soft_cross_entropy": LossCase((tokens, tokens), {}, "torch", soft_labels),
        "logit_mse": LossCase((classes, classes), {}, "torch", lambda: F.mse_loss),
        "decoupled_kd": LossCase((classes, classes, (batch,)), prepare=labels),
        "universal_logit": LossCase((tokens, (*tokens[:2], 49_152))),
        "top_k_kl": LossCase((tokens,), {"temperature": 1.0}, prepare=top_k),
        "feature_mse": LossCase((states, states), {}, "torch", lambda: F.mse_loss),
        "feature_cosine": LossCase((states, states), {}, "torch", cosine),
        "feature_smooth_l1": LossCase((states, states), {}, "torch", lambda: F.smooth_l1_loss),
        "feature_cosine_smooth_l1": LossCase((states, states)),
        "gram_matrix": LossCase((maps, maps)),
        "flow_of_solution": LossCase(([maps, maps], [maps, maps]), {}, "torchdistill", flow),
        "rkd_distance": LossCase((rows, wide), {}, "torchdistill", lambda: rkd(1.0, 0.0)),
        "rkd_angle": LossCase((rows, wide), {}, "torchdistill", lambda: rkd(0.0, 1.0)),
        "similarity_preserving": LossCase((rows, wide), {}, "torchdistill", similarity),
        "probabilistic_knowledge_transfer": LossCase((rows, wide), {}, "torchdistill", pkt),
        "contrastive_representation": LossCase((rows, rows), {}, "pytorch-metric-learning", info_nce),
        "attention_transfer": LossCase((maps, maps), {}, "torchdistill", attention),
        "attention_scores": LossCase((scores, scores), {}, "torch", lambda: F.mse_loss),
        "attention_kl": LossCase((scores, scores), prepare=probabilities),
        "attention_relation": LossCase((states, wide_states), {"num_relation_heads": 12}),
        "instance_graph": LossCase((rows, wide)),
        "layer_graph": LossCase(([rows, rows, rows], [wide, wide, wide])),
        "neighbour_graph": LossCase((rows, wide)),
        "graph_propagation": LossCase((rows, rows)),
        "multimodal_graph": LossCase(({"image": rows, "text": rows}, {"image": wide, "text": wide})),
        "clip_contrastive": LossCase((rows, rows), {"logit_scale": 100.0}, "open_clip", clip),
        "siglip": LossCase((rows, rows), {"logit_scale": 10.0, "logit_bias": -10.0}, "open_clip", siglip),
        "soft_contrastive": LossCase(four, scales, "open_clip", distill),
        "soft_sigmoid": LossCase(four, {**scales, **biases}),
        "interactive_contrastive": LossCase((rows, rows, rows, rows), {"logit_scale": 100.0}),
        "gradient_matching": LossCase((rows, rows, rows, rows), scales),
        "augmented_feature": LossCase(four, {"logit_scale": 100.0}),
    }


def labels(inputs: list[Any]) -> list[Any]:
    student, teacher, wanted = inputs
    return [student, teacher, wanted.abs().mul(100).long().clamp(max=student.shape[-1] - 1)]


def top_k(inputs: list[Any]) -> list[Any]:
    """The teacher as its 64 most probable words, and the mass of the rest."""
    (student,) = inputs
    log_probs, indices = student.flip(-1).log_softmax(-1).topk(64, -1)
    return [student, log_probs, indices, (1 - log_probs.exp().sum(-1)).log()]


def probabilities(inputs: list[Any]) -> list[Any]:
    return [scores.softmax(-1) for scores in inputs]


def kd_loss() -> Peer:
    from torchdistill.losses.mid_level import KDLoss

    # an alpha of 0 would drop its factor of T²; a negligible one keeps it
    loss = KDLoss("model", "output", "model", "output", temperature=4.0, alpha=1e-12, beta=1.0)
    targets: dict[int, Tensor] = {}

    def peer(student: Tensor, teacher: Tensor) -> Tensor:
        target = targets.setdefault(len(student), torch.zeros(len(student), dtype=torch.long, device=student.device))
        return loss({"model": {"output": student}}, {"model": {"output": teacher}}, target)

    return peer


def soft_labels() -> Peer:
    def peer(student: Tensor, teacher: Tensor) -> Tensor:
        return F.cross_entropy(student.flatten(0, -2), teacher.flatten(0, -2).softmax(-1))

    return peer


def cosine() -> Peer:
    return lambda student, teacher: 1 - F.cosine_similarity(student, teacher, dim=-1).mean()


def _by_path(loss: Callable[..., Tensor]) -> Peer:
    return lambda student, teacher: loss({"model": {"output": student}}, {"model": {"output": teacher}})


def rkd(distance: float, angle: float) -> Peer:
    from torchdistill.losses.mid_level import RKDLoss

    return _by_path(RKDLoss("model", "model", distance, angle, "mean"))


def similarity() -> Peer:
    from torchdistill.losses.mid_level import SPKDLoss

    return _by_path(SPKDLoss("model", "model", "batchmean"))


def pkt() -> Peer:
    from torchdistill.losses.mid_level import PKTLoss

    return _by_path(PKTLoss("model", "output", "model", "output"))


def attention() -> Peer:
    from torchdistill.losses.mid_level import ATLoss

    side = {"path": "model", "io": "output"}
    return _by_path(ATLoss({"pair": {"student": side, "teacher": side}}))


def flow() -> Peer:
    from torchdistill.losses.mid_level import FSPLoss

    first, second = ({"path": path, "io": "output"} for path in ("first", "second"))
    pair = {"student_first": first, "student_second": second, "teacher_first": first, "teacher_second": second}
    loss = FSPLoss({"pair": pair})

    def peer(student: list[Tensor], teacher: list[Tensor]) -> Tensor:
        sides = ({"first": {"output": maps[0]}, "second": {"output": maps[1]}} for maps in (student, teacher))
        value: Tensor = loss(*sides)
        return value

    return peer


def info_nce() -> Peer:
    from pytorch_metric_learning.losses import NTXentLoss, SelfSupervisedLoss

    loss: Peer = SelfSupervisedLoss(NTXentLoss(temperature=0.07))
    return loss


def clip() -> Peer:
    from open_clip.loss import ClipLoss

    loss = ClipLoss()
    return lambda image, text: loss(F.normalize(image, dim=-1), F.normalize(text, dim=-1), 100.0)


def siglip() -> Peer:
    from open_clip.loss import SigLipLoss

    loss = SigLipLoss()
    return lambda image, text: loss(F.normalize(image, dim=-1), F.normalize(text, dim=-1), 10.0, -10.0)


def distill() -> Peer:
    """Both of its terms: open_clip computes the one with hard labels in any case."""
    from open_clip.loss import DistillClipLoss

    loss = DistillClipLoss()

    def peer(*rows: Tensor) -> Tensor:
        image, text, teacher_image, teacher_text = (F.normalize(x, dim=-1) for x in rows)
        value: Tensor = loss(image, text, 50.0, teacher_image, teacher_text, 100.0)[1]
        return value

    return peer
