"""Short names for what a model computes: the same weights and preprocessing give the same name."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def digest(**parts: Any) -> str:
    """Sixteen hexadecimal digits over the JSON of ``parts``.

    >>> digest(weights="abc", size=96) == digest(size=96, weights="abc"), len(digest())
    (True, 16)
    """
    text = json.dumps(parts, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
