"""A ladder is the sum of an MLP of its tap and one of every rung."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from xmodal.adapters.projections import Sizes, make_projection
from xmodal.adapters.projections.ladder import at_places
from xmodal.errors import AdapterError


def test_it_is_the_sum_of_its_parts_with_rungs_averaged_over_their_places():
    ladder = make_projection("ladder", Sizes(4, 6, rung_dims=(3, 5)), {"hidden": 8})
    x, tokens, maps = torch.randn(2, 4), torch.randn(2, 7, 3), torch.randn(2, 3, 2, 5)
    first, second = ladder.rungs
    expected = ladder.last(x) + first(tokens.mean(1)) + second(maps.mean((1, 2)))
    torch.testing.assert_close(ladder(x, [tokens, maps]), expected)
    assert ladder.last[0].out_features == first[0].out_features == 8
    ladder(x, [tokens, maps]).square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in ladder.parameters())


def test_a_rung_is_brought_to_the_places_of_the_tap():
    x = torch.randn(2, 4, 4, 3)
    assert at_places(x, (4, 4)) is x
    torch.testing.assert_close(at_places(x, (16,)), x.reshape(2, 16, 3))
    resized = functional.interpolate(x.permute(0, 3, 1, 2), (2, 2), mode="bilinear", antialias=True)
    torch.testing.assert_close(at_places(x, (2, 2)), resized.permute(0, 2, 3, 1))
    with pytest.raises(AdapterError, match=r"\[4, 4\].*\[5\]"):
        at_places(x, (5,))


def test_one_without_rungs_is_refused():
    with pytest.raises(AdapterError, match="needs taps"):
        make_projection("ladder", Sizes(4, 6), {})
