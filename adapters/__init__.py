"""Where foreign models are met: teachers and students behind one protocol, :class:`Encoder`."""

from __future__ import annotations

from xmodal.adapters.encoder import Encoder, Features, Preprocess, Sample
from xmodal.adapters.module_encoder import wrap_module
from xmodal.adapters.registration import STUDENTS, TEACHERS, create_student, create_teacher

__all__ = [
    "STUDENTS",
    "TEACHERS",
    "Encoder",
    "Features",
    "Preprocess",
    "Sample",
    "create_student",
    "create_teacher",
    "wrap_module",
]
