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
            about = {} if word is None else {"word": [word, "another"]}
            writer.add(f"w{number}", {"txt": meaning.encode(), "json": json.dumps(about).encode()})
    return str(tmp_path / "words"), [pair for pair in pairs if pair[0] is not None]


def brute_force(asked, pool, k):
    """Share of the distinct strings asked for that have a row of theirs among the k nearest rows of the pool.

    Rows that are level are two at most, so the mean of both their orders is that of all.
    """
    (names, vectors), (own, rows) = asked, pool
    found = {}
    for name, vector in zip(names, vectors, strict=True):
        scores = (-(rows @ vector)).round(7)
        orders = (np.argsort(scores, kind="stable"), len(rows) - 1 - np.argsort(scores[::-1], kind="stable"))
        found[name] = np.mean([name in {own[place] for place in order[:k]} for order in orders])
    return float(np.mean(list(found.values())))


def test_recall_is_what_loops_say(words, make_encoder, vectors):
    shards, pairs = words
    encoder = make_encoder(("text",))
    metrics = evaluate(encoder, shards, tasks=["text-retrieval"], query="json.word").metrics["data"]
    queries, texts = ([pair[side] for pair in pairs] for side in (0, 1))
    of_queries, of_texts = (vectors(encoder, "text", column) for column in (queries, texts))
    for k in (1, 5):
        assert metrics[f"query_to_text_recall@{k}"] == pytest.approx(
            brute_force((queries, of_queries), (queries, of_texts), k)
        )
        assert metrics[f"text_to_query_recall@{k}"] == pytest.approx(
            brute_force((texts, of_texts), (texts, of_queries), k)
        )
    assert (metrics["num_queries"], metrics["num_pairs"]) == (len(set(queries)), len(pairs))


def test_the_teacher_reads_for_a_student_of_pictures_and_no_picture_is_needed(words, make_encoder):
    student, teacher = make_encoder(("image",)), make_encoder(("text",), seed=1)
    options = {"tasks": ["text-retrieval"], "query": "json.word"}
    found = evaluate(student, words[0], **options, teachers={"t": teacher})
    assert found.metrics == evaluate(teacher, words[0], **options).metrics


def test_without_a_query_the_message_names_the_option(words, make_encoder):
    with pytest.raises(EvaluationError, match=r"query='json.name'.*evaluate.query.*--query"):
        evaluate(make_encoder(("text",)), words[0], tasks=["text-retrieval"])


def test_the_command_takes_a_query(words, tmp_path, capsys):
    student = save_student(create_student("static", width=16), tmp_path / "student", {})
    arguments = ["evaluate", str(student), "--data", words[0], "--task", "text-retrieval", "--format", "json"]
    assert main([*arguments, "--query", "json.word"]) == 0
    assert json.loads(capsys.readouterr().out)["num_pairs"] == len(words[1])
    assert main(arguments) != 0
    assert "--query" in capsys.readouterr().err
