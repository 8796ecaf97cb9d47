"""Negatives: items that a user did not take, drawn for a whole batch at once."""

from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Int64
from torch import Generator, Tensor

from itemic.errors import DataError

ROUNDS = 16
"""How often items taken are drawn anew before the few left are drawn from the user's own list of the rest."""
BITS = 24
"""Bits of a hash in the filter, at most: 2 MB, of which a million pairs fill 6 %."""
GOLDEN = -7046029254386353131
"""2^64 over the golden ratio, as int64: its multiples are spread evenly (Fibonacci hashing)."""


class Negatives:
    """Draws items for users, uniformly or by popularity, and by default none that the user took.

    >>> negatives = Negatives(np.array([0, 3, 4]), np.array([0, 1, 2, 2]), n_items=4)
    >>> negatives.draw(torch.tensor([0]), 5, torch.Generator().manual_seed(0))
    tensor([[3, 3, 3, 3, 3]])
    """

    def __init__(
        self,
        offsets: Int[np.ndarray, " users+1"],
        items: Int[np.ndarray, " interactions"],
        n_items: int,
        how: Literal["uniform", "popularity"] = "uniform",
        *,
        alpha: float = 1.0,
        reject: bool = True,
    ) -> None:
        """`items[offsets[u] : offsets[u + 1]]` is what user u took, in any order and with repeats.

        With `popularity` the chance of an item grows with the power `alpha` of how many users took it.
        """
        self.n_items, self.reject = n_items, reject
        users = np.repeat(np.arange(len(offsets) - 1, dtype=np.int64), np.diff(offsets))
        keys = np.unique(users * n_items + items)
        taken = keys % n_items
        self._keys = torch.from_numpy(keys)
        self._weights = torch.ones(n_items, dtype=torch.float64)
        self._alias: tuple[Tensor, Tensor] | None = None
        if how == "popularity":
            counts = np.bincount(taken, minlength=n_items)
            self._weights = torch.from_numpy(np.where(counts > 0, counts.astype(np.float64) ** alpha, 0))
            self._alias = alias_table(self._weights)
        lengths = torch.from_numpy(np.bincount(keys // n_items, minlength=len(offsets) - 1))
        self._full = lengths == int((self._weights > 0).sum())
        self._any_full = bool(self._full.any())
        # One lookup in a table of hashes clears most draws; only the others are searched for among the sorted keys.
        self._shift = 64 - min(BITS, max(8, 16 * len(keys)).bit_length())
        known = np.zeros(1 << (64 - self._shift), np.bool_)
        known[(keys * GOLDEN >> self._shift) & (len(known) - 1)] = True
        self._filter = np.packbits(known, bitorder="little")

    def draw(self, users: Int[Tensor, " batch"], n: int, rng: Generator) -> Int64[Tensor, "batch {n}"]:
        """n items for each user, with repeats.

        Raises:
            DataError: a user took every item that could be drawn.
        """
        drawn = self._items(len(users) * n, rng)
        if not self.reject:
            return drawn.view(-1, n)
        if self._any_full and bool((full := self._full[users]).any()):
            raise DataError(
                f"user {int(users[full][0])} took every item, so there is no negative for them. "
                "Leave such users out, or draw with reject=False."
            )
        base = users.long() * self.n_items
        places = self._taken((base[:, None] + drawn.view(-1, n)).flatten())
        for _ in range(ROUNDS):
            if len(places) == 0:
                return drawn.view(-1, n)
            again = self._items(len(places), rng)
            drawn[places] = again
            places = places[self._taken(base[places // n] + again)]
        for user in users[places // n].unique():
            mine = places[users[places // n] == user]
            drawn[mine] = self._rest(int(user), len(mine), rng)
        return drawn.view(-1, n)

    def in_batch(self, users: Int[Tensor, " batch"], items: Int[Tensor, " batch"]) -> Bool[Tensor, "batch batch"]:
        """Whether the item of each column may serve as a negative for the user of each row.

        The row's own item may not, wherever it stands; with `reject`, neither may any other item that the user took.
        """
        allowed = items[:, None] != items
        if self.reject:
            keys = users.long()[:, None] * self.n_items + items
            allowed.view(-1)[self._taken(keys.flatten())] = False
        return allowed

    def _items(self, n: int, rng: Generator) -> Int64[Tensor, " n"]:
        column = torch.randint(self.n_items, (n,), generator=rng)
        if self._alias is None:
            return column
        chance, other = self._alias
        keep = torch.rand(n, generator=rng) < chance.index_select(0, column)
        return torch.where(keep, column, other.index_select(0, column))

    def _taken(self, keys: Int64[Tensor, " n"]) -> Int64[Tensor, " taken"]:
        """The places of those keys that are among the pairs taken."""
        from itemic.training._negatives_kernels import taken

        places = torch.empty_like(keys)
        arrays = keys.numpy(), self._filter, self._shift, GOLDEN, self._keys.numpy()
        return places[: taken(*arrays, places.numpy())]

    def _rest(self, user: int, n: int, rng: Generator) -> Int64[Tensor, " n"]:
        """n draws from the list of all items that the user did not take."""
        bounds = torch.searchsorted(self._keys, torch.tensor([user, user + 1]) * self.n_items)
        weights = self._weights.clone()
        weights[self._keys[bounds[0] : bounds[1]] - user * self.n_items] = 0
        return torch.multinomial(weights, n, replacement=True, generator=rng)


def alias_table(
    weights: Float[Tensor, " items"],
) -> tuple[Float[Tensor, " items"], Int64[Tensor, " items"]]:
    """A chance and another item for each: take item i with its chance, else the other, and i is drawn by its weight.

    Walker's method in Vose's form: one look-up a draw, whatever the number of items.

    >>> chance, other = alias_table(torch.tensor([1.0, 3.0]))
    >>> chance.tolist(), other.tolist()
    ([0.5, 1.0], [1, 1])
    """
    share = (weights / weights.sum() * len(weights)).tolist()
    other = list(range(len(share)))
    small = [i for i, s in enumerate(share) if s < 1]
    large = [i for i, s in enumerate(share) if s >= 1]
    while small and large:
        low, high = small.pop(), large[-1]
        other[low] = high
        share[high] -= 1 - share[low]
        if share[high] < 1:
            small.append(large.pop())
    for rest in (*small, *large):  # only rounding is left of these
        share[rest] = 1.0
    return torch.tensor(share), torch.tensor(other)
