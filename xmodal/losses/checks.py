"""What arguments have to be, whatever the formula. Only shapes and plain numbers: values would wait for the device."""

from __future__ import annotations

from typing import Annotated

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor

from xmodal.errors import LossError

# Ranges of options, for signatures: a recipe's numbers are checked against them before anything is loaded. The function
# itself calls the check that belongs to the range, for those who use it without a recipe.
Positive = Annotated[float, Gt(0)]
NotNegative = Annotated[float, Ge(0)]
Fraction = Annotated[float, Ge(0), Le(1)]
PositiveInt = Annotated[int, Ge(1)]
NotNegativeInt = Annotated[int, Ge(0)]


def check_same_shape(student: Tensor, teacher: Tensor) -> None:
    """Refuse what broadcasting would silently accept."""
    if student.shape != teacher.shape:
        raise LossError(
            f"student and teacher must have one shape; given {list(student.shape)} and {list(teacher.shape)}"
        )


def check_positive(name: str, value: object) -> None:
    """Refuse an option that is not above zero. Tensors are taken as they are: looking would wait for the device."""
    if isinstance(value, (int, float)) and not 0 < value < float("inf"):
        raise LossError(f"{name} must be a number above 0; given {value!r}")


def check_count(name: str, value: object, least: int = 1) -> None:
    """Refuse an option that is no whole number of at least ``least``."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise LossError(f"{name} must be a whole number of at least {least}; given {value!r}")


def check_fraction(name: str, value: object) -> None:
    """Refuse an option that is not from 0 to 1."""
    if not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise LossError(f"{name} must be a number from 0 to 1; given {value!r}")


def check_indices(name: str, indices: Tensor, shape: tuple[int, ...]) -> None:
    """Refuse what does not index. Values are taken as they are: looking would wait for the device."""
    is_integer = not (indices.is_floating_point() or indices.is_complex() or indices.dtype == torch.bool)
    if not is_integer or tuple(indices.shape) != tuple(shape):
        raise LossError(f"{name} must be integers {list(shape)}; given {indices.dtype} {list(indices.shape)}")


def check_not_negative(name: str, value: object) -> None:
    """Refuse an option that is no finite number of at least 0."""
    if not isinstance(value, (int, float)) or not 0 <= value < float("inf"):
        raise LossError(f"{name} must be a number of at least 0; given {value!r}")


def check_rows(student: Tensor, teacher: Tensor) -> None:
    """Refuse what is not one row a sample, or no sample at all."""
    if not student.ndim == teacher.ndim == 2 or len(student) != len(teacher) or 0 in (*student.shape, *teacher.shape):
        raise LossError(
            "student and teacher must be [B, D] both, one row a sample; "
            f"given {list(student.shape)} and {list(teacher.shape)}"
        )
