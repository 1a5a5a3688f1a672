from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as F
from torchvision.transforms.autoaugment import _apply_op

from xmodal.data.formats.replay import OPERATIONS, Parameters, parse_parameters, parse_views, replay
from xmodal.data.members import MemberError

MAGNITUDES = {
    "ShearX": -0.09, "ShearY": 0.27, "TranslateX": -30.4, "TranslateY": 30.4, "Rotate": 9.0, "Brightness": 0.27,
    "Color": -0.27, "Contrast": 0.27, "Sharpness": -0.27, "Posterize": 5.0, "Solarize": 178.5,
}  # fmt: skip


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("picture", [0, 5])
def test_a_picture_is_changed_as_torchvision_changed_it(name, picture, pictures):
    image = pictures[picture][1].convert("RGB")
    box = (4, 6, 50, 40)
    magnitude = MAGNITUDES.get(name, 0.0)
    expected = F.resized_crop(image, *box, [224, 224], InterpolationMode.BICUBIC)
    expected = _apply_op(expected, name, magnitude, InterpolationMode.NEAREST, None)
    expected = _apply_op(expected, "Rotate", -9.0, InterpolationMode.NEAREST, None)
    stored = [list(box), [[OPERATIONS.index(name), magnitude], [5, -9.0]]]
    made = replay(image, parse_parameters(stored))
    assert np.array_equal(np.asarray(made), np.asarray(expected))


def test_a_flip_comes_between_the_crop_and_the_rest(pictures):
    image = pictures[0][1].convert("RGB")
    expected = F.hflip(F.resized_crop(image, 10, 20, 100, 120, [224, 224], InterpolationMode.BICUBIC))
    expected = _apply_op(expected, "ShearX", 0.09, InterpolationMode.NEAREST, None)
    made = replay(image, parse_parameters([[10, 20, 100, 120], True, [[1, 0.09]]]))
    assert np.array_equal(np.asarray(made), np.asarray(expected))
    assert parse_parameters([None, None, None]) == Parameters()


def test_a_translation_keeps_its_share_of_a_smaller_picture(pictures):
    image = pictures[0][1].convert("RGB")
    parameters = Parameters((0, 0, 200, 200), False, (("TranslateX", 101.5),))
    large, small = (np.asarray(replay(image, parameters, size=size)) for size in (224, 112))
    assert (large[:, :101] == 0).all()
    assert (small[:, :50] == 0).all()
    assert small[:, 50].any()


def test_a_crop_that_the_picture_does_not_hold_means_another_picture(pictures):
    image = pictures[5][1].convert("RGB")
    with pytest.raises(MemberError, match=r"64 × 64 pixels does not hold the stored crop .*was resized"):
        replay(image, Parameters((0, 0, 65, 10)))


@pytest.mark.parametrize("as_text", [True, False])
def test_views_are_a_list_or_json_in_json(as_text):
    views = [[[0, 0, 5, 5], None], [None, [[0, 0.0]]]]
    data = json.dumps({"param_aug": json.dumps(views) if as_text else views}).encode()
    assert parse_views(data) == views


@pytest.mark.parametrize(
    "data",
    [b"", b"[]", b'{"param_aug": 3}', b'{"param_aug": "[[1,"}', b'{"param_aug": []}', b'{"other": []}', b"[" * 9999],
)
def test_what_is_no_list_of_views_is_refused(data):
    with pytest.raises(MemberError):
        parse_views(data)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=12,
)
operations = st.lists(st.tuples(st.integers(-1, 14), st.floats()).map(list), max_size=3)
boxes = st.lists(st.integers(-5, 70), min_size=4, max_size=4)


@given(anything | st.tuples(boxes, operations).map(list))
def test_any_parameters_give_a_picture_or_a_member_error(view):
    image = Image.linear_gradient("L").resize((64, 64)).convert("RGB")
    try:
        parameters = parse_parameters(view)
        made = replay(image, parameters, size=16)
    except MemberError:
        return
    assert (made.size, made.mode) == ((16, 16), "RGB")
    assert all(math.isfinite(magnitude) for _, magnitude in parameters.operations)
