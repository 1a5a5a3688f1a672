"""The contract between a way of learning and the loop that runs it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from xmodal.adapters.encoder import Encoder
from xmodal.registry import Registry
from xmodal.train.batches import Batch

SCHEMES: Registry[type[Scheme]] = Registry("scheme")


@dataclass(frozen=True)
class StepResult:
    """What one step did. Tensors are detached and stay on the device, so that reading them can wait."""

    loss: Tensor
    terms: dict[str, Tensor]
    grad_norm: Tensor
    skipped: tuple[str, ...] = ()
    """What was not finite (terms, or ``gradient``), where the step was therefore not taken."""


class Scheme(ABC):
    """Owns what is trained and its optimizers. The loop calls :meth:`step` and saves :meth:`state_dict`.

    Constructors take ``(student, teachers, objective, settings, world)`` and then their own options.
    """

    @abstractmethod
    def step(self, batch: Batch, learning_rate_factor: float) -> StepResult:
        """Learn from one (global, or this rank's part of a) batch."""

    @property
    @abstractmethod
    def students(self) -> Mapping[str, Encoder]:
        """What is evaluated and exported, by name; the main one first."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Nested mappings and lists of tensors, numbers and strings: everything that a resumed run needs."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue as if never interrupted."""
