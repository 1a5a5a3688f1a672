"""Size and latency of a model, for the summary of a run."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from xmodal.adapters.encoder import Encoder
from xmodal.adapters.modes import in_eval_mode
from xmodal.adapters.teachers.cached import CachedTeacher

_WARMUP, _RUNS = 3, 15


def describe_model(encoder: Encoder, view: Mapping[str, Tensor]) -> dict[str, Any]:
    """Name, modalities, parameters, bytes of the weights, and latency.

    ``view`` is one sample's inputs, ``[1, …]``; the latency is the median time of its embeddings, in milliseconds,
    on the model's own device with the threads torch has now.
    """
    if isinstance(encoder, CachedTeacher):  # it ran elsewhere, at another time
        recorded = {name: encoder.recorded[name] for name in ("name", "modalities", "parameters", "bytes")}
        return {**recorded, "latency_ms": None}
    return {
        "name": encoder.name,
        "modalities": list(encoder.modalities),
        "parameters": encoder.num_parameters(),
        "bytes": sum(tensor.numel() * tensor.element_size() for tensor in encoder.state_dict().values()),
        "latency_ms": round(measure_latency(encoder, view), 3),
    }


@torch.no_grad()
def measure_latency(encoder: Encoder, view: Mapping[str, Tensor]) -> float:
    """Median milliseconds of the embeddings of ``view``, after a warm-up."""
    device = next(encoder.parameters()).device
    inputs = {name: tensor.to(device) for name, tensor in view.items()}
    taps = [f"{modality}.embedding" for modality in encoder.modalities if f"{modality}.embedding" in encoder.taps()]
    times = []
    with in_eval_mode(encoder):
        for _ in range(_WARMUP + _RUNS):
            start = time.perf_counter()
            encoder(inputs, taps)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times[_WARMUP:])
