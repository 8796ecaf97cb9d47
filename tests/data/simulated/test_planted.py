import numpy as np
import pytest

from itemic.data import Dataset, EvalSet
from itemic.data.simulated import planted_groups


def recalls(train: Dataset, test: EvalSet) -> tuple[float, float]:
    """Recall@20 of popularity, and of popularity inside the user's own group."""
    popular = train.interactions.item_counts().astype(float)
    groups = [table.column("group").to_numpy() for table in (train.users, train.items)]
    found = ([], [])
    for row, user in enumerate(test.query.user):
        for which, bonus in enumerate((0, 1000 * (groups[1] == groups[0][user]))):
            scores = popular + bonus
            scores[test.query.history[row]] = -1
            top = np.argsort(-scores, kind="stable")[:20]
            found[which].append(np.isin(test.relevant[row], top).mean())
    return float(np.mean(found[0])), float(np.mean(found[1]))


def test_knowing_the_groups_finds_four_times_what_popularity_finds_and_nothing_without_loyalty():
    popular, oracle = recalls(*planted_groups(200, 400, 4, loyalty=0.7, seed=0))
    assert popular < 0.08
    assert oracle > 4 * popular
    popular, oracle = recalls(*planted_groups(200, 400, 4, loyalty=0, seed=0))
    assert oracle < 1.3 * popular


@pytest.mark.parametrize("size", [(200, 400, 4), (7, 30, 3), (4, 12, 2), (50, 100, 10)])
def test_every_user_has_train_and_test_items_that_differ(size):
    n_users, n_items, _ = size
    train, test = planted_groups(*size, loyalty=0.7, seed=1)
    taken = max(n_items // 6, 2)
    assert (train.n_users, train.n_items, len(test.query)) == (n_users, n_items, n_users)
    assert (train.interactions.histories().lengths + test.relevant.lengths == taken).all()
    assert (test.relevant.lengths == max(taken // 6, 1)).all()
    for row, history in enumerate(test.query.history):
        assert not np.intersect1d(history, test.relevant[row]).size
        assert np.array_equal(history, train.interactions.histories()[row])


def test_the_seed_decides():
    first, again, other = (planted_groups(20, 60, 2, seed=seed)[0].fingerprint for seed in (0, 0, 1))
    assert first == again != other


def test_full_loyalty_never_leaves_the_group():
    train, _ = planted_groups(20, 120, 2, loyalty=1, seed=0)
    log = train.interactions
    assert (log.item % 2 == log.user % 2).all()
