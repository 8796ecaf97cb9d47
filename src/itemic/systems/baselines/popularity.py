"""Popularity: the items that most users took, over all time, of late, or in the segment of whoever asks.

Choose it as the floor of every comparison, and where nothing is known about whoever asks. The same answer goes to all
(of a segment), less what they have seen. Numbers: recipes/popularity/.
"""

import numpy as np
from jaxtyping import Float32, Float64, Int, Int32
from pydantic import Field

from itemic.data import Dataset, Ids, Query
from itemic.errors import DataError
from itemic.registry import system
from itemic.systems.base import ScoreRecommender, SystemConfig

DAY = 86_400_000
"""Milliseconds."""


class Config(SystemConfig):
    half_life: float | None = Field(None, gt=0)
    """Days after which a user counts half, from the newest interaction backwards; None counts all alike."""
    window: float | None = Field(None, gt=0)
    """Only the last so many days count; None counts all."""
    segment: str | None = None
    """A column of the user table; whoever asks gets what is popular among the users with the same value. It is looked
    up for known users, or given as context[segment]; where it is neither, all users count."""


def user_counts(
    user: Int[np.ndarray, " rows"],
    item: Int[np.ndarray, " rows"],
    n_items: int,
    age: Float64[np.ndarray, " rows"] | None = None,
    half_life: float | None = None,
) -> Float64[np.ndarray, " items"]:
    """How many different users each item has; with a half-life each counts 0.5 ** (age / half_life), at their latest.

    >>> user_counts(np.array([0, 0, 1]), np.array([1, 1, 1]), 3).tolist()
    [0.0, 2.0, 0.0]
    >>> user_counts(np.array([0, 0, 1]), np.array([1, 1, 0]), 2, age=np.array([9.0, 2, 4]), half_life=2).tolist()
    [0.25, 0.5]
    """
    weight = np.ones(len(user)) if age is None or half_life is None else 0.5 ** (age / half_life)
    order = np.lexsort((-weight, item, user))
    user, item, weight = user[order], item[order], weight[order]
    first = np.ones(len(user), bool)
    first[1:] = (user[1:] != user[:-1]) | (item[1:] != item[:-1])
    return np.bincount(item[first], weight[first], minlength=n_items)


@system("popularity", family="baselines", answers=["anyone"])
class Popularity(ScoreRecommender[Config]):
    def solve(self, train: Dataset) -> dict[str, np.ndarray]:
        log, age, half_life, window = train.interactions, None, self.config.half_life, self.config.window
        if half_life is not None or window is not None:
            if log.time is None:
                raise DataError(f"recent popularity needs times; {train.name} has none. Drop half_life and window.")
            age = (log.time.max() - log.time) / DAY
            if window is not None:
                log, age = log.select(age <= window), age[age <= window]
        everyone = user_counts(log.user, log.item, train.n_items, age, half_life)
        if self.config.segment is None:
            return {"counts": everyone[None].astype(np.float32)}
        self.shape["segments"], of_user = segments(train, self.config.segment)
        counts = [everyone]
        for code in range(len(self.shape["segments"])):
            rows = of_user[log.user] == code
            aged = None if age is None else age[rows]
            counts.append(user_counts(log.user[rows], log.item[rows], train.n_items, aged, half_life))
        return {"counts": np.stack(counts).astype(np.float32), "segment_of_user": of_user}

    def scores(self, query: Query) -> Float32[np.ndarray, "queries items"]:
        return self.weights["counts"][self._segment(query) + 1]

    def _segment(self, query: Query) -> Int32[np.ndarray, " queries"]:
        """The segment of each request, -1 where it is not known."""
        code = np.full(len(query), -1, np.int32)
        if self.config.segment is None:
            return code
        if query.user is not None:
            known = query.user >= 0
            code[known] = self.weights["segment_of_user"][query.user[known]]
        if self.config.segment in query.context:
            said = Ids(self.shape["segments"], "segment").codes([str(v) for v in query.context[self.config.segment]])
            code = np.where(said >= 0, said, code)
        return code


def segments(train: Dataset, column: str) -> tuple[list[str], Int32[np.ndarray, " users"]]:
    """The values of a column of the user table in order, and each user's as an index, -1 where it is missing."""
    values = train.users.column(column).to_pylist()
    names = sorted({str(value) for value in values if value is not None})
    index = {name: code for code, name in enumerate(names)}
    return names, np.array([-1 if value is None else index[str(value)] for value in values], np.int32)
