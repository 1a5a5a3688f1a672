"""Projections map one width to another, and refuse what they cannot be."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from xmodal.adapters.projections import PROJECTIONS
from xmodal.errors import AdapterError, UnknownNameError


@pytest.mark.parametrize("name", ["linear", "mlp"])
@pytest.mark.parametrize("shape", [(5,), (2, 3, 5)], ids=str)
def test_a_projection_maps_the_last_axis_and_learns(name, shape):
    projection = PROJECTIONS[name](5, 7)
    out = projection(torch.randn(shape))
    assert out.shape == (*shape[:-1], 7)
    out.square().sum().backward()
    assert all(parameter.grad is not None for parameter in projection.parameters())


def test_linear_is_one_matrix_with_or_without_bias():
    x = torch.randn(4, 5)
    with_bias, without = PROJECTIONS["linear"](5, 7), PROJECTIONS["linear"](5, 7, bias=False)
    torch.testing.assert_close(with_bias(x), x @ with_bias.weight.T + with_bias.bias)
    torch.testing.assert_close(without(x), x @ without.weight.T)


@pytest.mark.parametrize(
    ("options", "widths"), [({}, [7, 7]), ({"hidden": 3}, [3, 7]), ({"hidden": 9, "layers": 4}, [9, 9, 9, 7])]
)
def test_an_mlp_has_as_many_layers_and_such_widths_as_asked_for(options, widths):
    modules = list(PROJECTIONS["mlp"](5, 7, **options))
    assert [module.out_features for module in modules if isinstance(module, nn.Linear)] == widths
    kinds = [type(module) for module in modules]
    assert kinds == [nn.Linear, nn.LayerNorm, nn.GELU] * (len(widths) - 1) + [nn.Linear]


def test_identity_changes_nothing_and_wants_equal_widths():
    x = torch.randn(4, 5)
    assert PROJECTIONS["identity"](5, 5)(x) is x
    with pytest.raises(AdapterError, match="widths differ: 5 and 7"):
        PROJECTIONS["identity"](5, 7)


@pytest.mark.parametrize("options", [{"layers": 1}, {"layers": 0}, {"hidden": 0}])
def test_an_mlp_that_is_none_is_refused(options):
    with pytest.raises(AdapterError, match="at least"):
        PROJECTIONS["mlp"](5, 7, **options)


def test_an_unknown_projection_lists_the_nearest():
    with pytest.raises(UnknownNameError, match="Nearest: linear"):
        PROJECTIONS["liner"]
