from __future__ import annotations

import io
import random

import numpy as np
import pytest
import torch
from PIL import Image

from xmodal.data.stream import EvalStream
from xmodal.recipe import Augment


def test_every_sample_comes_once_an_epoch_with_its_own_picture_text_and_label(shards, uninterrupted):
    keys = [key for batch in uninterrupted for key in batch[0]]
    assert sorted(keys[:52]) == [f"{number:03d}" for number in range(52)]
    assert keys[:52] != keys[52:104]
    for keys, texts, labels, views in uninterrupted:
        numbers = [int(key) for key in keys]
        assert labels == numbers
        assert [len(text) for text in texts] == [number + 1 for number in numbers]
        assert views["teacher"]["length"] == [number + 1 for number in numbers]
        assert views["student"]["size"] == [[12, 12]] * 8


def test_a_sample_keeps_its_own_picture(shards, make, take, picture):
    (keys, _, _, views), *_ = take(make(shards, augment=Augment(), image_size=None), 1)
    for key, found, size in zip(keys, views["student"]["pixels"], views["student"]["size"], strict=True):
        expected = np.array(Image.open(io.BytesIO(picture(int(key)))).resize((6, 6)))
        assert size == [10, 8]
        assert np.array_equal(found, expected)


@pytest.mark.parametrize("num_workers", [1, 2])
def test_batches_do_not_depend_on_the_number_of_workers(shards, uninterrupted, num_workers, make, take):
    assert take(make(shards, num_workers=num_workers), 20) == uninterrupted


def test_batches_do_not_depend_on_how_workers_are_started(shards, make, take):
    from xmodal.adapters.preprocess import ImagePreprocess

    config = {"input_size": (3, 12, 12), "interpolation": "bicubic", "mean": (0.5,) * 3, "std": (0.5,) * 3}
    models = {"student": ImagePreprocess({**config, "crop_pct": 1.0, "crop_mode": "center"})}
    spawned = make(shards, preprocess=models, num_workers=1, start_method="spawn")
    assert take(spawned, 2) == take(make(shards, preprocess=models), 2)


@pytest.mark.parametrize("world_size", [2, 4, 8])
def test_ranks_together_get_the_batch_of_one(shards, uninterrupted, world_size, make, take):
    ranks = [take(make(shards, rank=rank, world_size=world_size), 8) for rank in range(world_size)]
    for number in range(8):
        alone = rows(uninterrupted[number])
        together = [row for part in ranks for row in rows(part[number])]
        assert sorted(alone, key=repr) == sorted(together, key=repr)
        assert {len(part[number][0]) for part in ranks} == {8 // world_size}


def rows(batch) -> list:
    keys, texts, labels, views = batch
    return list(zip(keys, texts, labels, views["student"]["pixels"], views["teacher"]["length"], strict=True))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_global_random_generators_are_neither_read_nor_moved(shards, uninterrupted, num_workers, make, take, pixels):
    def states():
        return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()

    random.seed(num_workers + 70)
    torch.manual_seed(num_workers + 71)
    before = states()
    assert take(make(shards, num_workers=num_workers), 2) == uninterrupted[:2]
    assert len(list(EvalStream(shards, preprocess={"m": pixels()}, batch_size=30, num_workers=num_workers))) == 2
    assert states() == before


def test_all_models_see_the_same_augmented_picture(shards, make, take, pixels):
    for *_, views in take(make(shards, preprocess={"student": pixels(), "teacher": pixels()}), 7):
        assert views["student"] == views["teacher"]


def pictures(batches) -> list[dict[str, list]]:
    """Key → pixels, epoch by epoch of 52 samples."""
    rows = [row for keys, _, _, views in batches for row in zip(keys, views["student"]["pixels"], strict=True)]
    return [dict(rows[start : start + 52]) for start in range(0, len(rows), 52)]


def test_every_epoch_brings_a_new_augmentation_unless_views_are_bounded(shards, make, take):
    def epochs(**options):
        return pictures(take(make(shards, batch_size=4, **options), 4 * 13))

    first, second, third, fourth = epochs()
    assert all(first[key] != second[key] for key in first)
    one, *others = epochs(views=1)
    assert others == [one] * 3
    assert one == first
    assert epochs(views=3) == [first, second, third, first]
    assert fourth != first
