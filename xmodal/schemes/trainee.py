"""Everything that is trained, as one module."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from xmodal.adapters.encoder import Encoder, Features
from xmodal.objective import Objective


class Trainee(nn.Module):
    """A student and its objective, so that DDP sees every parameter in one forward."""

    def __init__(self, student: Encoder, objective: Objective, precision: torch.dtype) -> None:
        super().__init__()
        self.student, self.objective, self.precision = student, objective, precision

    def forward(
        self, inputs: Mapping[str, Tensor], others: Mapping[str, Features], **options: Any
    ) -> dict[str, Tensor]:
        """The terms of the objective on one part of a batch; ``others`` are the teachers' features and the fields."""
        device = next(iter(inputs.values())).device.type
        with torch.autocast(device, self.precision, enabled=self.precision is not torch.float32):
            features = self.student(inputs, self.objective.taps().get("student", ()))
        values: dict[str, Tensor] = self.objective({"student": features, **others}, **options)
        return values
