"""Which model embeds what: a student, and beside it the teacher in whose space it places things."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from xmodal.adapters.encoder import Encoder
from xmodal.adapters.teachers.cached import real
from xmodal.errors import EvaluationError
from xmodal.recipes.cached import without_cache
from xmodal.recipes.models import GIVEN


@dataclass(frozen=True)
class Side:
    """One model's way to embed one modality."""

    encoder: Encoder
    modality: str
    tap: str

    def __str__(self) -> str:
        return f"{self.tap} of {self.encoder.name}"


@dataclass
class Space:
    """A student and, once something needs it, the teacher whose space it shares."""

    student: Encoder
    teachers: Mapping[str, Encoder] = field(default_factory=dict)
    _teacher: Encoder | None = None
    _met: list[Any] = field(default_factory=list)
    _beyond: Space | None = None

    def side(self, modality: str) -> Side:
        """Who embeds ``modality``: the student where it can, else the teacher of its space.

        Raises :class:`EvaluationError` where neither does.
        """
        if modality in self.student.modalities:
            return Side(self.student, modality, f"{modality}.embedding")
        return self.teacher_side(modality)

    def has(self, modality: str) -> bool:
        """Whether the student or the teacher of its space embeds ``modality``."""
        try:
            self.side(modality)
        except EvaluationError:
            return False
        return True

    def student_side(self, modality: str) -> Side:
        return Side(self.student, modality, f"{modality}.embedding")

    def teacher_side(self, modality: str) -> Side:
        """The teacher's embedding of ``modality``: by the tap that the student learned from, where that is one of it.

        Raises :class:`EvaluationError` where there is no teacher or it does not have the modality.
        """
        teacher = self.teacher(needed_for=modality)
        if modality not in teacher.modalities and teacher.metadata.get("space"):
            if self._beyond is None:  # a trained teacher lies in the space of a teacher of its own
                spec = teacher.metadata["space"]["teacher"]
                if spec == without_cache(teacher.spec) or spec in self._met:
                    raise EvaluationError(f"{teacher.name} records itself as its own teacher: its folder was replaced.")
                self._beyond = Space(teacher, _met=[*self._met, spec])
            return self._beyond.teacher_side(modality)
        if modality not in teacher.modalities:
            raise EvaluationError(
                f"Neither {self.student.name} ({', '.join(self.student.modalities)}) nor {teacher.name} "
                f"({', '.join(teacher.modalities)}) embeds {modality}, which this task needs."
            )
        recorded = self._recorded()
        tap = str(recorded["tap"]) if recorded else ""
        return Side(teacher, modality, tap if tap.split(".")[0] == modality else f"{modality}.embedding")

    def teacher(self, needed_for: str = "the teacher's side") -> Encoder:
        """The teacher of the student's space: one that was passed in, or made from what the student records."""
        if self._teacher is None:
            self._teacher = real(self._find_teacher(needed_for))  # a cache knows the training samples alone
        return self._teacher

    def _find_teacher(self, needed_for: str) -> Encoder:
        recorded = self._recorded()
        for teacher in self.teachers.values():
            if recorded and without_cache(teacher.spec) == recorded["teacher"]:
                return teacher
        candidates = list(self.teachers.values())
        if len(candidates) > 1:  # of several, the one whose space can be the student's
            candidates = [teacher for teacher in candidates if teacher.embed_dim == self.student.embed_dim]
        if len(candidates) == 1:
            return candidates[0]
        if self.teachers:
            raise EvaluationError(
                f"{len(self.teachers)} teachers were given ({', '.join(self.teachers)}) and it is not clear in whose "
                f"space {self.student.name} lies. Pass that one alone: teachers={{name: encoder}}."
            )
        if not recorded:
            raise EvaluationError(
                f"{self.student.name} embeds {', '.join(self.student.modalities)} and records no teacher whose space "
                f"it shares, so nothing embeds {needed_for}. Pass one: teachers={{'teacher': create_teacher(...)}}."
            )
        from xmodal.adapters import create_teacher

        options = dict(recorded["teacher"])
        if options["name"] == GIVEN:
            raise EvaluationError(
                f"The teacher of {self.student.name} was an object handed over in Python, so nothing can make it again "
                f"to embed {needed_for}. Pass it: evaluate(..., teachers={{'teacher': encoder}})."
            )
        teacher = create_teacher(options.pop("name"), **options)
        return teacher.to(next(self.student.parameters()).device)

    def _recorded(self) -> Mapping[str, Any] | None:
        return self.student.metadata.get("space")


def open_space(student: Encoder | str | Path, teachers: Mapping[str, Encoder] | None = None) -> Space:
    """The space of a student, or of one in a student or run folder (loaded onto a CUDA device where there is one)."""
    if isinstance(student, (str, Path)):
        from xmodal.export.native import load_student

        loaded = load_student(student)
        student = loaded.to("cuda") if torch.cuda.is_available() else loaded
    return Space(student, dict(teachers or {}))
