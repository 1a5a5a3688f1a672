"""Run by two processes: three steps with the student's average as teacher, of both and of one alone."""

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist

sys.path.insert(0, str(Path(__file__).parents[2] / "schemes"))

from conftest import TinyEncoder

from xmodal.adapters.teachers.ema import AverageTeacher
from xmodal.objective import Objective
from xmodal.recipe import Term, Train
from xmodal.schemes import Offline, Progress
from xmodal.train.distributed import World, joined

TERM = Term(loss="feature_mse", student="image.embedding", teacher="image.embedding", projection="mlp")


def train(world: World, norm: bool):
    rows = torch.randn(8, 4, generator=torch.Generator().manual_seed(1))
    view = {"x": rows[world.rank * 8 // world.size : (world.rank + 1) * 8 // world.size]}
    views = {"student": view, "teacher": view}
    student = TinyEncoder(norm=norm)
    teacher = AverageTeacher(student, decay=0.5)
    objective = Objective.build([TERM], {"student": student, "teacher": teacher}, views)
    settings = Train(max_steps=3, learning_rate=0.1, clip_grad=None)
    scheme = Offline(student, {"teacher": teacher}, objective, settings, world)
    batch = {"key": ["k"] * len(view["x"]), "views": views}
    for number in range(3):
        result = scheme.step(batch, Progress(number, 3))
    return teacher, {label: value.item() for label, value in result.terms.items()}


def figures(world: World):
    teacher, terms = train(world, norm=False)
    return {"average": torch.cat([p.flatten() for p in teacher.parameters()]).tolist(), "terms": terms}


def main() -> None:
    with joined("cpu") as world:
        two = figures(world)
        normed, _ = train(world, norm=True)
        hashes = [""] * world.size
        dist.all_gather_object(hashes, normed.state_hash())
        if world.is_main:
            print(json.dumps({"one": figures(World(world.device)), "two": two, "hashes": hashes}))


if __name__ == "__main__":
    main()
