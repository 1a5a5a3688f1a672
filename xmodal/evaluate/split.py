"""One split of the data while it is evaluated: every model embeds it at most once, however many tasks ask."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from xmodal.errors import EvaluationError
from xmodal.evaluate.embedding import Embedded, embed, embed_texts
from xmodal.evaluate.space import Side
from xmodal.recipe import Shards

if TYPE_CHECKING:
    from xmodal.data.shards import ShardSet


@dataclass
class TextEmbeddings:
    """Embeddings of texts, each made once for a side."""

    batch_size: int
    _rows: dict[tuple[int, str], dict[str, Tensor]] = field(default_factory=dict)

    def __call__(self, side: Side, texts: list[str]) -> Tensor:
        rows = self._rows.setdefault((id(side.encoder), side.tap), {})
        missing = [text for text in dict.fromkeys(texts) if text not in rows]
        if missing:
            made = embed_texts(side.encoder, missing, batch_size=self.batch_size, tap=side.tap)
            rows.update(zip(missing, made.unbind(), strict=True))
        return torch.stack([rows[text] for text in texts])


class Split:
    """The samples of one split and their embeddings.

    ``main`` is the side whose modality every sample must have: pictures, where any model sees pictures. With
    ``all_captions`` a sample has every line of its text, or every entry of its list in JSON, as ``captions``; its text,
    which is all that other tasks than retrieval see, is then the first of them.
    """

    def __init__(
        self,
        name: str,
        shards: Shards | ShardSet,
        main: Side,
        *,
        texts: TextEmbeddings,
        batch_size: int,
        num_workers: int,
        text: str,
        label: str = "cls",
        query: str | None = None,
        all_captions: bool = False,
    ) -> None:
        self.name, self.shards, self._embed_texts, self.query = name, shards, texts, query
        self._reading = {
            "batch_size": batch_size,
            "num_workers": num_workers,
            "text": text,
            "label": label,
            "query": query,
            "all_captions": all_captions,
        }
        self.all_captions = all_captions
        self._samples: dict[tuple[int, str], Tensor] = {}
        table = self._read(main)
        self.keys, self.texts, self.labels, self.num_bad = table.keys, table.texts, table.labels, table.bad
        self.captions, self.queries = table.captions, table.queries
        self.distinct_texts = sorted({text for text in self.texts if text is not None})
        number = {text: index for index, text in enumerate(self.distinct_texts)}
        self.with_text = torch.tensor(
            [index for index, text in enumerate(self.texts) if text is not None], dtype=torch.long
        )
        self.text_numbers = torch.tensor([number[text] for text in self.texts if text is not None], dtype=torch.long)
        """Of each sample in ``with_text``: the place of its text in ``distinct_texts``."""

    def _read(self, side: Side) -> Embedded:
        table = embed(side.encoder, self.shards, modality=side.modality, tap=side.tap, **self._reading)  # type: ignore[arg-type]
        self._samples[id(side.encoder), side.tap] = table.embeddings
        return table

    def samples(self, side: Side) -> Tensor:
        """``[N, D]``: every sample by ``side``, in the order of ``keys``."""
        if (id(side.encoder), side.tap) not in self._samples and self._read(side).keys != self.keys:
            raise EvaluationError(f"Split {self.name!r} was read twice and changed in between; evaluate again.")
        return self._samples[id(side.encoder), side.tap]

    def samples_with_text(self, side: Side) -> Tensor:
        """``[len(with_text), D]``: the samples that have a text; a text side embeds that text."""
        if side.modality == "text":
            return self.distinct(side)[self.text_numbers]
        return self.samples(side)[self.with_text]

    def distinct(self, side: Side) -> Tensor:
        """``[len(distinct_texts), D]``: the distinct texts by ``side``."""
        return self.embed_texts(side, self.need_texts())

    def embed_texts(self, side: Side, texts: list[str]) -> Tensor:
        return self._embed_texts(side, texts)

    def need_texts(self) -> list[str]:
        if not self.distinct_texts:
            raise EvaluationError(
                f"No sample of split {self.name!r} has a text in its member {self._reading['text']!r}. "
                "Name the member that holds it, such as text='json.caption', or choose a task without texts."
            )
        return self.distinct_texts


def need_one_width(first: Tensor, second: Tensor, first_side: Side, second_side: Side) -> None:
    """Raises :class:`EvaluationError` where two sides cannot be compared because their widths differ."""
    if first.shape[1] != second.shape[1]:
        raise EvaluationError(
            f"{first_side} is {first.shape[1]} wide and {second_side} is {second.shape[1]} wide: they share no space. "
            "Pass the teacher that the student was distilled from, or train the student with its embed_dim."
        )
