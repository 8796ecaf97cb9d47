"""Smaller datasets from larger ones: k-core, rating threshold, duplicates, time window; and sessions as users.

Each returns a new dataset; a split in place stays with the rows that remain. With `compact`, users and items without
interactions are taken out of their tables too (their ids stay what they were); without it, they keep their places.
Dialogues are left out, as they tell of the interactions that went.
"""

import re
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
from jaxtyping import Bool, Int32, Int64

from itemic.data.dataset import Dataset, Split
from itemic.data.ids import Ids
from itemic.data.table import Table
from itemic.errors import DataError, did_you_mean

pc: Any = pyarrow.compute  # its functions are made at import, out of a type checker's sight

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


def sessions(dataset: Dataset, pause: "str | int | None" = None) -> Dataset:
    """Each session as a user of its own, so that histories, splits and systems are about sessions; without a split.

    A session is a stretch of what a user did without a longer pause than `pause` ("90s", "30m", "2h", "1d", or
    milliseconds); without `pause`, what the session column says. Those of a user are named "user/1", "user/2", ... from
    the first on, and the column `user` of the user table says whose they are.

    >>> times = ["2024-05-01 09:00", "2024-05-01 09:20", "2024-05-01 18:00"]
    >>> visits = sessions(Dataset.from_frame({"user": ["ann"] * 3, "item": list("xyx"), "timestamp": times}), "30m")
    >>> visits.users.ids.external([0, 1]).tolist(), visits.interactions.histories().to_lists()
    (['ann/1', 'ann/2'], [[0, 1], [0]])

    Raises:
        DataError: there are no times or sessions, or `pause` is no length of time.
    """
    log = dataset.interactions
    if pause is None:
        mend = "Name it when importing (--columns session=NAME), or cut where a pause is longer than some time: 30m"
        session = _starts_of(log.user, _column(dataset, "session", "sessions", mend))
    else:
        time = _column(dataset, "time", "sessions by pauses")
        longest = length_of_time(pause)
        session = np.cumsum((np.diff(log.user, prepend=-1) > 0) | (np.diff(time, prepend=0) > longest)) - 1
    _, first = np.unique(session, return_index=True)
    owner = log.user[first]
    number = np.arange(1, len(owner) + 1) - np.searchsorted(owner, owner)
    names = dataset.users.ids.array.take(pa.array(owner))
    ids = pc.binary_join_element_wise(names.cast(pa.string()), pa.array(number).cast(pa.string()), "/")
    beside = {name: dataset.users.frame.column(name).take(pa.array(owner)) for name in dataset.users.names}
    users = Table.of(Ids(ids, "user"), {**beside, "user": names}, dataset.users.roles)
    made = replace(log, user=session.astype(np.int32), n_users=len(users), session=None)
    order = made.order()
    made = made if order is None else made.select(order)
    extras = without_dialogues(dataset)
    return replace(dataset, users=users, interactions=made, extras=extras, split=None, official=None, path=None)


def _starts_of(user: Int32[np.ndarray, " rows"], session: Int32[np.ndarray, " rows"]) -> Int64[np.ndarray, " rows"]:
    """For each row the number of its (user, session), counted in the order in which they begin."""
    _, first, place = np.unique(user.astype(np.int64) << 32 | session, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[place]


def length_of_time(text: "str | int") -> int:
    """Milliseconds of "90s", "30m", "2h" or "1d".

    >>> length_of_time("1.5h"), length_of_time(20)
    (5400000, 20)
    """
    units = {"s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) ?([smhd])", str(text).strip())
    length = text if isinstance(text, int) else round(float(found[1]) * units[found[2]]) if found else 0
    if length <= 0:
        raise DataError(f"'{text}' is not a length of time. Write it like 90s, 30m, 2h or 1d.")
    return length


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


def _column(dataset: Dataset, name: str, what: str, mend: str | None = None) -> np.ndarray:
    columns = dataset.interactions.columns
    if name not in columns:
        mend = mend or f"Name it when importing: --columns {name}=NAME"
        raise DataError(f"{what} needs a '{name}' column; interactions has {', '.join(columns)}. {mend}")
    return columns[name]


def _kept(dataset: Dataset, rows: Rows, what: str, mend: str, compact: bool) -> Dataset:
    """The dataset of these rows; it lives in memory, not in the folder it came from."""
    if not rows.any():
        raise DataError(f"no interactions are left of {len(rows):,} after {what}. {mend}")
    log, part = dataset.interactions.select(rows), dataset.split
    users, items, features = dataset.users, dataset.items, dataset.features
    if compact:
        (used_users, user), (used_items, item) = _renumbered(log.user), _renumbered(log.item)
        users, items = users.take(used_users), items.take(used_items)
        log = replace(log, user=user, item=item, n_users=len(users), n_items=len(items))
        features = {name: dataset.feature(name)[used_items] for name in features}
    return replace(
        dataset,
        interactions=log,
        users=users,
        items=items,
        extras=without_dialogues(dataset),
        features=features,
        split=None if part is None else Split(part.part[rows], part.how),
        official=None if dataset.official is None else dataset.official[rows],
        path=None,
    )


def without_dialogues(dataset: Dataset) -> dict[str, pa.Table]:
    """The declared tables of a dataset but for its dialogues."""
    return {name: table for name, table in dataset.extras.items() if name != "dialogues"}


def _renumbered(codes: Int32[np.ndarray, " rows"]) -> tuple[Int64[np.ndarray, " used"], Int32[np.ndarray, " rows"]]:
    """The codes that occur, in order, and the rows with each code replaced by its place among them."""
    occurs = np.bincount(codes) > 0
    return np.flatnonzero(occurs), (np.cumsum(occurs) - 1).astype(np.int32)[codes]
