from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from xmodal.adapters import create_student
from xmodal.errors import EvaluationError
from xmodal.evaluate import evaluate
from xmodal.evaluate.embedding import embed
from xmodal.evaluate.knn import neighbor_hits

TRAIN, TEST = "package://emoji/train-000000.tar", "package://emoji/names-*.tar"


@pytest.fixture(scope="module")
def student():
    torch.manual_seed(0)
    return create_student("image", model="mobilenetv3_small_050", weights="random", embed_dim=64, image_size=32).eval()


@pytest.mark.parametrize(("k", "temperature"), [(20, 0.07), (1, 0.07), (200, 0.5)])
def test_emoji_neighbours_vote_as_scikit_learn_and_dino_let_them(student, k, temperature):
    """scikit-learn finds the neighbours and adds up votes weighted as DINO weighs them."""
    found = evaluate(
        student, TEST, tasks=["knn"], train=TRAIN, label="json.group", knn_k=k, knn_temperature=temperature
    ).metrics["data"]
    train, test = (embed(student, shards, modality="image", label="json.group") for shards in (TRAIN, TEST))
    theirs = KNeighborsClassifier(
        n_neighbors=k, metric="cosine", algorithm="brute", weights=lambda far: np.exp((1 - far) / temperature)
    ).fit(train.embeddings.double().numpy(), train.labels)
    shares = theirs.predict_proba(test.embeddings.double().numpy())
    place = np.searchsorted(theirs.classes_, test.labels)
    assert found["num_train_classes"] == len(theirs.classes_) == 9
    top1 = np.mean(shares.argmax(1) == place)
    assert found["knn_top1"] == pytest.approx(top1, abs=1e-4)
    ordered = np.argsort(-shares, axis=1)[:, :5]
    own = shares[np.arange(len(place)), place]
    voted = (ordered == place[:, None]).any(1) & (own > 0)
    assert found["knn_top5"] == pytest.approx(np.mean(voted), abs=1e-4)
    sizes = {label: train.labels.count(label) for label in theirs.classes_}
    largest = max(sizes, key=sizes.get)
    assert found["majority_top1"] == pytest.approx(test.labels.count(largest) / len(test.labels))
    assert top1 > found["majority_top1"]


def test_candidates_tied_at_the_border_share_its_places():
    axes = torch.eye(4)
    # beside the query itself two others are equally near, one of either class, for one place that is left
    pool = torch.stack([axes[0], axes[1], axes[2]])
    query = torch.nn.functional.normalize(axes[0] + 0.5 * axes[1] + 0.5 * axes[2], dim=0)[None]
    classes = torch.tensor([0, 1, 2])
    second = neighbor_hits(query, pool, torch.tensor([1]), classes, k=2, temperature=1.0)
    assert (second.ahead.item(), second.beside.item()) == (1, 1)
    assert second.recall(2) == pytest.approx(0.5)
    swapped = neighbor_hits(query, pool[[0, 2, 1]], torch.tensor([1]), classes[[0, 2, 1]], k=2, temperature=1.0)
    assert swapped.recall(2) == second.recall(2)


def test_a_class_that_no_neighbour_has_is_not_found():
    pool, query = torch.eye(3), torch.eye(3)[:1]
    hits = neighbor_hits(query, pool, torch.tensor([2]), torch.tensor([0, 1, 2]), k=1, temperature=0.07)
    assert hits.recall(5) == 0


def test_more_neighbours_than_training_samples_are_refused(make_shard, clip, labelled, train):
    with pytest.raises(EvaluationError, match="64 neighbours were asked for, and the training set has 63"):
        evaluate(clip, make_shard(labelled), tasks=["knn"], train=train, knn_k=64)
    assert evaluate(clip, make_shard(labelled), tasks=["knn"], train=train, knn_k=63).metrics["data"]["num_train"] == 63
    with pytest.raises(EvaluationError, match=r"knn_k is 0.*; knn_temperature is 0"):
        evaluate(clip, "/nowhere/*.tar", tasks=["knn"], train=train, knn_k=0, knn_temperature=0)


def test_a_text_student_is_asked_about_its_texts(make_shard, make_encoder, labelled, train):
    """Named alike in training and test: the nearest text is the same text."""
    found = evaluate(make_encoder(("text",)), make_shard(labelled), tasks=["knn"], train=train, knn_k=1)
    assert found.metrics["data"]["knn_top1"] == 1
    assert found.metrics["data"]["num_labelled"] == 60
