"""One rank of a gloo group: its part of each case, values and averaged gradients written to a file.

Run as ``python graph_ranks.py RANK WORLD_SIZE STORE INPUTS OUTPUT``; the test beside it starts one process a rank.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from xmodal.losses.graph import (
    graph_propagation,
    instance_graph,
    layer_graph,
    multimodal_graph,
    neighbour_graph,
)

Given = dict[str, Tensor]


def modalities(given: Given, *names: str) -> tuple[Given, Given]:
    return {name: given[f"student_{name}"] for name in names}, {name: given[f"teacher_{name}"] for name in names}


def presence(given: Given, column: int) -> Given:
    """``image`` and ``text`` of one pair of columns; audio is always there."""
    return {"image": given["presence"][:, column] > 0, "text": given["presence"][:, column + 1] > 0}


LOSSES: dict[str, Callable[[Given, dict[str, Any]], Tensor]] = {
    "instances": lambda x, to: instance_graph(x["student_image"], x["teacher_image"], **to),
    "instances and nodes": lambda x, to: instance_graph(
        x["student_image"], x["narrow_image"], node_weight=0.7, edge_weight=2.0, **to
    ),
    "layers": lambda x, to: layer_graph(
        [x["student_image"], x["student_text"]], [x["teacher_image"], x["teacher_text"]], **to
    ),
    "layers of unlike width": lambda x, to: layer_graph(
        [x["student_image"], x["student_wide"], x["student_text"]],
        [x["teacher_image"], x["teacher_text"], x["narrow_image"]],
        **to,
    ),
    "neighbours": lambda x, to: neighbour_graph(x["student_image"], x["teacher_image"], num_neighbours=3, **to),
    "all neighbours": lambda x, to: neighbour_graph(x["student_image"], x["teacher_image"], num_neighbours=99, **to),
    "equal neighbours": lambda x, to: neighbour_graph(x["student_image"], x["equal"], num_neighbours=2, **to),
    "propagation": lambda x, to: graph_propagation(x["student_image"], x["narrow_image"], num_neighbours=2, **to),
    "modalities": lambda x, to: multimodal_graph(*modalities(x, "image", "text"), **to),
    "three modalities, some absent": lambda x, to: multimodal_graph(
        *modalities(x, "image", "text", "audio"), presence=presence(x, 0), **to
    ),
    "nothing on the second rank": lambda x, to: multimodal_graph(
        *modalities(x, "image", "text"), presence=presence(x, 2), **to
    ),
    "one node in all": lambda x, to: multimodal_graph(*modalities(x, "image", "text"), presence=presence(x, 4), **to),
}


def run(inputs: Given, rank: int, world_size: int, group: dist.ProcessGroup | None) -> Given:
    """Every case on this rank's rows of ``inputs``, whose ``weight_…`` map ``x`` to what the student says."""
    num_rows = len(inputs["x"]) // world_size
    weights = {name: x for name, x in inputs.items() if name.startswith("weight_")}
    own = {name: x[rank * num_rows : (rank + 1) * num_rows] for name, x in inputs.items() if name not in weights}
    results = {}
    for case, loss in LOSSES.items():
        parameters = {name: weight.clone().requires_grad_() for name, weight in weights.items()}
        said = {name.replace("weight", "student"): own["x"] @ weight for name, weight in parameters.items()}
        value = loss(own | said, {} if group is None else {"group": group})
        value.backward()
        results[f"{case}.value"] = value.detach()
        for name, parameter in parameters.items():
            gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            if group is not None:  # what data-parallel training does
                dist.all_reduce(gradient, group=group)
                gradient /= world_size
            results[f"{case}.{name}"] = gradient
    return results


def main() -> None:
    rank, world_size, store, inputs, output = int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:]
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world_size)
    results = run(torch.load(inputs, weights_only=True), rank, world_size, dist.group.WORLD)
    torch.save(results, output)
    del results
    gc.collect()
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
