"""Scores, queries, keys and values of sentence teachers and text students, by the same code."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers

from xmodal.adapters import Encoder, create_student, create_teacher
from xmodal.losses import attention_relation, attention_scores

TEXTS = ["a sad cat", "the big red dog sleeps in the grass under the bridge of the night, and the cat", ""]


@pytest.fixture(scope="module")
def minilm() -> Encoder:
    return create_teacher("sentence", model="sentence-transformers/all-MiniLM-L6-v2")


def test_the_real_minilms_scores_are_its_queries_and_keys(minilm: Encoder) -> None:
    inputs = minilm.preprocess.collate([minilm.preprocess({"text": text}) for text in TEXTS])
    for layer in (0, 5):
        taps = [f"text.{what}.{layer}" for what in ("query", "key", "value", "scores", "attention")]
        query, key, value, scores, attention = minilm(inputs, taps).values()
        assert torch.allclose(scores.softmax(-1), attention, atol=1e-6)
        heads = [tensor.unflatten(-1, (12, 32)).transpose(1, 2) for tensor in (query, key)]
        products = heads[0] @ heads[1].transpose(-1, -2) / 32**0.5
        valid = inputs["text_mask"].bool()[:, None, None].expand_as(scores)
        assert torch.allclose(scores[valid], products[valid], atol=1e-5)
        assert (scores[~valid] < -1e30).all()  # the library's most negative number
        assert scores[~valid].isfinite().all()
        state = minilm(inputs, [f"text.hidden.{layer}"])[f"text.hidden.{layer}"]
        own = minilm.model.encoder.layer[layer].attention.self.value(state)
        assert torch.allclose(own, value, atol=1e-5)
    assert minilm.model.config._attn_implementation == "sdpa"


def test_both_teachers_say_the_same_of_one_model(minilm: Encoder) -> None:
    other = create_teacher("transformers", model="sentence-transformers/all-MiniLM-L6-v2")
    taps = ["text.tokens", "text.scores.3", "text.key.-1", "text.mask"]
    ours, theirs = (teacher.encode(text=TEXTS, taps=taps) for teacher in (minilm, other))
    assert all(torch.allclose(ours[tap].float(), theirs[tap].float(), atol=1e-5) for tap in taps)


def test_gradients_reach_a_text_students_scores_queries_and_values(minilm: Encoder) -> None:
    torch.manual_seed(0)
    model = "sentence-transformers/all-MiniLM-L6-v2"
    student = create_student("text", tokenizer=model, num_layers=2, width=48, num_heads=12, embed_dim=8)
    inputs = student.preprocess.collate([student.preprocess({"text": text}) for text in TEXTS])
    taps = ["text.scores.1", "text.value.-1", "text.query.0"]
    ours = student(inputs, taps)
    theirs = minilm(inputs, ["text.scores.-1", "text.value.-1"])
    mask = inputs["text_mask"].bool()
    loss = attention_scores(ours["text.scores.1"], theirs["text.scores.-1"], mask=mask)
    loss = loss + attention_relation(ours["text.value.-1"], theirs["text.value.-1"], num_relation_heads=12, mask=mask)
    (loss + ours["text.query.0"].square().mean()).backward()
    layer = student.model.encoder.layer[1].attention.self
    for linear in (layer.query, layer.key, layer.value):
        assert linear.weight.grad.abs().sum() > 0


def test_layers_that_share_one_attention_have_none_of_their_own(tmp_path: Path) -> None:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "cat"]
    transformers.BertTokenizer(vocab={word: number for number, word in enumerate(words)}).save_pretrained(tmp_path)
    config = transformers.AlbertConfig(
        vocab_size=6, embedding_size=8, hidden_size=12, num_hidden_layers=3, num_attention_heads=2, intermediate_size=8
    )
    transformers.AlbertModel(config).save_pretrained(tmp_path)
    teacher = create_teacher("sentence", model=str(tmp_path))
    assert not [tap for tap in teacher.taps() if "scores" in tap or "query" in tap]
    assert "text.attention.2" in teacher.taps()


def test_a_sentence_folder_of_every_bert_like_kind_has_them(model_folder: Callable[[str], Path]) -> None:
    for kind in ("bert", "roberta", "distilbert", "mpnet", "electra", "deberta", "deberta-v2"):
        teacher = create_teacher("sentence", model=str(model_folder(kind)))
        found = teacher.encode(text=TEXTS, taps=["text.scores.1", "text.attention.1", "text.value.0"], batch_size=3)
        assert torch.allclose(found["text.scores.1"].softmax(-1), found["text.attention.1"], atol=1e-6), kind
