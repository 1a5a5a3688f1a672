"""Run by two processes, or one: a step of the offline scheme on this rank's rows; prints gradients as JSON."""

import json
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))

from conftest import TinyEncoder

from xmodal.objective import Objective
from xmodal.recipe import Term, Train
from xmodal.schemes import Offline
from xmodal.train.distributed import World, joined

TERMS = (
    Term(loss="feature_mse", student="image.embedding", teacher="image.embedding"),
    Term(loss="feature_mse", student="image.tokens", teacher="image.tokens", mask="image.mask"),
    Term(
        loss="soft_contrastive",
        student=["image.embedding", "teacher:image.embedding"],
        teacher=["image.embedding", "image.embedding"],
        student_scale={"learn": 5.0},
        teacher_scale=5.0,
    ),
)


def main() -> None:
    with joined("cpu") as world:
        step(world)


def step(world: World) -> None:
    accumulate, terms = int(sys.argv[1]), TERMS[: int(sys.argv[2])]
    generator = torch.Generator().manual_seed(1)
    rows = {
        "x": torch.randn(8, 4, generator=generator),
        "sequence": torch.randn(8, 5, 4, generator=generator),
        "lengths": torch.tensor([5, 1, 3, 5, 2, 4, 1, 1]),
    }
    mine = slice(world.rank * 8 // world.size, (world.rank + 1) * 8 // world.size)
    view = {name: tensor[mine] for name, tensor in rows.items()}
    settings = Train(max_steps=1, learning_rate=0.1, clip_grad=None, accumulate=accumulate)
    scheme = Offline(TinyEncoder(), {"teacher": TinyEncoder(seed=1).freeze()}, Objective(terms), settings, world)
    result = scheme.step({"key": ["k"] * len(view["x"]), "views": {"student": view, "teacher": view}}, 1.0)
    gradients = {name: p.grad.flatten().tolist() for name, p in scheme.trainee.named_parameters()}
    if world.is_main:
        print(json.dumps({"gradients": gradients, "terms": {k: v.item() for k, v in result.terms.items()}}))


main()
