"""Projections of maps and tokens: as large as the other side, and equal to what torch's own layers compute."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from xmodal.adapters.projections import Sizes, make_projection
from xmodal.errors import AdapterError


def conv(in_places, out_places, **options):
    return make_projection("conv", Sizes(5, 7, in_places, out_places), options)


def test_on_one_grid_a_conv_of_one_place_is_a_linear_map_of_each_place():
    module, x = conv((3, 4), (3, 4)), torch.randn(2, 3, 4, 5)
    weight = module.conv.weight[:, :, 0, 0]
    torch.testing.assert_close(module(x), functional.linear(x, weight, module.conv.bias))


@pytest.mark.parametrize(("before", "after"), [((4, 4), (2, 2)), ((2, 3), (4, 6)), ((7, 7), (4, 4))], ids=str)
@pytest.mark.parametrize("kernel_size", [1, 3])
def test_a_map_takes_the_size_of_the_other_by_torchs_antialiased_bilinear_resizing(before, after, kernel_size):
    module, x = conv(before, after, kernel_size=kernel_size), torch.randn(2, *before, 5)

    def resized(maps):
        return functional.interpolate(maps, after, mode="bilinear", antialias=True)

    maps = x.permute(0, 3, 1, 2)
    expected = module.conv(resized(maps)) if after < before else resized(module.conv(maps))
    torch.testing.assert_close(module(x), expected.permute(0, 2, 3, 1))


def test_tokens_are_the_grid_that_they_make():
    module, x = conv((16,), (2, 2)), torch.randn(3, 16, 5)
    torch.testing.assert_close(module(x), conv_of_grid(module, x.reshape(3, 4, 4, 5)))
    assert conv((4, 4), (9,))(torch.randn(3, 4, 4, 5)).shape == (3, 9, 7)


def conv_of_grid(module, x):
    maps = functional.interpolate(x.permute(0, 3, 1, 2), (2, 2), mode="bilinear", antialias=True)
    return module.conv(maps).permute(0, 2, 3, 1)


@pytest.mark.parametrize("kernel_size", [0, 2, -1])
def test_an_even_kernel_is_refused(kernel_size):
    with pytest.raises(AdapterError, match=f"given {kernel_size}"):
        conv((2, 2), (2, 2), kernel_size=kernel_size)


@pytest.mark.parametrize("places", [(), (5,), (1, 2, 3)], ids=str)
def test_places_that_are_no_grid_are_refused_with_what_to_take(places):
    with pytest.raises(AdapterError, match="resampler"):
        conv(places, (2, 2))


def resampler(in_places, out_places, **options):
    return make_projection("resampler", Sizes(6, 8, in_places, out_places), options)


def test_a_resampler_gives_as_many_tokens_as_wanted_each_from_all_of_the_students():
    module, x = resampler((5,), (3,), layers=2), torch.randn(2, 5, 6, requires_grad=True)
    out = module(x)
    assert out.shape == (2, 3, 8)
    (gradient,) = torch.autograd.grad(out[0, 1].sum(), x)
    assert bool((gradient[0].abs().sum(-1) > 0).all())
    assert not gradient[1].any()
    module(x).square().sum().backward()
    assert all(parameter.grad is not None for parameter in module.parameters())


def test_its_output_does_not_hang_on_the_order_of_the_tokens_and_can_be_a_map():
    module, x = resampler((2, 3), (2, 2)), torch.randn(2, 2, 3, 6)
    turned = x.reshape(2, 6, 6)[:, [3, 1, 0, 5, 4, 2]].reshape(2, 2, 3, 6)
    assert module(x).shape == (2, 2, 2, 8)
    torch.testing.assert_close(module(x), module(turned))


def test_one_layer_is_torchs_attention_of_the_queries_to_the_tokens():
    module, x = resampler((4,), (2,), heads=2), torch.randn(3, 4, 6)
    layer = module.layers[0]
    tokens = nn.functional.layer_norm(x, (6,))
    queries = nn.functional.layer_norm(module.queries, (8,)).expand(3, 2, 8)
    expected = module.queries + layer.attention(queries, tokens, tokens)[0]
    expected = expected + layer.mlp(nn.functional.layer_norm(expected, (8,)))
    torch.testing.assert_close(module(x), expected)


@pytest.mark.parametrize(
    ("in_places", "options", "said"),
    [((), {}, "pooled embeddings have none"), ((4,), {"heads": 3}, "given 3"), ((4,), {"layers": 0}, "given 0")],
)
def test_a_resampler_that_cannot_be_is_refused(in_places, options, said):
    with pytest.raises(AdapterError, match=said):
        resampler(in_places, (2,), **options)
