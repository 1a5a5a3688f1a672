"""Tensors to a safetensors file: the same tensors give the same bytes."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn


def write_tensors(module: nn.Module, path: Path) -> None:
    """Write a module's state dict."""
    # Copies: safetensors refuses tensors that share storage or are not contiguous.
    tensors = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in module.state_dict().items()
    }
    save_file(tensors, path, metadata={"format": "pt"})
