"""Run by two processes, or one: two steps of the offline scheme on this rank's rows; prints the second's gradients."""

import json
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))

from conftest import TinyEncoder

from xmodal.objective import Objective
from xmodal.recipe import Term, Train
from xmodal.schemes import Offline, Progress
from xmodal.train.distributed import World, joined

TERMS = (
    Term(loss="feature_mse", student="image.embedding", teacher="image.embedding"),
    Term(loss="feature_mse", student="image.tokens", teacher="image.tokens", mask="image.mask"),
    Term(
        loss="feature_cosine",
        student="image.tokens",
        teacher="image.tokens",
        mask="image.mask",
        standardize=True,
        weight=2,
    ),
    Term(
        loss="soft_contrastive",
        student=["image.embedding", "teacher:image.embedding"],
        teacher=["image.embedding", "image.embedding"],
        student_scale={"learn": 5.0},
        teacher_scale=5.0,
    ),
    Term(
        loss="contrastive_representation",
        student="image.embedding",
        teacher="image.embedding",
        projection={"name": "linear", "learning_rate_factor": 0.5},
        standardize=True,
        bank=12,
    ),
)


def main() -> None:
    with joined("cpu") as world:
        step(world)


def step(world: World) -> None:
    accumulate, terms = int(sys.argv[1]), TERMS[: int(sys.argv[2])]
    lacking = [int(row) for row in sys.argv[3:]]  # rows without a picture, as many on every rank
    generator = torch.Generator().manual_seed(1)
    rows = {
        "x": torch.randn(8, 4, generator=generator),
        "sequence": torch.randn(8, 5, 4, generator=generator),
        "lengths": torch.tensor([5, 1, 3, 5, 2, 4, 1, 1]),
    }
    mine = slice(world.rank * 8 // world.size, (world.rank + 1) * 8 // world.size)
    view = {name: tensor[mine] for name, tensor in rows.items()}
    settings = Train(max_steps=2, learning_rate=0.1, clip_grad=None, accumulate=accumulate, term_gradients_every=1)
    models = {"student": TinyEncoder(), "teacher": TinyEncoder(seed=1).freeze()}
    views = {"student": view, "teacher": view}
    objective = Objective.build(terms, models, views)
    scheme = Offline(models["student"], {"teacher": models["teacher"]}, objective, settings, world)
    batch = {"key": ["k"] * len(view["x"]), "views": views}
    if lacking:
        batch["present"] = {"image": torch.tensor([row not in lacking for row in range(8)])[mine]}
    for number in range(2):
        result = scheme.step(batch, Progress(number, 2))
    gradients = {name: p.grad.flatten().tolist() for name, p in scheme.trainee.named_parameters()}
    kept = {name: buffer.flatten().tolist() for name, buffer in objective.named_buffers()}
    if world.is_main:
        terms_then = {label: value.item() for label, value in result.terms.items()}
        looked = result.term_gradients
        print(json.dumps({"gradients": gradients, "terms": terms_then, "kept": kept, "looked": looked}))


if __name__ == "__main__":
    main()
