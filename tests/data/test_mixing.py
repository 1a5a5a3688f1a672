"""Mixup and cutmix: the same mixture for every model, whatever the batch's order."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from PIL import Image

from xmodal.data.mixing import mix_batch, mix_groups
from xmodal.data.plan import Plan
from xmodal.recipe import Augment


def samples(count=8, size=(40, 30), view=0, **more):
    colors = np.linspace(10, 250, count).astype(int)
    return [
        {"key": f"k{n}", "view": view, "image": Image.new("RGB", size, (int(colors[n]),) * 3), "label": n, **more}
        for n in range(count)
    ]


def level(sample):
    return np.asarray(sample["image"])[..., 0].astype(float)


BY_KEY = {sample["key"]: level(sample) for sample in samples()}


def test_mixup_blends_by_the_weight_it_tells():
    for sample in mix_batch(samples(), Augment(mixup=0.4), seed=1):
        mix = sample["mix"]
        assert mix.partner != sample["key"]
        assert 0.5 <= mix.weight <= 1
        assert mix.box is None
        expected = mix.weight * BY_KEY[sample["key"]] + (1 - mix.weight) * BY_KEY[mix.partner]
        assert np.abs(level(sample) - expected).max() <= 1
        assert sample["label_mix"] == (sample["label"], int(mix.partner[1:]), mix.weight)
        assert sample["label"] == int(sample["key"][1:])


def test_cutmix_pastes_the_box_it_tells():
    for sample in mix_batch(samples(), Augment(cutmix=1.0), seed=1):
        left, top, right, bottom = sample["mix"].box
        inside = np.zeros((30, 40), bool)
        inside[top:bottom, left:right] = True
        expected = np.where(inside, BY_KEY[sample["mix"].partner], BY_KEY[sample["key"]])
        assert np.array_equal(level(sample), expected)
        assert sample["mix"].weight == pytest.approx(1 - inside.mean())
        assert sample["mix"].weight >= 0.5


def test_what_a_sample_is_mixed_with_does_not_depend_on_the_order_of_the_batch_nor_on_its_size_in_pixels():
    both = Augment(mixup=0.3, cutmix=1.0)
    first = {sample["key"]: sample for sample in mix_batch(samples(), both, seed=3)}
    shuffled = samples()
    random.Random(0).shuffle(shuffled)
    for sample in mix_batch(shuffled, both, seed=3):
        assert sample["mix"] == first[sample["key"]]["mix"]
        assert sample["image"].tobytes() == first[sample["key"]]["image"].tobytes()
    for sample in mix_batch(samples(size=(80, 60)), both, seed=3):  # another model's decode of the same batch
        assert sample["mix"].partner == first[sample["key"]]["mix"].partner
        assert sample["mix"].weight == pytest.approx(first[sample["key"]]["mix"].weight, abs=0.04)


def test_seed_and_view_change_the_mixture():
    def found(seed, view):
        return [sample["mix"] for sample in mix_batch(samples(view=view), Augment(mixup=0.3), seed=seed)]

    assert found(0, 0) == found(0, 0)
    assert found(0, 0) != found(1, 0)
    assert found(0, 0) != found(0, 1)


def test_partners_come_from_ones_own_group_and_a_lone_sample_stays():
    groups = [0, 1, 0, 1, 0, 1, 2, 0]
    mixed = mix_batch(samples(), Augment(mixup=0.3), seed=0, groups=groups)
    for place, sample in enumerate(mixed):
        if groups[place] == 2:
            assert "mix" not in sample
            assert np.array_equal(level(sample), BY_KEY[sample["key"]])
        else:
            assert groups[int(sample["mix"].partner[1:])] == groups[place]
    # so a rank that has whole groups mixes as one that has them all
    own = [place for place in range(8) if groups[place] == 0]
    alone = mix_batch([samples()[place] for place in own], Augment(mixup=0.3), seed=0, groups=[0] * len(own))
    assert [sample["mix"] for sample in alone] == [mixed[place]["mix"] for place in own]


def test_a_share_is_mixed_and_half_of_it_each_way():
    many = [{**sample, "key": f"{sample['key']}-{n}"} for n in range(50) for sample in samples()]
    mixed = mix_batch(many, Augment(mixup=0.3, cutmix=1.0, mix_share=0.5), seed=0)
    kinds = [("mix" in sample, "mix" in sample and sample["mix"].box is None) for sample in mixed]
    assert 160 <= sum(is_mixed for is_mixed, _ in kinds) <= 240
    assert 70 <= sum(blended for _, blended in kinds) <= 130


def test_off_is_off_and_the_given_samples_and_generators_are_left_alone():
    given = samples()
    assert all("mix" not in sample for sample in mix_batch(given, Augment(), seed=0))
    assert all("mix" not in sample for sample in mix_batch(given, Augment(mixup=1, mix_share=0), seed=0))
    before = random.getstate(), torch.get_rng_state().tolist()
    mix_batch(given, Augment(mixup=0.3, cutmix=1), seed=0)
    assert (random.getstate(), torch.get_rng_state().tolist()) == before
    assert all("mix" not in sample and np.array_equal(level(sample), BY_KEY[sample["key"]]) for sample in given)


def test_pictures_of_unlike_sizes_and_samples_without_one():
    given = samples(4)
    given[1]["image"] = given[1]["image"].resize((17, 90))
    del given[2]["image"], given[3]["label"]
    mixed = mix_batch(given, Augment(cutmix=1.0), seed=0)
    assert [sample["image"].size for sample in (mixed[0], mixed[1], mixed[3])] == [(40, 30), (17, 90), (40, 30)]
    assert "mix" not in mixed[2]
    assert all(sample["mix"].partner != "k2" for sample in (mixed[0], mixed[1], mixed[3]))
    assert "label_mix" not in mixed[3]


@pytest.mark.parametrize(("slots", "worlds"), [(8, (1, 2, 4)), (4, (1, 2, 4)), (1, (1,))])
def test_mixtures_do_not_depend_on_the_number_of_ranks(slots, worlds):
    plan = Plan([100], fingerprint="f", batch_size=8, seed=0, slots=slots, block_size=4, window=8)

    def mixed(world):
        found = {}
        for rank in range(world):
            positions = plan.positions(3, rank, world)
            batch = [{**samples(1)[0], "key": str(plan.sample(position)[0])} for position in positions]
            groups = mix_groups(positions, slots=slots, batch_size=8)
            found.update(
                {sample["key"]: sample["mix"] for sample in mix_batch(batch, Augment(mixup=1), seed=0, groups=groups)}
            )
        return found

    alone = mixed(1)
    assert len(alone) == 8
    assert all(mixed(world) == alone for world in worlds)
