"""Random erasing and the policies, against what others' code does."""

from __future__ import annotations

import random

import numpy as np
import pytest
import skimage.data
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import InterpolationMode, autoaugment

from xmodal.data.augment import augment
from xmodal.data.erasing import erase
from xmodal.data.policies import CHANGES, apply_policy, change, strength_of
from xmodal.data.resizing import corner_color
from xmodal.recipe import Augment

PHOTO = Image.fromarray(skimage.data.chelsea()).resize((96, 64), Image.Resampling.BICUBIC)
PLAIN = Image.new("RGB", (60, 40), (128, 0, 0))  # noise of this very colour is rare


def erased_box(settings, key, image=PLAIN):
    changed = (np.asarray(erase(image, settings, seed=0, view=0, key=key)) != np.asarray(image)).any(-1)
    rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
    return (rows[0], rows[-1] + 1, columns[0], columns[-1] + 1) if len(rows) else None


@given(
    scale=st.tuples(st.floats(0.02, 0.9), st.floats(0.02, 0.9)).map(sorted).map(tuple),
    size=st.tuples(st.integers(20, 90), st.integers(20, 90)),
    key=st.text(max_size=3),
)
def test_the_erased_rectangle_has_a_share_of_the_area(scale, size, key):
    image = Image.new("RGB", size, (128, 0, 0))
    top, bottom, left, right = erased_box(Augment(erase=1, erase_scale=scale), key, image)
    width, height = right - left, bottom - top
    slack = (width + height + 2) / (size[0] * size[1])
    assert scale[0] - slack <= width * height / (size[0] * size[1]) <= scale[1] + slack


def test_erasing_happens_as_often_as_asked_and_everywhere():
    boxes = [erased_box(Augment(erase=0.4), str(key)) for key in range(500)]
    found = np.array([box for box in boxes if box])
    assert 160 <= len(found) <= 240
    assert found[:, 0].min() == 0
    assert found[:, 1].max() == 40
    assert found[:, 2].min() == 0
    assert found[:, 3].max() == 60


TORCHVISION = {name: "".join(part.title() for part in name.split("_")) for name in CHANGES}
TORCHVISION["autocontrast"] = "AutoContrast"


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("wide", [False, True])
def test_a_change_is_torchvisions(name, sign, wide):
    width, height = PHOTO.size
    space = (
        autoaugment.TrivialAugmentWide()._augmentation_space(31)
        if wide
        else autoaugment.RandAugment()._augmentation_space(31, (height, width))
    )
    magnitudes, signed = space[TORCHVISION[name]]
    for magnitude in (0, 9, 30):
        theirs = float(magnitudes[magnitude]) if magnitudes.ndim else 0.0
        ours = strength_of(name, magnitude, PHOTO.size, wide=wide)
        assert ours == pytest.approx(theirs, rel=1e-5, abs=1e-5)
        if signed:
            theirs, ours = theirs * sign, ours * sign
        expected = autoaugment._apply_op(
            PHOTO, TORCHVISION[name], theirs, InterpolationMode.NEAREST, list(corner_color(PHOTO))
        )
        different = np.asarray(change(PHOTO, name, ours)) != np.asarray(expected)
        assert different.mean() < 0.02  # a pixel at an edge may fall either way


@pytest.mark.parametrize("policy", ["randaugment", "trivialaugment"])
def test_a_policy_is_drawn_by_seed_view_and_key_and_uses_every_change(policy, monkeypatch):
    settings = Augment(policy=policy, policy_changes=3, policy_magnitude=12)
    used = []
    monkeypatch.setattr(
        "xmodal.data.policies.change", lambda image, name, strength: used.append((name, strength)) or image
    )

    def drawn(**changed):
        used.clear()
        apply_policy(PHOTO, settings, **{"seed": 0, "view": 0, "key": "a", **changed})
        return list(used)

    assert len(drawn()) == (3 if policy == "randaugment" else 1)
    assert drawn() == drawn()
    many = [found for key in range(300) for found in drawn(key=str(key))]
    assert {name for name, _ in many} == set(CHANGES)
    angles = [strength for name, strength in many if name == "rotate"]
    assert min(angles) < 0 < max(angles)
    assert (len({abs(angle) for angle in angles}) == 1) == (policy == "randaugment")
    assert drawn(seed=1) != drawn(seed=2) or drawn(view=1) != drawn(view=2)


def test_policy_and_erasing_leave_what_came_before_and_the_global_generators_alone():
    base = Augment(crop_scale=(0.4, 1.0), flip=0.5, rotation=20)
    drawn = {"size": 48, "seed": 0, "view": 1, "key": "cat"}
    before = augment(PHOTO, base, **drawn)
    states = random.getstate(), torch.get_rng_state().tolist(), np.random.get_state()[1].tolist()
    full = augment(PHOTO, base.model_copy(update={"policy": "randaugment", "erase": 1.0}), **drawn)
    assert (random.getstate(), torch.get_rng_state().tolist(), np.random.get_state()[1].tolist()) == states
    then = apply_policy(before, Augment(policy="randaugment"), seed=0, view=1, key="cat")
    assert full.tobytes() == erase(then, Augment(erase=1.0), seed=0, view=1, key="cat").tobytes()
