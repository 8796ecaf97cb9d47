import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Generator

from itemic.nn.kmeans import distances, kmeans
from itemic.nn.quantise import (
    balanced_codes,
    finite_scalars,
    moved_average,
    residual_codes,
    residual_sum,
    revived,
    rotated_through,
    scalar_codes,
    scalars_of,
    sinkhorn,
    straight_through,
)

LEVELS = [8, 8, 8, 6, 5]


def seeded(seed=0):
    return Generator().manual_seed(seed)


def randn(*shape, seed=0, **kinds):
    return torch.randn(*shape, generator=seeded(seed), **kinds)


# Residual quantisation -------------------------------------------------------------------------------------------


def test_codebooks_made_by_hand_give_codes_computed_by_hand():
    first = torch.tensor([[0.0, 0.0], [4.0, 0.0], [0.0, 4.0]])
    second = torch.tensor([[0.0, 0.0], [1.0, 1.0], [-1.0, 0.0]])
    x = torch.tensor([[5.0, 1.1], [0.2, 3.0], [2.9, 0.1]])
    codes, rest = residual_codes(x, [first, second])
    assert codes.tolist() == [[1, 1], [2, 0], [1, 2]]
    torch.testing.assert_close(rest, torch.tensor([[0.0, 0.1], [0.2, -1.0], [-0.1, 0.1]]))


def test_code_vectors_and_what_is_left_over_add_up_to_the_vector():
    x, codebooks = randn(40, 6, dtype=torch.float64), list(randn(3, 5, 6, seed=1, dtype=torch.float64))
    codes, rest = residual_codes(x, codebooks)
    torch.testing.assert_close(residual_sum(codes, codebooks) + rest, x, atol=1e-15, rtol=0)


def test_each_further_level_of_residual_kmeans_leaves_less_over():
    rest, codebooks, errors = randn(300, 8), [], []
    for level in range(4):
        made = kmeans(rest, 16, seeded(level))
        codebooks.append(made.centres)
        rest = residual_codes(randn(300, 8), codebooks)[1]
        errors.append(rest.square().mean().item())
    assert all(later < earlier for earlier, later in itertools.pairwise(errors))


# Gradients -------------------------------------------------------------------------------------------------------


def test_straight_through_has_the_value_of_one_and_gives_the_gradient_to_the_other():
    x, quantised = randn(4, 3).requires_grad_(), randn(4, 3, seed=1).requires_grad_()
    found = straight_through(x, quantised)
    torch.testing.assert_close(found, quantised)
    (found * torch.arange(12.0).view(4, 3)).sum().backward()
    assert x.grad is not None
    assert x.grad.equal(torch.arange(12.0).view(4, 3))
    assert quantised.grad is None


def test_the_rotation_has_the_value_of_what_was_quantised_and_turns_gradients_back():
    x, quantised = randn(5, 3).requires_grad_(), randn(5, 3, seed=1)
    wanted = randn(5, 3, seed=2)
    found = rotated_through(x, quantised)
    torch.testing.assert_close(found, quantised)
    (found * wanted).sum().backward()
    assert x.grad is not None
    stretch = quantised.norm(dim=1) / x.detach().norm(dim=1)
    torch.testing.assert_close(x.grad.norm(dim=1), stretch * wanted.norm(dim=1))  # a rotation keeps lengths
    along = (x.grad * x.detach()).sum(1) / x.detach().norm(dim=1)  # and angles: to x now as to what was quantised then
    torch.testing.assert_close(along, stretch * (wanted * quantised).sum(1) / quantised.norm(dim=1))


def test_the_rotation_survives_vectors_that_are_zero_or_opposite():
    x = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 0.0]]).requires_grad_()
    quantised = torch.tensor([[1.0, 1.0], [-2.0, 0.0], [0.0, 0.0]])
    found = rotated_through(x, quantised)
    assert found.equal(quantised)
    found.sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()


# Codebooks in training -------------------------------------------------------------------------------------------


def test_a_moving_average_comes_to_the_means_of_the_rows_and_leaves_unused_vectors_alone():
    x = torch.tensor([[1.0], [3.0], [10.0]])
    code, codebook, counts = torch.tensor([0, 0, 2]), torch.zeros(3, 1), torch.ones(3)
    codebook[1] = 7.0
    for _ in range(200):
        codebook, counts = moved_average(codebook, counts, x, code, decay=0.9)
    torch.testing.assert_close(codebook, torch.tensor([[2.0], [7.0], [10.0]]))
    torch.testing.assert_close(counts, torch.tensor([2.0, 0.0, 1.0]), atol=1e-5, rtol=1e-5)


def test_the_dead_are_replaced_by_different_rows_and_the_living_left_alone():
    codebook, x = randn(6, 2), randn(9, 2, seed=1)
    alive = torch.tensor([True, False, True, False, False, True])
    found = revived(codebook, alive, x, seeded())
    assert found[alive].equal(codebook[alive])
    rows = [(x == vector).all(1).nonzero().item() for vector in found[~alive]]
    assert len(set(rows)) == 3
    assert len(revived(codebook, torch.zeros(6, dtype=torch.bool), x[:2], seeded())) == 6


# Sinkhorn --------------------------------------------------------------------------------------------------------


def test_rows_and_columns_of_the_plan_sum_to_even_shares():
    plan = sinkhorn(torch.rand(12, 5, generator=seeded()), epsilon=0.05, steps=500).exp()
    torch.testing.assert_close(plan.sum(1), torch.full((12,), 1 / 12, dtype=torch.float64), atol=1e-6, rtol=0)
    torch.testing.assert_close(plan.sum(0), torch.full((5,), 1 / 5, dtype=torch.float64), atol=1e-6, rtol=0)


def test_logarithms_give_what_plain_float64_gives_where_that_still_can():
    cost = torch.rand(9, 4, generator=seeded(), dtype=torch.float64) * 2 - 1
    plain = (-cost / 0.05).exp()
    for _ in range(50):
        plain = plain / plain.sum(1, keepdim=True) / 9
        plain = plain / plain.sum(0, keepdim=True) / 4
    torch.testing.assert_close(sinkhorn(cost, 0.05).exp(), plain, atol=1e-12, rtol=1e-9)


@given(st.permutations(range(7)))
def test_as_many_columns_as_rows_and_clear_costs_give_the_permutation(order):
    cost = torch.ones(7, 7)
    cost[torch.arange(7), torch.tensor(order)] = 0.0
    assert balanced_codes(cost).tolist() == list(order)


@pytest.mark.parametrize("seed", range(10))
def test_points_at_one_place_but_for_noise_get_codes_of_their_own(seed):
    centres, x = randn(16, 4, seed=seed), 0.2 * randn(10, 4, seed=100 + seed)
    cost = distances(x, centres)
    assert len(set(cost.argmin(1).tolist())) < 6
    assert len(set(balanced_codes(cost).tolist())) == 10


def test_a_barred_way_is_not_taken_and_a_tiny_epsilon_loses_no_share():
    cost = torch.rand(6, 4, generator=seeded())
    cost[:, 2] = torch.inf
    plan = sinkhorn(cost, epsilon=1e-5)
    assert (plan.exp()[:, 2] == 0).all()
    assert not plan.isnan().any()
    assert 2 not in balanced_codes(cost).tolist()


# Finite scalars --------------------------------------------------------------------------------------------------


def test_every_code_is_undone_and_all_together_are_the_whole_range():
    codes = torch.arange(15_360)
    scalars = scalars_of(codes, LEVELS)
    assert scalar_codes(scalars, LEVELS).equal(codes)
    assert scalars.amin(0).tolist() == [-4, -4, -4, -3, -2]
    assert scalars.amax(0).tolist() == [3, 3, 3, 2, 2]


def test_inputs_on_a_grid_reach_every_code():
    grid = torch.linspace(-4, 4, 400)
    reached = [finite_scalars(grid[:, None], [level])[:, 0].unique() for level in LEVELS]
    assert [len(values) for values in reached] == LEVELS
    every = torch.cartesian_prod(*reached)
    assert scalar_codes(every, LEVELS).unique().tolist() == list(range(15_360))


@given(st.lists(st.floats(-1e3, 1e3), min_size=5, max_size=5))
def test_no_input_leaves_the_range(numbers):
    code = scalar_codes(finite_scalars(torch.tensor(numbers), LEVELS), LEVELS)
    assert 0 <= code < 15_360


@pytest.mark.parametrize("level", [4, 5, 8])
def test_the_gradient_is_that_of_the_bound(level):
    z = randn(20, 1, dtype=torch.float64).requires_grad_()
    finite_scalars(z, [level]).sum().backward()
    half, offset = (level - 1) * 0.999 / 2, 0.5 if level % 2 == 0 else 0.0
    inner = z.detach() + torch.tensor(offset / half, dtype=torch.float64).tan()
    assert z.grad is not None
    torch.testing.assert_close(z.grad, half * (1 - inner.tanh().square()), atol=1e-6, rtol=1e-6)
