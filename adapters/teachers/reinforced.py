"""The teachers whose embeddings are stored in reinforced shards (DataCompDR): none of them is loaded or run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from xmodal.adapters.encoder import Encoder, Features, Sample
from xmodal.adapters.identity import digest
from xmodal.adapters.registration import TEACHERS
from xmodal.errors import AdapterError, DataError

_MODALITIES = ("image", "text")


class StoredEmbeddings:
    """Takes the embeddings that were read with a sample: of the view and of the caption that are shown.

    Inputs: ``image_stored`` and ``text_stored``, float32 ``[B, D]``.
    """

    fields: tuple[str, ...] = ("reinforced",)

    def __init__(self, width: int) -> None:
        self.width = width

    def __call__(self, sample: Sample) -> dict[str, Tensor]:
        stored = sample.get("reinforced")
        if stored is None:
            raise AdapterError(_ONLY_STORED)
        for embedding in (stored.image_embedding, stored.text_embedding):
            if len(embedding) != self.width:
                raise DataError(
                    f"Sample {sample.get('key')!r} of {sample.get('shard')} stores embeddings of width "
                    f"{len(embedding)}, and the teacher is said to be {self.width} wide. If the shards hold "
                    f"that, set teacher.width={len(embedding)}."
                )
        return {
            "image_stored": torch.from_numpy(stored.image_embedding.copy()),
            "text_stored": torch.from_numpy(stored.text_embedding.copy()),
        }

    def collate(self, items: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        return {name: torch.stack([item[name] for item in items]) for name in items[0]}

    def __repr__(self) -> str:
        return f"StoredEmbeddings({self.width})"


class ReinforcedTeacher(Encoder):
    """What teachers once said, as shards store it.

    Taps: ``image.embedding`` and ``text.embedding`` [B, D], all teachers side by side; ``image.part.N`` and
    ``text.part.N`` [B, D / teachers], the N-th teacher's own.
    """

    modalities = _MODALITIES

    def __init__(self, width: int, teachers: int, normalize: bool) -> None:
        super().__init__()
        self.name = f"reinforced ({teachers} × {width // teachers})"
        self.embed_dim, self.teachers, self.normalize = width, teachers, normalize
        self.preprocess = StoredEmbeddings(width)
        self.model = nn.Identity()
        # of no use to the embeddings: it is what says which device the model is on
        self.anchor = nn.Parameter(torch.zeros(()), requires_grad=False)

    def taps(self) -> tuple[str, ...]:
        parts = [f"{modality}.part.{number}" for modality in _MODALITIES for number in range(self.teachers)]
        return (*(f"{modality}.embedding" for modality in _MODALITIES), *parts)

    def compute(self, inputs: Mapping[str, Tensor], taps: Sequence[str]) -> Features:
        features: Features = {}
        for tap in taps:
            modality, what, *number = tap.split(".")
            parts = self._parts(inputs[f"{modality}_stored"])
            features[tap] = parts.flatten(1) if what == "embedding" else parts[:, int(number[0])]
        return features

    def _parts(self, stored: Tensor) -> Tensor:
        """``[B, teachers, D / teachers]``, each of length one where they are normalised."""
        parts = stored.view(len(stored), self.teachers, -1)
        return nn.functional.normalize(parts, dim=-1) if self.normalize else parts

    def encode(self, **given: Any) -> Features:
        """Refused with an :class:`AdapterError`: nothing but the samples of its shards has an embedding."""
        raise AdapterError(_ONLY_STORED)

    def identity(self) -> str:
        return digest(kind="reinforced", width=self.embed_dim, teachers=self.teachers, normalize=self.normalize)


_ONLY_STORED = (
    "The teacher 'reinforced' has embeddings for the samples of reinforced shards only, read for training; it embeds "
    "no other picture and no other text. Measure the student by tasks that need no teacher, or give one that can run."
)


@TEACHERS.register("reinforced")
def reinforced(width: int = 1536, teachers: int = 2, normalize: bool = True) -> ReinforcedTeacher:
    """The embeddings stored in MobileCLIP's reinforced shards, such as DataCompDR's; no model is loaded.

    ``width`` is that of the stored embeddings, in which ``teachers`` of equal width stand side by side. ``normalize``
    makes each teacher's part of length one again, which half precision has changed a little.
    """
    if teachers < 1 or width < 1 or width % teachers:
        raise AdapterError(
            f"teacher 'reinforced': {teachers} teachers of equal width cannot make up a width of {width}."
        )
    return ReinforcedTeacher(width, teachers, normalize)
