"""Text retrieval: texts found by another text of the same sample, and those by the texts."""

from __future__ import annotations

import torch
from torch import Tensor

from xmodal.errors import EvaluationError
from xmodal.evaluate.bootstrap import Figures, PerSample
from xmodal.evaluate.metrics import RANKS
from xmodal.evaluate.ranking import first_hits, random_order
from xmodal.evaluate.space import Space
from xmodal.evaluate.split import Split


def text_retrieval(split: Split, space: Space) -> Figures:
    """Recall both ways over the samples that have a text and a query, all embedded by one side.

    Each distinct query is asked once; a sample is right for it if it carries that very query. The other way round
    alike.
    """
    pairs = [(query, text) for query, text in zip(split.queries, split.texts, strict=True) if query and text]
    if not pairs:
        raise EvaluationError(
            f"No sample of split {split.name!r} has both a text and a query. text-retrieval asks for one text by "
            "another of the same sample: say which, such as query='json.name' (evaluate.query in a recipe, --query)."
        )
    side = space.side("text")
    queries, texts = (split.embed_texts(side, list(column)) for column in zip(*pairs, strict=True))
    of_query, of_text = (_numbered(column) for column in zip(*pairs, strict=True))
    by_query = first_hits(queries[_firsts(of_query)], texts, torch.arange(int(of_query.max()) + 1), of_query)
    by_text = first_hits(texts[_firsts(of_text)], queries, torch.arange(int(of_text.max()) + 1), of_text)
    return {
        **{f"query_to_text_recall@{k}": PerSample(by_query.within(k)) for k in RANKS},
        **{f"text_to_query_recall@{k}": PerSample(by_text.within(k)) for k in RANKS},
        "chance_query_recall@10": random_order(of_query.bincount(), len(pairs)).recall(10),
        "num_queries": int(of_query.max()) + 1,
        "num_pairs": len(pairs),
    }


def _numbered(texts: tuple[str, ...]) -> Tensor:
    """Of each text the number of its first occurrence among the distinct ones."""
    numbers = {text: number for number, text in enumerate(dict.fromkeys(texts))}
    return torch.tensor([numbers[text] for text in texts])


def _firsts(numbers: Tensor) -> list[int]:
    """Where each number occurs first, in the order of the numbers."""
    places = {number: place for place, number in reversed(list(enumerate(numbers.tolist())))}
    return [places[number] for number in range(len(places))]
