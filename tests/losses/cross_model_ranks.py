"""One rank of a gloo group: cross-model losses, their state and open_clip's losses, ours and theirs, to a file.

Run as ``python cross_model_ranks.py RANK WORLD_SIZE STORE INPUTS OUTPUT``; the test beside it starts them.
"""

from __future__ import annotations

import gc
import importlib.util
import itertools
import sys
from pathlib import Path
from types import ModuleType

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.functional import normalize

from xmodal.losses.cross_model import augmented_feature, gradient_matching, interactive_contrastive
from xmodal.losses.open_clip import DistillClipLoss
from xmodal.losses.state import Fusion, MemoryBank, RunningStandardisation

LOSSES = ("interactive", "gradient", "augmented")
OPTIONS = list(itertools.product([False, True], repeat=2))
"""local_loss, gather_with_grad."""


class Towers(nn.Module):
    """Two linear towers, a learned scale and bias, two fusions."""

    def __init__(self, weights: dict[str, Tensor]) -> None:
        super().__init__()
        self.image = nn.Parameter(weights["image"].clone())
        self.text = nn.Parameter(weights["text"].clone())
        self.log_scale = nn.Parameter(torch.tensor(1.5, dtype=torch.float64))
        self.bias = nn.Parameter(torch.tensor(-1.0, dtype=torch.float64))
        torch.manual_seed(0)
        self.image_fusion, self.text_fusion = Fusion(3, 3).double(), Fusion(3, 3).double()

    def losses(self, batch: dict[str, Tensor], group: dist.ProcessGroup | None) -> dict[str, Tensor]:
        scale = self.log_scale.exp()
        rows = (batch["x"] @ self.image, batch["y"] @ self.text, batch["teacher_image"], batch["teacher_text"])
        fusions = {"image_fusion": self.image_fusion, "text_fusion": self.text_fusion}
        return {
            "interactive": interactive_contrastive(*rows, logit_scale=scale, group=group),
            "gradient": gradient_matching(*rows, student_scale=scale, teacher_scale=5.0, group=group),
            "augmented": augmented_feature(*rows, **fusions, logit_scale=scale, group=group),
        }

    def model_out(self, batch: dict[str, Tensor], *, bias: bool = False, dist_bias: bool = False) -> dict[str, Tensor]:
        """What open_clip's training loop hands to a loss."""
        out = {
            "image_features": normalize(batch["x"] @ self.image, dim=-1),
            "text_features": normalize(batch["y"] @ self.text, dim=-1),
            "logit_scale": self.log_scale.exp(),
            "dist_image_features": normalize(batch["teacher_image"], dim=-1),
            "dist_text_features": normalize(batch["teacher_text"], dim=-1),
            "dist_logit_scale": torch.tensor(5.0, dtype=torch.float64),
        }
        if bias:
            out["logit_bias"] = self.bias
        if dist_bias:
            out["dist_logit_bias"] = torch.tensor(-2.0, dtype=torch.float64)
        return out


def run(inputs: dict[str, Tensor], rank: int, world_size: int, group: dist.ProcessGroup | None) -> dict[str, Tensor]:
    rows = len(inputs["x"]) // world_size
    batch = {name: x[rank * rows : (rank + 1) * rows] for name, x in inputs.items() if name not in ("image", "text")}
    towers = Towers(inputs)
    results: dict[str, Tensor] = {}

    def record(name: str, value: Tensor) -> None:
        towers.zero_grad(set_to_none=False)
        value.backward()
        results[f"{name}.value"] = value.detach()
        for key, parameter in towers.named_parameters():
            gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone()
            if group is not None:  # what data-parallel training does
                dist.all_reduce(gradient)
                gradient /= world_size
            results[f"{name}.{key}"] = gradient

    for name in LOSSES:
        record(name, towers.losses(batch, group)[name])
    settings = {"rank": rank, "world_size": world_size}
    for whose, loss_class in (("ours", DistillClipLoss), ("theirs", open_clip_loss().DistillClipLoss)):
        for local_loss, gather_with_grad in OPTIONS if world_size > 1 else OPTIONS[:1]:
            loss = loss_class(local_loss, gather_with_grad, cache_labels=True, **settings)
            for term in ("contrastive_loss", "distill_loss"):
                value = loss(**towers.model_out(batch), output_dict=True)[term]
                record(f"{whose} {local_loss} {gather_with_grad} {term}", value)
    return results


def state(rank: int, group: dist.ProcessGroup | None) -> dict[str, Tensor]:
    """A bank and running statistics that both ranks feed."""
    bank, standardise = MemoryBank(5, 1), RunningStandardisation(3)
    for step in range(2):
        bank.push(torch.tensor([[10.0 * step + rank + 1]]).expand(2, 1) + torch.tensor([[0.0], [0.5]]), group)
        standardised = standardise(
            *standardisation_batch(step, rank), mask=standardisation_mask(step, rank), group=group
        )
    return {
        **{f"bank.{name}": value for name, value in bank.state_dict().items()},
        **{f"standardise.{name}": value for name, value in standardise.state_dict().items()},
        "standardised": standardised,
    }


def standardisation_batch(step: int, rank: int) -> tuple[Tensor]:
    """Unequally many rows on each rank."""
    generator = torch.Generator().manual_seed(10 * step + rank)
    return (torch.randn(3 + rank, 2, 3, generator=generator) * (step + 1) + rank,)


def standardisation_mask(step: int, rank: int) -> Tensor:
    """In the second batch, rank 1 has nothing valid."""
    mask = torch.ones(3 + rank, 2, dtype=torch.bool)
    mask[0, 1] = False
    return mask & torch.tensor(step == 0 or rank == 0)


def open_clip_loss() -> ModuleType:
    """open_clip's loss.py alone: importing the whole package takes seconds."""
    package = importlib.util.find_spec("open_clip")
    assert package is not None
    assert package.submodule_search_locations
    path = Path(package.submodule_search_locations[0]) / "loss.py"
    spec = importlib.util.spec_from_file_location("open_clip_loss", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main() -> None:
    rank, world_size, store, inputs, output = int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:]
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world_size)
    results = run(torch.load(inputs, weights_only=True), rank, world_size, dist.group.WORLD)
    torch.save(results | state(rank, dist.group.WORLD), output)
    del results
    # What still holds on to the group ends before it: threads of it would abort the process otherwise.
    gc.collect()
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
