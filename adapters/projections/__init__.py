"""Modality adapters: maps from one model's space into another's. They live in the objective, and in its checkpoint.

``pointwise`` maps vectors one by one, ``places`` whole maps and sequences of tokens, ``ladder`` several layers at once;
these are trained. ``measured`` and ``fixed`` ones are not: what a teacher says goes through them.
"""

from __future__ import annotations

from xmodal.adapters.projections import fixed, ladder, measured, places, pointwise
from xmodal.adapters.projections.registration import PROJECTIONS, Fixed, Projection, Sizes, make_projection

__all__ = [
    "PROJECTIONS",
    "Fixed",
    "Projection",
    "Sizes",
    "fixed",
    "ladder",
    "make_projection",
    "measured",
    "places",
    "pointwise",
]
