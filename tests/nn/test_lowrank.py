"""Small matrices beside a large one: as plain torch makes it, forth and back."""

import pytest
import torch

from itemic.nn.lowrank import low_rank_product


def parts(dtype=torch.float64):
    rng = torch.Generator().manual_seed(0)
    x, weight, down, up = (torch.randn(n, generator=rng, dtype=dtype) for n in ((3, 5, 6), (4, 6), (2, 6), (4, 2)))
    return x.requires_grad_(), weight, down.requires_grad_(), up.requires_grad_()


def test_the_product_and_its_gradients_are_those_of_the_two_ways_added():
    x, weight, down, up = parts()
    made = low_rank_product(x, weight, down, up, 0.7)
    torch.testing.assert_close(made, x @ weight.T + 0.7 * (x @ down.T) @ up.T)
    torch.autograd.gradcheck(lambda *given: low_rank_product(given[0], weight, *given[1:], 0.7), (x, down, up))


def test_what_is_not_learned_before_it_gets_no_gradient():
    x, weight, down, up = parts()
    low_rank_product(x.detach(), weight.requires_grad_(), down, up, 1.0).sum().backward()
    assert weight.grad is None
    assert down.grad.abs().min() > 0
    assert up.grad.abs().min() > 0


@pytest.mark.parametrize("able", [True, False])
def test_under_autocast_it_computes_in_bfloat16_and_keeps_the_gradients_of_weights_in_float32(able):
    x, weight, down, up = parts(torch.float32)
    with torch.autocast("cpu", torch.bfloat16, enabled=able):
        made = low_rank_product(x, weight, down, up, 0.7)
    made.float().square().sum().backward()
    assert made.dtype == (torch.bfloat16 if able else torch.float32)
    assert down.grad.dtype == up.grad.dtype == x.grad.dtype == torch.float32
    torch.testing.assert_close(made.float(), x @ weight.T + 0.7 * (x @ down.T) @ up.T, atol=0.2, rtol=0.02)
