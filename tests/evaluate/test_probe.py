from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from xmodal.adapters import create_student
from xmodal.errors import EvaluationError
from xmodal.evaluate import evaluate
from xmodal.evaluate.embedding import embed
from xmodal.evaluate.logistic import fit
from xmodal.evaluate.probe import STRENGTHS
from xmodal.evaluate.training_set import Labelled, held_out

TRAIN, TEST = "package://emoji/train-000000.tar", "package://emoji/names-*.tar"


def scikit_learn(strength: float):
    return make_pipeline(StandardScaler(), LogisticRegression(C=strength, tol=1e-10, max_iter=5000))


@pytest.fixture(scope="module")
def student():
    torch.manual_seed(0)
    return create_student("image", model="mobilenetv3_small_050", weights="random", embed_dim=24, image_size=32).eval()


@pytest.fixture(scope="module")
def emoji(student):
    return {
        name: embed(student, shards, modality="image", label="json.group")
        for name, shards in (("train", TRAIN), ("test", TEST))
    }


@pytest.mark.parametrize("strength", [1e-5, 1e-2, 10.0])
def test_a_fit_is_scikit_learns(emoji, strength):
    train, test = emoji["train"], emoji["test"]
    classes = torch.tensor(np.unique(train.labels, return_inverse=True)[1])
    ours = fit(train.embeddings, classes, 9, strength)(test.embeddings).softmax(1)
    theirs = scikit_learn(strength).fit(train.embeddings.double().numpy(), train.labels)
    assert ours.numpy() == pytest.approx(theirs.predict_proba(test.embeddings.double().numpy()), abs=2e-5)


def test_the_whole_probe_is_scikit_learns_search_and_fit(student, emoji):
    found = evaluate(student, TEST, tasks=["probe"], train=TRAIN, label="json.group", seed=3).metrics["data"]
    train, test = emoji["train"], emoji["test"]
    x, y = train.embeddings.double().numpy(), np.array(train.labels)
    classes = torch.tensor(np.unique(y, return_inverse=True)[1])
    out = held_out(Labelled(train.embeddings, classes, train.keys), seed=3).numpy()
    assert out.mean() == pytest.approx(0.2, abs=0.01)

    def score(strength):
        model = scikit_learn(strength).fit(x[~out], y[~out])
        odds = model.predict_log_proba(x[out])
        return model.score(x[out], y[out]), odds[np.arange(out.sum()), np.searchsorted(model.classes_, y[out])].mean()

    scores = {strength: score(strength) for strength in STRENGTHS}
    best = max(scores, key=scores.get)
    scores |= {strength: score(strength) for strength in (best * 10**-0.5, best * 10**0.5)}
    best = max(scores, key=scores.get)
    assert found["probe_c"] == pytest.approx(best)
    final = scikit_learn(best).fit(x, y)
    predicted = final.predict(test.embeddings.double().numpy())
    assert found["probe_top1"] == pytest.approx(np.mean(predicted == test.labels), abs=1e-4)
    recall = balanced_accuracy_score(test.labels, predicted)
    assert found["probe_mean_per_class_recall"] == pytest.approx(recall, abs=1e-4)
    assert found["probe_top1"] > found["majority_top1"] + 0.05
    assert (found["num_train"], found["num_labelled"]) == (len(y), len(test.labels))


def test_the_held_out_part_hangs_on_keys_and_seed_alone():
    train = Labelled(torch.zeros(40, 2), torch.arange(40) % 4, [f"k{index}" for index in range(40)])
    out = held_out(train, seed=0)
    assert [int(out[train.classes == number].sum()) for number in range(4)] == [2, 2, 2, 2]
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    shuffled = Labelled(train.embeddings, train.classes[order], [train.keys[row] for row in order.tolist()])
    assert torch.equal(held_out(shuffled, seed=0), out[order])
    assert not torch.equal(held_out(train, seed=1), out)
    single = Labelled(torch.zeros(3, 2), torch.tensor([0, 1, 1]), ["a", "b", "c"])
    assert held_out(single, seed=0).tolist() in ([False, True, False], [False, False, True])


def test_features_that_do_not_vary_weigh_nothing():
    x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    y = (x[:, 0] > 0).long()
    still = torch.cat([x, torch.full((50, 1), 0.3)], dim=1)
    moved = still + torch.tensor([0.0, 0.0, 0.0, 5.0])
    assert torch.allclose(fit(still, y, 2, 1.0)(moved), fit(x, y, 2, 1.0)(x), atol=1e-5)


@pytest.mark.parametrize("task", ["knn", "probe"])
def test_what_cannot_be_learned_from_is_said(make_shard, clip, animals, labelled, train, task):
    shards, tasks = make_shard(labelled), {"tasks": [task]}
    with pytest.raises(EvaluationError, match=f"Task '{task}' learns from labelled samples, and none were given.*--tr"):
        evaluate(clip, "/nowhere/*.tar", **tasks)
    with pytest.raises(EvaluationError, match="No sample of the training set has a label in its member 'cls'"):
        evaluate(clip, shards, **tasks, train=make_shard(animals, "bare"))
    with pytest.raises(EvaluationError, match="No sample of split 'data' has a label in its member 'cls'"):
        evaluate(clip, make_shard(animals, "bare"), **tasks, train=train)
    alike = make_shard([{**row, "cls": 4} for row in labelled], "alike")
    with pytest.raises(EvaluationError, match="All 60 labelled samples of the training set have the label 4"):
        evaluate(clip, shards, **tasks, train=alike)
    strange = make_shard([{**row, "cls": row["cls"] + 20} for row in labelled], "strange")
    with pytest.raises(EvaluationError, match=r"20 labels of split 'data' occur in no training sample, such as \[2"):
        evaluate(clip, strange, **tasks, train=train)


def test_one_sample_a_class_leaves_none_to_hold_out(make_shard, clip, labelled):
    single = make_shard(labelled[:24], "single")
    with pytest.raises(EvaluationError, match="Each of the 24 classes has one training sample"):
        evaluate(clip, make_shard(labelled), tasks=["probe"], train=single)


def test_samples_without_a_label_are_left_out(make_shard, clip, labelled, train):
    bare = [{"key": f"n{index}", "image": 500 + index} for index in range(5)]
    expected = evaluate(clip, make_shard(labelled, "a"), tasks=["knn", "probe"], train=train).metrics["data"]
    found = evaluate(clip, make_shard([*bare, *labelled], "b"), tasks=["knn", "probe"], train=train).metrics["data"]
    assert found.pop("num_samples") == expected.pop("num_samples") + 5
    assert found == pytest.approx(expected, abs=1e-9)


def test_measuring_what_was_trained_on_is_warned_of(clip, train, caplog):
    with caplog.at_level(logging.WARNING, "xmodal"):
        evaluate(clip, {"fit": train}, tasks=["knn"], train=train)
    assert "'fit' is among the training shards" in caplog.text


def test_zero_shot_takes_labels_that_are_names(make_encoder):
    found = evaluate(make_encoder(("image", "text")), TEST, tasks=["zero-shot"], label="json.group").metrics["data"]
    assert (found["num_classes"], found["num_labelled"]) == (9, 681)


def test_a_single_class_has_nothing_to_be_mistaken_for(make_shard, clip, labelled):
    shards = make_shard([{**row, "cls": 0, "text": "cat"} for row in labelled])
    with pytest.raises(EvaluationError, match="Split 'data' has one class, 'cat'"):
        evaluate(clip, shards, tasks=["zero-shot"])
