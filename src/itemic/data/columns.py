"""Which column of a table is the user, the item, the time, ...: named by the caller or recognised by common names."""

import re
from collections.abc import Iterable, Mapping, Sequence

from itemic.errors import DataError, did_you_mean

Columns = Mapping[str, str] | Sequence[str] | None
"""How a caller names columns: {"user": "customer"}, or ["user", "item", "weight"] for a table without header."""

ROLES = ("user", "item", "time", "rating", "weight", "kind", "session", "event_id")

NAMES = {
    "user": "user user_id uid user_idx customer customer_id visitor visitor_id reviewer reviewer_id member member_id "
    "client client_id account_id person_id profile_id buyer_id reader_id listener_id",
    "item": "item item_id iid item_idx movie movie_id parent_asin asin product product_id sku article article_id "
    "track track_id song_id artist_id book_id isbn business_id game_id app_id news_id video_id recipe_id poi_id "
    "location_id product_code items movies history sequence item_ids",
    "time": "time timestamp ts unix_review_time unix_time unix datetime date created_at event_time review_time "
    "time_stamp date_time rated_at",
    "rating": "rating score stars overall rate ratings",
    "weight": "weight count play_count plays quantity listen_count playtime",
    "kind": "kind event event_type action behavior behaviour type interaction_type",
    "session": "session session_id visit_id",
    "event_id": "event_id interaction_id review_id transaction_id",
}
"""Common names, the most telling first. Case and joining do not matter: userId, user ID and USER_ID are user_id."""

NAMES_OF_ID = {
    "item": "id " + NAMES["item"],
    "user": "id " + NAMES["user"],
}
"""Names of the id column in a table of items or users."""


def find_columns(
    names: Sequence[str], given: Columns = None, source: str = "the events", lists: Sequence[str] = ()
) -> dict[str, str]:
    """The column of each role that a table of interactions has: {"user": "userId", "item": "movieId", ...}.

    >>> find_columns(["userId", "movieId", "rating", "timestamp"])
    {'user': 'userId', 'item': 'movieId', 'time': 'timestamp', 'rating': 'rating'}
    >>> find_columns(["who", "sku"], {"user": "who"})
    {'user': 'who', 'item': 'sku'}

    `{"time": "-"}` says that there is none. Where only sessions are named, each session is a user. `lists` are the
    columns that hold lists: one of them alone is the item column, and then a user column is not needed.

    Raises:
        DataError: there is no user or item column, or a named column is not there.
    """
    given = dict(given) if isinstance(given, Mapping) else {role: role for role in given or () if role in ROLES}
    for role, name in given.items():
        if role not in ROLES:
            raise DataError(f"there is no role {role!r}.{did_you_mean(role, ROLES)} Roles: {', '.join(ROLES)}.")
        if name not in (*names, "-"):
            raise DataError(f"{source} has no column {name!r}.{did_you_mean(name, names)} Columns: {', '.join(names)}.")
    left = [name for name in names if name not in given.values()]
    found: dict[str, str] = {}
    for role in ROLES:
        name = given.get(role) or first_named(left, NAMES[role])
        if name not in (None, "-"):
            found[role] = name
    if "user" not in found and "session" in found:
        found["user"] = found.pop("session")
    if "item" not in found and len(lists) == 1:
        found["item"] = lists[0]
    missing = [role for role in ("user", "item") if role not in found]
    if missing and not (missing == ["user"] and found["item"] in lists):
        hint = "".join(_near(role, left) for role in missing)
        raise DataError(
            f"{source} has no {' and no '.join(missing)} column; its columns are {', '.join(names)}.{hint} "
            f"Name {'it' if len(missing) == 1 else 'them'}: --columns {_example(missing, left, given, found)}"
        )
    return found


def id_column(names: Sequence[str], what: str, given: str | None = None, source: str = "") -> str:
    """The column that holds the ids of a table of items or users.

    >>> id_column(["title", "movieId"], "item")
    'movieId'

    Raises:
        DataError: none of the columns is named like an id.
    """
    name = given if given in names else first_named(names, NAMES_OF_ID[what])
    if name is None:
        where = source or f"the {what}s"
        raise DataError(
            f"{where} has no {what} id column; its columns are {', '.join(names)}. Call it 'id' or '{what}_id'."
        )
    return name


def first_named(names: Iterable[str], known: str) -> str | None:
    """The column with the most telling of the known names; 'movieId', 'movie_id', 'movie ID' and 'MOVIEID' are one."""
    plain = {}
    for name in names:
        plain.setdefault(_plain(name), name)
    return next((plain[_plain(word)] for word in known.split() if _plain(word) in plain), None)


def headerless(columns: Columns, source: str) -> list[str] | None:
    """The column names of a table without header, or None when the table names its columns itself.

    Raises:
        DataError: a name is no role; '-' passes over a column.
    """
    if columns is None or isinstance(columns, Mapping):
        return None
    for name in columns:
        if name not in (*ROLES, "-"):
            raise DataError(
                f"{source}: --columns lists {name!r}, which is no role.{did_you_mean(name, ROLES)} "
                f"Roles: {', '.join(ROLES)}; '-' passes over a column."
            )
    return [f"-{place}" if name == "-" else name for place, name in enumerate(columns)]


def _plain(name: str) -> str:
    return re.sub(r"[^0-9a-z]", "", name.lower())


def _near(role: str, names: Sequence[str]) -> str:
    for word in NAMES[role].split()[:3]:
        if hint := did_you_mean(word, names):
            return hint
    return ""


def _example(missing: Sequence[str], left: Sequence[str], given: Mapping[str, str], found: Mapping[str, str]) -> str:
    """What to write after --columns: what was given already, and a free column for each role that is missing."""
    free = [name for name in left if name not in found.values()] + ["NAME"] * len(missing)
    return ",".join(f"{role}={name}" for role, name in [*given.items(), *zip(missing, free)] if role != name)
