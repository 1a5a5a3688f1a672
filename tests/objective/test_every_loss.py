"""Every loss of the catalogue can be a term: built from a recipe's words on real features, it teaches the student."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
import torch
from torch import Tensor, nn

from xmodal.adapters.encoder import Encoder, Features
from xmodal.losses import LOSSES
from xmodal.objective import Objective
from xmodal.recipe import Term

EMBEDDINGS = {"student": "image.embedding", "teacher": "image.embedding"}
PROJECTED = {**EMBEDDINGS, "projection": "linear"}
TOKENS = {"student": "text.hidden.1", "teacher": "text.hidden.1", "mask": "text.mask", "projection": "linear"}
LOGITS = {"student": "logits", "teacher": "logits"}
MAPS = {"student": "image.map", "teacher": "image.map"}
FOUR = {"student": ["image.embedding", "text.embedding"], "teacher": ["image.embedding", "text.embedding"]}
LEARNED = {"learn": 5, "max": 50}

TERMS: dict[str, dict[str, object]] = {
    "kl_divergence": {**LOGITS, "temperature": {"from": 4, "to": 1}},
    "reverse_kl": {"student": "text.logits", "teacher": "text.logits", "mask": "text.mask"},
    "jensen_shannon": {**LOGITS, "beta": {"from": 0.1, "to": 0.9}},
    "soft_cross_entropy": LOGITS,
    "logit_mse": LOGITS,
    "decoupled_kd": {"student": "logits", "teacher": ["logits", "batch:label"]},
    "universal_logit": {
        "student": "text.logits",
        "teacher": "text.words",
        "mask": {"student_mask": "text.mask", "teacher_mask": "teacher:text.mask"},
    },
    "top_k_kl": {
        "student": "logits",
        "teacher": ["logits.top.log_probs", "logits.top.indices", "logits.top.tail"],
        "temperature": 2,
    },
    "feature_mse": {**TOKENS, "standardize": True},
    "feature_cosine": PROJECTED,
    "feature_smooth_l1": PROJECTED,
    "feature_cosine_smooth_l1": PROJECTED,
    "gram_matrix": {**MAPS, "projection": "linear"},
    "flow_of_solution": {
        "student": ["image.hidden.0", "image.hidden.1"],
        "teacher": ["image.hidden.0", "image.hidden.1"],
        "projection": "linear",
    },
    "rkd_distance": EMBEDDINGS,
    "rkd_angle": EMBEDDINGS,
    "similarity_preserving": EMBEDDINGS,
    "probabilistic_knowledge_transfer": EMBEDDINGS,
    "contrastive_representation": {**PROJECTED, "bank": 12},
    "attention_transfer": MAPS,
    "attention_scores": {"student": "text.scores.0", "teacher": "text.scores.0", "mask": "text.mask"},
    "attention_kl": {"student": "text.attention.0", "teacher": "text.attention.0", "mask": "text.mask"},
    "attention_relation": {
        "student": "text.query.0",
        "teacher": "text.query.0",
        "mask": "text.mask",
        "num_relation_heads": 2,
    },
    "instance_graph": {**PROJECTED, "node_weight": 0.5},
    "layer_graph": {
        "student": ["image.hidden.0", "image.hidden.1", "image.embedding"],
        "teacher": ["text.hidden.0", "text.hidden.1", "text.embedding"],
    },
    "neighbour_graph": {**EMBEDDINGS, "num_neighbours": 4, "temperature": {"from": 0.2, "to": 0.1}},
    "graph_propagation": PROJECTED,
    "multimodal_graph": {
        "student": {"image": "image.embedding", "text": "text.embedding"},
        "teacher": {"image": "image.embedding", "text": "text.embedding"},
        "mask": {"presence": {"text": "batch:has_text"}},
    },
    "clip_contrastive": {"student": ["image.embedding", "text.embedding"], "logit_scale": LEARNED, "tile": 4},
    "siglip": {
        "student": ["image.embedding", "text.embedding"],
        "logit_scale": LEARNED,
        "logit_bias": {"learn": -5},
    },
    "soft_contrastive": {
        "student": ["image.embedding", "text.embedding"],
        "teacher": [["image.embedding", "other:image.embedding"], ["text.embedding", "other:text.embedding"]],
        "student_scale": LEARNED,
        "teacher_scale": [20, 10],
    },
    "soft_sigmoid": {
        **FOUR,
        "student_scale": LEARNED,
        "student_bias": {"learn": -5},
        "teacher_scale": 20,
        "teacher_bias": -5,
        "tile": 4,
    },
    "interactive_contrastive": {**FOUR, "projection": "linear", "logit_scale": LEARNED},
    "gradient_matching": {**FOUR, "projection": "linear", "student_scale": LEARNED, "teacher_scale": 10},
    "augmented_feature": {**FOUR, "logit_scale": LEARNED},
}


def of_teacher(entry: object) -> object:
    """With two teachers in the recipe, a tap says whose it is."""
    if isinstance(entry, dict):
        return {name: of_teacher(inner) for name, inner in entry.items()}
    if isinstance(entry, list):
        return [of_teacher(inner) for inner in entry]
    return entry if ":" in entry else f"teacher:{entry}"


class Everything(Encoder):
    """A tap of every kind, each linear in ``x`` ``[B, 6]``; 3 positions, 2 heads, maps of 4 by 4."""

    preprocess = None
    modalities = ("image", "text")

    def __init__(self, width: int, words: int, side: int = 4) -> None:
        super().__init__()
        self.name, self.width, self.words, self.side = f"everything {width} wide", width, words, side
        sizes = {
            **{f"{modality}.embedding": (width,) for modality in self.modalities},
            **{f"image.{stem}": (width, side, side) for stem in ("map", "hidden.0")},
            "image.hidden.1": (width + 1, side // 2, side // 2),
            **{f"text.{stem}": (3, width) for stem in ("hidden.0", "hidden.1", "query.0")},
            "text.scores.0": (2, 3, 3),
            "text.logits": (3, 5),
            "text.words": (3, words),
            "logits": (5,),
        }
        self.sizes = sizes
        self.heads = nn.ModuleDict(
            {tap.replace(".", "/"): nn.Linear(6, torch.Size(size).numel()) for tap, size in sizes.items()}
        )

    def taps(self) -> tuple[str, ...]:
        top = tuple(f"logits.top.{name}" for name in ("log_probs", "indices", "tail"))
        return (*self.sizes, "text.attention.0", "text.mask", *top)

    def compute(self, inputs: Mapping[str, Tensor], taps: Sequence[str]) -> Features:
        x = inputs["x"]
        every: Features = {
            tap: self.heads[tap.replace(".", "/")](x).unflatten(-1, size) for tap, size in self.sizes.items()
        }
        every["text.attention.0"] = every["text.scores.0"].softmax(-1)
        every["text.mask"] = inputs["mask"]
        log_probs = (every["logits"] / 2).log_softmax(-1)
        top, indices = log_probs.topk(2)
        tail = log_probs.scatter(-1, indices, -torch.inf).logsumexp(-1)
        every |= {"logits.top.log_probs": top, "logits.top.indices": indices, "logits.top.tail": tail}
        return {tap: every[tap] for tap in taps}

    def identity(self) -> str:
        return self.name


@pytest.fixture
def models() -> dict[str, Everything]:
    torch.manual_seed(0)
    return {
        "student": Everything(8, words=7),
        "teacher": Everything(4, words=9, side=6).freeze(),
        "other": Everything(6, words=5).freeze(),
    }


@pytest.fixture
def batch() -> dict[str, dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    mask = torch.tensor([[1, 1, 1], [1, 0, 0], [1, 1, 0], [1, 1, 1], [0, 0, 0], [1, 1, 1]])
    views = {
        name: {"x": torch.randn(6, 6, generator=generator), "mask": mask} for name in ("student", "teacher", "other")
    }
    fields = {"label": torch.tensor([0, 1, 2, 3, 4, 0]), "has_text": torch.tensor([1, 1, 0, 1, 1, 1])}
    return {"views": views, "fields": fields}


def test_the_table_has_every_loss():
    assert set(TERMS) == set(LOSSES)


@pytest.mark.parametrize("name", TERMS)
def test_a_term_of_every_loss_is_built_and_teaches(name, models, batch):
    options = {**TERMS[name]}
    if "other:" not in str(options):
        models.pop("other")
    elif "teacher" in options:
        options["teacher"] = of_teacher(options["teacher"])
    if "teacher" not in options:
        models = {"student": models["student"]}
    objective = Objective.build([Term(loss=name, **options)], models, batch["views"], fields=batch["fields"])
    features = {model: models[model](batch["views"][model], taps) for model, taps in objective.taps().items()}
    features["batch"] = batch["fields"]
    objective.observe([features])
    for progress in (0.0, 0.5, 1.0):
        value = objective.total(objective(features, progress=progress), progress)
        assert value.isfinite()
        taught = [p for p in models["student"].parameters() if p.requires_grad]
        own = list(objective.parameters())
        gradients = torch.autograd.grad(value, [*taught, *own], allow_unused=True, retain_graph=True)
        again = torch.autograd.grad(
            value, [*taught, *own], allow_unused=True, retain_graph=True
        )  # as where terms are looked at first
        torch.testing.assert_close(again, gradients, rtol=0, atol=0)
        assert all(gradient is None or gradient.isfinite().all() for gradient in gradients)
        assert any(gradient is not None and gradient.any() for gradient in gradients[: len(taught)])
        assert all(gradient is not None for gradient in gradients[len(taught) :])
    assert objective.counts(features, 6)
