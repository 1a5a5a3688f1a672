"""Multimodal and cross-modal knowledge distillation: a big model in, an ordinary small checkpoint out.

The names below are the public face; each is imported when it is first used, so that ``import xmodal`` is cheap.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xmodal.adapters import create_student, create_teacher
    from xmodal.distillation import Run, distill
    from xmodal.export import load_student, save_student
    from xmodal.objective import Objective
    from xmodal.recipe import Recipe, Term
    from xmodal.recipes import load_recipe

__version__ = "0.1.0"

_HOMES = {
    "Objective": "xmodal.objective",
    "Recipe": "xmodal.recipe",
    "Run": "xmodal.distillation",
    "Term": "xmodal.recipe",
    "create_student": "xmodal.adapters",
    "create_teacher": "xmodal.adapters",
    "distill": "xmodal.distillation",
    "load_recipe": "xmodal.recipes",
    "load_student": "xmodal.export",
    "save_student": "xmodal.export",
}

__all__ = [
    "Objective",
    "Recipe",
    "Run",
    "Term",
    "create_student",
    "create_teacher",
    "distill",
    "load_recipe",
    "load_student",
    "save_student",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'xmodal' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
