from __future__ import annotations

import pytest
import torch
from sentence_transformers import SentenceTransformer

import xmodal
from xmodal.adapters import create_student
from xmodal.adapters.tokenizer_train import train_tokenizer
from xmodal.errors import AdapterError

TEXTS = ["γάτα που κλαίει", "γάτα", "weinende Katze", "Katze mit Herz", "泣いている猫", "笑う猫", "chat qui pleure"] * 3


def test_frequent_words_of_any_script_are_one_token_and_new_ones_are_spelt():
    tokenizer = train_tokenizer(TEXTS, 120)
    assert len(tokenizer) <= 120
    assert tokenizer.tokenize("Γάτα Katze") == ["▁γάτα", "▁katze"]
    assert tokenizer.unk_token not in tokenizer.tokenize("τακ tezak 猫猫")  # letters that it has seen
    assert tokenizer.tokenize("🙂")[-1] == tokenizer.unk_token
    assert tokenizer.decode(tokenizer.encode("eine Katze"), skip_special_tokens=True).split() == ["eine", "katze"]
    ids = tokenizer("Katze")["input_ids"]
    assert (ids[0], ids[-1]) == (tokenizer.cls_token_id, tokenizer.sep_token_id)


def test_the_same_texts_give_the_same_tokenizer():
    many = [chr(0x4E00 + number) for number in range(500)]  # more rare letters than there is room for
    for texts in (TEXTS, TEXTS + many):
        assert len({train_tokenizer(texts, 100).backend_tokenizer.to_str() for _ in range(5)}) == 1


def test_letters_take_half_of_the_tokens_at_most():
    many = [chr(0x4E00 + number) for number in range(500)]
    vocab = train_tokenizer(["eine Katze"] * 20 + many, 100).get_vocab()
    assert "▁katze" in vocab
    assert sum(len(token) == 1 for token in vocab) == 50


@pytest.mark.parametrize("name", ["text", "static"])
def test_a_student_of_its_own_tokens_loads_without_xmodal(tmp_path, name):
    options = {"text": {"num_layers": 1, "width": 32, "num_heads": 2}, "static": {"width": 16}}[name]
    shards = "package://emoji/names-*.tar"
    student = create_student(name, tokenizer="trained", texts=shards, vocab_size=400, embed_dim=24, **options)
    folder = xmodal.save_student(student, tmp_path / "student")
    ours = student.eval().encode(text=["a crying cat", "flag"])["text.embedding"]
    theirs = SentenceTransformer(str(folder)).encode(["a crying cat", "flag"])
    assert abs(ours.numpy() - theirs).max() < 1e-6
    again = xmodal.load_student(folder)
    torch.testing.assert_close(again.encode(text=["a crying cat", "flag"])["text.embedding"], ours)


def test_mistakes_say_what_is_missing():
    with pytest.raises(AdapterError, match=r"trained is learned from student.texts"):
        create_student("text", tokenizer="trained")
    with pytest.raises(AdapterError, match="there are none"):
        train_tokenizer([" "])
    with pytest.raises(AdapterError, match="vocab_size 7 leaves no room"):
        train_tokenizer(TEXTS, 7)
