from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from xmodal.data.augment import augment, crop_box
from xmodal.recipe import Augment

EVERYTHING = Augment(crop_scale=(0.4, 1.0), flip=0.5, rotation=30, color_jitter=0.4, hue_jitter=0.2, grayscale=0.2)


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((120, 80), Image.Resampling.BICUBIC)


def changed(picture, settings=EVERYTHING, **options) -> np.ndarray:
    return np.asarray(augment(picture, settings, **{"size": 48, "seed": 0, "view": 0, "key": "cat", **options}))


def test_the_same_seed_view_and_key_give_the_same_pixels_and_others_give_others(picture):
    first = changed(picture)
    random.seed(5)
    torch.manual_seed(5)
    np.random.seed(5)
    assert np.array_equal(changed(picture), first)
    others = [changed(picture, **{name: value}) for name, value in (("seed", 1), ("view", 1), ("key", "dog"))]
    for other in others:
        assert not np.array_equal(other, first)


def test_global_random_generators_are_neither_read_nor_moved(picture):
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    changed(picture)
    assert (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == before


def test_without_changes_the_middle_square_is_resized_as_evaluation_does(picture):
    expected = ImageOps.fit(picture, (48, 48), Image.Resampling.BICUBIC)  # Pillow's own: centre, then resize
    assert np.array_equal(changed(picture, Augment()), np.asarray(expected))


def test_without_changes_and_size_the_picture_stays_as_it_is(picture):
    assert augment(picture, Augment(), size=None, seed=0, view=0, key="cat") is picture


def test_without_size_a_crop_keeps_its_own_scale(picture):
    crop = changed(picture, Augment(crop_scale=(0.3, 0.3), crop_ratio=(1.0, 1.0)), size=None)
    side = round((120 * 80 * 0.3) ** 0.5)
    assert abs(crop.shape[0] - side) <= 1
    assert abs(crop.shape[1] - side) <= 1
    windows = np.lib.stride_tricks.sliding_window_view(np.asarray(picture), crop.shape)
    assert (windows == crop).all(axis=(-1, -2, -3)).any()  # its pixels are the picture's, not resampled


@given(
    size=st.tuples(st.integers(1, 500), st.integers(1, 500)),
    scale=st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)).map(sorted),
    ratio=st.tuples(st.floats(0.3, 3), st.floats(0.3, 3)).map(sorted),
    seed=st.integers(0, 1000),
)
def test_a_crop_lies_inside_the_picture_with_its_share_of_the_area(size, scale, ratio, seed):
    settings = Augment(crop_scale=tuple(scale), crop_ratio=tuple(ratio))
    left, top, right, bottom = crop_box(size, settings, random.Random(seed))
    width, height = size
    assert 0 <= left < right <= width + 1e-9
    assert 0 <= top < bottom <= height + 1e-9
    assert ratio[0] * 0.999 <= (right - left) / (bottom - top) <= ratio[1] * 1.001
    share = (right - left) * (bottom - top) / (width * height)
    assert share <= 1.000001
    if ratio[0] <= width / height <= ratio[1] and scale[1] <= ratio[0] / ratio[1]:  # then any draw fits
        assert scale[0] * 0.999 <= share <= scale[1] * 1.001


def test_crops_are_spread_over_sizes_and_places():
    settings = Augment(crop_scale=(0.2, 0.8), crop_ratio=(1.0, 1.0))
    boxes = np.array([crop_box((100, 100), settings, random.Random(seed)) for seed in range(2000)])
    shares = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) / 1e4
    assert np.allclose(np.quantile(shares, [0, 0.25, 0.5, 0.75, 1]), [0.2, 0.35, 0.5, 0.65, 0.8], atol=0.03)
    room = boxes[:, 0] / (100 - (boxes[:, 2] - boxes[:, 0]))
    assert np.allclose(np.quantile(room, [0.25, 0.5, 0.75]), [0.25, 0.5, 0.75], atol=0.05)


def test_a_flip_mirrors_as_often_as_asked(picture):
    plain = changed(picture, Augment())
    flipped = 0
    for key in range(400):
        found = changed(picture, Augment(flip=0.25), key=str(key))
        mirrored = np.array_equal(found, plain[:, ::-1])
        assert mirrored or np.array_equal(found, plain)
        flipped += mirrored
    assert 70 <= flipped <= 130
    assert np.array_equal(changed(picture, Augment(flip=1)), plain[:, ::-1])


def test_switching_one_change_on_leaves_the_others_as_they_were(picture):
    some = Augment(crop_scale=(0.5, 1.0), rotation=20)
    flipped = some.model_copy(update={"flip": 1.0})
    gray = some.model_copy(update={"grayscale": 1.0})
    first = changed(picture, some)
    assert np.array_equal(changed(picture, flipped), first[:, ::-1])
    assert np.array_equal(changed(picture, gray)[..., 0], np.asarray(Image.fromarray(first).convert("L")))


def test_a_rotation_leaves_a_plain_ground_plain():
    white = Image.new("RGB", (64, 64), "white")
    white.paste("navy", (24, 24, 40, 40))
    for key in range(20):
        turned = changed(white, Augment(rotation=45), size=64, key=str(key))
        assert (turned[[0, 0, -1, -1], [0, -1, 0, -1]] == 255).all()
        assert (turned[:8] == 255).all()
        assert turned.min() < 30  # the square in the middle is still there


def test_a_rotation_turns_by_no_more_than_its_angle():
    picture = Image.new("RGB", (101, 101), "white")
    picture.paste("black", (50, 0, 51, 30))  # a hand at twelve o'clock
    angles = []
    for key in range(200):
        dark = np.argwhere(changed(picture, Augment(rotation=25), size=101, key=str(key))[..., 0] < 200)
        y, x = dark[:, 0].mean() - 50, dark[:, 1].mean() - 50
        angles.append(np.degrees(np.arctan2(x, -y)))
    assert max(np.abs(angles)) <= 26
    assert min(angles) < -20
    assert max(angles) > 20


def test_hue_turns_red_to_its_opposite():
    red = Image.new("RGB", (8, 8), (255, 0, 0))
    found = {tuple(changed(red, Augment(hue_jitter=0.5), size=8, key=str(key))[0, 0]) for key in range(300)}
    assert len(found) > 100
    assert any(color[0] < 20 and min(color[1:]) > 235 for color in found)  # cyan
    assert all(max(color) >= 250 and min(color) <= 5 for color in found)  # still pure colours


def test_color_jitter_stays_within_its_strength():
    gray = Image.new("RGB", (8, 8), (100, 100, 100))
    values = [changed(gray, Augment(color_jitter=0.2), size=8, key=str(key))[0, 0, 0] for key in range(300)]
    assert min(values) >= 79  # contrast and saturation leave a plain gray alone
    assert max(values) <= 121
    assert max(values) - min(values) > 35
