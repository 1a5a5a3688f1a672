"""Text retrieval: texts found by another text of the same sample, and those by the texts."""

from __future__ import annotations

import torch

from xmodal.errors import EvaluationError
from xmodal.evaluate.bootstrap import Figures, PerSample
from xmodal.evaluate.metrics import RANKS
from xmodal.evaluate.ranking import first_hits_of_pairs, random_order
from xmodal.evaluate.space import Space
from xmodal.evaluate.split import Split


def text_retrieval(split: Split, space: Space) -> Figures:
    """Recall both ways between the distinct queries and the distinct texts, embedded by the student.

    A text is right for a query if a sample carries both.
    """
    pairs = [(query, text) for query, text in zip(split.queries, split.texts, strict=True) if query and text]
    if not pairs:
        raise EvaluationError(
            f"No sample of split {split.name!r} has both a text and a query ({split.query!r}). text-retrieval asks for "
            "one text by another of the same sample: say which, such as query='json.name' (evaluate.query in a recipe, "
            "--query)."
        )
    side = space.student_side("text")
    queries, texts = (list(dict.fromkeys(column)) for column in zip(*pairs, strict=True))
    of_query, of_text = ({text: number for number, text in enumerate(column)} for column in (queries, texts))
    right = torch.tensor(sorted({(of_query[query], of_text[text]) for query, text in pairs}))
    asked, found = split.embed_texts(side, queries), split.embed_texts(side, texts)
    by_query = first_hits_of_pairs(asked, found, right)
    by_text = first_hits_of_pairs(found, asked, right.flip(1))
    return {
        **{f"query_to_text_recall@{k}": PerSample(by_query.within(k)) for k in RANKS},
        **{f"text_to_query_recall@{k}": PerSample(by_text.within(k)) for k in RANKS},
        "chance_query_recall@10": random_order(right[:, 0].bincount(), len(texts)).recall(10),
        "num_queries": len(queries),
        "num_query_texts": len(texts),
    }
