"""Retrieval: pictures found by a text, and texts found by a picture."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from xmodal.evaluate.bootstrap import Figures, PerSample, per_group
from xmodal.evaluate.metrics import RANKS
from xmodal.evaluate.ranking import first_hits, random_order, top
from xmodal.evaluate.space import Space
from xmodal.evaluate.split import Split, need_one_width


def retrieval(split: Split, space: Space) -> Figures:
    """Recall both ways. A picture is right for a text that it carries; pictures without a text are left out.

    Where the split has all captions of a picture, each of them is a text of its own, and right for its own picture
    only: as is usual for COCO and Flickr30k. A picture has found its text when it has found any of its captions.
    """
    texts, images, of_text, of_image = _both(split, space)
    by_text = first_hits(texts, images, of_text, of_image)
    by_image = first_hits(images, texts, of_image, of_text)
    right = of_image.bincount(minlength=int(of_text.max()) + 1)[of_text]  # pictures that a text is right for
    return {
        **{f"text_to_image_recall@{k}": per_group(by_text.within(k), of_text) for k in RANKS},
        **{f"image_to_text_recall@{k}": PerSample(by_image.within(k)) for k in RANKS},
        "chance_recall@10": random_order(right, len(images)).recall(10),
        "num_images": len(images),
        "num_texts": len(texts),
    }


def gallery(split: Split, space: Space, *, count: int, seed: int, hits: int = 6) -> list[dict[str, Any]]:
    """The pictures found by ``count`` of the split's texts, which ``seed`` picks: rows for a report.

    A row: ``{"split", "query", "hits": [{"key", "text", "score", "correct"}]}``, best hit first.
    """
    from xmodal.data.hashing import stable_hash

    texts, images, of_text, of_image = _both(split, space)
    words = _texts(split)
    order = sorted(range(len(texts)), key=lambda index: stable_hash(seed, "gallery", words[index]))[:count]
    scores, found = top(texts[order], images, hits)
    rows = []
    right = of_image[found] == of_text[order][:, None]
    hits_of = zip(order, scores.tolist(), split.with_text[found].tolist(), right.tolist(), strict=True)
    for query, row_scores, row_found, row_right in hits_of:
        rows.append(
            {
                "split": split.name,
                "query": words[query],
                "hits": [
                    {
                        "key": split.keys[index],
                        "text": split.texts[index],
                        "score": score,
                        "correct": correct,
                    }
                    for score, index, correct in zip(row_scores, row_found, row_right, strict=True)
                ],
            }
        )
    return rows


def _texts(split: Split) -> list[str]:
    """The texts that are asked for, and from which a picture's is to be found."""
    if not split.all_captions:
        return split.need_texts()
    split.need_texts()
    return [caption for captions in split.captions for caption in captions]


def _both(split: Split, space: Space) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Embeddings of texts and of pictures, and the group of each: a text and a picture of one group belong together."""
    text_side, image_side = space.side("text"), space.side("image")
    texts, images = split.embed_texts(text_side, _texts(split)), split.samples_with_text(image_side)
    need_one_width(images, texts, image_side, text_side)
    if not split.all_captions:
        return texts, images, torch.arange(len(texts)), split.text_numbers
    sizes = torch.tensor([len(captions) for captions in split.captions if captions])
    pictures = torch.arange(len(images))
    return texts, images, pictures.repeat_interleave(sizes), pictures
