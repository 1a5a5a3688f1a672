"""One rank of a gloo group: relational losses on its part of a batch, values and averaged gradients written to a file.

Run as ``python relation_ranks.py RANK WORLD_SIZE STORE INPUTS OUTPUT``; the test beside it starts one process a rank.
Another family of losses adds its calls to ``CALLS``, and the tensors that they need to the test's inputs.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from xmodal.losses.relation import (
    contrastive_representation,
    probabilistic_knowledge_transfer,
    rkd_angle,
    rkd_distance,
    similarity_preserving,
)

Batch = dict[str, Tensor]
Call = Callable[[Batch, dist.ProcessGroup | None], Tensor]

CALLS: dict[str, Call] = {
    "rkd_distance": lambda of, group: rkd_distance(of["student"], of["teacher"], group=group),
    "rkd_distance with twins": lambda of, group: rkd_distance(of["twins"], of["teacher"], group=group),
    "rkd_angle": lambda of, group: rkd_angle(of["student"], of["teacher"], group=group),
    "rkd_angle with twins": lambda of, group: rkd_angle(of["twins"], of["teacher"], group=group),
    "similarity_preserving": lambda of, group: similarity_preserving(of["student"], of["teacher"], group=group),
    "probabilistic_knowledge_transfer": lambda of, group: probabilistic_knowledge_transfer(
        of["student"], of["teacher"], group=group
    ),
    "contrastive_representation": lambda of, group: contrastive_representation(
        of["student"], of["like_student"], group=group
    ),
    "contrastive_representation with a bank": lambda of, group: contrastive_representation(
        of["student"], of["like_student"], bank=of["bank"], group=group
    ),
    "contrastive_representation one way": lambda of, group: contrastive_representation(
        of["student"], of["like_student"], bank=of["bank"], symmetric=False, group=group
    ),
}
WHOLE = ("weight", "bank")
"""Inputs that every rank has whole; of the others it has its rows."""


class Student(torch.nn.Module):
    """A linear student of the inputs ``x`` and ``x_twins``, and the losses on what it says."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(weight.clone())

    def forward(self, call: str, batch: Batch, group: dist.ProcessGroup | None) -> Tensor:
        said = {"student": batch["x"] @ self.weight, "twins": batch["x_twins"] @ self.weight}
        return CALLS[call]({**batch, **said}, group)


def run(inputs: Batch, rank: int, world_size: int, group: dist.ProcessGroup | None) -> dict[str, Tensor]:
    """``NAME.value`` and ``NAME.gradient`` of every call, by this rank's rows."""
    batch = {name: x if name in WHOLE else x.chunk(world_size)[rank] for name, x in inputs.items()}
    student = Student(inputs["weight"])
    trained = student if group is None else DistributedDataParallel(student, process_group=group)
    results = {}
    for call in CALLS:
        student.zero_grad()
        value = trained(call, batch, group)
        value.backward()
        results[f"{call}.value"] = value.detach()
        results[f"{call}.gradient"] = student.weight.grad.clone()
    return results


def main() -> None:
    rank, world_size, store, inputs, output = int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:]
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world_size)
    torch.save(run(torch.load(inputs, weights_only=True), rank, world_size, dist.group.WORLD), output)
    gc.collect()  # the wrapped student is gone before its group is
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
