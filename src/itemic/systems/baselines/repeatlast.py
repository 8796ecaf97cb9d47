"""Repeat-last: what somebody took last comes first, then what they took before that, and then the most popular items.

Choose it as the floor where people come back to the same items, and wherever a published number counts taking the last
item again as a find: one rule then finds as much as large models. Where a request masks what was seen (no `repeats`) it
is popularity. Numbers: recipes/repeatlast/.
"""

import numpy as np
from jaxtyping import Float32

from itemic.data import Dataset, Query
from itemic.registry import system
from itemic.systems.base import ScoreRecommender, SystemConfig


@system("repeatlast", family="baselines", answers=["history", "anyone"])
class RepeatLast(ScoreRecommender[SystemConfig]):
    def solve(self, train: Dataset) -> dict[str, np.ndarray]:
        counts = train.interactions.item_counts()
        return {"popularity": (counts / (1 + counts.max())).astype(np.float32)}

    def scores(self, query: Query) -> Float32[np.ndarray, "queries items"]:
        """The share of popularity, below 1; for items of the history the place where they stood last, from 1 up."""
        scores = np.repeat(self.weights["popularity"][None], len(query), 0)
        if query.history is not None:
            history = query.history
            place = (1 + history.places).astype(np.float32)
            np.maximum.at(scores, (history.row_of_value, history.values), place)
        return scores
