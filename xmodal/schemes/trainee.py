"""Everything that is trained, as one module."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from xmodal.adapters.encoder import Encoder, Features
from xmodal.adapters.projections import Fixed
from xmodal.losses.state import MemoryBank
from xmodal.objective import Objective
from xmodal.schemes.presence import Present, features_of


class Trainee(nn.Module):
    """A student and its objective, so that DDP sees every parameter in one forward."""

    def __init__(self, student: Encoder, objective: Objective, precision: torch.dtype) -> None:
        super().__init__()
        self.student, self.objective, self.precision = student, objective, precision

    def forward(
        self, inputs: Mapping[str, Tensor], others: Mapping[str, Features], fields: Present, **options: Any
    ) -> dict[str, Tensor]:
        """The terms of the objective on one part of a batch; ``others`` are the teachers' features and the fields.

        ``fields`` says which rows have a field, where some have not.
        """
        device = next(self.parameters()).device.type
        with torch.autocast(device, self.precision, enabled=self.precision is not torch.float32):
            features = features_of(self.student, inputs, self.objective.taps().get("student", ()), fields)
        values: dict[str, Tensor] = self.objective({"student": features, **others}, **options)
        return values

    def statistics(self) -> list[Tensor]:
        """Buffers that a forward pass may change. Memory banks take their rows at a step's end only, and what does not
        learn has none; both are large.
        """
        keepers = [module for module in self.modules() if not isinstance(module, (MemoryBank, Fixed))]
        return [buffer for module in keepers for buffer in module.buffers(recurse=False)]
