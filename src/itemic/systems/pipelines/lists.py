"""Lists of a block of requests, and what is asked of requests and orders to make them."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Int, Int32

from itemic.data import Query, Ragged
from itemic.systems.base import Recommender


@dataclass
class Lists:
    """What is said of each place of the lists."""

    items: Int32[np.ndarray, "queries k"]
    scores: Float32[np.ndarray, "queries k"]
    source: Int32[np.ndarray, "queries k"]
    """Which of the sources in the order of the config; -1 for none, and for what is pinned."""
    chance: Float32[np.ndarray, "queries k"] | None = None


def within(query: Query, model: Recommender) -> Query:
    """The request in items that the model knows: it may have been fitted before some were added."""
    n_items = model.catalogue.n_items

    def known(rows: Any) -> Any:
        if not isinstance(rows, Ragged) or not len(rows.values) or rows.values.max() < n_items:
            return rows
        return rows.keep(rows.values < n_items)

    changed: dict[str, Any] = {"exclude": known(query.exclude), "basket": known(query.basket)}
    history = query.history
    if history is not None and known(history) is not history:
        kept = history.values < n_items
        changed["history"] = history.keep(kept)
        for name in ("history_time", "history_kind", "history_weight"):
            value = getattr(query, name)
            changed[name] = None if value is None else value[kept]
    return replace(query, **changed)


def first_open(
    order: Int[np.ndarray, " items"], query: Query, allowed: Bool[np.ndarray, " items"] | None, n: int
) -> Int32[np.ndarray, "queries n"]:
    """The first n items of one list that may be listed for each request."""
    if allowed is not None:
        order = order[allowed[order]]
    masked = query.masked()
    order = order[: n + int(masked.lengths.max(initial=0))]
    size = int(max(order.max(initial=0), masked.values.max(initial=0))) + 1
    rows = np.arange(len(query), dtype=np.int64)[:, None]
    items = np.broadcast_to(order.astype(np.int32), (len(query), len(order)))
    open_ = ~np.isin(rows * size + items, masked.row_of_value * size + masked.values)
    first = np.argsort(~open_, axis=1, kind="stable")[:, :n]
    found = np.where(np.take_along_axis(open_, first, 1), np.take_along_axis(items, first, 1), -1)
    return np.pad(found, ((0, 0), (0, n - found.shape[1])), constant_values=-1).astype(np.int32)


def padded(pool: np.ndarray, last: float) -> np.ndarray:
    """The rows with one more value, which the place -1 then means."""
    return np.pad(pool, ((0, 0), (0, 1)), constant_values=last)


def nothing(n: int, k: int) -> Lists:
    """Lists without an item."""
    return Lists(np.full((n, k), -1, np.int32), np.full((n, k), -np.inf, np.float32), np.full((n, k), -1, np.int32))


def silent(model: Recommender, query: Query) -> Bool[np.ndarray, " queries"]:
    """Which requests say nothing that the model answers."""
    nothing, answers = np.ones(len(query), bool), set(model.entry.answers)
    if "anyone" in answers:
        nothing[:] = False
    if "user" in answers and query.user is not None:
        nothing &= query.user < 0
    for field in ("history", "basket"):
        value = getattr(query, field)
        if field in answers and value is not None:
            nothing &= value.lengths == 0
    return nothing
