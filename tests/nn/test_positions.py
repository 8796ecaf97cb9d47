"""Positions by their defining properties: what each kind lets a product of query and key know."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from itemic.nn.positions import Alibi, Buckets, Doublings, Learned, Positions, Rotary, Sine


def test_learned_positions_add_their_row():
    table = Learned(5, 3)
    x, pos = torch.randn(4, 3), torch.tensor([4, 0, 0, 2])
    torch.testing.assert_close(table.add(x, pos), x + table.table[pos])


def test_sine_is_its_definition_written_as_a_loop():
    added = Sine(6, base=100.0).add(torch.zeros(2, 6), torch.tensor([0.0, 2.5]))
    for row, pos in enumerate((0.0, 2.5)):
        for i in range(3):
            angle = pos / 100 ** (2 * i / 6)
            assert added[row, 2 * i].item() == pytest.approx(math.sin(angle), abs=1e-6)
            assert added[row, 2 * i + 1].item() == pytest.approx(math.cos(angle), abs=1e-6)


@given(st.integers(-50, 50), st.integers(-50, 50), st.integers(-50, 50))
def test_rotary_products_depend_on_distances_only_and_lengths_stay(a, b, shift):
    turning = Rotary(8).double()
    torch.manual_seed(0)
    q, k = torch.randn(2, 1, 1, 8, dtype=torch.float64)

    def product(at_q, at_k):
        return (turning.turn(q, q, torch.tensor([at_q]))[0] * turning.turn(k, k, torch.tensor([at_k]))[1]).sum().item()

    assert product(a, b) == pytest.approx(product(a + shift, b + shift))
    assert turning.turn(q, k, torch.tensor([a]))[0].norm().item() == pytest.approx(q.norm().item())
    assert product(0, 0) == pytest.approx((q * k).sum().item())


def test_rotary_turns_pairs_by_the_angles_of_the_paper():
    turned, _ = Rotary(4, base=100.0).turn(torch.tensor([[[1.0, 1, 0, 0]]]), torch.zeros(1, 1, 4), torch.tensor([3]))
    expected = [math.cos(3), math.cos(0.3), math.sin(3), math.sin(0.3)]  # pairs (0, 2) and (1, 3)
    assert turned.flatten().tolist() == pytest.approx(expected, abs=1e-6)


def test_rotary_of_two_axes_tells_rows_from_columns():
    turning = Rotary(8, axes=2)
    q = torch.randn(1, 1, 8)

    def product(row, column):
        turned, _ = turning.turn(q, q, torch.tensor([[row, column]]))
        still, _ = turning.turn(q, q, torch.tensor([[0, 0]]))
        return (turned * still).sum().item()

    assert product(2, 0) != pytest.approx(product(0, 2))
    shifted = turning.turn(q, q, torch.tensor([[5, 9]]))[0] * turning.turn(q, q, torch.tensor([[3, 8]]))[0]
    assert shifted.sum().item() == pytest.approx(product(2, 1), rel=1e-4)


def test_rotary_refuses_a_head_it_cannot_pair():
    with pytest.raises(ValueError, match="a head of 6 cannot be split into pairs for 2 axes"):
        Rotary(6, axes=2)


def test_near_distances_have_a_bucket_each_and_far_ones_share_as_in_t5():
    both = Buckets(1, n=32, furthest=128)
    distances = torch.tensor([0, -1, -7, -8, -15, -16, -127, -128, -5000, 1, 7, 8, 5000])
    assert both.bucket(distances).tolist() == [0, 1, 7, 8, 9, 10, 15, 15, 15, 17, 23, 24, 31]
    one_way = Buckets(1, n=32, furthest=128, both_ways=False)
    assert one_way.bucket(torch.tensor([0, 3, -1, -15, -16, -5000])).tolist() == [0, 0, 1, 15, 16, 31]


def test_the_bias_of_buckets_is_the_row_of_the_distance_for_each_head():
    buckets = Buckets(2, n=8, furthest=16)
    bias = buckets.bias(torch.tensor([[0, 5]]), torch.tensor([[2, 4, 5]]))
    assert bias.shape == (1, 2, 2, 3)
    torch.testing.assert_close(bias[0, :, 1, 0], buckets.table[buckets.bucket(torch.tensor(-3))])


def test_alibi_takes_the_distance_times_the_slope_of_the_head():
    bias = Alibi(8).bias(torch.tensor([0, 3]), torch.tensor([1, 3]))
    assert bias[0].tolist() == [[-0.5, -1.5], [-1.0, 0.0]]
    assert bias[7].tolist() == [[-(2**-8), -3 * 2**-8], [-2 * 2**-8, 0.0]]


def test_hooks_a_kind_does_not_fill_in_change_nothing():
    q, k = torch.randn(2, 3, 1, 4)
    bare = Positions()
    assert bare.turn(q, k, torch.arange(3)) == (q, k)
    assert bare.bias(torch.arange(3), torch.arange(3)) is None


def test_doublings_share_a_vector_up_to_the_next_power_of_two():
    positions = Doublings(6, 4)
    pos = torch.tensor([0, 1, 2, 3, 4, 7, 8, 15, 16, 10**12])
    made = positions.add(torch.zeros(len(pos), 4), pos)
    torch.testing.assert_close(made, positions.table[[0, 1, 2, 2, 3, 3, 4, 4, 5, 5]])
