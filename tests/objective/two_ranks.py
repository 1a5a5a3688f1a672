"""One rank: an objective over half a batch under DDP, its terms combined by counts; gradients written to a file.

Run as ``python two_ranks.py RANK WORLD_SIZE STORE OUTPUT``; the test beside it starts one process a rank, and calls
:func:`run` itself for the whole batch on one.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Mapping, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from xmodal.adapters.encoder import Encoder, Features
from xmodal.objective import Objective
from xmodal.recipe import Term

NUM_ROWS = 8
TERMS = [
    Term(loss="feature_cosine", student="image.embedding", teacher="text.embedding", projection="linear"),
    Term(loss="feature_mse", student="image.tokens", teacher="text.tokens", mask="teacher:text.mask", weight=2),
    Term(
        loss="soft_contrastive",
        student=["image.embedding", "teacher:text.embedding"],
        teacher=["text.embedding", "text.embedding"],
        projection="mlp",
        student_scale={"learn": 5},
        teacher_scale=8,
    ),
    Term(
        loss="clip_contrastive",
        student="image.embedding",
        teacher="text.embedding",
        projection="linear",
        side="teacher",
        logit_scale={"learn": 5},
    ),
    # what counts pairs of valid positions, or positions that both sides have
    Term(loss="attention_scores", student="image.scores.0", teacher="text.scores.0", mask="teacher:text.mask"),
    Term(
        loss="universal_logit",
        student="image.words",
        teacher="text.words",
        mask={"student_mask": "image.mask", "teacher_mask": "teacher:text.mask"},
        temperature={"from": 2, "to": 1},
    ),
    # what keeps something
    Term(
        loss="contrastive_representation",
        student="image.embedding",
        teacher="text.embedding",
        projection="linear",
        standardize=True,
        bank=12,
    ),
    Term(
        loss="feature_smooth_l1",
        student="image.tokens",
        teacher="text.tokens",
        mask="teacher:text.mask",
        standardize={"momentum": 0.5},
    ),
    Term(
        loss="feature_mse",
        student="image.embedding",
        teacher="text.embedding",
        projection="linear",
        standardize="phi_s",
        label="measured",
    ),
    Term(
        loss="feature_smooth_l1",
        student="image.tokens",
        teacher="text.words",
        mask="teacher:text.mask",
        projection={"name": "pca", "whiten": True},
        side="teacher",
    ),
    Term(
        loss="augmented_feature",
        student=["image.embedding", "image.embedding"],
        teacher=["text.embedding", "text.embedding"],
        logit_scale={"learn": 5},
    ),
    # what not every sample has
    Term(
        loss="multimodal_graph",
        student={"image": "image.embedding", "text": "image.embedding"},
        teacher={"image": "text.embedding", "text": "text.embedding"},
        mask={"presence": {"text": "batch:has_text"}},
        weight={"from": 1, "to": 3},
    ),
    Term(
        loss="decoupled_kd", student="image.embedding", teacher=["text.embedding", "batch:label"], projection="linear"
    ),
]
PROGRESS = 0.25


class Rows(Encoder):
    """A linear layer and what hangs on it; no statistics over the batch, which ranks would not share."""

    preprocess = None

    def __init__(self, modality: str, width: int) -> None:
        super().__init__()
        self.name, self.modalities, self.modality = modality, (modality,), modality
        self.embed, self.token, self.query = nn.Linear(6, width), nn.Linear(6, 3), nn.Linear(6, 6)
        self.words = nn.Linear(6, width + 2)

    def taps(self) -> tuple[str, ...]:
        return tuple(f"{self.modality}.{stem}" for stem in ("embedding", "tokens", "scores.0", "words", "mask"))

    def compute(self, inputs: Mapping[str, Tensor], taps: Sequence[str]) -> Features:
        x = inputs["x"]
        query = self.query(x).unflatten(-1, (1, 1, 6)) * x[:, None, :4, None]
        every = {
            "embedding": self.embed(x),
            "tokens": self.token(x)[:, None] * x[:, :4, None],
            "scores.0": query @ query.mT,
            "words": self.words(x)[:, None] * x[:, :4, None],
            "mask": inputs["mask"],
        }
        return {tap: every[tap.partition(".")[2]] for tap in taps}

    def identity(self) -> str:
        return self.name


class Trainee(nn.Module):
    def __init__(self, student: Encoder, objective: Objective) -> None:
        super().__init__()
        self.student, self.objective = student, objective

    def forward(
        self, inputs: Mapping[str, Tensor], others: Mapping[str, Features], group: dist.ProcessGroup | None
    ) -> dict[str, Tensor]:
        features = self.student(inputs, self.objective.taps()["student"])
        return self.objective({"student": features, **others}, group=group, progress=PROGRESS)


def batch(rank: int, world_size: int) -> tuple[dict[str, dict[str, Tensor]], dict[str, Tensor]]:
    """Views and fields of this rank's rows; ranks differ in how much of them is valid."""
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(NUM_ROWS, 6, generator=generator, dtype=torch.float64)
    share = torch.linspace(0, 1, NUM_ROWS)[:, None]
    masks = [torch.rand(NUM_ROWS, 4, generator=generator) < valid for valid in (share, share.sqrt())]
    rows = NUM_ROWS // world_size
    mine = slice(rank * rows, (rank + 1) * rows)
    fields = {"has_text": torch.arange(NUM_ROWS)[mine] > 2, "label": torch.arange(NUM_ROWS)[mine] % 4}
    return {
        "student": {"x": x[mine], "mask": masks[1][mine]},
        "teacher": {"x": x[mine], "mask": masks[0][mine]},
    }, fields


def run(rank: int, world_size: int, group: dist.ProcessGroup | None) -> dict[str, Tensor]:
    torch.manual_seed(0)
    models = {"student": Rows("image", 5).double(), "teacher": Rows("text", 4).double().freeze()}
    views, fields = batch(rank, world_size)
    torch.manual_seed(100 + rank)  # ranks' own generators differ, and projections must not
    objective = Objective.build(TERMS, models, views, fields=fields)
    results = {f"state.{name}": value.clone() for name, value in objective.state_dict().items()}
    trainee = Trainee(models["student"], objective.double())
    model: nn.Module = trainee if group is None else DistributedDataParallel(trainee)
    taps = objective.taps()
    others = {"teacher": models["teacher"](views["teacher"], taps["teacher"]), "batch": fields}
    masks = {**others, "student": {"image.mask": views["student"]["mask"]}}
    for rows in [slice(None)] if rank == 0 else [slice(1), slice(1, None)]:  # ranks need not measure equally often
        cut = {name: {tap: value[rows] for tap, value in taps_of.items()} for name, taps_of in masks.items()}
        objective.measure(cut)
    objective.fit(group)
    for factor in (1.0, 2.0):  # two steps, of which the second finds what the first has left
        text = {tap: factor * value if value.is_floating_point() else value for tap, value in others["teacher"].items()}
        objective.observe([{**masks, "teacher": text}], group=group)
        with torch.no_grad() if factor == 1 else torch.enable_grad():
            values = model(views["student"], {**others, "teacher": text}, group)
        if factor == 1:
            objective.settle()
    counted = objective.counts(masks, NUM_ROWS // world_size)
    counts = {label: torch.as_tensor(count).double() for label, count in counted.items()}
    for label, value in values.items():
        total = counts[label].clone()
        if group is not None:
            dist.all_reduce(total)
        values[label] = value * counts[label] / total
    # DDP averages what the shares have made a sum
    (objective.total(values, PROGRESS) * world_size).backward()
    objective.settle()
    for label, value in values.items():
        whole = value.detach().clone()
        if group is not None:
            dist.all_reduce(whole)
        results[f"value.{label}"] = whole
    kept = {name: value.clone() for name, value in objective.named_buffers()}
    return {
        **results,
        **{f"kept.{name}": value for name, value in kept.items()},
        **{f"gradient.{name}": parameter.grad for name, parameter in trainee.named_parameters()},
    }


def main() -> None:
    rank, world_size, store, output = int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:]
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world_size)
    torch.save(run(rank, world_size, dist.group.WORLD), output)
    gc.collect()  # wrapped modules lie in cycles; one that is left when the process ends may abort it
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
