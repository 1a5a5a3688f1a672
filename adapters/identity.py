"""Short names for what a model computes: the same weights and preprocessing give the same name."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def reading_identity(encoder: Any) -> str:
    """A short name for how a model reads: the kinds of its preprocessing, and the tokens that it cuts texts into."""
    parts = getattr(encoder.preprocess, "parts", (encoder.preprocess,))
    tokens = [part.tokenizer_state() for part in parts if hasattr(part, "tokenizer_state")]
    return digest(kinds=[type(part).__name__ for part in parts], tokens=tokens)


def digest(**parts: Any) -> str:
    """Sixteen hexadecimal digits over the JSON of ``parts``.

    >>> digest(weights="abc", size=96) == digest(size=96, weights="abc"), len(digest())
    (True, 16)
    """
    text = json.dumps(parts, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
