"""Measuring a student: retrieval, zero-shot, neighbours, linear probe, agreement with the teacher, mixed index."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from xmodal.evaluate.metrics import METRICS, METRICS_OF, TASKS

if TYPE_CHECKING:
    from xmodal.evaluate.embedding import Embedded, embed, embed_texts
    from xmodal.evaluate.evaluation import Evaluation, evaluate

__all__ = ["METRICS", "METRICS_OF", "TASKS", "Embedded", "Evaluation", "embed", "embed_texts", "evaluate"]

_HOMES = {
    "Embedded": "embedding",
    "embed": "embedding",
    "embed_texts": "embedding",
    "Evaluation": "evaluation",
    "evaluate": "evaluation",
}


def __getattr__(name: str) -> Any:  # torch is imported only when something is measured
    if name in _HOMES:
        return getattr(import_module(f"xmodal.evaluate.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
