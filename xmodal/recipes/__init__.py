"""Recipes by name or from a file: load, change, check, list and copy."""

from __future__ import annotations

from xmodal.recipes.checking import check
from xmodal.recipes.loading import copy_recipe, list_recipes, load_recipe, recipe_text, stages

__all__ = ["check", "copy_recipe", "list_recipes", "load_recipe", "recipe_text", "stages"]
