"""The student's own exponential moving average as its teacher."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from xmodal.adapters.encoder import Encoder, Features
from xmodal.adapters.identity import digest
from xmodal.adapters.registration import TEACHERS
from xmodal.errors import AdapterError
from xmodal.train.ema import make_average, update_average


class AverageTeacher(Encoder):
    """A copy of ``student`` whose weights follow the student's; taps and preprocessing are the student's.

    Mean teacher (Tarvainen & Valpola 2017, arXiv:1703.01780), BYOL and DINO learn from one. It is in eval mode, so that
    it has no dropout and no drop path, and its BatchNorms use the average of the student's statistics. In the first
    steps ``warmup`` keeps the decay at (1 + step) / (10 + step) or less, so that the first weights are soon forgotten.
    """

    def __init__(self, student: Encoder, decay: float = 0.999, warmup: bool = True) -> None:
        super().__init__()
        if not 0 <= decay < 1:
            raise AdapterError(f"The decay of teacher 'ema' is at least 0 and below 1; given {decay}.")
        self.average = make_average(student)
        self.decay, self.warmup = decay, warmup
        self.name = f"ema of {student.name}"
        self.modalities, self.preprocess = student.modalities, student.preprocess
        self.embed_dim = student.embed_dim
        self.spec = {"name": "ema", "decay": decay, "warmup": warmup}
        self.read_texts(student.other_texts)
        self.freeze()

    @property
    def model(self) -> nn.Module:  # type: ignore[override]
        """The average of the student's module."""
        return self.average.model

    def taps(self) -> tuple[str, ...]:
        return self.average.taps()

    def compute(self, inputs: Mapping[str, Tensor], taps: Sequence[str]) -> Features:
        return self.average.compute(inputs, taps)

    def identity(self) -> str:
        """Of what it is now: the next step makes another teacher of it."""
        return digest(kind="ema", student=self.average.identity())

    def follow(self, student: Encoder, step: int) -> None:
        """Take the student's weights in; ``step`` counts the steps that it has taken."""
        update_average(self.average, student, self.decay, step, warmup=self.warmup)


def without_averages(teachers: Mapping[str, Encoder]) -> dict[str, Encoder]:
    """The teachers in whose space a student can lie: an average of it says nothing of where it got to."""
    return {name: teacher for name, teacher in teachers.items() if not isinstance(teacher, AverageTeacher)}


@TEACHERS.register("ema")
def ema(decay: float = 0.999, warmup: bool = True) -> Encoder:
    """The student's own moving average: ``average ← decay · average + (1 − decay) · student`` after every step.

    ``warmup``: in the first steps the decay is at most (1 + step) / (10 + step). It exists in a run alone.
    """
    raise AdapterError(
        "Teacher 'ema' is the moving average of the student of a run, so it cannot be made, cached or evaluated apart "
        "from one. To learn from a student that is trained, take teacher 'trained' with its folder."
    )
