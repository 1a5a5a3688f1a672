"""A tokenizer cut down to the tokens of some texts; the rows of embeddings follow."""

from __future__ import annotations

import json
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from xmodal.errors import AdapterError

_TOGETHER = 1024
_BYTE = re.compile(r"^<0x[0-9A-F]{2}>$")
_ID_SETTINGS = ("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id", "mask_token_id")


@dataclass(frozen=True)
class Trimmed:
    """``tokenizer`` with fewer tokens; ``kept`` int64 ``[V]`` says which old id each new one was."""

    tokenizer: Any
    kept: Tensor


def count_tokens(tokenizer: Any, texts: Iterable[str]) -> Counter[int]:
    """How often each id occurs in ``texts``, special tokens left out. They are not cut."""
    counts: Counter[int] = Counter()
    backend = type(tokenizer.backend_tokenizer).from_str(tokenizer.backend_tokenizer.to_str())
    backend.no_truncation()
    backend.no_padding()
    for chunk in _chunks(texts):
        for encoding in backend.encode_batch(chunk, add_special_tokens=False):
            counts.update(encoding.ids)
    return counts


def trim_tokenizer(tokenizer: Any, texts: Iterable[str], size: int | None = None) -> Trimmed:
    """The special tokens, those that occur in ``texts``, and single letters of theirs, so that new words can be spelt.

    These texts are cut into the same tokens as before, unless ``size`` is less than that takes: then the most frequent
    tokens stay, and words of the others are cut finer. Tokens keep their order. Of BPE, the tokens that others are
    merged from stay as well, and so do all bytes of a byte-level one.
    Raises :class:`~xmodal.errors.AdapterError` for a tokenizer that is not a fast one, and a ``size`` without room.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise AdapterError(f"{type(tokenizer).__name__} is no fast tokenizer, and only those can be trimmed.")
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    counts = count_tokens(tokenizer, texts)
    if not counts:
        raise AdapterError("The texts that a tokenizer was to be trimmed to hold no token.")
    vocab = tokenizer.get_vocab()
    names = {index: token for token, index in vocab.items()}
    wanted = [names[index] for index in sorted(counts, key=lambda index: (-counts[index], index))]
    special = {names[added["id"]] for added in backend["added_tokens"]}
    tokens = special | _letters(backend, wanted, vocab)
    if size is not None and size < len(tokens):
        raise AdapterError(
            f"vocab_size {size} leaves no room: special tokens and the letters of the texts are {len(tokens)} already."
        )
    reach = _reach(backend)
    for token in wanted:
        more = {part for part in reach(token) if part in vocab} - tokens
        if size is not None and len(tokens) + len(more) > size:
            break
        tokens |= more
    kept = sorted(vocab[token] for token in tokens)
    _renumber(backend, tokens, {old: new for new, old in enumerate(kept)})
    return Trimmed(_rebuilt(tokenizer, backend), torch.tensor(kept))


def trim_embeddings(model: Any, trimmed: Trimmed) -> None:
    """Leave a transformers model the embeddings of the kept tokens, under their new ids."""
    old = model.get_input_embeddings()
    new = nn.Embedding(len(trimmed.kept), old.embedding_dim, padding_idx=trimmed.tokenizer.pad_token_id)
    new.weight = nn.Parameter(old.weight.detach()[trimmed.kept].clone())
    model.set_input_embeddings(new)
    numbers = {old_id: new_id for new_id, old_id in enumerate(trimmed.kept.tolist())}
    model.config.vocab_size = len(trimmed.kept)
    for name in _ID_SETTINGS:
        value = getattr(model.config, name, None)
        if isinstance(value, int):
            setattr(model.config, name, numbers.get(value))


def read_texts(sources: str | list[str], text: str = "txt") -> Iterator[str]:
    """The texts of shards (see :func:`xmodal.data.expand`), or the lines of ``.txt`` files.

    ``text`` is the member that holds a sample's text, or a path into a JSON member; all texts of a list are taken.
    Samples without a text are left out. Raises :class:`~xmodal.errors.DataError` for shards that cannot be opened, and
    :class:`~xmodal.errors.AdapterError` for a file that cannot be read.
    """
    from xmodal.data import open_shards
    from xmodal.data.formats.captions import captions_of
    from xmodal.data.members import MemberError

    given = [sources] if isinstance(sources, str) else list(sources)
    files = [source for source in given if source.endswith(".txt")]
    for file in files:
        try:
            lines = Path(file).expanduser().read_text(encoding="utf-8-sig").splitlines()
        except (OSError, ValueError) as error:
            raise AdapterError(f"{file} cannot be read as UTF-8 text: {error}") from error
        yield from (line.strip() for line in lines if line.strip())
    others = [source for source in given if source not in files]
    if not others:
        return
    shards = open_shards(others)
    for row in range(shards.num_samples):
        try:
            yield from captions_of(shards.read(row).members, text)
        except MemberError:
            continue  # the stream counts and names such samples


def _chunks(texts: Iterable[str]) -> Iterator[list[str]]:
    texts = iter(texts)
    while chunk := list(islice(texts, _TOGETHER)):
        yield chunk


def _letters(backend: Mapping[str, Any], wanted: Iterable[str], vocab: Mapping[str, int]) -> set[str]:
    """What any word of the same letters can be spelt with; the bytes, where the model has those; the unknown token."""
    model = backend["model"]
    prefix, suffix = _marks(model)
    spelt = {character for token in wanted for character in token.removeprefix(prefix).removesuffix(suffix)}
    if "ByteLevel" in json.dumps([backend["pre_tokenizer"], backend["normalizer"]]):
        spelt |= {token for token in vocab if len(token) == 1}
    letters = {form for letter in spelt for form in (letter, f"{prefix}{letter}", f"{letter}{suffix}")}
    if model.get("byte_fallback"):
        letters |= {token for token in vocab if _BYTE.match(token)}
    return {token for token in (*letters, model.get("unk_token")) if token in vocab}


def _marks(model: Mapping[str, Any]) -> tuple[str, str]:
    return model.get("continuing_subword_prefix") or "", model.get("end_of_word_suffix") or ""


def _reach(backend: Mapping[str, Any]) -> Callable[[str], set[str]]:
    """Token → what has to be there for the model to arrive at it, itself included."""
    model = backend["model"]
    if model["type"] != "BPE":
        return lambda token: {token}
    prefix, suffix = _marks(model)
    ranks = {pair: rank for rank, pair in enumerate(_merges(model))}
    return lambda token: {token, *_merged_from(token, ranks, prefix, suffix)}


def _merges(model: Mapping[str, Any]) -> list[tuple[str, str]]:
    pairs = (pair.split(" ", 1) if isinstance(pair, str) else pair for pair in model["merges"])
    return [(left, right) for left, right in pairs]


def _merged_from(token: str, ranks: Mapping[tuple[str, str], int], prefix: str, suffix: str) -> set[str]:
    """All that BPE passes through on its way to ``token``: within a word's token it merges as it does in that alone."""
    letters = list(token.removeprefix(prefix).removesuffix(suffix))
    parts = [
        f"{prefix}{letter}" if number or token.startswith(prefix) else letter for number, letter in enumerate(letters)
    ]
    if suffix and parts and token.endswith(suffix):
        parts[-1] += suffix
    seen = set(parts)
    while len(parts) > 1:
        pairs = [(ranks.get(pair, len(ranks)), at) for at, pair in enumerate(pairwise(parts))]
        rank, at = min(pairs)
        if rank == len(ranks):
            break
        parts[at : at + 2] = [parts[at] + parts[at + 1].removeprefix(prefix)]
        seen.add(parts[at])
    return seen


def _renumber(backend: dict[str, Any], tokens: set[str], numbers: Mapping[int, int]) -> None:
    """Drop all other tokens from a tokenizer's JSON, and give the rest their new ids."""
    model = backend["model"]
    if model["type"] == "Unigram":
        old = model["vocab"]
        unknown = model.get("unk_id")
        model["vocab"] = [entry for index, entry in enumerate(old) if index in numbers]
        model["unk_id"] = None if unknown is None else numbers[unknown]
    else:
        model["vocab"] = {token: numbers[index] for token, index in model["vocab"].items() if index in numbers}
    if model["type"] == "BPE":
        prefix = model.get("continuing_subword_prefix") or ""
        model["merges"] = [
            [left, right]
            for left, right in _merges(model)
            if {left, right, left + right.removeprefix(prefix)} <= tokens
        ]
    for added in backend["added_tokens"]:
        added["id"] = numbers[added["id"]]
    _renumber_processor(backend.get("post_processor") or {}, numbers)


def _renumber_processor(processor: dict[str, Any], numbers: Mapping[int, int]) -> None:
    for special in (processor.get("special_tokens") or {}).values():
        special["ids"] = [numbers[index] for index in special["ids"]]
    for name in ("cls", "sep"):
        if isinstance(processor.get(name), list):
            processor[name] = [processor[name][0], numbers[processor[name][1]]]
    for inner in processor.get("processors") or ():
        _renumber_processor(inner, numbers)


def _rebuilt(tokenizer: Any, backend: dict[str, Any]) -> Any:
    """The tokenizer that its library makes of these files: what it saves later is what it was loaded from."""
    import transformers

    backend["padding"] = backend["truncation"] = None
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        for path in Path(folder).iterdir():
            if path.name not in ("tokenizer_config.json", "chat_template.jinja"):
                path.unlink()
        settings = json.loads((Path(folder) / "tokenizer_config.json").read_text(encoding="utf-8"))
        settings.pop("added_tokens_decoder", None)  # by old ids; tokenizer.json has them
        (Path(folder) / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
        (Path(folder) / "tokenizer.json").write_text(json.dumps(backend, ensure_ascii=False), encoding="utf-8")
        rebuilt = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    rebuilt.name_or_path = tokenizer.name_or_path
    return rebuilt
