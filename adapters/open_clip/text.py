"""open_clip's text towers: its own transformer, inside a CLIP or by itself, and transformers' in its wrapper."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from xmodal.adapters.encoder import Features
from xmodal.adapters.open_clip.blocks import Tower, block_taps, run_blocks
from xmodal.adapters.transformers.attention import run_with_layers
from xmodal.errors import AdapterError
from xmodal.taps import layer_of

_POOLED = {"text.embedding", "text.features"}


def text_tower(model: Any) -> Tower:
    """The tower of a whole ``model``: its ``text``, or what a plain CLIP holds of one in itself."""
    from open_clip import transformer
    from open_clip.hf_model import HFTextEncoder
    from open_clip.model import CLIP

    if isinstance(model, CLIP):
        return TextTransformer(model, model.text_pool_type, getattr(model, "text_eos_id", None))
    if isinstance(model.text, transformer.TextTransformer):
        return TextTransformer(model.text, model.text.pool_type, getattr(model.text, "eos_id", None))
    if isinstance(model.text, HFTextEncoder):
        return HuggingFace(model.text)
    raise AdapterError(f"A text tower of class {type(model.text).__name__} is not one that we read.")


class TextTransformer:
    """open_clip's ``TextTransformer``. CoCa's has a class token behind the text, which no tap of tokens has in it."""

    def __init__(self, tower: Any, pool_type: str, eos_id: int | None) -> None:
        self.tower, self.pool_type, self.eos_id = tower, pool_type, eos_id
        self.has_class_token = getattr(tower, "cls_emb", None) is not None
        own = ("text.embedding", "text.features", "text.tokens")
        self.taps: tuple[str, ...] = (*own, *block_taps("text", tower.transformer))

    def __call__(self, ids: Tensor, taps: Sequence[str]) -> Features:
        from open_clip.transformer import text_global_pool

        tower = self.tower
        asked = {tap for tap in taps if layer_of(tap)[1] is None}
        embedded, mask = self._embed(ids)
        last, features = run_blocks(tower.transformer, embedded, mask, taps, to_end=bool(asked))
        if self.has_class_token:
            # behind all the text and a mask that looks back: no token ever looked at it
            features = {tap: made[:, :-1] if made.ndim == 3 else made[..., :-1, :-1] for tap, made in features.items()}
        if not asked:
            return features
        if self.has_class_token:  # it is what is pooled, and alone goes through the norm
            features["text.tokens"], pooled = last[:, :-1], tower.ln_final(last[:, -1])
        else:
            features["text.tokens"] = tokens = tower.ln_final(last)
            pooled = text_global_pool(tokens, ids, self.pool_type, eos_token_id=self.eos_id)
        features["text.features"] = pooled
        projection = tower.text_projection
        if isinstance(projection, nn.Linear):
            features["text.embedding"] = projection(pooled)
        else:
            features["text.embedding"] = pooled if projection is None else pooled @ projection
        return features

    def _embed(self, ids: Tensor) -> tuple[Tensor, Tensor | None]:
        tower = self.tower
        if hasattr(tower, "_embeds"):
            embedded, mask = tower._embeds(ids)
            return embedded, mask
        dtype = tower.transformer.get_cast_dtype()  # as a plain CLIP's encode_text
        return tower.token_embedding(ids).to(dtype) + tower.positional_embedding.to(dtype), tower.attn_mask


class HuggingFace:
    """A transformers model in open_clip's ``HFTextEncoder``."""

    def __init__(self, tower: Any) -> None:
        self.tower = tower
        layers = int(tower.config.num_hidden_layers)
        self.taps: tuple[str, ...] = (
            "text.embedding",
            "text.features",
            "text.tokens",
            *(f"text.hidden.{number}" for number in range(layers + 1)),
            *(f"text.attention.{number}" for number in range(layers)),
        )

    def __call__(self, ids: Tensor, taps: Sequence[str]) -> Features:
        tower = self.tower
        mask = (ids != tower.config.pad_token_id).long()
        call = partial(tower.transformer, input_ids=ids, attention_mask=mask, return_dict=True)
        output, layered = run_with_layers(tower.transformer, int(tower.config.num_hidden_layers), taps, call)
        features = {"text.tokens": output.last_hidden_state, **layered}
        if _POOLED & set(taps):
            features["text.features"] = pooled = tower.pooler(output, mask)
            features["text.embedding"] = tower.proj(pooled)
        return features
