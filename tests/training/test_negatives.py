"""Negatives: never what a user took, each other item as often as it should be, and always an end."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from itemic.data import Ragged
from itemic.errors import DataError
from itemic.training.negatives import Negatives, alias_table


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def sampler(lists, n_items, *args, **options):
    taken = Ragged.from_lists(lists)
    return Negatives(taken.offsets, taken.values, n_items, *args, **options)


def chi_square(counts, expected):
    """How far counts are from what was expected, in standard deviations of the chi-square statistic."""
    statistic = float(((counts - expected) ** 2 / expected).sum())
    freedom = len(counts) - 1
    return (statistic - freedom) / np.sqrt(2 * freedom)


@given(
    st.lists(st.lists(st.integers(0, 19), max_size=30), min_size=1, max_size=6),
    st.sampled_from(["uniform", "popularity"]),
    st.integers(0, 1000),
)
def test_no_draw_is_ever_an_item_that_the_user_took(lists, how, seed):
    negatives = sampler(lists, 20, how)
    drawable = set(range(20)) if how == "uniform" else {item for row in lists for item in row}
    users = [user for user, row in enumerate(lists) if drawable - set(row)]
    drawn = negatives.draw(torch.tensor(users, dtype=torch.int64), 40, seeded(seed))
    assert drawn.shape == (len(users), 40)
    for user, row in zip(users, drawn.tolist()):
        assert set(row) <= drawable - set(lists[user])


def test_uniform_draws_are_uniform_over_what_the_user_did_not_take():
    drawn = sampler([list(range(0, 30, 3)), []], 30).draw(torch.tensor([0, 1] * 1000), 50, seeded())
    first = np.bincount(drawn[::2].flatten(), minlength=30)
    rest = np.setdiff1d(np.arange(30), np.arange(0, 30, 3))
    assert first[::3].sum() == 0
    assert abs(chi_square(first[rest], 50_000 / 20)) < 4
    assert abs(chi_square(np.bincount(drawn[1::2].flatten(), minlength=30), 50_000 / 30)) < 4


@pytest.mark.parametrize("alpha", [1.0, 0.5])
def test_draws_by_popularity_are_proportional_to_its_power(alpha):
    lists = [[item for item in range(12) if user % (item + 1) == 0] for user in range(300)]
    popularity = np.bincount([item for row in lists for item in row], minlength=13) ** alpha  # item 12: nobody's
    users = torch.full((500,), 7)  # took item 0 only
    every = np.bincount(
        sampler(lists, 13, "popularity", alpha=alpha, reject=False).draw(users, 100, seeded()).flatten(), minlength=13
    )
    assert every[12] == 0
    assert abs(chi_square(every[:12], 50_000 * popularity[:12] / popularity.sum())) < 4
    others = sampler(lists, 13, "popularity", alpha=alpha).draw(users, 100, seeded())
    left = np.where(np.isin(np.arange(13), lists[7]), 0, popularity)
    found = np.bincount(others.flatten(), minlength=13)
    assert found[left == 0].sum() == 0
    assert abs(chi_square(found[left > 0], 50_000 * left[left > 0] / left.sum())) < 4


def test_popularity_matters():
    lists = [[0] for _ in range(99)] + [[1]]
    drawn = {how: sampler(lists, 2, how, reject=False).draw(torch.tensor([0]), 4000, seeded()) for how in
             ("uniform", "popularity")}  # fmt: skip
    assert drawn["uniform"].float().mean() == pytest.approx(0.5, abs=0.04)
    assert drawn["popularity"].float().mean() == pytest.approx(0.01, abs=0.01)


def test_without_rejection_what_the_user_took_is_drawn_too():
    negatives = sampler([[0, 1, 2]], 4, reject=False)
    assert set(negatives.draw(torch.tensor([0]), 200, seeded())[0].tolist()) == {0, 1, 2, 3}


def test_a_user_who_took_all_but_one_of_many_items_gets_that_one():
    negatives = sampler([list(range(4999)), [0]], 5000)
    drawn = negatives.draw(torch.tensor([0, 1, 0]), 20, seeded())
    assert (drawn[[0, 2]] == 4999).all()
    assert (drawn[1] != 4999).any()


def test_a_user_who_took_everything_is_refused_by_name_of_the_way_out():
    with pytest.raises(DataError, match="user 1 took every item, so there is no negative for them. Leave such users"):
        sampler([[0], [0, 1, 2, 2]], 3).draw(torch.tensor([0, 1]), 5, seeded())
    with pytest.raises(DataError, match="user 0 took every item"):  # item 2 is nobody's: it has no popularity
        sampler([[0, 1], [0]], 3, "popularity").draw(torch.tensor([0]), 5, seeded())
    assert sampler([[0], [0, 1, 2]], 3).draw(torch.tensor([0]), 5, seeded()).shape == (1, 5)


def test_equal_generators_draw_alike_and_int32_users_like_int64():
    negatives = sampler([[0, 3], [1]], 9)
    users = torch.tensor([0, 1, 1])
    first, second = negatives.draw(users, 30, seeded(3)), negatives.draw(users.int(), 30, seeded(3))
    assert torch.equal(first, second)
    assert not torch.equal(first, negatives.draw(users, 30, seeded(4)))


def test_repeats_in_a_history_count_once():
    once, thrice = sampler([[0], [1]], 3, "popularity"), sampler([[0, 0, 0], [1]], 3, "popularity")
    users = torch.tensor([0, 1])
    assert torch.equal(once.draw(users, 50, seeded()), thrice.draw(users, 50, seeded()))


def test_in_batch_leaves_out_the_rows_own_item_and_what_its_user_took():
    users, items = torch.tensor([0, 1, 2, 1]), torch.tensor([0, 1, 0, 2])
    lists = [[0, 2], [1, 2], [0]]
    plain = [[False, True, False, True], [True, False, True, True],
             [False, True, False, True], [True, True, True, False]]  # fmt: skip
    assert sampler(lists, 3, reject=False).in_batch(users, items).tolist() == plain
    strict = [[False, True, False, False], [True, False, True, False],
              [False, True, False, True], [True, False, True, False]]  # fmt: skip
    assert sampler(lists, 3).in_batch(users, items).tolist() == strict


@given(st.lists(st.floats(0, 100), min_size=1, max_size=20).filter(lambda w: sum(w) > 0.1))
def test_an_alias_table_gives_every_item_its_share(weights):
    chance, other = alias_table(torch.tensor(weights, dtype=torch.float64))
    share = chance.double() / len(weights)
    share.index_add_(0, other, (1 - chance.double()) / len(weights))
    np.testing.assert_allclose(share, np.array(weights) / sum(weights), atol=1e-6)
