"""Who did what, in memory: what models knew of their users, and every event since."""

from bisect import bisect_right

import numpy as np
from jaxtyping import Int32

from itemic.data import Ids, Ragged
from itemic.serving.stores.base import digest


class Histories:
    """The history of each user in item codes, oldest first.

    >>> known = Histories(Ids(["ann"], "user"), Ragged.from_lists([[3, 1]]))
    >>> known.add("ann", 7, time=5)
    >>> known.of("ann")[1].tolist(), known.of("ann")[0], known.of("bob")[1].tolist()
    ([3, 1, 7], -1, [])
    """

    def __init__(self, users: Ids, base: Ragged | None, forgotten: "set[str] | None" = None) -> None:
        self._row = {str(name): row for row, name in enumerate(users.array.to_pylist())}
        self._base = base if base is not None else Ragged.empty(len(users))
        self._new: dict[str, tuple[list[int], list[int]]] = {}
        gone = forgotten or set()
        for name in [name for name in self._row if digest(name) in gone] if gone else []:
            del self._row[name]

    def add(self, user: str, item: int, time: int) -> None:
        """Appends an item to what a user did; one that happened before others is put before them."""
        times, items = self._new.setdefault(user, ([], []))
        at = bisect_right(times, time)
        times.insert(at, time)
        items.insert(at, item)

    def forget(self, user: str) -> None:
        """Nothing is known of this user from now on."""
        self._new.pop(user, None)
        self._row.pop(user, None)

    def users(self) -> list[str]:
        """All of whom something is known."""
        return [*self._row, *(user for user in list(self._new) if user not in self._row)]

    def knows(self, user: str) -> bool:
        """Whether anything is known of a user."""
        return user in self._row or user in self._new

    def of(self, user: str) -> tuple[int, Int32[np.ndarray, " items"]]:
        """The code under which models know a user, and what they did.

        It is -1 for somebody who did something since the models were fitted: they are then answered by all they did.
        """
        row = self._row.get(user)
        base = self._base[row] if row is not None else np.empty(0, np.int32)
        if user not in self._new:
            return (-1 if row is None else row), base
        return -1, np.concatenate([base, np.array(self._new[user][1], np.int32)])

    def __len__(self) -> int:
        return len(self._row.keys() | self._new.keys())
