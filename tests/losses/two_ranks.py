"""One rank of a gloo group: its part of each case, values and averaged gradients written to a file.

Run as ``python two_ranks.py RANK WORLD_SIZE STORE INPUTS OUTPUT``; the test beside it starts one process a rank.
"""

from __future__ import annotations

import gc
import sys

import torch
import torch.distributed as dist

from xmodal.losses import clip_contrastive, siglip, soft_contrastive, soft_sigmoid
from xmodal.losses.distributed import gather_rows, mean_over_ranks

PLAIN = ("clip", "siglip", "soft", "teachers", "mixed", "sharp", "sigmoid")
LOSSES = (*PLAIN, *(f"tiled {name}" for name in PLAIN))


class Towers(torch.nn.Module):
    """Two linear towers, a learned scale and the losses on what they say."""

    def __init__(self, weights: dict[str, torch.Tensor]) -> None:
        super().__init__()
        self.image = torch.nn.Parameter(weights["image"].clone())
        self.text = torch.nn.Parameter(weights["text"].clone())
        self.log_scale = torch.nn.Parameter(torch.tensor(1.5, dtype=torch.float64))
        self.bias = torch.nn.Parameter(torch.tensor(-2.0, dtype=torch.float64))

    def forward(self, batch: dict[str, torch.Tensor], group: dist.ProcessGroup | None) -> dict[str, torch.Tensor]:
        image, text, scale = batch["x"] @ self.image, batch["y"] @ self.text, self.log_scale.exp()
        teacher = (batch["teacher_image"], batch["teacher_text"])
        scales = {"student_scale": scale, "teacher_scale": 9.0}
        # so sharp that a column's largest logit is far from the other rank's
        sharp = {"student_scale": 500 * scale, "teacher_scale": 2000.0}
        biases = {"student_bias": self.bias, "teacher_bias": -3.0}
        teachers = [[t, t.flip(1) ** 2] for t in teacher]
        tiled = {
            f"tiled {name}": value
            for name, value in {
                "clip": clip_contrastive(image, text, logit_scale=scale, group=group, tile=3),
                "siglip": siglip(image, text, logit_scale=scale, logit_bias=self.bias, group=group, tile=3),
                "soft": soft_contrastive(image, text, *teacher, **scales, group=group, tile=3, hard_weight=0.3),
                "teachers": soft_contrastive(image, text, *teachers, **scales, group=group, tile=3),
                "mixed": soft_contrastive(image, teacher[1], *teacher, **scales, group=group, tile=3),
                "sharp": soft_contrastive(image, text, *teacher, **sharp, group=group, tile=3),
                "sigmoid": soft_sigmoid(image, text, *teacher, **scales, **biases, group=group, tile=3),
            }.items()
        }
        return tiled | {
            "siglip": siglip(image, text, logit_scale=scale, logit_bias=self.bias, group=group),
            "sigmoid": soft_sigmoid(image, text, *teacher, **scales, **biases, group=group),
            "clip": clip_contrastive(image, text, logit_scale=scale, group=group),
            "soft": soft_contrastive(image, text, *teacher, **scales, group=group, hard_weight=0.3),
            "teachers": soft_contrastive(image, text, *teachers, **scales, group=group),
            # the student's images against the teacher's own texts, as an image student has it
            "mixed": soft_contrastive(image, teacher[1], *teacher, **scales, group=group),
            "sharp": soft_contrastive(image, text, *teacher, **sharp, group=group),
        }


def run(
    inputs: dict[str, torch.Tensor], rank: int, world_size: int, group: dist.ProcessGroup | None
) -> dict[str, torch.Tensor]:
    rows = len(inputs["x"]) // world_size
    batch = {
        name: inputs[name][rank * rows : (rank + 1) * rows] for name in ("x", "y", "teacher_image", "teacher_text")
    }
    towers = Towers(inputs)
    results = {}
    for name in LOSSES:
        towers.zero_grad()
        value = towers(batch, group)[name]
        value.backward()
        for parameter in towers.parameters():
            parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            if group is not None:  # what data-parallel training does
                dist.all_reduce(parameter.grad)
                parameter.grad /= world_size
        results[f"{name}.value"] = value.detach()
        results |= {f"{name}.{key}": parameter.grad.clone() for key, parameter in towers.named_parameters()}
    return results


def main() -> None:
    rank, world_size, store, inputs, output = int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:]
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world_size)
    group = dist.group.WORLD
    results = run(torch.load(inputs, weights_only=True), rank, world_size, group)
    own = torch.full((2, 1), float(rank), requires_grad=True)
    gathered = gather_rows(own, group)
    # each rank asks each row for its own rank + 1, times the row's position
    (gathered * (rank + 1) * torch.arange(2.0 * world_size)[:, None]).sum().backward()
    results |= {"gathered": gathered.detach(), "gathered.gradient": own.grad}
    results["mean"] = mean_over_ranks(torch.tensor(float(rank)), group)
    results["alone"] = clip_contrastive(torch.eye(3), torch.eye(3) * (rank + 1), logit_scale=1.0)
    torch.save(results, output)
    # What still refers to the group would meet its threads at the end of the process.
    del results, own, gathered, group
    gc.collect()
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
