from __future__ import annotations

import json

import numpy as np
import pytest

from xmodal.adapters import create_student
from xmodal.cli import main
from xmodal.data import ShardWriter
from xmodal.errors import EvaluationError
from xmodal.evaluate import evaluate
from xmodal.export.native import save_student


@pytest.fixture
def words(tmp_path):
    """Words and what they mean; two words share a meaning, one word has two, and one sample has no word."""
    pairs = [
        (f"{chr(97 + i)}{chr(98 + i * 5 % 20)}x", f"a thing of kind {chr(97 + i * 7 % 26)} {i}") for i in range(24)
    ]
    pairs += [("twin", pairs[0][1]), (pairs[1][0], "quite another meaning"), (None, "a meaning without a word")]
    (tmp_path / "words").mkdir()
    with ShardWriter(tmp_path / "words") as writer:
        for number, (word, meaning) in enumerate(pairs):
            about = {} if word is None else {"word": [word]}
            writer.add(f"w{number}", {"txt": meaning.encode(), "json": json.dumps(about).encode()})
    return str(tmp_path / "words"), [pair for pair in pairs if pair[0] is not None]


def brute_force(queries, texts, pairs, embed, k):
    """Share of the distinct queries with a right one of the distinct texts among the k nearest."""
    pool = list(dict.fromkeys(texts))
    rows = embed(pool)
    found = []
    for query in dict.fromkeys(queries):
        nearest = np.argsort(-(rows @ embed([query])[0]), kind="stable")[:k]
        found.append(any((query, pool[place]) in pairs for place in nearest))
    return float(np.mean(found))


def test_recall_is_what_loops_say(words, make_encoder, vectors):
    shards, pairs = words
    encoder = make_encoder(("text",))
    metrics = evaluate(encoder, shards, tasks=["text-retrieval"], query="json.word").metrics["data"]
    queries, texts = ([pair[side] for pair in pairs] for side in (0, 1))

    def embed(column):
        return vectors(encoder, "text", column)

    for k in (1, 5):
        forth = brute_force(queries, texts, set(pairs), embed, k)
        back = brute_force(texts, queries, {(text, query) for query, text in pairs}, embed, k)
        assert metrics[f"query_to_text_recall@{k}"] == pytest.approx(forth)
        assert metrics[f"text_to_query_recall@{k}"] == pytest.approx(back)
    assert (metrics["num_queries"], metrics["num_query_texts"]) == (len(set(queries)), len(set(texts)))


def test_a_student_of_pictures_is_not_measured_by_how_its_teacher_reads(words, make_encoder):
    student, teacher = make_encoder(("image",)), make_encoder(("text",), seed=1)
    with pytest.raises(EvaluationError, match="measures how a student reads"):
        evaluate(student, words[0], tasks=["text-retrieval"], query="json.word", teachers={"t": teacher})


def test_a_query_that_cannot_be_read_is_none(tmp_path, make_encoder):
    abouts = [b"{not json", b'{"word": 5}', b'{"word": "dog"}', b'{"word": "cat"}']
    with ShardWriter(tmp_path) as writer:
        for number, about in enumerate(abouts):
            writer.add(f"w{number}", {"txt": f"meaning {number}".encode(), "json": about})
    found = evaluate(make_encoder(("text",)), str(tmp_path), tasks=["text-retrieval"], query="json.word")
    assert found.metrics["data"]["num_queries"] == 2
    with pytest.raises(EvaluationError, match=r"a query \('json.wrod'\)"):
        evaluate(make_encoder(("text",)), str(tmp_path), tasks=["text-retrieval"], query="json.wrod")


def test_without_a_query_the_message_names_the_option(words, make_encoder):
    with pytest.raises(EvaluationError, match=r"query='json.name'.*evaluate.query.*--query"):
        evaluate(make_encoder(("text",)), words[0], tasks=["text-retrieval"])


def test_the_command_takes_a_query(words, tmp_path, capsys):
    student = save_student(create_student("static", width=16), tmp_path / "student", {})
    arguments = ["evaluate", str(student), "--data", words[0], "--task", "text-retrieval", "--format", "json"]
    assert main([*arguments, "--query", "json.word"]) == 0
    assert json.loads(capsys.readouterr().out)["num_queries"] == len({query for query, _ in words[1]})
    assert main(arguments) != 0
    assert "--query" in capsys.readouterr().err
