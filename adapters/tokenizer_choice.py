"""The tokenizer of a student that is made from nothing: another model's, whole or trimmed, or one of its own."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from xmodal.adapters.hub import fetch
from xmodal.adapters.sentence_folder import load_tokenizer
from xmodal.adapters.tokenizer_train import TRAINED, train_tokenizer
from xmodal.adapters.tokenizer_trim import trim_tokenizer
from xmodal.errors import AdapterError

DEFAULT_TOKENIZER = "sentence-transformers/all-MiniLM-L6-v2"


def check_texts(tokenizer: str | None, texts: str | list[str] | None, vocab_size: int | None) -> None:
    """Raises :class:`AdapterError` where a tokenizer is to be learned from, or trimmed to, texts that are not given."""
    if texts is None and tokenizer == TRAINED:
        raise AdapterError("student.tokenizer trained is learned from student.texts: give shards or .txt files.")
    if texts is None and vocab_size is not None:
        raise AdapterError("student.vocab_size keeps the most frequent tokens of student.texts: give texts as well.")


def own_tokenizer(
    name: str, said: Iterable[str] | None, vocab_size: int | None, max_length: int = 512
) -> tuple[Any, int]:
    """The tokenizer ``name``, trimmed to what is ``said`` where that is given, or learned from it; its longest text."""
    if name == TRAINED:
        return train_tokenizer(said or (), vocab_size, max_length), max_length
    words, longest = load_tokenizer(fetch(name, weights=False).folder, {})
    return (words if said is None else trim_tokenizer(words, said, vocab_size).tokenizer), longest
