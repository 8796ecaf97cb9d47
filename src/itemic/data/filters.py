"""Smaller datasets from larger ones: k-core, rating threshold, duplicates, time window.

Each returns a new dataset; a split in place stays with the rows that remain. With `compact`, users and items without
interactions are taken out of their tables too (their ids stay what they were); without it, they keep their places.
"""

from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
from jaxtyping import Bool, Int32, Int64

from itemic.data.dataset import Dataset, Split
from itemic.errors import DataError, did_you_mean

Rows = Bool[np.ndarray, " rows"]


def k_core(dataset: Dataset, users: int = 5, items: int = 5, compact: bool = True) -> Dataset:
    """The largest part in which every user has at least `users` interactions and every item at least `items`.

    >>> data = Dataset.from_frame({"user": list("aabbc"), "item": list("xyxyx")})
    >>> core = k_core(data, users=2, items=2)
    >>> core.n_users, core.n_items, len(core.interactions)
    (2, 2, 4)

    Raises:
        DataError: nothing remains.
    """
    log = dataset.interactions
    rows = np.arange(len(log))
    while len(rows):
        user, item = log.user[rows], log.item[rows]
        enough = (np.bincount(user) >= users)[user] & (np.bincount(item) >= items)[item]
        if enough.all():
            break
        rows = rows[enough]
    kept = np.zeros(len(log), bool)
    kept[rows] = True
    return _kept(dataset, kept, f"k-core of {users} per user and {items} per item", "Lower these numbers.", compact)


def min_rating(dataset: Dataset, threshold: float, compact: bool = True) -> Dataset:
    """The interactions rated `threshold` or higher, without the ratings: from opinions to implicit feedback.

    >>> data = Dataset.from_frame({"user": [1, 1, 2], "item": [7, 8, 7], "rating": [5, 2, 4]})
    >>> min_rating(data, 4).interactions.histories().to_lists()
    [[0], [0]]

    Raises:
        DataError: there are no ratings, or none is high enough.
    """
    rating = _column(dataset, "rating", "min_rating")
    low, high = (f"{bound:g}" for bound in (rating.min(initial=np.inf), rating.max(initial=-np.inf)))
    mend = f"Ratings run from {low} to {high}; lower the threshold."
    done = _kept(dataset, rating >= threshold, f"min_rating {threshold:g}", mend, compact)
    return replace(done, interactions=replace(done.interactions, rating=None))


def deduplicate(dataset: Dataset, keep: str = "first", compact: bool = True) -> Dataset:
    """One interaction of each user with each item: the `first`, the `last`, or the one rated highest (`max`, the first
    of several). Repeats are no longer declared, since there are none.

    >>> data = Dataset.from_frame({"user": [1, 1, 1], "item": [7, 8, 7], "timestamp": [1, 2, 3]})
    >>> deduplicate(data, keep="last").interactions.histories().to_lists()
    [[1, 0]]

    Raises:
        DataError: `keep` is none of these, or is `max` where there are no ratings.
    """
    log = dataset.interactions
    age = np.arange(len(log))
    preference = {
        "first": lambda: (age,),
        "last": lambda: (-age,),
        "max": lambda: (age, -_column(dataset, "rating", "keep='max'")),
    }
    if keep not in preference:
        raise DataError(f"keep cannot be '{keep}'.{did_you_mean(keep, preference)} Choose first, last or max.")
    pair = log.user.astype(np.int64) * log.n_items + log.item
    order = np.lexsort((*preference[keep](), pair))
    chosen = np.zeros(len(log), bool)
    chosen[order[np.diff(pair[order], prepend=-1) != 0]] = True
    return replace(_kept(dataset, chosen, "deduplicate", "Import some first.", compact), repeats=False)


def between(
    dataset: Dataset, start: "str | int | None" = None, end: "str | int | None" = None, compact: bool = True
) -> Dataset:
    """The interactions from `start` on and before `end`: ISO dates or times (UTC unless they say otherwise), or
    milliseconds since 1970.

    >>> data = Dataset.from_frame({"user": [1, 2], "item": [7, 8], "timestamp": ["2024-05-01", "2024-05-02"]})
    >>> between(data, end="2024-05-02").items.ids.external([0])
    array([7])

    Raises:
        DataError: there are no times, a date cannot be read, or no interaction is in the window.
    """
    time = _column(dataset, "time", "between")
    kept = np.ones(len(time), bool)
    if start is not None:
        kept &= time >= milliseconds(start)
    if end is not None:
        kept &= time < milliseconds(end)
    window = " ".join(f"{word} {bound}" for word, bound in (("from", start), ("before", end)) if bound is not None)
    span = f"Times run from {iso(time.min())} to {iso(time.max())}; widen the window." if len(time) else ""
    return _kept(dataset, kept, f"keeping {window or 'all'}", span or "Import some first.", compact)


def milliseconds(moment: "str | int | np.integer") -> int:
    """Milliseconds since 1970 of an ISO date or time (UTC unless it says otherwise); milliseconds stay what they are.

    >>> milliseconds("1970-01-02"), milliseconds("1970-01-01T01:00+01:00"), milliseconds(5)
    (86400000, 0, 5)
    """
    if isinstance(moment, int | np.integer):
        return int(moment)
    try:
        parsed = datetime.fromisoformat(moment)
    except ValueError as error:
        raise DataError(
            f"'{moment}' is not a date. Write it like 2024-05-31 or 2024-05-31T18:00, or as milliseconds since 1970."
        ) from error
    return round((parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp() * 1000)


def iso(moment: "int | np.integer") -> str:
    """The UTC time of these milliseconds since 1970 to the second, or the date alone at midnight.

    >>> iso(86400000), iso(1500)
    ('1970-01-02', '1970-01-01 00:00:01')
    """
    text = str(np.datetime64(int(moment), "ms").astype("datetime64[s]")).replace("T", " ")
    return text.removesuffix(" 00:00:00")


def _column(dataset: Dataset, name: str, what: str) -> np.ndarray:
    columns = dataset.interactions.columns
    if name not in columns:
        raise DataError(
            f"{what} needs a '{name}' column; interactions has {', '.join(columns)}. "
            f"Name it when importing: --columns {name}=NAME"
        )
    return columns[name]


def _kept(dataset: Dataset, rows: Rows, what: str, mend: str, compact: bool) -> Dataset:
    """The dataset of these rows; it lives in memory, not in the folder it came from."""
    if not rows.any():
        raise DataError(f"no interactions are left of {len(rows):,} after {what}. {mend}")
    log, part = dataset.interactions.select(rows), dataset.split
    users, items = dataset.users, dataset.items
    if compact:
        (used_users, user), (used_items, item) = _renumbered(log.user), _renumbered(log.item)
        users, items = users.take(used_users), items.take(used_items)
        log = replace(log, user=user, item=item, n_users=len(users), n_items=len(items))
    return replace(
        dataset,
        interactions=log,
        users=users,
        items=items,
        split=None if part is None else Split(part.part[rows], part.how),
        official=None if dataset.official is None else dataset.official[rows],
        path=None,
    )


def _renumbered(codes: Int32[np.ndarray, " rows"]) -> tuple[Int64[np.ndarray, " used"], Int32[np.ndarray, " rows"]]:
    """The codes that occur, in order, and the rows with each code replaced by its place among them."""
    occurs = np.bincount(codes) > 0
    return np.flatnonzero(occurs), (np.cumsum(occurs) - 1).astype(np.int32)[codes]
