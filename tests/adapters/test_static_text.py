"""A table of tokens as text student, against sentence-transformers' StaticEmbedding."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from tokenizers import Tokenizer

import xmodal
from xmodal.adapters import Encoder, create_student, create_teacher
from xmodal.adapters.static_encoder import StaticEncoder
from xmodal.errors import AdapterError

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
NAMES = "package://emoji/names-*.tar"
TEXTS = ["a sad cat", "The BIG red car plays in the grass.", "", "名前 émoji 😀", "night " * 400]


def student(**options: Any) -> StaticEncoder:
    torch.manual_seed(0)
    made = create_student("static", **{"width": 16, "texts": NAMES, **options})
    assert isinstance(made, StaticEncoder)
    return made


@pytest.mark.parametrize("options", [{}, {"embed_dim": 6}, {"token_weights": False}, {"vocab_size": 400}])
def test_it_is_saved_as_a_static_embedding_of_sentence_transformers(options: dict[str, Any], tmp_path: Path) -> None:
    made = student(**options)
    if made.model.weights is not None:
        torch.nn.init.uniform_(made.model.weights, 0.5, 2)
    expected = made.encode(text=TEXTS)["text.embedding"]
    xmodal.save_student(made, tmp_path / "student")
    others = SentenceTransformer(str(tmp_path / "student"), device="cpu")
    assert isinstance(others[0], StaticEmbedding)
    assert torch.allclose(others.encode(TEXTS, convert_to_tensor=True), expected, atol=1e-6)
    again = xmodal.load_student(tmp_path / "student")
    assert torch.allclose(again.encode(text=TEXTS)["text.embedding"], expected, atol=1e-6)
    assert again.spec == made.spec
    assert "SentenceTransformer" in (tmp_path / "student" / "README.md").read_text()
    assert again.embed_dim == made.embed_dim == expected.shape[1]


def test_a_static_embedding_made_by_sentence_transformers_is_read(tmp_path: Path, minilm_folder: Path) -> None:
    torch.manual_seed(0)
    tokenizer = Tokenizer.from_file(str(minilm_folder / "tokenizer.json"))  # which cuts at 128 tokens
    reference = SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=8)], device="cpu")
    reference.save(str(tmp_path / "static"))
    teacher = create_teacher("sentence", model=str(tmp_path / "static"))
    found = teacher.encode(text=TEXTS)["text.embedding"]
    assert torch.allclose(found, reference.encode(TEXTS, convert_to_tensor=True), atol=1e-6)


def test_a_table_of_model2vec_is_read_with_its_mapping_and_weights(tmp_path: Path) -> None:
    made = student(token_weights=False)
    xmodal.save_student(made, tmp_path / "static")
    size = made.model.embedding.num_embeddings
    table = {
        "embeddings": torch.randn(10, 16),
        "mapping": torch.arange(size) % 10,
        "weights": torch.rand(size, dtype=torch.float64),
    }
    save_file(table, tmp_path / "static" / "model.safetensors")
    reference = SentenceTransformer(str(tmp_path / "static"), device="cpu")
    found = create_teacher("sentence", model=str(tmp_path / "static")).encode(text=TEXTS)["text.embedding"]
    assert torch.allclose(found, reference.encode(TEXTS, convert_to_tensor=True), atol=1e-6)


def test_rows_are_what_a_model_makes_of_each_token(minilm: Encoder) -> None:
    made = student(model=MINILM, width=384, token_weights=False)
    names = ["cat", "bridge", "night"]
    rows = [
        made.preprocess.tokenizer.token_to_id(name) for name in names if made.preprocess.tokenizer.token_to_id(name)
    ]
    known = [name for name in names if made.preprocess.tokenizer.token_to_id(name)]
    assert known
    expected = minilm.encode(text=known)["text.embedding"]
    assert torch.allclose(made.model.embedding.weight[rows], expected, atol=1e-5)


def test_fewer_components_keep_what_is_near_near() -> None:
    whole, small = (
        student(model=MINILM, width=width, token_weights=False).model.embedding.weight.detach() for width in (384, 64)
    )
    centred = whole - whole.mean(0)
    assert small.shape == (len(whole), 64)
    variance = small.square().sum() / centred.square().sum()
    singular = torch.linalg.svdvals(centred).square()
    assert variance.item() == pytest.approx((singular[:64].sum() / singular.sum()).item(), rel=1e-4)


def test_the_meaning_of_sentences_survives_without_any_training() -> None:
    made = create_student("static", model=MINILM, width=128, texts=["package://emoji/train-*.tar", NAMES])
    names = ["cat face with tears of joy", "crying cat", "pouting cat", "fire truck", "delivery truck", "red apple"]
    embeddings = torch.nn.functional.normalize(made.encode(text=names)["text.embedding"], dim=-1)
    near = embeddings @ embeddings.T
    assert near[1, 2] > near[1, 3:].max()
    assert near[3, 4] > near[3, [0, 1, 2, 5]].max()


def test_frequent_tokens_start_with_less_weight() -> None:
    made = student(texts="package://emoji/train-*.tar")
    identify = made.preprocess.tokenizer.token_to_id
    weights = made.model.weights
    assert weights is not None
    assert weights[identify("with")] < weights[identify("bridge")] < 1


def test_taps_padding_and_gradients() -> None:
    made = student(embed_dim=6)
    inputs = made.preprocess.collate([made.preprocess({"text": text}) for text in TEXTS[:3]])
    features = made(inputs, made.taps())
    row = features["text.tokens"][0, : int(inputs["text_mask"][0].sum())].mean(0)
    assert torch.allclose(features["text.features"][0], row, atol=1e-6)
    assert not features["text.features"][2].any()
    assert features["text.mask"].sum(1).tolist() == inputs["text_mask"].sum(1).tolist()
    features["text.embedding"].sum().backward()
    assert [name for name, parameter in made.named_parameters() if parameter.grad is None] == []
    alone = made.encode(text=TEXTS, batch_size=1)["text.embedding"]
    assert torch.allclose(alone, made.encode(text=TEXTS)["text.embedding"], atol=1e-6)
    copied = pickle.loads(pickle.dumps(made.preprocess))
    assert torch.equal(
        copied.collate([{"text": "a cat"}])["text_ids"], made.preprocess.collate([{"text": "a cat"}])["text_ids"]
    )


def test_a_table_of_the_wrong_height_or_no_table_is_refused(tmp_path: Path) -> None:
    xmodal.save_student(student(), tmp_path / "student")
    path = tmp_path / "student" / "model.safetensors"
    save_file({"embedding.weight": load_file(path)["embedding.weight"][:5]}, path)
    with pytest.raises(AdapterError, match=r"has 5 rows for a tokenizer of \d+ tokens"):
        xmodal.load_student(tmp_path / "student")
    save_file({"other": torch.zeros(2)}, path)
    with pytest.raises(AdapterError, match="holds no token embeddings, only other"):
        xmodal.load_student(tmp_path / "student")
    (tmp_path / "student" / "tokenizer.json").write_text("{")
    with pytest.raises(AdapterError, match=r"tokenizer\.json is missing or is not a tokenizer"):
        xmodal.load_student(tmp_path / "student")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"texts": None, "vocab_size": 100}, r"vocab_size keeps the most frequent tokens of student\.texts"),
        ({"model": MINILM, "width": 385}, r"width 385 is more than the 384"),
        ({"model": MINILM, "tokenizer": MINILM}, r"brings its own tokenizer"),
    ],
)
def test_wrong_options_are_explained(options: dict[str, Any], message: str) -> None:
    with pytest.raises(AdapterError, match=message):
        student(**options)
