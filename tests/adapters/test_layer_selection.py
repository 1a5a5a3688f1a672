"""Students made of a bigger model's layers, against transformers' own layers called one after another."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from sentence_transformers import SentenceTransformer

import xmodal
from xmodal.adapters import create_student
from xmodal.adapters.layer_selection import check_layers, evenly_spaced, select_layers
from xmodal.adapters.sentence_encoder import SentenceEncoder
from xmodal.errors import AdapterError

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
TEXTS = ["a sad cat", "The BIG red car plays in the grass.", "", "名前 émoji 😀"]


def test_twelve_to_six_are_the_layers_of_distilbert() -> None:
    assert evenly_spaced(12, 6) == [
        0,
        2,
        4,
        7,
        9,
        11,
    ]  # huggingface/transformers, distillation/scripts/extract_distilbert.py


@given(st.integers(1, 48).flatmap(lambda total: st.tuples(st.just(total), st.integers(1, total))))
def test_layers_are_in_order_without_repetition_and_end_at_both_ends(sizes: tuple[int, int]) -> None:
    total, count = sizes
    layers = evenly_spaced(total, count)
    assert layers == sorted(set(layers))
    assert len(layers) == count
    assert layers[0] == 0
    assert count == 1 or layers[-1] == total - 1
    gaps = {after - before for before, after in pairwise(layers)}
    assert not gaps or max(gaps) - min(gaps) <= 1


def minilm_student(**options: Any) -> SentenceEncoder:
    student = create_student("text", model=MINILM, **options)
    assert isinstance(student, SentenceEncoder)
    return student.eval()


@pytest.mark.parametrize(("options", "layers"), [({"num_layers": 3}, [0, 3, 5]), ({"layers": [1, 2, -1]}, [1, 2, 5])])
def test_the_student_is_those_layers_of_the_model_and_its_embeddings(
    options: dict[str, Any], layers: list[int], minilm_folder: Path
) -> None:
    student = minilm_student(**options)
    model = transformers.AutoModel.from_pretrained(minilm_folder, attn_implementation="eager").eval()
    inputs = student.preprocess.collate([student.preprocess({"text": text}) for text in TEXTS])
    mask = inputs["text_mask"][:, None, None, :]
    with torch.no_grad():
        states = model.embeddings(inputs["text_ids"], inputs["text_types"])
        for layer in layers:
            output = model.encoder.layer[layer](states, (1 - mask.float()) * torch.finfo(torch.float32).min)
            states = output[0] if isinstance(output, tuple) else output
        found = student(inputs, ["text.tokens", "text.embedding"])
    real = inputs["text_mask"].bool()
    assert torch.allclose(found["text.tokens"][real], states[real], atol=1e-5)
    expected = torch.stack([row[own].mean(0) for row, own in zip(states, real, strict=True)])
    assert torch.allclose(found["text.embedding"], expected, atol=1e-5)
    assert student.num_layers == 3


def test_it_is_saved_as_an_ordinary_sentence_transformers_folder(tmp_path: Path) -> None:
    student = minilm_student(num_layers=2, embed_dim=16, texts="package://emoji/names-*.tar")
    texts = [*TEXTS, "bridge at night"]
    expected = student.encode(text=texts)["text.embedding"]
    xmodal.save_student(student, tmp_path / "student")
    others = SentenceTransformer(str(tmp_path / "student"), device="cpu").encode(texts, convert_to_tensor=True)
    assert torch.allclose(others, expected, atol=1e-6)
    again = xmodal.load_student(tmp_path / "student")
    assert again.state_hash() == student.state_hash()
    assert torch.equal(again.encode(text=texts)["text.embedding"], expected)
    model, report = transformers.AutoModel.from_pretrained(
        tmp_path / "student", output_loading_info=True, add_pooling_layer=False
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "student")
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    with torch.no_grad():
        states = model.eval()(**tokenizer(texts[:1], return_tensors="pt")).last_hidden_state
    assert torch.allclose(states, student.encode(text=texts[:1], taps=["text.tokens"])["text.tokens"], atol=1e-6)


def test_a_head_is_made_only_where_the_widths_differ() -> None:
    assert len(minilm_student(num_layers=1, embed_dim=384).head) == 0
    assert minilm_student(num_layers=1, embed_dim=5).embed_dim == 5


def test_dropout_is_the_models_own_or_the_students() -> None:
    assert minilm_student(num_layers=1).config.hidden_dropout_prob == 0.1
    assert minilm_student(num_layers=1, dropout=0.0).config.attention_probs_dropout_prob == 0.0


def small_config(kind: str) -> Any:
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 50}
    if kind == "distilbert":
        return transformers.DistilBertConfig(vocab_size=50, dim=16, n_heads=2, hidden_dim=32, n_layers=5)
    if kind == "t5":
        return transformers.T5Config(vocab_size=50, d_model=16, d_kv=8, d_ff=32, num_layers=5, num_heads=2)
    if kind == "modernbert":
        return transformers.ModernBertConfig(
            **sizes, num_hidden_layers=5, pad_token_id=0, cls_token_id=1, sep_token_id=2
        )
    return transformers.AutoConfig.for_model(kind, **sizes, num_hidden_layers=5, max_position_embeddings=40)


@pytest.mark.parametrize("kind", ["roberta", "mpnet", "distilbert", "t5", "modernbert", "electra"])
def test_every_family_keeps_the_chosen_layers(kind: str) -> None:
    torch.manual_seed(0)
    config = small_config(kind)
    model = (transformers.T5EncoderModel if kind == "t5" else transformers.AutoModel.from_config)(config).eval()
    ids = torch.randint(3, 50, (2, 7))
    with torch.no_grad():
        same = select_layers(model, range(5)).eval()
        assert torch.equal(same(input_ids=ids).last_hidden_state, model(input_ids=ids).last_hidden_state)
        small = select_layers(model, [0, 2, 3]).eval()
        hidden = small(input_ids=ids, output_hidden_states=True).hidden_states
        assert torch.allclose(hidden[1], model(input_ids=ids, output_hidden_states=True).hidden_states[1], atol=1e-6)
    assert len(hidden) == 4
    assert small.config.num_hidden_layers == 3
    assert model.config.num_hidden_layers == 5


def test_a_model_whose_layers_are_one_is_refused() -> None:
    config = transformers.AlbertConfig(
        vocab_size=20,
        embedding_size=8,
        hidden_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=16,
    )
    with pytest.raises(AdapterError, match=r"no list of 4 layers.*share their weights"):
        select_layers(transformers.AlbertModel(config), [0, 1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_layers": 7}, r"7 layers cannot be selected from 6: take 1 … 6"),
        ({"layers": [0, 6]}, r"layers \[0, 6\] cannot be selected: .* has 6 layers, 0 … 5"),
        ({"layers": [2, 1]}, r"name each once, the lower first"),
        ({"layers": []}, r"cannot be selected"),
        ({"width": 128}, r"student\.model brings its own width: leave student\.width out"),
        ({"tokenizer": MINILM}, r"brings its own tokenizer"),
        ({"vocab_size": 100}, r"vocab_size keeps the most frequent tokens of student\.texts"),
        ({"max_length": 9999}, r"max_length 9999 is more than"),
    ],
)
def test_what_cannot_be_selected_is_explained(options: dict[str, Any], message: str) -> None:
    with pytest.raises(AdapterError, match=message):
        minilm_student(**options)


def test_layers_without_a_model_are_refused() -> None:
    with pytest.raises(AdapterError, match=r"student\.layers are those of student\.model"):
        create_student("text", layers=[0])
    assert check_layers([-2, -1], 4, "x") == [2, 3]
