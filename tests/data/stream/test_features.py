"""Tensors and labels that lie in the shards come with the batch."""

from __future__ import annotations

import io
import json
import tarfile

import numpy as np
import pytest
import torch

from tests.data.stream.conftest import Lengths
from xmodal.data.stream import TrainStream
from xmodal.errors import DataError, RecipeError
from xmodal.recipe import Data


@pytest.fixture
def stored(tmp_path):
    """Writes a shard of ``count`` samples with an embedding of ``dim(number)`` values and a label in a JSON member."""

    def write(count, dim=lambda number: 4):
        path = tmp_path / "stored.tar"
        with tarfile.open(path, "w") as tar:
            for number in range(count):
                array = io.BytesIO()
                np.save(array, np.full(dim(number), number, dtype=np.float16))
                members = {"txt": b"word", "emb.npy": array.getvalue(), "json": json.dumps({"class": number}).encode()}
                for extension, data in members.items():
                    info = tarfile.TarInfo(f"{number:03d}.{extension}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
        return str(path)

    return write


def stream(shards, **options):
    defaults = {"preprocess": {"m": Lengths()}, "batch_size": 8, "features": {"embedding": "emb.npy"}}
    return TrainStream(shards, **{**defaults, **options})


def test_features_and_labels_are_the_samples_own(stored):
    batch = next(iter(stream(stored(20), label="json.class")))
    numbers = [int(key) for key in batch["key"]]
    assert batch["label"].tolist() == numbers
    assert batch["embedding"].dtype == torch.float16
    assert batch["embedding"].tolist() == [[number] * 4 for number in numbers]


def test_features_of_unlike_shapes_are_an_error_that_names_two_samples(stored):
    with pytest.raises(DataError, match=r"'embedding'.*\d{3} has \[[45]\]; \d{3} has \[[45]\]"):
        next(iter(stream(stored(20, dim=lambda number: 4 + number % 2))))


def test_a_sample_without_its_features_is_replaced_and_counted(stored):
    broken = stream(stored(20), features={"embedding": "other.npy"})
    with pytest.raises(DataError, match=r"no features 'other\.npy'"):
        next(iter(broken))


def test_names_that_a_batch_has_already_are_refused():
    with pytest.raises(RecipeError, match="a batch has label already"):
        Data(train="x.tar", features={"label": "emb.npy"})
