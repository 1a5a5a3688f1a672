"""Recipes that are small, whole and need no file but the emoji shards."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from xmodal.errors import Mistake, RecipeError
from xmodal.recipes import check, load_recipe

SMALL: dict[str, Any] = {
    "teacher": {"name": "sentence", "model": "sentence-transformers/all-MiniLM-L6-v2"},
    "student": {"name": "image", "model": "test_resnet", "weights": "random"},
    "data": {"train": "package://emoji/train-*.tar"},
    "objective": [{"loss": "feature_cosine", "student": "image.embedding", "teacher": "text.embedding"}],
    "train": {"epochs": 2, "batch_size": 64},
}


@pytest.fixture
def small() -> dict[str, Any]:
    """A recipe as a mapping, to be changed and loaded."""
    return {key: value.copy() for key, value in SMALL.items()}


@pytest.fixture
def mistakes_in() -> Callable[..., list[Mistake]]:
    """All that loading and checking find wrong with a recipe."""

    def find(source: Any, *overrides: str) -> list[Mistake]:
        try:
            return check(load_recipe(source, overrides))
        except RecipeError as error:
            return list(error.mistakes)

    return find
