"""Which transformers architectures are teachers here, of which modalities, and where each keeps its pooled vector."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from xmodal.errors import AdapterError, hint


@dataclass(frozen=True)
class Family:
    """What we have to know of an architecture and cannot ask the library.

    ``image`` and ``text`` say which state is the tower's feature: ``pooled`` (the library's ``pooler_output``, before
    a projection), ``first`` or ``last`` (the last layer's state of the first or last position); None where it has no
    such tower. ``heads`` are classes with a projection or a classifier, loaded where the checkpoint names one of them.
    ``interpolates``: it resizes its position embeddings only where it is told to. ``pads``: the ``padding`` of its
    tokenizer.
    """

    image: str | None = None
    text: str | None = None
    heads: tuple[str, ...] = ()
    interpolates: bool = False
    pads: str = "longest"


_TEXT = Family(text="first")

FAMILIES: Mapping[str, Family] = {
    "clip": Family(image="pooled", text="pooled", interpolates=True),
    "clip_vision_model": Family(image="pooled", heads=("CLIPVisionModelWithProjection",), interpolates=True),
    "clip_text_model": Family(text="pooled", heads=("CLIPTextModelWithProjection",)),
    # trained on texts of 64 tokens, the padding attended to: its feature is the state of the last position
    "siglip": Family(image="pooled", text="last", interpolates=True, pads="max_length"),
    "siglip_vision_model": Family(image="pooled", interpolates=True),
    "vit": Family(image="first", heads=("ViTForImageClassification",), interpolates=True),
    "dinov2": Family(image="first", heads=("Dinov2ForImageClassification",)),
    "dinov2_with_registers": Family(image="first", heads=("Dinov2WithRegistersForImageClassification",)),
    "dinov3_vit": Family(image="first"),
    "bert": _TEXT,
    "roberta": _TEXT,
    "xlm-roberta": _TEXT,
    "camembert": _TEXT,
    "distilbert": _TEXT,
    "mpnet": _TEXT,
    "electra": _TEXT,
    "deberta": _TEXT,
    "deberta-v2": _TEXT,
}
"""``model_type`` of a config → its family."""

_REFUSED: Mapping[str, str] = {
    "siglip2": "it is a NaFlex checkpoint: every picture has its own number of patches, so that tokens and maps of a "
    "batch have no common shape. SigLIP2 of a fixed resolution (google/siglip2-base-patch16-224, …) is read",
    "dinov3_convnext": "it is a convolutional network, without tokens and attention. teacher 'timm' has the same "
    "weights: model=convnext_tiny.dinov3_lvd1689m",
}
_REFUSED = {**_REFUSED, "siglip2_vision_model": _REFUSED["siglip2"]}


def family_of(model_type: str | None, owner: str) -> Family:
    """The family of a config's ``model_type``.

    Raises :class:`AdapterError` that lists those we know where it is none of them; ``owner`` is the model's name.
    """
    known = model_type or ""
    if known in FAMILIES:
        return FAMILIES[known]
    if known in _REFUSED:
        raise AdapterError(f"{owner} is a {model_type}; {_REFUSED[known]}.")
    said = f"is a {model_type!r}" if model_type else "has a config without model_type"
    raise AdapterError(
        f"{owner} {said}; the teacher 'transformers' reads {', '.join(FAMILIES)}. {hint(known, FAMILIES)} "
        "Other text encoders: teacher 'sentence'; other networks for pictures: teacher 'timm'."
    )
