"""A term taken apart: its loss, the taps of every argument, its numbers, and what it needs beside the loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from xmodal.losses import Input, Loss
from xmodal.objective.options import Learned
from xmodal.objective.references import Reference, Side, Taps, each
from xmodal.objective.schedules import value_at
from xmodal.term import Schedule, Standardize

Tensors = list[tuple[Input, int | str | None, Reference]]
"""Each tensor that a loss gets: the input, its place in a sequence or mapping, and the tap."""


@dataclass(frozen=True)
class CheckedTerm:
    """A term taken apart. ``sound``: nothing was wrong with it; ``wired``: its inputs and projection are known.

    ``references`` are all taps of its inputs, ``inputs`` the same for each input of the loss, in the loss's own order;
    the latter is empty where it is not wired. ``rungs`` are further taps that the projection is fed by.
    """

    path: str
    label: str
    weight: float | Schedule
    loss: Loss | None
    references: tuple[Reference, ...]
    mask_references: tuple[Reference, ...]
    inputs: tuple[Taps, ...] = ()
    masks: Mapping[str, Taps] = field(default_factory=dict)
    side: Side = "student"
    projection: str | None = None
    projection_options: Mapping[str, Any] = field(default_factory=dict)
    rungs: tuple[Reference, ...] = ()
    learning_rate_factor: float = 1.0
    standardize: Standardize | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    scheduled: Mapping[str, Schedule] = field(default_factory=dict)
    learned: Mapping[str, Learned] = field(default_factory=dict)
    bank: int | None = None
    wired: bool = True
    sound: bool = True

    @property
    def all_references(self) -> tuple[Reference, ...]:
        return (*self.references, *self.rungs, *self.mask_references)

    @property
    def tensors(self) -> Tensors:
        given = zip(self.loss.inputs, self.inputs, strict=True) if self.loss is not None else ()
        return [(entry, place, reference) for entry, taps in given for place, reference in each(taps)]

    @property
    def standardised(self) -> Tensors:
        """The teachers' features among its inputs, where these are to be standardised."""
        if self.standardize is None:
            return []
        return [found for found in self.tensors if found[2].is_teachers and found[0].dtype == "float"]

    @property
    def bank_input(self) -> str:
        """The input whose rows a memory bank remembers: the teacher's first."""
        return next(given.name for given in self._inputs if given.detached and given.dtype == "float")

    @property
    def fusions(self) -> tuple[str, ...]:
        """The trained fusions that its loss asks for."""
        return fusions_of(self.loss) if self.loss is not None else ()

    @property
    def needs_widths(self) -> bool:
        """Whether only real features can tell the sizes of what it trains or keeps."""
        return bool(self.projection or self.standardize or self.bank or self.fusions)

    def scheduled_at(self, progress: float) -> dict[str, float]:
        """What changes during the run, ``weight`` among it, as it is at ``progress``."""
        changing = {name: value_at(schedule, progress) for name, schedule in self.scheduled.items()}
        return {"weight": self.weight_at(progress), **changing} if isinstance(self.weight, Schedule) else changing

    def weight_at(self, progress: float) -> float:
        return value_at(self.weight, progress)

    @property
    def _inputs(self) -> Sequence[Input]:
        return self.loss.inputs if self.loss is not None else ()


def fusions_of(loss: Loss) -> tuple[str, ...]:
    """The trained maps of a student's and a teacher's row that a loss asks for: ``image_fusion`` of ``student_image``
    and ``teacher_image``.
    """
    names = {given.name for given in loss.inputs}
    modalities = [name.removesuffix("_fusion") for name in loss.state if name.endswith("_fusion")]
    return tuple(f"{name}_fusion" for name in modalities if {f"student_{name}", f"teacher_{name}"} <= names)
