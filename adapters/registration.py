"""Teachers and students by name: the registries, and the two functions that make one."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from xmodal.adapters.encoder import Encoder
from xmodal.errors import AdapterError, hint
from xmodal.registry import Registry

TEACHERS: Registry[Callable[..., Encoder]] = Registry("teacher", home="xmodal.adapters.teachers")
STUDENTS: Registry[Callable[..., Encoder]] = Registry("student", home="xmodal.adapters.students")


def create_teacher(name: str, **options: Any) -> Encoder:
    """The teacher registered as ``name``, frozen and in eval mode; ``options`` are its function's own.

    Raises :class:`~xmodal.errors.AdapterError` for an option it does not take and for weights that cannot be had.
    """
    encoder = _create("teacher", name, TEACHERS[name], options)
    return encoder.freeze()


def create_student(name: str, **options: Any) -> Encoder:
    """The student registered as ``name``, in train mode; ``options`` are its function's own.

    Random weights are drawn from torch's global generator: seed it first.
    Raises :class:`~xmodal.errors.AdapterError` for an option it does not take and for weights that cannot be had.
    """
    return _create("student", name, STUDENTS[name], options).train()


def _create(kind: str, name: str, make: Callable[..., Encoder], options: Mapping[str, Any]) -> Encoder:
    problems = option_problems(f"{kind} {name!r}", make, options)
    if problems:
        raise AdapterError("\n".join(problems.values()))
    encoder = make(**options)
    encoder.spec, encoder.made_as = {"name": name, **options}, kind
    return encoder


def check_sizes(owner: str, **sizes: int | None) -> None:
    """Raises :class:`~xmodal.errors.AdapterError` for a size that is given and is not at least 1.

    >>> check_sizes("student", width=64, embed_dim=None)
    """
    wrong = [
        f"{owner}.{name} must be at least 1; given {size}."
        for name, size in sizes.items()
        if size is not None and size < 1
    ]
    if wrong:
        raise AdapterError("\n".join(wrong))


def option_problems(owner: str, make: Callable[..., Any], options: Mapping[str, Any]) -> dict[str, str]:
    """Option → what is wrong with it: one that ``make`` does not take, or one that it needs and is not given.

    >>> def make(model, size=1): ...
    >>> option_problems("student 'image'", make, {"modle": "resnet18"})
    {'modle': "student 'image' has no option 'modle'. Nearest: model",
     'model': "student 'image' needs the option model."}
    """
    parameters = inspect.signature(make).parameters
    problems = {
        option: f"{owner} has no option {option!r}. {hint(option, parameters)}"
        for option in options
        if option not in parameters
    }
    for option, parameter in parameters.items():
        if parameter.default is inspect.Parameter.empty and option not in options:
            problems[option] = f"{owner} needs the option {option}."
    return problems
