"""The contract between a way of learning and the loop that runs it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor

from xmodal.adapters.encoder import Encoder
from xmodal.registry import Registry
from xmodal.train.batches import Batch

SCHEMES: Registry[type[Scheme]] = Registry("scheme")


@dataclass(frozen=True)
class Progress:
    """Where in its stage a step stands: it is number ``step``, from 0, of ``num_steps``.

    >>> [Progress(step, 5).share for step in (0, 1, 4)]
    [0.0, 0.25, 1.0]
    """

    step: int = 0
    num_steps: int = 1
    learning_rate_factor: float = 1.0
    """What multiplies the peak learning rate here."""

    @property
    def share(self) -> float:
        """How much of the stage is done: 0 at its first step, 1 at its last. Schedules follow it."""
        return self.step / max(1, self.num_steps - 1)


@dataclass(frozen=True)
class StepResult:
    """What one step did. Tensors are detached and stay on the device, so that reading them can wait."""

    loss: Tensor
    terms: dict[str, Tensor]
    grad_norm: Tensor
    skipped: tuple[str, ...] = ()
    """What was not finite (terms, or ``gradient``), where the step was therefore not taken."""
    scheduled: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Term → the weight and options that change during the run, as they were."""
    term_gradients: Mapping[str, Any] = field(default_factory=dict)
    """Norms of the terms' own gradients and cosines between them, at steps that look at them."""


class Scheme(ABC):
    """Owns what is trained and its optimizers. The loop calls :meth:`step` and saves :meth:`state_dict`.

    Constructors take ``(student, teachers, objective, settings, world)`` and then their own options.
    """

    keeps_averages: ClassVar[bool] = False
    """Whether teachers ``ema`` follow the student after every step, and are in the state."""

    def prepare(self, batches: Iterable[Batch]) -> None:  # noqa: B027 - most have nothing to measure
        """Measure what has to be known of the data before the first step; ``batches`` are the stream's, from its start,
        and made only as they are asked for. Not called where a run is resumed: what was measured is in the state.
        """

    @abstractmethod
    def step(self, batch: Batch, progress: Progress) -> StepResult:
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
