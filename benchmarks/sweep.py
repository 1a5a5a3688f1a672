"""The tiled contrastive losses beside open_clip's dense ones, over batch sizes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from measuring import Pair, Work, matmul_rate, measure, measure_pair
from torch import Tensor
from torch.nn import functional as F

from xmodal.losses import clip_contrastive, siglip, soft_contrastive

STUDENT_WIDTH, TEACHER_WIDTH = 512, 768
DENSE_MATRICES = {"soft_contrastive": 12, "clip_contrastive": 6, "siglip": 6}
"""About how many B × B matrices the dense peer holds at its peak, to tell beforehand what does not fit."""


def sweep(
    batches: Sequence[int], repeats: int, device: torch.device, only: Sequence[str] | None = None
) -> list[dict[str, Any]]:
    print(f"{'loss':18}{'products':10}{'B':>8}{'s':>9}{'MiB':>9}   {'open_clip s':>11}{'MiB':>9}", end="")
    print(f"{'time':>7}{'memory':>8}{'floor':>8}")
    rows = []
    for name in DENSE_MATRICES:
        if only and name not in only:
            continue
        for batch in batches:
            for products in ("float32", "bfloat16"):
                rows.append(one_row(name, batch, products, repeats, device))
                print(line(rows[-1]))
    return rows


def one_row(name: str, batch: int, products: str, repeats: int, device: torch.device) -> dict[str, Any]:
    ours, peer = sides(name, batch, products, device)
    row: dict[str, Any] = {"loss": name, "products": products, "batch": batch}
    if DENSE_MATRICES[name] * 4 * batch**2 < free_bytes(device):
        pair: Pair = measure_pair(ours, peer, repeats, device)
        mine = pair.ours
        row |= {"peer_seconds": pair.peer.seconds, "peer_mib": pair.peer.mebibytes}
        row |= {"time_ratio": pair.time_ratio, "memory_ratio": pair.memory_ratio}
    else:
        mine = measure(ours, repeats, device)
    # What no way around it saves: the products of both models forwards, again backwards, and two for the gradients.
    operations = batch**2 * (8 * STUDENT_WIDTH + (4 * TEACHER_WIDTH if name == "soft_contrastive" else 0))
    floor = operations / matmul_rate(device, getattr(torch, products))
    return {**row, "seconds": mine.seconds, "mib": mine.mebibytes, "of_floor": mine.seconds / floor}


def sides(name: str, batch: int, products: str, device: torch.device) -> tuple[Work, Work]:
    """Forward and backward of ours and of open_clip's, to both embeddings and the scale."""
    import open_clip.loss as open_clip

    generator = torch.Generator(device).manual_seed(0)
    widths = [STUDENT_WIDTH] * 2 + [TEACHER_WIDTH] * 2
    image, text, *teacher = (torch.randn(batch, width, generator=generator, device=device) for width in widths)
    scale = torch.tensor(50.0, device=device, requires_grad=True)
    bias = torch.tensor(-10.0, device=device, requires_grad=True)
    leaves = [image.requires_grad_(), text.requires_grad_(), scale]
    tiled: dict[str, Any] = {"tile": TILE, "products": products}
    dense: dict[str, Callable[..., Tensor]] = {
        "soft_contrastive": lambda: open_clip.DistillClipLoss()(*unit(image, text), scale, *unit(*teacher), 100.0)[1],
        "clip_contrastive": lambda: open_clip.ClipLoss()(*unit(image, text), scale),
        "siglip": lambda: open_clip.SigLipLoss()(*unit(image, text), scale, bias),
    }
    own: dict[str, Callable[..., Tensor]] = {
        "soft_contrastive": lambda: soft_contrastive(
            image, text, *teacher, student_scale=scale, teacher_scale=100.0, **tiled
        ),
        "clip_contrastive": lambda: clip_contrastive(image, text, logit_scale=scale, **tiled),
        "siglip": lambda: siglip(image, text, logit_scale=scale, logit_bias=bias, **tiled),
    }
    trained = [*leaves, bias] if name == "siglip" else leaves

    def call(function: Callable[..., Tensor]) -> Work:
        return lambda: void(torch.autograd.grad(function(), trained))

    return call(own[name]), call(dense[name])


def void(_: object) -> None:
    """Lets go of what was computed."""


def unit(*rows: Tensor) -> list[Tensor]:
    return [F.normalize(x, dim=-1) for x in rows]


def free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    lines = open("/proc/meminfo").read().splitlines()  # noqa: SIM115
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))


def line(row: dict[str, Any]) -> str:
    text = f"{row['loss']:18}{row['products']:10}{row['batch']:8d}{row['seconds']:9.3f}{row['mib']:9.0f}   "
    if "peer_seconds" in row:
        text += f"{row['peer_seconds']:11.3f}{row['peer_mib']:9.0f}{row['time_ratio']:7.2f}{row['memory_ratio']:8.3f}"
    else:
        text += f"{'does not fit':>35}"
    return text + f"{row['of_floor']:8.2f}"


TILE = 1024
