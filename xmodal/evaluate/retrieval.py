"""Retrieval: pictures found by a text, and texts found by a picture."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from xmodal.evaluate.metrics import RANKS
from xmodal.evaluate.ranking import first_hits, random_order, top
from xmodal.evaluate.space import Space
from xmodal.evaluate.split import Split, need_one_width


def retrieval(split: Split, space: Space) -> dict[str, float]:
    """Recall both ways. A picture is right for a text that it carries; pictures without a text are left out."""
    texts, images = _both(split, space)
    of_image, of_text = split.text_numbers, torch.arange(len(texts))
    by_text = first_hits(texts, images, of_text, of_image)
    by_image = first_hits(images, texts, of_image, of_text)
    return {
        **{f"text_to_image_recall@{k}": by_text.recall(k) for k in RANKS},
        **{f"image_to_text_recall@{k}": by_image.recall(k) for k in RANKS},
        "chance_recall@10": random_order(of_image.bincount(), len(images)).recall(10),
        "num_images": len(images),
        "num_texts": len(texts),
    }


def gallery(split: Split, space: Space, *, count: int, seed: int, hits: int = 6) -> list[dict[str, Any]]:
    """The pictures found by ``count`` of the split's texts, which ``seed`` picks: rows for a report.

    A row: ``{"split", "query", "hits": [{"key", "text", "score", "correct"}]}``, best hit first.
    """
    from xmodal.data.hashing import stable_hash

    texts, images = _both(split, space)
    order = sorted(range(len(texts)), key=lambda index: stable_hash(seed, "gallery", split.distinct_texts[index]))[
        :count
    ]
    scores, found = top(texts[order], images, hits)
    rows = []
    for query, row_scores, row_found in zip(order, scores.tolist(), split.with_text[found].tolist(), strict=True):
        text = split.distinct_texts[query]
        rows.append(
            {
                "split": split.name,
                "query": text,
                "hits": [
                    {
                        "key": split.keys[index],
                        "text": split.texts[index],
                        "score": score,
                        "correct": split.texts[index] == text,
                    }
                    for score, index in zip(row_scores, row_found, strict=True)
                ],
            }
        )
    return rows


def _both(split: Split, space: Space) -> tuple[Tensor, Tensor]:
    text_side, image_side = space.side("text"), space.side("image")
    texts, images = split.distinct(text_side), split.samples_with_text(image_side)
    need_one_width(images, texts, image_side, text_side)
    return texts, images
