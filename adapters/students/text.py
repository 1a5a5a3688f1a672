"""A small BERT from random weights as text student, with the linear head into the teacher's space."""

from __future__ import annotations

from xmodal.adapters.hub import fetch
from xmodal.adapters.pooling import Dense, Pooling
from xmodal.adapters.preprocess import TextPreprocess
from xmodal.adapters.registration import STUDENTS
from xmodal.adapters.sentence_encoder import SentenceEncoder
from xmodal.adapters.sentence_folder import load_tokenizer
from xmodal.errors import AdapterError


@STUDENTS.register("text")
def text(
    tokenizer: str = "sentence-transformers/all-MiniLM-L6-v2",
    num_layers: int = 4,
    width: int = 256,
    num_heads: int = 4,
    embed_dim: int | None = None,
    max_length: int = 64,
    dropout: float = 0.1,
) -> SentenceEncoder:
    """A BERT of ``num_layers`` layers, mean pooling, and a linear head to ``embed_dim`` (none without it).

    ``tokenizer`` is the hub name, folder or package whose tokenizer it takes; ``max_length`` is in tokens. Its taps are
    those of :class:`~xmodal.adapters.sentence_encoder.SentenceEncoder`.
    """
    from transformers import BertConfig, BertModel

    if width % num_heads:
        raise AdapterError(f"student.width {width} is not a multiple of student.num_heads {num_heads}.")
    words, longest = load_tokenizer(fetch(tokenizer, weights=False).folder, {})
    if max_length > longest:
        raise AdapterError(
            f"student.max_length {max_length} is more than the tokenizer of {tokenizer} allows: {longest}."
        )
    words.model_max_length = max_length  # also for those who load the tokenizer alone
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=width,
        num_hidden_layers=num_layers,
        num_attention_heads=num_heads,
        intermediate_size=4 * width,
        max_position_embeddings=max_length,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        pad_token_id=words.pad_token_id,
    )
    # Its pooler would be weights that no tap reads: without gradient, and refused by DDP.
    model = BertModel(config, add_pooling_layer=False)
    head = [Dense(width, embed_dim)] if embed_dim else []
    name = f"text ({num_layers} layers of {width})"
    return SentenceEncoder(name, model, TextPreprocess(words, max_length), Pooling(["mean"]), head)
