"""One rank: an objective over half a batch under DDP, its terms combined by counts; gradients written to a file.

Run as ``python two_ranks.py RANK WORLD_SIZE STORE OUTPUT``; the test beside it starts one process a rank, and calls
:func:`run` itself for the whole batch on one.
"""

from __future__ import annotations

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
]


class Rows(Encoder):
    """A linear layer and what hangs on it; no statistics over the batch, which ranks would not share."""

    preprocess = None

    def __init__(self, modality: str, width: int) -> None:
        super().__init__()
        self.name, self.modalities, self.modality = modality, (modality,), modality
        self.embed, self.token = nn.Linear(6, width), nn.Linear(6, 3)

    def taps(self) -> tuple[str, ...]:
        return tuple(f"{self.modality}.{stem}" for stem in ("embedding", "tokens", "mask"))

    def compute(self, inputs: Mapping[str, Tensor], taps: Sequence[str]) -> Features:
        x = inputs["x"]
        tokens = self.token(x)[:, None] * x[:, :4, None]
        every = {"embedding": self.embed(x), "tokens": tokens, "mask": inputs["mask"]}
        return {tap: every[tap.partition(".")[2]] for tap in taps}

    def identity(self) -> str:
        return self.name


class Trainee(nn.Module):
    def __init__(self, student: Encoder, objective: Objective) -> None:
        super().__init__()
        self.student, self.objective = student, objective

    def forward(
        self, inputs: Mapping[str, Tensor], teacher: Features, group: dist.ProcessGroup | None
    ) -> dict[str, Tensor]:
        features = self.student(inputs, self.objective.taps()["student"])
        return self.objective({"student": features, "teacher": teacher}, group=group)


def run(rank: int, world_size: int, group: dist.ProcessGroup | None) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(NUM_ROWS, 6, generator=generator, dtype=torch.float64)
    mask = torch.rand(NUM_ROWS, 4, generator=generator) < torch.linspace(0, 1, NUM_ROWS)[:, None]  # ranks differ
    torch.manual_seed(0)
    models = {"student": Rows("image", 5).double(), "teacher": Rows("text", 4).double().freeze()}
    rows = NUM_ROWS // world_size
    view = {"x": x[rank * rows : (rank + 1) * rows], "mask": mask[rank * rows : (rank + 1) * rows]}
    torch.manual_seed(100 + rank)  # ranks' own generators differ, and projections must not
    objective = Objective.build(TERMS, models, {"student": view, "teacher": view})
    results = {f"state.{name}": value.clone() for name, value in objective.state_dict().items()}
    trainee = Trainee(models["student"], objective.double())
    model: nn.Module = trainee if group is None else DistributedDataParallel(trainee)
    teacher = models["teacher"](view, objective.taps()["teacher"])
    values = model(view, teacher, group)
    counts = {
        label: torch.as_tensor(count).double() for label, count in objective.counts({"teacher": teacher}, rows).items()
    }
    for label, value in values.items():
        total = counts[label].clone()
        if group is not None:
            dist.all_reduce(total)
        values[label] = value * counts[label] / total
    # DDP averages what the shares have made a sum
    (objective.total(values) * world_size).backward()
    for label, value in values.items():
        whole = value.detach().clone()
        if group is not None:
            dist.all_reduce(whole)
        results[f"value.{label}"] = whole
    return results | {f"gradient.{name}": parameter.grad for name, parameter in trainee.named_parameters()}


def main() -> None:
    rank, world_size, store, output = int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:]
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world_size)
    torch.save(run(rank, world_size, dist.group.WORLD), output)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
