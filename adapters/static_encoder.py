"""A table of token embeddings and their mean: the smallest text encoder there is, as sentence-transformers has it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from xmodal.adapters.encoder import Encoder, Features, Sample
from xmodal.adapters.identity import digest
from xmodal.adapters.pooling import Dense
from xmodal.adapters.preprocess import text_in
from xmodal.adapters.weights import read_weights
from xmodal.errors import AdapterError

if TYPE_CHECKING:
    from tokenizers import Tokenizer


class StaticPreprocess:
    """A ``tokenizers`` tokenizer over whole batches, without special tokens and without a limit.

    Inputs: ``text_ids`` and ``text_mask``, int64 ``[B, L]``, padded on the right.
    """

    fields: tuple[str, ...] = ("text",)

    def __init__(self, tokenizer: Tokenizer, prompt: str = "") -> None:
        self.tokenizer, self.prompt = tokenizer, prompt
        self.tokenizer.no_padding()

    def __call__(self, sample: Sample) -> dict[str, str]:
        return {"text": self.prompt + text_in(sample)}

    def collate(self, items: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        encodings = self.tokenizer.encode_batch([item["text"] for item in items], add_special_tokens=False)
        ids = torch.zeros(len(items), max(1, *(len(encoding.ids) for encoding in encodings)), dtype=torch.int64)
        mask = torch.zeros_like(ids)
        for row, encoding in enumerate(encodings):
            ids[row, : len(encoding.ids)] = torch.tensor(encoding.ids, dtype=torch.int64)
            mask[row, : len(encoding.ids)] = 1
        return {"text_ids": ids, "text_mask": mask}

    def tokenizer_state(self) -> dict[str, Any]:
        """All that decides the tokens of a text."""
        state: dict[str, Any] = json.loads(self.tokenizer.to_str())
        return state

    def __repr__(self) -> str:
        return f"StaticPreprocess({self.tokenizer.get_vocab_size()} tokens, prompt={self.prompt!r})"


class TokenTable(nn.Module):
    """A row a token, times the token's weight where there are weights."""

    def __init__(self, rows: Tensor, weights: Tensor | None = None) -> None:
        super().__init__()
        self.embedding = nn.Embedding(rows.shape[0], rows.shape[1], _weight=rows)
        self.weights = nn.Parameter(weights) if weights is not None else None

    def forward(self, ids: Tensor) -> Tensor:
        tokens: Tensor = self.embedding(ids)
        return tokens if self.weights is None else tokens * self.weights[ids][..., None]

    def mean(self, ids: Tensor, mask: Tensor) -> Tensor:
        """``[B, W]``: the sum as ``nn.EmbeddingBag`` makes it, in its order, and without a tensor of all tokens."""
        there = mask.bool()
        counts = there.sum(1)
        flat = ids[there]
        summed = nn.functional.embedding_bag(
            flat,
            self.embedding.weight,
            counts.cumsum(0) - counts,
            mode="sum",
            per_sample_weights=None if self.weights is None else self.weights[flat],
        )
        mean: Tensor = summed / counts.clamp(min=1)[:, None]
        return mean

    def folded(self) -> Tensor:
        """``[V, W]``, the weights multiplied in: no library needs to know of them."""
        rows = self.embedding.weight.detach()
        return rows if self.weights is None else rows * self.weights.detach()[:, None]


class StaticEncoder(Encoder):
    """``model``, a table, over tokens, the mean of their rows, then ``head`` (dense layers, normalisation or nothing).

    Taps: ``text.embedding`` [B, D] (after the head), ``text.features`` [B, W] (the mean), ``text.tokens`` [B, L, W]
    (weighted rows), ``text.mask`` [B, L] (true where there is a token). A text without tokens has zeros.
    """

    modalities = ("text",)
    preprocess: StaticPreprocess
    model: TokenTable

    def __init__(
        self, name: str, model: TokenTable, preprocess: StaticPreprocess, head: Sequence[nn.Module] = ()
    ) -> None:
        super().__init__()
        self.name, self.model, self.preprocess, self.head = name, model, preprocess, nn.Sequential(*head)
        rows, size = model.embedding.num_embeddings, preprocess.tokenizer.get_vocab_size()
        if rows < size:
            raise AdapterError(f"{name} has {rows} rows for a tokenizer of {size} tokens.")
        self.features_dim = model.embedding.embedding_dim
        dense = [module for module in head if isinstance(module, Dense)]
        self.embed_dim = dense[-1].linear.out_features if dense else self.features_dim

    def taps(self) -> tuple[str, ...]:
        return ("text.embedding", "text.features", "text.tokens", "text.mask")

    def compute(self, inputs: Mapping[str, Tensor], taps: Sequence[str]) -> Features:
        mask = inputs["text_mask"]
        features: Features = {"text.mask": mask.bool()}
        if set(taps) == {"text.mask"}:
            return features
        if "text.tokens" in taps:
            features["text.tokens"] = self.model(inputs["text_ids"])
        if "text.embedding" in taps or "text.features" in taps:
            features["text.features"] = self.model.mean(inputs["text_ids"], mask)
        if "text.embedding" in taps:
            features["text.embedding"] = self.head(features["text.features"])
        return {tap: features[tap] for tap in taps}

    def identity(self) -> str:
        return digest(
            weights=self.state_hash(),
            dtype=str(self.model.embedding.weight.dtype),
            head=repr(self.head),
            tokenizer=self.preprocess.tokenizer.to_str(),
            prompt=self.preprocess.prompt,
        )


def read_static_folder(folder: Path, name: str, head: Sequence[nn.Module], prompt: str) -> StaticEncoder:
    """The table in a ``StaticEmbedding`` module's folder, of sentence-transformers or of model2vec.

    Raises :class:`~xmodal.errors.AdapterError` where tokenizer or table is missing or broken.
    """
    from tokenizers import Tokenizer

    path = folder / "tokenizer.json"
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises no narrower one
        raise AdapterError(f"{path} is missing or is not a tokenizer: {error!s:.200}") from error
    state = read_weights(folder)
    if "embedding.weight" in state:
        rows = state["embedding.weight"]
    elif "embeddings" in state:
        rows = _unfold(state)
    else:
        raise AdapterError(f"{folder} holds no token embeddings, only {', '.join(sorted(state)[:5])}.")
    return StaticEncoder(name, TokenTable(rows.float().contiguous()), StaticPreprocess(tokenizer, prompt), head)


def _unfold(state: Mapping[str, Tensor]) -> Tensor:
    """model2vec's table: rows may be shared by several tokens (``mapping``), and have weights of their own."""
    rows = state["embeddings"].float()
    if "mapping" in state:
        rows = rows[state["mapping"].long()]
    return rows * state["weights"].float()[:, None] if "weights" in state else rows
