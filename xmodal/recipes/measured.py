"""Figures of the named recipes, as ``make results`` measured them."""

from __future__ import annotations

import json
from importlib import resources

Figures = dict[str, dict[str, dict[str, float]]]
"""split → metric → ``mean``, ``std``, ``runs``."""


def measured_figures(name: str) -> Figures:
    """The figures of the recipe ``name``; empty where it was never measured."""
    text = resources.files("xmodal.recipes").joinpath("results.json").read_text(encoding="utf-8")
    figures: Figures = json.loads(text).get(name, {}).get("metrics", {})
    return figures
