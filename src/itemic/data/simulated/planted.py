"""Users and items in groups: the smallest data with something to learn, which every system must find."""

import numpy as np
import pyarrow as pa

from itemic.data.dataset import TEST, TRAIN, Dataset, Split
from itemic.data.ids import Ids
from itemic.data.interactions import Interactions
from itemic.data.query import EvalSet
from itemic.data.table import Table

DAY_MS = 86_400_000


def planted_groups(
    n_users: int = 200, n_items: int = 400, n_groups: int = 4, loyalty: float = 0.7, seed: int = 0
) -> tuple[Dataset, EvalSet]:
    """What to fit on and what to find: each user takes a sixth of all items, and a sixth of these is held out.

    User u and item i belong to the groups u and i modulo `n_groups`. The chance that the next item is one of the user's
    own group is `loyalty`, else it is any item; so with loyalty 0 nothing can be learned. Items of a group are
    alike, hence popularity finds next to nothing, and the best list is what is left of the own group. The tables name
    the group, in a column and in the items' titles. One interaction a day, the held-out ones last.

    >>> train, test = planted_groups(n_users=20, n_items=60, n_groups=2, loyalty=1, seed=0)
    >>> len(train.interactions), test.relevant[3].tolist(), train.items.titles([3])
    (180, [1], ['item 3 of group 1'])
    """
    rng = np.random.default_rng(seed)
    taken = max(n_items // 6, 2)
    held = max(taken // 6, 1)
    user_group, item_group = np.arange(n_users) % n_groups, np.arange(n_items) % n_groups
    own = user_group[:, None] == item_group[None, :]
    chance = loyalty * own / own.sum(1, keepdims=True) + (1 - loyalty) / n_items
    # The first to arrive: exponential waiting times draw without replacement, one item after the other.
    with np.errstate(divide="ignore"):
        arrival = rng.exponential(size=chance.shape) / chance
    item = rng.permuted(np.argsort(arrival, axis=1)[:, :taken], axis=1)
    day = np.tile(np.arange(taken), n_users)
    log = Interactions.of(np.repeat(np.arange(n_users), taken), item.ravel(), n_users, n_items, time=day * DAY_MS)
    part = np.where(day >= taken - held, TEST, TRAIN).astype(np.uint8)
    titles = [f"item {i} of group {g}" for i, g in enumerate(item_group)]
    data = Dataset(
        Table.of(Ids.numbered(n_items), {"title": titles, "group": pa.array(item_group)}),
        Table.of(Ids.numbered(n_users, "user"), {"group": pa.array(user_group)}),
        log,
        name="planted-groups",
        split=Split(part, {"by": "random", "test": held / taken, "seed": seed}),
    )
    return data.train, data.test
