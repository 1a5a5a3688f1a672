"""CLIP, SigLIP, DINO, ViT and the BERT family as teachers, through transformers' own classes and preprocessing."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from torch import Tensor

from xmodal.adapters.encoder import Encoder, Features, as_float32
from xmodal.adapters.hub import fetch
from xmodal.adapters.identity import digest
from xmodal.adapters.preprocess import JoinedPreprocess
from xmodal.adapters.registration import TEACHERS
from xmodal.adapters.transformers.families import Family, family_of
from xmodal.adapters.transformers.loading import (
    load_model,
    model_type,
    read_image_processor,
    read_tokenizer,
    text_limit,
)
from xmodal.adapters.transformers.preprocess import PaddedTextPreprocess, ProcessorPreprocess
from xmodal.adapters.transformers.tower import Tower, build_tower, side_of
from xmodal.errors import AdapterError

_SCALARS = ("logit_scale", "logit_bias")


class TransformersTeacher(Encoder):
    """A transformers encoder of pictures, texts or both, with its own image processor and tokenizer.

    Taps of a tower, ``image.`` or ``text.``: ``embedding`` [B, D] (what the library calls it: ``get_image_features``
    and ``get_text_features``; ``pooler_output`` where the checkpoint holds a pooler; else the class token),
    ``features`` [B, W] (before projection or pooler), ``tokens`` [B, N, W] (last states; of pictures, patches only),
    ``image.map`` [B, W, H/p, W/p], ``hidden.N`` [B, L, W] (0 = the embeddings, n = after layer n; class token and
    registers are in it), ``attention.N`` and ``scores.N`` [B, heads, L, L], ``query.N``, ``key.N``, ``value.N``
    [B, L, W], ``text.mask`` [B, L]. ``logits`` [B, C] of an image classifier. ``logit_scale`` (already exponentiated)
    and ``logit_bias``, numbers, of CLIP and SigLIP.

    Scores are what the softmax gets, scaled; at masked keys they hold the library's most negative number. Queries, keys
    and values are what the layer's linear modules make: DINOv3 rotates them afterwards. All features are float32.
    """

    def __init__(
        self,
        name: str,
        model: Any,
        towers: Sequence[Tower],
        parts: Mapping[str, ProcessorPreprocess | PaddedTextPreprocess],
        weights_identity: str,
    ) -> None:
        super().__init__()
        self.name, self.model = name, model
        self.modalities = tuple(tower.kind for tower in towers)
        self.towers, self.parts = tuple(towers), dict(parts)
        self.preprocess = JoinedPreprocess(list(parts.values())) if len(parts) > 1 else next(iter(parts.values()))
        self.embed_dim = towers[0].width
        self._weights_identity = weights_identity
        self._scalars = tuple(tap for tap in _SCALARS if isinstance(getattr(model, tap, None), Tensor))

    @property
    def logit_scale(self) -> float | None:
        """What multiplies its cosines, already exponentiated, of CLIP and SigLIP."""
        return float(self._scalar("logit_scale")) if "logit_scale" in self._scalars else None

    @property
    def logit_bias(self) -> float | None:
        """What is added to them, of SigLIP."""
        return float(self._scalar("logit_bias")) if "logit_bias" in self._scalars else None

    def taps(self) -> tuple[str, ...]:
        return (*(tap for tower in self.towers for tap in tower.taps()), *self._scalars)

    def compute(self, inputs: Mapping[str, Tensor], taps: Sequence[str]) -> Features:
        features: Features = {}
        for tower in self.towers:
            own = [tap for tap in taps if tap in tower.taps()]
            if own:
                features |= tower.compute(inputs, own)
        features |= {tap: self._scalar(tap) for tap in self._scalars if tap in taps}
        return {tap: as_float32(tensor) for tap, tensor in features.items() if tap in taps}

    def _scalar(self, name: str) -> Tensor:
        parameter: Any = getattr(self.model, name)
        number: Tensor = parameter.float().reshape(())  # SigLIP keeps a vector of one
        return number.exp() if name == "logit_scale" else number

    def identity(self) -> str:
        return digest(
            weights=self._weights_identity,
            network=type(self.model).__name__,
            dtype=str(next(self.parameters()).dtype),
            **{kind: part.settings() for kind, part in self.parts.items()},
        )


@TEACHERS.register("transformers")
def transformers(
    model: str,
    revision: str | None = None,
    image_size: int | None = None,
    dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    attention: Literal["sdpa", "eager", "flash_attention_2"] | None = None,
) -> TransformersTeacher:
    """A transformers image, text or image-text encoder by hub name, folder or installed package.

    ``model``: ``openai/clip-vit-base-patch32``, or a folder's path. ``revision`` is resolved to a commit.
    ``image_size``, pixels, in place of the checkpoint's own: the whole picture is resized to it, then cropped to a
    square. ``dtype``: float32, bfloat16 or float16. ``attention``: sdpa, eager or flash_attention_2 in place of what
    the library picks. See :class:`TransformersTeacher` for its taps.
    """
    source = fetch(model, revision)
    name = f"transformers ({model.rstrip('/').rsplit('/', 1)[-1]})"
    family = family_of(model_type(source.folder), name)
    if image_size is not None and family.image is None:
        raise AdapterError(f"{name} sees no pictures: leave image_size out.")
    network = load_model(source.folder, family, dtype, attention)
    parts: dict[str, ProcessorPreprocess | PaddedTextPreprocess] = {}
    towers = []
    if family.image is not None:
        towers.append(_image_tower(network, family))
        processor = read_image_processor(source.folder, image_size, towers[-1].patch_size or 1)
        parts["image"] = ProcessorPreprocess(processor)
    if family.text is not None:
        tokenizer = read_tokenizer(source.folder)
        towers.append(_text_tower(network, family, tokenizer))
        parts["text"] = PaddedTextPreprocess(tokenizer, text_limit(tokenizer, towers[-1].module), family.pads)
    return TransformersTeacher(name, network.eval(), towers, parts, source.identity)


def _image_tower(network: Any, family: Family) -> Tower:
    classifier = network if hasattr(network, "classifier") else None
    module = getattr(network, "vision_model", None) or (network if classifier is None else network.base_model)
    return build_tower(
        "image",
        module,
        str(family.image),
        projection=getattr(network, "visual_projection", None),
        classifier=classifier,
        patch_size=side_of(module.config.patch_size),
        interpolates=family.interpolates,
    )


def _text_tower(network: Any, family: Family, tokenizer: Any) -> Tower:
    module = getattr(network, "text_model", None) or network
    taken = inspect.signature(type(module).forward).parameters
    return build_tower(
        "text",
        module,
        str(family.text),
        projection=getattr(network, "text_projection", None),
        masks="attention_mask" in tokenizer.model_input_names,
        types="token_type_ids" in taken,
    )
