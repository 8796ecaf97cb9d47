from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Generator

from itemic.nn import kmeans as module
from itemic.nn.kmeans import capped, distances, kmeans, nearest


def seeded(seed=0):
    return Generator().manual_seed(seed)


def clouds(n_each, centres, spread=0.1, seed=0):
    centres = torch.as_tensor(centres, dtype=torch.float32)
    noise = torch.randn(n_each, *centres.shape, generator=seeded(seed))
    return (centres + spread * noise).flatten(0, 1)  # row r is of cloud r modulo their number


def test_the_nearest_centre_is_that_of_all_distances_written_out():
    x, centres = torch.randn(50, 7, generator=seeded()), torch.randn(9, 7, generator=seeded(1))
    squared = (x[:, None] - centres[None]).square().sum(2)
    code, cost = nearest(x, centres)
    assert code.equal(squared.argmin(1))
    torch.testing.assert_close(cost, squared.min(1).values, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(distances(x, centres), squared, atol=1e-4, rtol=1e-4)


def test_equal_centres_give_the_first_and_a_row_on_its_centre_costs_nothing():
    code, cost = nearest(torch.ones(3, 4), torch.ones(5, 4))
    assert code.tolist() == [0, 0, 0]
    assert cost.tolist() == [0, 0, 0]


def test_blocks_change_nothing(monkeypatch):
    x = torch.randn(300, 5, generator=seeded())
    whole = kmeans(x, 8, seeded())
    monkeypatch.setattr(module, "BLOCK", 7)
    parts = kmeans(x, 8, seeded())
    assert parts.code.equal(whole.code)
    torch.testing.assert_close(parts.centres, whole.centres)


def test_every_centre_is_the_mean_of_its_rows_and_every_row_has_its_nearest_centre():
    x = torch.randn(400, 6, generator=seeded())
    made = kmeans(x, 10, seeded(), steps=200, tolerance=0.0)
    assert made.code.equal(nearest(x, made.centres)[0])
    for number in range(10):
        torch.testing.assert_close(made.centres[number], x[made.code == number].mean(0), atol=1e-5, rtol=1e-4)


def test_well_separated_clouds_are_found_whatever_the_seed():
    x = clouds(50, [[0, 0], [9, 0], [0, 9], [9, 9]])
    for seed in range(10):
        made = kmeans(x, 4, seeded(seed))
        own = made.code.view(50, 4)
        assert (own == own[0]).all()
        assert len(set(own[0].tolist())) == 4
        assert made.cost.mean() < 0.05


@pytest.mark.parametrize("seed", [1, 2])
def test_where_rows_differ_in_all_directions_centres_drawn_evenly_win_over_those_far_apart(seed):
    length = 0.3 + 1.2 * torch.rand(1000, 1, generator=seeded(9 + seed)) ** 3
    x = torch.randn(1000, 30, generator=seeded(seed)) * length
    tried, apart = kmeans(x, 40, seeded()), module._improved(x, module._far_apart(x, 40, seeded()), 25, 1e-4)
    assert tried.cost.mean() < 0.99 * apart.cost.mean()
    largest = [made.code.bincount(minlength=40).max() for made in (tried, apart)]
    assert largest[0] < 0.8 * largest[1]  # those far apart take outliers, and leave the crowd to few


def test_no_step_makes_it_worse():
    x = torch.randn(500, 8, generator=seeded())
    costs = [float(kmeans(x, 16, seeded(3), steps=steps, tolerance=0.0).cost.sum()) for steps in range(12)]
    assert all(later <= earlier * (1 + 1e-5) for earlier, later in pairwise(costs))
    assert costs[-1] < costs[0]


def test_a_centre_without_rows_goes_to_the_row_that_is_worst_off(monkeypatch):
    x = clouds(30, [[0.0], [10.0], [20.0]], spread=0.01)
    monkeypatch.setattr(module, "_first_centres", lambda x, k, rng: torch.tensor([[0.0], [10.0], [-1e4]]))
    made = kmeans(x, 3, seeded())
    assert (made.code.bincount(minlength=3) == 30).all()
    assert made.cost.max() < 0.01


def test_fewer_different_rows_than_centres_leave_centres_unused_and_none_is_nan():
    made = kmeans(torch.tensor([[1.0], [2.0]]).repeat(20, 1), 8, seeded())
    assert made.cost.sum() == 0
    assert made.centres.isfinite().all()


def test_rows_that_come_block_by_block_give_what_a_tensor_gives():
    x = torch.randn(200, 4, generator=seeded())

    class OnDisk:
        shape = x.shape

        def __getitem__(self, rows):
            return x[rows].clone()

    assert kmeans(OnDisk(), 5, seeded()).code.equal(kmeans(x, 5, seeded()).code)


def test_fewer_rows_than_centres_are_refused():
    with pytest.raises(ValueError, match="3 rows cannot have 4 centres"):
        kmeans(torch.randn(3, 2), 4, seeded())


def by_sorting_all_pairs(cost, room):
    room, code = list(room), [-1] * len(cost)
    pairs = sorted((cost[row][column], row, column) for row in range(len(cost)) for column in range(len(room)))
    for _, row, column in pairs:
        if code[row] < 0 and room[column] > 0:
            code[row], room[column] = column, room[column] - 1
    return code


@given(st.data())
def test_caps_give_what_taking_the_cheapest_free_pair_of_all_gives(data):
    n, k = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 5))
    cost = np.random.default_rng(data.draw(st.integers(0, 999))).permutation(n * k).reshape(n, k) / 4.0
    room = data.draw(st.lists(st.integers(0, 6), min_size=k, max_size=k).filter(lambda room: sum(room) >= n))
    assert capped(torch.from_numpy(cost), torch.tensor(room)).tolist() == by_sorting_all_pairs(cost.tolist(), room)


def test_rows_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="3 rows do not fit: there is room for 2"):
        capped(torch.zeros(3, 2), torch.tensor([1, 1]))


def test_equal_rows_are_dealt_out_evenly_under_a_cap():
    made = kmeans(torch.ones(12, 3), 4, seeded(), cap=3)
    assert made.code.bincount(minlength=4).tolist() == [3, 3, 3, 3]


def test_a_cap_holds_where_without_one_a_cluster_outgrows_it():
    x = torch.cat([clouds(90, [[0.0, 0.0]]), clouds(10, [[9.0, 0.0]], seed=1)])
    assert kmeans(x, 4, seeded(2)).code.bincount(minlength=4).max() > 25
    made = kmeans(x, 4, seeded(2), cap=25)
    assert made.code.bincount(minlength=4).tolist() == [25, 25, 25, 25]
