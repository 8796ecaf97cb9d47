"""Layers that can be cut, beside the same made of a matrix for each width."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import layer_norm, linear

from itemic.nn.slicing import NestedLinear, NestedNorm, doublings

WIDTHS = (2, 4, 7)


def by_blocks(layer, x):
    """Each width's outputs by a matrix of their own, as the published code has it."""
    parts = [linear(x[:, :b], layer.weight[a:b, :b], layer.bias[a:b]) for a, b in pairwise((0, *WIDTHS))]
    return torch.cat(parts, 1)


@pytest.fixture
def layer():
    torch.manual_seed(0)
    return NestedLinear(WIDTHS).double()


def test_one_masked_matrix_is_a_matrix_for_each_width_with_the_same_gradients(layer):
    x = torch.randn(5, 7, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(5, 7, dtype=torch.float64)
    found = []
    for made in (layer(x), by_blocks(layer, x)):
        gradients = torch.autograd.grad((made * weight).sum(), [x, layer.weight, layer.bias])
        found.append([made, *gradients])
    for one, other in zip(*found):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def test_its_weights_begin_as_those_of_a_layer_of_each_width_and_nothing_begins_outside():
    torch.manual_seed(0)
    layer = NestedLinear((64, 128))
    narrow, wide = layer.weight[:64, :64], layer.weight[64:]
    assert narrow.abs().max().item() == pytest.approx(64**-0.5, rel=0.01)
    assert wide.abs().max().item() == pytest.approx(128**-0.5, rel=0.01)
    assert not layer.weight[:64, 64:].any()
    assert layer.bias[:64].abs().max().item() == pytest.approx(64**-0.5, rel=0.1)


def test_weights_outside_of_the_corner_of_a_width_have_no_part_in_it(layer):
    layer(torch.randn(5, 7, dtype=torch.float64))[:, :4].square().sum().backward()
    assert not layer.weight.grad[:, 4:].any()
    assert not layer.weight.grad[4:].any()
    assert layer.weight.grad[:4, :4][layer.mask[:4, :4]].all()


def test_each_width_is_normalised_by_itself():
    torch.manual_seed(0)
    norm, x = NestedNorm(WIDTHS), torch.randn(3, 7)
    torch.nn.init.normal_(norm.weight)
    wanted = [layer_norm(x[:, a:b], (b - a,)) * norm.weight[a:b] + norm.bias[a:b] for a, b in ((0, 2), (2, 4), (4, 7))]
    torch.testing.assert_close(norm(x), torch.cat(wanted, 1))


@given(st.integers(1, 20), st.integers(0, 100))
def test_widths_at_most_double_and_end_at_the_widest(narrowest, more):
    widths = doublings(narrowest, narrowest + more)
    assert (widths[0], widths[-1]) == (narrowest, narrowest + more)
    assert all(a < b <= 2 * a for a, b in pairwise(widths))
