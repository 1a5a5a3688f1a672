"""A transformers text encoder with pooling and head: the body of sentence teachers and of text students."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from xmodal.adapters.encoder import Features
from xmodal.adapters.identity import digest
from xmodal.adapters.locking import Lockable
from xmodal.adapters.pooling import Dense, Pooling
from xmodal.adapters.preprocess import TextPreprocess
from xmodal.adapters.transformers.attention import attention_layers, internal_taps, run_with_layers

if TYPE_CHECKING:
    from transformers import PreTrainedModel


_POOLED = {"text.embedding", "text.features"}
_ROWS_TOGETHER = 32


class SentenceEncoder(Lockable):
    """``model`` over tokens, ``pooling`` over its last states, then ``head`` (dense layers, normalisation, or nothing).

    Taps: ``text.embedding`` [B, D] (after the head), ``text.features`` [B, W] (pooled, before it), ``text.tokens``
    [B, L, W], ``text.hidden.N`` [B, L, W] (0 = the embeddings, n = after layer n), ``text.attention.N`` [B, H, L, L]
    (probabilities, 0 = first layer), ``text.scores.N`` [B, H, L, L] (what their softmax gets: at masked keys the
    library's most negative number), ``text.query.N``, ``text.key.N``, ``text.value.N`` [B, L, W] (what the layer's
    linear modules make), ``text.mask`` [B, L] (true where there is a token). Models whose layers share their attention,
    or make query, key and value at once, have no scores, queries, keys and values.
    """

    modalities = ("text",)
    preprocess: TextPreprocess

    def __init__(
        self,
        name: str,
        model: PreTrainedModel,
        preprocess: TextPreprocess,
        pooling: Pooling,
        head: Sequence[nn.Module] = (),
        weights_identity: str | None = None,
    ) -> None:
        super().__init__()
        self.name, self.preprocess = name, preprocess
        self.model: nn.Module = model
        self.config: Any = model.config
        self.pooling, self.head = pooling, nn.Sequential(*head)
        self.features_dim = int(self.config.hidden_size) * len(pooling.modes)
        dense = [module for module in head if isinstance(module, Dense)]
        self.embed_dim = dense[-1].linear.out_features if dense else self.features_dim
        self.num_layers = int(self.config.num_hidden_layers)
        self._has_internals = bool(attention_layers(model, self.num_layers))
        self._weights_identity = weights_identity

    @property
    def linear_head(self) -> nn.Module | None:
        return self.head if any(True for _ in self.head.parameters()) else None

    @property
    def head_taps(self) -> tuple[str, ...]:
        return ("text.embedding",)

    def taps(self) -> tuple[str, ...]:
        return (
            "text.embedding",
            "text.features",
            "text.tokens",
            *(f"text.hidden.{layer}" for layer in range(self.num_layers + 1)),
            *(f"text.attention.{layer}" for layer in range(self.num_layers)),
            *internal_taps("text", self.num_layers if self._has_internals else 0),
            "text.mask",
        )

    def compute(self, inputs: Mapping[str, Tensor], taps: Sequence[str]) -> Features:
        learning = self.training and not self.locked
        if learning or not set(taps) <= _POOLED or len(inputs["text_mask"]) <= _ROWS_TOGETHER:
            return self._compute(inputs, taps)
        # Short texts need not wait for the longest of the batch: rows of like length go together, trimmed to it.
        lengths = last_tokens(inputs["text_mask"])
        order = lengths.argsort(stable=True)
        parts = []
        for rows in torch.split(order, _ROWS_TOGETHER):
            longest = int(lengths[rows].max())
            parts.append(self._compute({name: tensor[rows, :longest] for name, tensor in inputs.items()}, taps))
        back = order.argsort()
        return {tap: torch.cat([part[tap] for part in parts])[back] for tap in taps}

    def _compute(self, inputs: Mapping[str, Tensor], taps: Sequence[str]) -> Features:
        mask = inputs["text_mask"]
        features: Features = {"text.mask": mask.bool()}
        if set(taps) == {"text.mask"}:
            return features
        arguments = {"input_ids": inputs["text_ids"], "attention_mask": mask}
        if "text_types" in inputs:
            arguments["token_type_ids"] = inputs["text_types"]
        call = partial(self.model, **arguments, return_dict=True)
        with self.body_gradients():
            output, layered = run_with_layers(self.model, self.num_layers, taps, call)
            features |= layered
            features["text.tokens"] = tokens = output.last_hidden_state
            if "text.embedding" in taps or "text.features" in taps:
                features["text.features"] = self.pooling(tokens, mask)
        if "text.embedding" in taps:
            features["text.embedding"] = self.head(features["text.features"])
        return features

    def identity(self) -> str:
        weights = self._weights_identity or self.state_hash()
        text = self.preprocess
        return digest(
            weights=weights,
            dtype=str(next(self.parameters()).dtype),
            pooling=self.pooling.modes,
            skip=self.pooling.skip,
            head=repr(self.head),
            tokenizer=text.tokenizer_state(),
            max_length=text.max_length,
            prompt=text.prompt,
        )


def last_tokens(mask: Tensor) -> Tensor:
    """The position after each row's last token, ``[B]``, of a mask ``[B, L]``; at least 1."""
    positions = torch.arange(1, mask.shape[1] + 1, device=mask.device)
    return (positions * mask.bool()).amax(1).clamp(min=1)
