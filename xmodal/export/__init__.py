"""Students as ordinary checkpoints: timm, open_clip and sentence-transformers folders, with a model card."""

from __future__ import annotations

from xmodal.export.card import model_card, write_card
from xmodal.export.native import load_student, save_student

__all__ = ["load_student", "model_card", "save_student", "write_card"]
