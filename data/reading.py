"""How a training sample is read: decoded, and augmented by (seed, view, key)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from xmodal.data.audio import cut
from xmodal.data.augment import read_augmented
from xmodal.data.decode import decode, decode_image
from xmodal.data.decoders import DEFAULT_DECODER
from xmodal.data.reader import RawSample
from xmodal.data.spectrogram import draw_masks
from xmodal.recipe import Augment


@dataclass(frozen=True)
class Reading:
    """What decides the sample that every model gets to see, beside its bytes: the same wherever it is read.

    ``views`` is how many augmentations a sample has, one an epoch and then from the first again; None for a new one
    every epoch.
    """

    seed: int = 0
    image_size: int | None = None
    augment: Augment = Augment()  # noqa: RUF009 - frozen
    views: int | None = None
    decoder: str = DEFAULT_DECODER
    label: str = "cls"
    features: Mapping[str, str] | None = None
    texts: Mapping[str, str] | None = None

    def view(self, epoch: int) -> int:
        """The number of the augmentation that a sample has in its slot's ``epoch``."""
        return epoch if self.views is None else epoch % self.views

    def __call__(self, raw: RawSample, *, fields: Collection[str], text: str, view: int) -> dict[str, Any]:
        """The sample as :func:`as_it_is` gives it, its picture and sound augmented.

        Names of ``self.features`` and ``self.texts`` among the ``fields`` are the stored tensors and the further texts
        that are wanted.

        With ``reinforced`` among the fields, which is what a teacher stored in the shards asks for, its picture is
        augmented as the sample says (see :mod:`xmodal.data.formats.reinforced`).
        """
        features, texts = (
            {name: place for name, place in (known or {}).items() if name in fields}
            for known in (self.features, self.texts)
        )
        fields = set(fields) - features.keys() - texts.keys()
        stored: dict[str, Any] = {"label": self.label, "features": features, "texts": texts}
        if "reinforced" in fields:
            from xmodal.data.formats.reinforced import read_reinforced

            return read_reinforced(
                raw, fields=fields, text=text, view=view, seed=self.seed, image_size=self.image_size, **stored
            )
        drawn: dict[str, Any] = {"seed": self.seed, "view": view, "key": raw.key}
        picture = partial(read_augmented, settings=self.augment, decoder=self.decoder, size=self.image_size, **drawn)
        sample = as_it_is(raw, fields=fields, text=text, view=view, seed=self.seed, picture=picture, **stored)
        if "audio" in sample:
            if self.augment.audio_seconds is not None:
                sample["audio"] = cut(sample["audio"], self.augment.audio_seconds, **drawn)
            if masks := draw_masks(self.augment, **drawn):
                sample["spectrogram_masks"] = masks
        return sample


def as_it_is(
    raw: RawSample,
    *,
    fields: Collection[str],
    text: str,
    view: int = 0,
    seed: int = 0,
    label: str = "cls",
    features: Mapping[str, str] | None = None,
    texts: Mapping[str, str] | None = None,
    picture: Callable[[bytes], Any] = decode_image,
) -> dict[str, Any]:
    """The sample as :func:`~xmodal.data.decode.decode` gives it, with its ``shard`` and its ``view``.

    With ``members`` among the fields, its undecoded ``members`` too.
    """
    wanted = set(fields) - {"members"}
    sample = decode(
        raw,
        fields=wanted,
        text=text,
        label=label,
        features=features,
        texts=texts,
        view=view,
        seed=seed,
        picture=picture,
    )
    members = {"members": raw.members} if "members" in fields else {}
    return {**sample, "shard": raw.shard, "view": view, **members}
