"""What the losses cost, beside the packages that have them too: time and peak memory of forward and backward.

    python benchmarks/losses.py [--only NAME ...] [--device cuda] [--repeats 7] [--json FILE]
    python benchmarks/losses.py --sweep [--batches 1024 2048 ...]

The first form runs every loss at a realistic size. The second one runs the tiled contrastive losses and their dense
peers from open_clip over batch sizes. Calls of both sides alternate; a ratio is ours by theirs, the median over pairs.
Memory is what a call needs beyond its inputs, and the inputs' gradients with it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from loss_cases import LossCase, Peer, cases
from measuring import Pair, Work, matmul_rate, measure, measure_pair
from sweep import sweep
from torch import Tensor, nn

from xmodal.losses import LOSSES


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these losses; all by default")
    parser.add_argument("--batch", type=int, default=256, help="samples, for the first form")
    parser.add_argument("--sweep", action="store_true", help="tiled contrastive losses over batch sizes")
    parser.add_argument("--batches", type=int, nargs="+", default=[1024, 2048, 4096, 8192, 16384])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    device = torch.device(options.device)
    if options.only and (unknown := set(options.only) - set(LOSSES)):
        parser.error(f"no such loss: {', '.join(sorted(unknown))}. There are {', '.join(sorted(LOSSES))}")
    rate = matmul_rate(device)
    machine = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    print(f"torch {torch.__version__}, {machine}, {rate / 1e9:.0f} GFLOP/s in a float32 product of 4096³")
    if options.sweep:
        rows = sweep(options.batches, options.repeats, device, options.only)
    else:
        rows = every_loss(options.only, options.batch, options.repeats, device)
    if options.json:
        result = {"torch": torch.__version__, "machine": machine, "gflops": round(rate / 1e9), "rows": rows}
        options.json.write_text(json.dumps(result, indent=1) + "\n")


def every_loss(only: Sequence[str] | None, batch: int, repeats: int, device: torch.device) -> list[dict[str, Any]]:
    print(f"{'loss':34}{'ms':>9}{'MiB':>8}   {'beside':24}{'ms':>9}{'MiB':>8}{'time':>7}{'memory':>8}")
    rows = []
    for name, case in cases(batch).items():
        if only and name not in only:
            continue
        loss, inputs = LOSSES[name], make_inputs(case, device)
        sides = inputs[: loss.num_student], inputs[loss.num_student :]
        ours = work(partial(loss.function, **case.options, **fusions(name, case, device)), *sides)
        row: dict[str, Any] = {"loss": name, "shapes": [str(shape) for shape in case.shapes]}
        if case.peer is None:
            alone = measure(ours, repeats, device)
            row |= {"ms": alone.seconds * 1e3, "mib": alone.mebibytes}
        else:
            pair = measure_pair(ours, work(case.peer(), *sides), repeats, device)
            row |= figures(pair, case.package)
        rows.append({key: round(value, 3) if isinstance(value, float) else value for key, value in row.items()})
        print(line(row))
    return rows


def figures(pair: Pair, package: str) -> dict[str, Any]:
    return {
        "ms": pair.ours.seconds * 1e3,
        "mib": pair.ours.mebibytes,
        "peer": package,
        "peer_ms": pair.peer.seconds * 1e3,
        "peer_mib": pair.peer.mebibytes,
        "time_ratio": pair.time_ratio,
        "memory_ratio": pair.memory_ratio,
    }


def line(row: Mapping[str, Any]) -> str:
    text = f"{row['loss']:34}{row['ms']:9.2f}{row['mib']:8.1f}"
    if "peer" in row:
        text += f"   {row['peer']:24}{row['peer_ms']:9.2f}{row['peer_mib']:8.1f}"
        text += f"{row['time_ratio']:7.2f}{row['memory_ratio']:8.2f}"
    return text


def make_inputs(case: LossCase, device: torch.device) -> list[Any]:
    generator = torch.Generator(device).manual_seed(0)

    def random(shape: Any) -> Any:
        if isinstance(shape, Mapping):
            return {key: random(part) for key, part in shape.items()}
        if isinstance(shape, list):
            return [random(part) for part in shape]
        return torch.randn(shape, generator=generator, device=device)

    return case.prepare([random(shape) for shape in case.shapes])


def fusions(name: str, case: LossCase, device: torch.device) -> dict[str, nn.Module]:
    width = case.shapes[0][-1] if name == "augmented_feature" else 0
    both = width + case.shapes[2][-1] if width else 0
    return {key: nn.Linear(both, width, device=device) for key in LOSSES[name].state if key.endswith("_fusion")}


def work(function: Peer, taught: Sequence[Any], given: Sequence[Any] = ()) -> Work:
    """Forward, and backward to every tensor of the inputs that are taught."""
    leaves = [x.requires_grad_() for x in tensors(taught)]

    def call() -> None:
        torch.autograd.grad(function(*taught, *given), leaves)

    return call


def tensors(nested: Any) -> list[Tensor]:
    if isinstance(nested, Tensor):
        return [nested]
    parts = nested.values() if isinstance(nested, Mapping) else nested
    return [x for part in parts for x in tensors(part)]


if __name__ == "__main__":
    main()
