"""A compact transformer as text student, from random weights or from a bigger one's layers, with a linear head."""

from __future__ import annotations

from typing import Any

from xmodal.adapters.hub import fetch
from xmodal.adapters.layer_selection import check_layers, evenly_spaced, select_layers
from xmodal.adapters.pooling import Dense, Pooling
from xmodal.adapters.preprocess import TextPreprocess
from xmodal.adapters.registration import STUDENTS, check_sizes
from xmodal.adapters.sentence_encoder import SentenceEncoder
from xmodal.adapters.sentence_folder import read_sentence_folder
from xmodal.adapters.tokenizer_choice import DEFAULT_TOKENIZER, check_texts, own_tokenizer
from xmodal.adapters.tokenizer_trim import Trimmed, read_texts, trim_embeddings, trim_tokenizer
from xmodal.errors import AdapterError

_WIDTH, _HEADS, _DROPOUT = 256, 4, 0.1


@STUDENTS.register("text")
def text(
    tokenizer: str | None = None,
    num_layers: int = 4,
    width: int | None = None,
    num_heads: int | None = None,
    embed_dim: int | None = None,
    max_length: int = 64,
    dropout: float | None = None,
    model: str | None = None,
    layers: list[int] | None = None,
    texts: str | list[str] | None = None,
    vocab_size: int | None = None,
    locked: bool = False,
) -> SentenceEncoder:
    """A transformer of ``num_layers`` layers, its pooling, and a linear head to ``embed_dim`` (none without it).

    Without ``model`` a BERT of random weights, of ``width`` (256) and ``num_heads`` (4), and mean pooling, over the
    ``tokenizer`` of a hub name, folder or package (all-MiniLM-L6-v2's); ``trained`` is one of its own, of at most
    ``vocab_size`` (8000) tokens, learned from ``texts``. With ``model``, a transformers text encoder by
    hub name, folder or package: ``num_layers`` of its layers, evenly spaced from the first to the last, or those that
    ``layers`` names by number; width, heads, tokenizer and pooling are its own, and the head is left out where it would
    be square. ``texts`` are shards or ``.txt`` files: of the tokenizer only their tokens are kept, at most
    ``vocab_size``, the most frequent. ``max_length`` is in tokens. ``dropout`` is 0.1, or the model's own.
    ``locked``: only the head learns, which is then made where it is square too; all before it stays as it is, in eval
    mode.
    Its taps are those of :class:`~xmodal.adapters.sentence_encoder.SentenceEncoder`.
    """
    sizes = {"num_layers": num_layers, "width": width, "num_heads": num_heads, "embed_dim": embed_dim}
    check_sizes("student", **sizes, max_length=max_length)
    if dropout is not None and not 0 <= dropout <= 1:
        raise AdapterError(f"student.dropout is a share of 0 … 1; given {dropout}.")
    check_texts(tokenizer, texts, vocab_size)
    if model is not None:
        for name, given in (("tokenizer", tokenizer), ("width", width), ("num_heads", num_heads)):
            if given is not None:
                raise AdapterError(f"student.model brings its own {name}: leave student.{name} out.")
        chosen = _selected(model, num_layers, layers, embed_dim, max_length, dropout, texts, vocab_size, square=locked)
        return chosen.lock() if locked else chosen
    if layers is not None:
        raise AdapterError("student.layers are those of student.model: give it, or num_layers for a new model.")
    source, said = tokenizer or DEFAULT_TOKENIZER, None if texts is None else read_texts(texts)
    words, longest = own_tokenizer(source, said, vocab_size, max_length)
    _check_length(max_length, longest, f"the tokenizer of {source}")
    small = _random(words, num_layers, width or _WIDTH, num_heads or _HEADS, embed_dim, max_length, dropout)
    return small.lock() if locked else small


def _random(
    words: Any,
    num_layers: int,
    width: int,
    num_heads: int,
    embed_dim: int | None,
    max_length: int,
    dropout: float | None,
) -> SentenceEncoder:
    from transformers import BertConfig, BertModel

    if width % num_heads:
        raise AdapterError(f"student.width {width} is not a multiple of student.num_heads {num_heads}.")
    words.model_max_length = max_length  # also for those who load the tokenizer alone
    rate = _DROPOUT if dropout is None else dropout
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=width,
        num_hidden_layers=num_layers,
        num_attention_heads=num_heads,
        intermediate_size=4 * width,
        max_position_embeddings=max_length,
        hidden_dropout_prob=rate,
        attention_probs_dropout_prob=rate,
        pad_token_id=words.pad_token_id,
    )
    # Its pooler would be weights that no tap reads: without gradient, and refused by DDP.
    model = BertModel(config, add_pooling_layer=False)
    head = [Dense(width, embed_dim)] if embed_dim else []
    name = f"text ({num_layers} layers of {width})"
    return SentenceEncoder(name, model, TextPreprocess(words, max_length), Pooling(["mean"]), head)


def _selected(
    model: str,
    num_layers: int,
    layers: list[int] | None,
    embed_dim: int | None,
    max_length: int,
    dropout: float | None,
    texts: str | list[str] | None,
    vocab_size: int | None,
    square: bool,
) -> SentenceEncoder:
    source = read_sentence_folder(fetch(model).folder, f"student.model {model}")
    if not isinstance(source, SentenceEncoder):
        raise AdapterError(f"student.model {model!r} has no layers; the student for it is called static.")
    total, preprocess = source.num_layers, source.preprocess
    _check_length(max_length, preprocess.max_length, model)
    chosen = check_layers(layers, total, model) if layers is not None else evenly_spaced(total, num_layers)
    small = select_layers(source.model, chosen, dropout)
    words = preprocess.tokenizer
    if texts is not None:
        trimmed: Trimmed = trim_tokenizer(words, read_texts(texts), vocab_size)
        trim_embeddings(small, trimmed)
        words = trimmed.tokenizer
    words.model_max_length = max_length
    dense = bool(embed_dim) and (square or embed_dim != source.features_dim)
    return SentenceEncoder(
        f"text ({len(chosen)} of {total} layers of {model.rpartition('/')[2]})",
        small,
        TextPreprocess(words, max_length, preprocess.prompt),
        source.pooling,
        [Dense(source.features_dim, embed_dim)] if dense and embed_dim else [],
    )


def _check_length(max_length: int, longest: int, owner: str) -> None:
    if max_length > longest:
        raise AdapterError(f"student.max_length {max_length} is more than {owner} allows: {longest}.")
