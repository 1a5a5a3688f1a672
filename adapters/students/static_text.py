"""A table of token embeddings as text student: no layers, no positions, a mean."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Tensor

from xmodal.adapters.hub import fetch
from xmodal.adapters.pooling import Dense
from xmodal.adapters.registration import STUDENTS, check_sizes
from xmodal.adapters.sentence_encoder import SentenceEncoder
from xmodal.adapters.sentence_folder import read_sentence_folder
from xmodal.adapters.static_encoder import StaticEncoder, StaticPreprocess, TokenTable
from xmodal.adapters.tokenizer_choice import DEFAULT_TOKENIZER, check_texts, own_tokenizer
from xmodal.adapters.tokenizer_trim import count_tokens, read_texts, trim_tokenizer
from xmodal.errors import AdapterError

_RARE = 1e-3
"""A word that is this share of all tokens counts half (a of the SIF weights a / (a + p), arXiv:1704.08632 has 1e-3)."""


@STUDENTS.register("static")
def static(
    tokenizer: str | None = None,
    width: int | None = None,
    embed_dim: int | None = None,
    model: str | None = None,
    texts: str | list[str] | None = None,
    vocab_size: int | None = None,
    token_weights: bool = True,
) -> StaticEncoder:
    """A row of ``width`` numbers for every token, times its weight; a text is their mean. Fast, and blind to order.

    ``tokenizer``: hub name, folder or package, or ``trained``: one of its own, learned from ``texts``, which are shards
    or ``.txt`` files; of another one only their tokens are kept, at most ``vocab_size``. Without ``token_weights`` all
    tokens count alike; with ``texts`` frequent ones start with less. ``model``, a sentence encoder, gives the rows (and
    the tokenizer): what it makes of each token alone, its ``width`` main components. Otherwise rows are random. Where
    ``width`` (by default ``embed_dim``) is not ``embed_dim``, a linear head maps to it.
    """
    from tokenizers import Tokenizer

    check_sizes("student", width=width, embed_dim=embed_dim)
    check_texts(tokenizer, texts, vocab_size)
    said = None if texts is None else list(read_texts(texts))
    source, words = _start(tokenizer, model, said, vocab_size)
    if not words.is_fast:
        raise AdapterError(f"student 'static' needs a fast tokenizer; {type(words).__name__} is none.")
    if source is not None and said is not None:
        words = trim_tokenizer(words, said, vocab_size).tokenizer
    width = width or embed_dim or 256
    rows = _rows_of(source, words, width) if source is not None else torch.randn(len(words), width) * width**-0.5
    weights = _weights(count_tokens(words, said or ()), len(words)) if token_weights else None
    backend = Tokenizer.from_str(words.backend_tokenizer.to_str())
    backend.no_truncation()
    head = [Dense(width, embed_dim)] if embed_dim and embed_dim != width else []
    name = f"static ({len(words)} tokens of {width})"
    return StaticEncoder(name, TokenTable(rows, weights), StaticPreprocess(backend), head)


def _start(
    tokenizer: str | None, model: str | None, said: list[str] | None, vocab_size: int | None
) -> tuple[SentenceEncoder | None, Any]:
    """The model that the rows are of, where there is one, and the tokenizer."""
    if model is None:
        return None, own_tokenizer(tokenizer or DEFAULT_TOKENIZER, said, vocab_size)[0]
    if tokenizer is not None:
        raise AdapterError("student.model brings its own tokenizer: leave student.tokenizer out.")
    source = read_sentence_folder(fetch(model).folder, f"sentence ({model})")
    if not isinstance(source, SentenceEncoder):
        raise AdapterError(f"student.model {model!r} is a table itself; take a transformer.")
    return source, source.preprocess.tokenizer


def _rows_of(source: SentenceEncoder, words: Any, width: int) -> Tensor:
    """What ``source`` makes of each token alone, in its ``width`` main components, by the ids of ``words``."""
    tokens = words.convert_ids_to_tokens(list(range(len(words))))
    own = source.preprocess.tokenizer
    template = own("")["input_ids"]
    middle = len(template) // 2
    inputs = torch.tensor(
        [[*template[:middle], own.convert_tokens_to_ids(token), *template[middle:]] for token in tokens]
    )
    with torch.no_grad():
        parts = [
            source({"text_ids": rows, "text_mask": torch.ones_like(rows)}, ["text.embedding"])["text.embedding"]
            for rows in torch.split(inputs, 512)
        ]
    rows = torch.cat(parts)
    if width > rows.shape[1]:
        raise AdapterError(f"student.width {width} is more than the {rows.shape[1]} that {source.name} has.")
    if width == rows.shape[1]:
        return rows
    centred = rows - rows.mean(0)
    _, vectors = torch.linalg.eigh((centred.T @ centred).double())
    components: Tensor = centred @ vectors[:, -width:].flip(1).float()
    return components


def _weights(counts: Counter[int], size: int) -> Tensor:
    total = sum(counts.values())
    if not total:
        return torch.ones(size)
    shares = torch.tensor([counts[index] / total for index in range(size)])
    return _RARE / (_RARE + shares)
