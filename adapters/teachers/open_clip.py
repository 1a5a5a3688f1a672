"""Any open_clip model as teacher, both towers, with its own transform and tokenizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from torch import Tensor

from xmodal.adapters.encoder import Encoder, Features, as_float32
from xmodal.adapters.identity import digest
from xmodal.adapters.open_clip.blocks import Tower
from xmodal.adapters.open_clip.image import VisionTransformer, image_tower
from xmodal.adapters.open_clip.loading import Loaded, load_open_clip
from xmodal.adapters.open_clip.preprocess import OpenClipPictures, OpenClipTexts
from xmodal.adapters.open_clip.text import TextTransformer, text_tower
from xmodal.adapters.preprocess import JoinedPreprocess
from xmodal.adapters.registration import TEACHERS, check_sizes
from xmodal.errors import AdapterError

_MIXED = ("bf16", "fp16")


class OpenClipTeacher(Encoder):
    """An open_clip model: CLIP, SigLIP, CoCa.

    Taps: ``image.embedding`` and ``text.embedding`` [B, D] (projected, not normalised), ``image.features`` and
    ``text.features`` [B, W] (pooled, before the projection; a ResNet has none), ``image.tokens`` [B, N, W] and
    ``image.map`` [B, W, H, W'] (patches, after the last norm), ``text.tokens`` [B, L, W], ``text.mask`` [B, L].

    ``image.hidden.N`` and ``text.hidden.N`` [B, L, W]: 0 = the embeddings, n = after layer n; a vision transformer's
    class token comes first in them. Of a ResNet: 0 = the stem, n = after stage n, [B, C, H, W]. Of a timm network:
    timm's N-th feature. ``attention.N`` and ``scores.N`` [B, heads, L, L] and ``query.N``, ``key.N``, ``value.N``
    [B, L, W] of open_clip's own transformers; scores are what the softmax gets, −inf where masked.

    ``logit_scale``, already exponentiated, and ``logit_bias``, where there is one: numbers. CoCa has ``image.pooled``
    [B, Q, D], what its caption decoder sees of a picture, and ``text.logits`` [B, L, V], the decoder's for the token
    after each, of samples with picture and text. All features are float32.
    """

    modalities = ("image", "text")
    preprocess: JoinedPreprocess

    def __init__(self, name: str, loaded: Loaded, precision: str = "fp32") -> None:
        from open_clip import get_input_dtype

        super().__init__()
        model = loaded.model
        self.name, self.model, self.precision = name, model, precision
        self.embed_dim = int(loaded.config["embed_dim"])
        self.pictures, self.texts = OpenClipPictures(model.visual.preprocess_cfg), OpenClipTexts(loaded.tokenizer)
        self.preprocess = JoinedPreprocess([self.pictures, self.texts])
        image, text = image_tower(model.visual), text_tower(model)
        self.towers: dict[str, Tower] = {"image": image, "text": text}
        self._config, self._weights, self._image_dtype = loaded.config, loaded.weights, get_input_dtype(precision)
        self._scalars = tuple(tap for tap in ("logit_scale", "logit_bias") if getattr(model, tap, None) is not None)
        native = isinstance(image, VisionTransformer) and isinstance(text, TextTransformer)
        self._captions = native and hasattr(model, "text_decoder")

    @property
    def logit_scale(self) -> float:
        """What multiplies its cosines, already exponentiated."""
        return float(self.model.logit_scale.detach().float().exp())  # type: ignore[operator, union-attr]

    @property
    def logit_bias(self) -> float | None:
        """What is added to them, of a SigLIP model."""
        bias: Any = self.model.logit_bias
        return None if bias is None else float(bias)

    def taps(self) -> tuple[str, ...]:
        captions = ("text.logits",) if self._captions else ()
        return (*self.towers["image"].taps, *self.towers["text"].taps, *captions, "text.mask", *self._scalars)

    def compute(self, inputs: Mapping[str, Tensor], taps: Sequence[str]) -> Features:
        try:
            return self._compute(inputs, taps)
        except RuntimeError as error:
            if self.precision not in _MIXED or "dtype" not in str(error):
                raise
            # open_clip's own encode_image and encode_text fail alike: of CoCa, and of attention with norms of its own
            raise AdapterError(
                f"open_clip cannot run {self.name} in precision {self.precision!r}: it leaves some of its weights in "
                f"float32 ({error!s:.100}). Take precision: pure_{self.precision}"
            ) from error

    def _compute(self, inputs: Mapping[str, Tensor], taps: Sequence[str]) -> Features:
        wanted = set(taps)
        if "text.logits" in wanted:
            seen = "image.pooled" if "image.pooled" in self.towers["image"].taps else "image.tokens"
            wanted |= {seen, "text.tokens"}
        features: Features = {}
        for field, inputs_name in (("image", "image"), ("text", "text_ids")):
            own = [tap for tap in self.towers[field].taps if tap in wanted]
            if own:
                given = _given(inputs, inputs_name, field, taps)
                if field == "image" and self._image_dtype is not None:
                    given = given.to(self._image_dtype)
                features |= self.towers[field](given, own)
        if "text.mask" in wanted:
            features["text.mask"] = _given(inputs, "text_mask", "text", taps).bool()
        if "text.logits" in wanted:
            decoder: Any = self.model.text_decoder
            features["text.logits"] = decoder(features[seen], features["text.tokens"])
        for tap in self._scalars:
            parameter: Any = getattr(self.model, tap)
            number = parameter.float().reshape(())
            features[tap] = number.exp() if tap == "logit_scale" else number
        return {tap: as_float32(features[tap]) for tap in taps}

    def identity(self) -> str:
        return digest(
            weights=self._weights or self.state_hash(),
            precision=self.precision,
            dtype=str(next(self.parameters()).dtype),
            network=self._config,
            picture=self.pictures.config,
            text=self.texts.settings(),
        )


def _given(inputs: Mapping[str, Tensor], name: str, field: str, taps: Sequence[str]) -> Tensor:
    if name not in inputs:
        raise AdapterError(f"{', '.join(taps)} needs the {field} of a sample; there is none in this batch.")
    return inputs[name]


@TEACHERS.register("open_clip")
def open_clip(
    model: str,
    pretrained: bool | str = True,
    precision: Literal["fp32", "bf16", "fp16", "pure_bf16", "pure_fp16"] = "fp32",
    image_size: int | None = None,
) -> OpenClipTeacher:
    """An open_clip model by name, or by ``hf-hub:OWNER/NAME`` or ``local-dir:FOLDER``.

    ``pretrained``: a tag (``laion2b_s34b_b79k``) or the path of a weight file for a name of open_clip's; True for what
    repository or folder holds, or the only tag there is; False for random ones. ``precision`` is open_clip's.
    ``image_size``, pixels, in place of the model's own. See :class:`OpenClipTeacher` for its taps.
    """
    check_sizes("open_clip", image_size=image_size)
    loaded = load_open_clip(model, pretrained=pretrained, precision=precision, image_size=image_size)
    return OpenClipTeacher(f"open_clip ({model.rstrip('/').rpartition('/')[2]})", loaded, precision)
