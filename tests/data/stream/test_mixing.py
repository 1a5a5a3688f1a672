"""Mixup and cutmix in a running stream: one mixture for every model, whoever reads it."""

from __future__ import annotations

import pytest

from xmodal.errors import DataError
from xmodal.recipe import Augment

MIXING = Augment(mixup=1.0, cutmix=1.0, mix_share=0.8)


def pictures(batch):
    keys, _, _, views = batch
    return dict(zip(keys, views["student"]["pixels"], strict=True))


def test_most_pictures_are_mixed_and_texts_and_labels_stay_their_own(shards, make, take):
    mixed, plain = (take(make(shards, augment=settings), 1)[0] for settings in (MIXING, Augment()))
    assert mixed[:3] == plain[:3]
    changed = [key for key, picture in pictures(mixed).items() if picture != pictures(plain)[key]]
    assert 3 <= len(changed) < 8


def test_all_models_see_the_same_mixture(shards, make, take, pixels):
    models = {"student": pixels(), "teacher": pixels()}
    for batch in take(make(shards, augment=MIXING, preprocess=models), 2):
        assert batch[3]["student"] == batch[3]["teacher"]


@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_mix_what_one_rank_mixes(shards, make, take, world_size):
    options = {"augment": MIXING, "batch_size": 16, "slots": 8}
    whole = [pictures(batch) for batch in take(make(shards, **options), 3)]
    ranks = [take(make(shards, rank=rank, world_size=world_size, **options), 3) for rank in range(world_size)]
    for number, expected in enumerate(whole):
        together = {key: picture for rank in ranks for key, picture in pictures(rank[number]).items()}
        assert together == expected


def test_workers_mix_what_the_main_process_mixes(shards, make, take):
    assert take(make(shards, augment=MIXING, num_workers=2), 4) == take(make(shards, augment=MIXING), 4)


def test_a_rank_with_one_sample_of_a_batch_has_nothing_to_mix(shards, make):
    with pytest.raises(DataError, match="two samples of a batch to mix"):
        make(shards, augment=MIXING, batch_size=4, slots=4, rank=0, world_size=4)
