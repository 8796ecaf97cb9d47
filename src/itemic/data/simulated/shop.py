"""The simulated shop: a catalogue and its log with structure planted in it, for demos, tests and measurements.

Choose it where no data are at hand, or where the truth must be known: who has which taste, what goes with what.
It is drawn from a few mechanisms and is easier than life: no figure measured on it says how a system does elsewhere.

What is planted, each with a test that takes it away:
- **Tastes.** Every user belongs to one of 16 taste groups, and now and then shops like another one. A group prefers
  some of the 24 shelves (the middle level of the category), some brands and a price level; users also have favourite
  shelves and a favourite colour of their own. So attributes explain tastes, and a user's `segment` hints at the group.
- **Popularity.** Zipf-like, over items and, milder, over users.
- **Drift.** Groups move from one set of shelves to another in the course of the year, shelves have seasons, items
  trend up or down and are wanted most when new.
- **Sessions.** A session stays on one shelf and its clicks are minutes apart. `kind` is the furthest step taken with
  the item: viewed, put in the cart, purchased. Most purchases are made in a few sessions.
- **Baskets and links.** Who takes the first kind of thing of a shelf (a grinder) often takes its complement (a pot)
  next. The pairs are in `extras["links"]`, what was purchased together in `extras["baskets"]`.
- **Cold items.** 3 % of the items are launched in the last weeks, and 1 % after the last day: nobody has them.

No user has an item twice.
"""

from typing import NamedTuple

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float64, Int16, Int32, Int64

from itemic.data.dataset import Dataset
from itemic.data.ids import Ids
from itemic.data.interactions import Interactions
from itemic.data.simulated.words import (
    BRANDS,
    COLOURS,
    COUNTRIES,
    LEAVES,
    SEGMENTS,
    category_paths,
    titles_and_descriptions,
)
from itemic.data.table import Table
from itemic.errors import DataError

START = np.datetime64("2025-01-01")
DAYS = 364
PERIODS = 26
"""Fortnights: preferences and popularity are constant within one and change from one to the next."""
GROUPS = 16
SHELVES = len(LEAVES) // 3
KINDS = ("view", "cart", "purchase")
DAY_MS = 86_400_000
BLOCK = 1 << 19
"""Interactions drawn at a time, which bounds the memory beside the log itself."""


class Catalogue(NamedTuple):
    """The items as arrays, and the items each goes with."""

    leaf: Int64[np.ndarray, " items"]
    brand: Int64[np.ndarray, " items"]
    colour: Int64[np.ndarray, " items"]
    price: Float64[np.ndarray, " items"]
    level: Float64[np.ndarray, " items"]
    """Log of the price against the usual price of such a thing."""
    launched: Int64[np.ndarray, " items"]
    """In days after START."""
    complement: Int64[np.ndarray, " items"]
    """The item that goes with this one, -1 for none."""

    @property
    def shelf(self) -> Int64[np.ndarray, " items"]:
        return self.leaf // 3


class Users(NamedTuple):
    """The users as arrays."""

    group: Int64[np.ndarray, " users"]
    side: Int64[np.ndarray, " users"]
    """The group whose taste the user has at times."""
    colour: Int64[np.ndarray, " users"]
    segment: Int64[np.ndarray, " users"]
    country: Int64[np.ndarray, " users"]
    first: Int64[np.ndarray, " users"]
    """Day of the sign-up after START, negative for users from before; they shop until day `last`."""
    last: Int64[np.ndarray, " users"]
    events: Int64[np.ndarray, " users"]


class Log(NamedTuple):
    """The interactions as arrays, sorted by user and time."""

    user: Int32[np.ndarray, " rows"]
    item: Int32[np.ndarray, " rows"]
    time: Int64[np.ndarray, " rows"]
    kind: Int16[np.ndarray, " rows"]
    session: Int32[np.ndarray, " rows"]


class Demand(NamedTuple):
    """Who wants what when. Row GROUPS of the group axis is no group: every item that is for sale, alike."""

    shelf: Float64[np.ndarray, "periods groups+1 shelves"]
    order: Int64[np.ndarray, " items"]
    """The items, shelf by shelf."""
    cdf: Float64[np.ndarray, " n"]
    """For each period and group, the running share of each item (in `order`) on its shelf, plus the number of whole
    shelves before it: one sorted array, so that an item is drawn by one binary search."""


def shop(n_users: int = 3000, n_items: int = 2000, n_interactions: int = 120_000, seed: int = 0) -> Dataset:
    """A dataset of a shop that never was, the same for the same arguments.

    Raises:
        DataError: too few items, or more interactions than users and items allow.

    >>> data = shop(n_users=100, n_items=200, n_interactions=1000)
    >>> data.n_users, data.n_items, len(data.interactions)
    (100, 200, 1000)
    """
    _check(n_users, n_items, n_interactions)
    rng = np.random.default_rng(seed)
    catalogue = draw_catalogue(n_items, rng)
    users = draw_users(n_users, n_items, n_interactions, rng)
    log = draw_log(catalogue, users, draw_demand(catalogue, rng), rng)
    items = item_table(catalogue, rng)
    return Dataset(
        items,
        user_table(users),
        Interactions(**log._asdict(), n_users=n_users, n_items=n_items, kinds=KINDS),
        name="shop",
        extras={"links": links_table(catalogue, items.ids), "baskets": baskets_table(log, items.ids)},
    )


def draw_catalogue(n: int, rng: np.random.Generator) -> Catalogue:
    """Items with attributes; each department sells its own brands, and dear brands cost more."""
    some_of_each = np.arange(len(LEAVES))
    drawn = rng.choice(len(LEAVES), size=n - len(LEAVES), p=rng.dirichlet(np.full(len(LEAVES), 6.0)))
    leaf = rng.permutation(np.concatenate([some_of_each, drawn]))
    brand = (leaf // 9 * 3 + rng.choice(6, size=n, p=[0.3, 0.22, 0.18, 0.14, 0.1, 0.06])) % len(BRANDS)
    tier = rng.permutation(np.linspace(-0.6, 0.6, len(BRANDS)))
    level = tier[brand] + rng.normal(0, 0.25, n)
    price = np.maximum(np.round(np.exp(rng.normal(3.4, 0.6, len(LEAVES))[leaf] + level)), 2) - 0.05
    fate = rng.permutation(n) / n  # 1 % never sold, 3 % cold, 26 % launched during the year, the others before it
    launched = np.select(
        [fate < 0.01, fate < 0.04, fate < 0.30],
        [rng.integers(DAYS + 1, DAYS + 15, n), rng.integers(DAYS - 28, DAYS - 14, n), rng.integers(1, DAYS - 28, n)],
        default=rng.integers(-720, 1, n),
    )
    complement = np.full(n, -1)
    for first in range(0, len(LEAVES), 3):
        left, right = np.flatnonzero(leaf == first), np.flatnonzero(leaf == first + 1)
        complement[left] = right[np.arange(len(left)) % len(right)]
    colour = rng.integers(len(COLOURS), size=n)
    return Catalogue(leaf, brand, colour, price, level, launched, complement)


def draw_users(n: int, n_items: int, n_interactions: int, rng: np.random.Generator) -> Users:
    """Users of a group, who come and go, some much busier than others; their events add up to n_interactions."""
    group = rng.choice(GROUPS, size=n, p=rng.dirichlet(np.full(GROUPS, 30.0)))
    before = rng.random(n) < 0.65
    first = np.where(before, rng.integers(-900, 1, n), rng.integers(1, DAYS - 14, n))
    leaves = rng.random(n) < 0.25
    start = np.maximum(first, 0)
    last = np.where(leaves, start + 1 + (rng.random(n) * (DAYS - start)).astype(np.int64), DAYS)
    return Users(
        group=group,
        side=rng.integers(GROUPS, size=n),
        colour=rng.integers(len(COLOURS), size=n),
        segment=np.where(rng.random(n) < 0.75, group % len(SEGMENTS), rng.integers(len(SEGMENTS), size=n)),
        country=rng.choice(len(COUNTRIES), size=n, p=rng.dirichlet(np.full(len(COUNTRIES), 1.5))),
        first=first,
        last=np.minimum(last, DAYS),
        events=_shared_out(n_interactions, rng.lognormal(0, 0.8, n), n_items // 4, rng),
    )


def draw_demand(catalogue: Catalogue, rng: np.random.Generator) -> Demand:
    """The shelves and the items that each group wants in each period."""
    n, shelf = len(catalogue.leaf), catalogue.shelf
    order = np.argsort(shelf, kind="stable")
    bounds = np.searchsorted(shelf[order], np.arange(SHELVES))

    popular = (1 + rng.permutation(n)) ** -0.6
    trend = rng.normal(0, 0.4, n)
    brand_taste, price_taste = rng.normal(0, 2, (GROUPS, len(BRANDS))), rng.normal(0, 0.5, (GROUPS, 1))
    fit = brand_taste[:, catalogue.brand] - (catalogue.level - price_taste) ** 2
    taste = np.exp(fit)  # [group, item]
    early, late = (np.exp(rng.normal(0, 3.0, (GROUPS, SHELVES))) for _ in range(2))
    early, late = early / early.sum(1, keepdims=True), late / late.sum(1, keepdims=True)
    late = 0.65 * early + 0.35 * late
    season = rng.random(SHELVES)

    wants = np.empty((PERIODS, GROUPS + 1, SHELVES))
    cdf = np.empty((PERIODS, GROUPS + 1, n))
    for period in range(PERIODS):
        year, day = period / PERIODS, period * DAYS // PERIODS
        age = day - catalogue.launched
        new = 1 + np.exp(-np.maximum(age, 0) / 45)
        weight = (age >= 0) * popular * np.exp(trend * (year - 0.5)) * new
        rows = np.vstack([taste * weight, age >= 0])[:, order]  # [group + 1, item]
        mass = np.add.reduceat(rows, bounds, axis=1)
        rows /= np.maximum(mass, 1e-300)[:, shelf[order]]
        np.cumsum(rows, axis=1, out=cdf[period])
        cycle = 1 + 0.5 * np.cos(2 * np.pi * (year - season))
        wants[period, :GROUPS] = ((1 - year) * early + year * late) * cycle * (mass[:GROUPS] > 0)
        wants[period, GROUPS] = mass[GROUPS]
        # A shelf with nothing for sale yet has no mass: give it a whole step all the same, so that steps count shelves.
        empty = mass[GROUPS] == 0
        cdf[period] += np.cumsum(empty)[shelf[order]]
    first_shelf = SHELVES * np.arange(PERIODS * (GROUPS + 1))
    cdf.reshape(-1, n)[:] += first_shelf[:, None]
    return Demand(wants, order, cdf.ravel())


def draw_log(catalogue: Catalogue, users: Users, demand: Demand, rng: np.random.Generator) -> Log:
    """What the users did, drawn in blocks of users."""
    ends = np.cumsum(users.events)
    log = Log(*(np.empty(ends[-1], dtype) for dtype in (np.int32, np.int32, np.int64, np.int16, np.int32)))
    first, row, session = 0, 0, 0
    while first < len(ends):
        stop = max(int(np.searchsorted(ends, row + BLOCK, side="right")), first + 1)
        block = _draw_block(catalogue, Users(*(column[first:stop] for column in users)), demand, rng)
        for column, drawn, shift in zip(log, block, (first, 0, 0, 0, session)):
            column[row : row + len(drawn)] = drawn + shift
        first, row, session = stop, int(ends[stop - 1]), session + int(block.session.max()) + 1
    return log


def _draw_block(catalogue: Catalogue, users: Users, demand: Demand, rng: np.random.Generator) -> Log:
    """The interactions of some users: drawn, repeats dropped, and drawn again for those who are short of some."""
    missing, n_items = users.events.copy(), len(catalogue.leaf)
    liking = rng.gamma(0.5, size=(len(missing), SHELVES))
    owned, parts, n_sessions = np.empty(0, np.int64), [], 0
    while missing.any():
        at_random = len(parts) >= 4  # someone who owns what they like browses at random, so that this ends
        drawn = _draw_sessions(catalogue, users, missing, liking, demand, at_random, rng)
        pair = drawn.user * n_items + drawn.item
        _, firsts = np.unique(pair, return_index=True)
        firsts = firsts[~_among(owned, pair[firsts])]
        owned = np.sort(np.concatenate([owned, pair[firsts]]))
        missing -= np.bincount(drawn.user[firsts], minlength=len(missing))
        parts.append(Log(*(column[firsts] for column in drawn._replace(session=drawn.session + n_sessions))))
        n_sessions += int(drawn.session[-1]) + 1
    log = Log(*map(np.concatenate, zip(*parts)))
    order = np.lexsort((log.time, log.user))
    log = Log(*(column[order] for column in log))
    _, seen_first, session = np.unique(log.session, return_index=True, return_inverse=True)
    number = np.empty(len(seen_first), np.int64)
    number[np.argsort(seen_first)] = np.arange(len(seen_first))  # sessions are numbered as they stand in the log
    return log._replace(session=number[session])


def _draw_sessions(
    catalogue: Catalogue,
    users: Users,
    events: Int64[np.ndarray, " users"],
    liking: Float64[np.ndarray, "users shelves"],
    demand: Demand,
    at_random: bool,
    rng: np.random.Generator,
) -> Log:
    """Sessions of a few interactions each, as many interactions as asked of every user; items may repeat."""
    user = np.repeat(np.arange(len(events)), events)
    n = len(user)
    opens = rng.random(n) < 0.22
    opens[np.flatnonzero(np.diff(user, prepend=-1))] = True
    begin, session = np.flatnonzero(opens), np.cumsum(opens) - 1
    place, who = np.arange(n) - begin[session], user[begin]

    since = np.maximum(users.first[who], 0)
    day = since + (rng.random(len(who)) * (users.last[who] - since)).astype(np.int64)
    period = day * PERIODS // DAYS
    mood = rng.random(len(who))
    group = np.select([mood < 0.7, mood < 0.97], [users.group[who], users.side[who]], default=GROUPS)
    if at_random:
        group = np.full(len(who), GROUPS)
        shelf = _draw_columns(demand.shelf[period, group], rng)
    else:
        shelf = _draw_columns(demand.shelf[period, group] * liking[who], rng)

    step = ((period * (GROUPS + 1) + group) * SHELVES + shelf)[session]
    item, other = (demand.order[_draw_places(demand.cdf, step, rng) % len(demand.order)] for _ in range(2))
    favourite = users.colour[user]
    item = np.where((catalogue.colour[item] != favourite) & (catalogue.colour[other] == favourite), other, item)
    chance = rng.random(n)
    kind = np.where((rng.random(len(who)) < 0.3)[session], (chance < 0.75) * 1 + (chance < 0.55), chance < 0.08)

    goes_with = np.roll(catalogue.complement[item], 1)
    for_sale = (goes_with >= 0) & (catalogue.launched[goes_with] <= (period * (DAYS // PERIODS))[session])
    added = np.flatnonzero((place % 2 == 1) & for_sale & (rng.random(n) < 0.4))
    item[added], kind[added] = goes_with[added], kind[added - 1]

    pause = 20_000 + np.minimum(rng.exponential(90_000, n), 900_000).astype(np.int64)
    elapsed = np.cumsum(pause)
    of_day = (rng.beta(4, 3, len(who)) * DAY_MS).astype(np.int64)
    opened = START.astype("datetime64[ms]").astype(np.int64) + day * DAY_MS + of_day
    time = opened[session] + elapsed - elapsed[begin][session]
    return Log(user, item, time, kind, session)


def _draw_columns(weight: Float64[np.ndarray, "rows columns"], rng: np.random.Generator) -> Int64[np.ndarray, " rows"]:
    """For each row a column, with chances in proportion to the weights."""
    running = np.cumsum(weight, axis=1)
    return (running <= rng.random(len(weight))[:, None] * running[:, -1:]).sum(1)


def _draw_places(
    cdf: Float64[np.ndarray, " n"], step: Int64[np.ndarray, " rows"], rng: np.random.Generator
) -> Int64[np.ndarray, " rows"]:
    """For each row a place on its unit step of the running sum."""
    wanted = step + 1e-9 + (1 - 2e-9) * rng.random(len(step))  # rounding in the sums stays far below this margin
    order = np.argsort(wanted)  # in ascending order the searches stay in the cache: several times as fast
    place = np.empty(len(step), np.int64)
    place[order] = np.searchsorted(cdf, wanted[order], side="right")
    return place


def _among(ordered: Int64[np.ndarray, " n"], values: Int64[np.ndarray, " m"]) -> Bool[np.ndarray, " m"]:
    """Which of the values are in the sorted array."""
    if len(ordered) == 0:
        return np.zeros(len(values), bool)
    return ordered[np.minimum(np.searchsorted(ordered, values), len(ordered) - 1)] == values


def _shared_out(
    total: int, weight: Float64[np.ndarray, " users"], most: int, rng: np.random.Generator
) -> Int64[np.ndarray, " users"]:
    """`total` in random shares by weight, each at least 1 and at most `most`."""
    share = np.ones(len(weight), np.int64)
    while (rest := total - int(share.sum())) > 0:
        open_to_more = weight * (share < most)
        share = np.minimum(share + rng.multinomial(rest, open_to_more / open_to_more.sum()), most)
    return share


def item_table(catalogue: Catalogue, rng: np.random.Generator) -> Table:
    """The items with ids from 1, a title and a description made from their attributes."""
    title, description = titles_and_descriptions(catalogue.leaf, catalogue.brand, catalogue.colour, rng)
    columns = {
        "title": title,
        "description": description,
        "category": category_paths(catalogue.leaf),
        "brand": pa.array(BRANDS).take(pa.array(catalogue.brand)),
        "colour": pa.array(COLOURS).take(pa.array(catalogue.colour)),
        "price": pa.array(catalogue.price),
        "launched": pa.array(START + catalogue.launched),
    }
    return Table.of(Ids(np.arange(1, len(title) + 1), "item"), columns)


def user_table(users: Users) -> Table:
    """The users with ids from 1; the segment tells something of the taste group, the country nothing."""
    columns = {
        "segment": pa.array(SEGMENTS).take(pa.array(users.segment)),
        "country": pa.array(COUNTRIES).take(pa.array(users.country)),
        "signed_up": pa.array(START + users.first),
    }
    return Table.of(Ids(np.arange(1, len(users.group) + 1), "user"), columns, roles={})


def links_table(catalogue: Catalogue, ids: Ids) -> pa.Table:
    """The planted complements: left, right, kind."""
    left = np.flatnonzero(catalogue.complement >= 0)
    right = catalogue.complement[left]
    return pa.table({"left": ids.external(left), "right": ids.external(right), "kind": ["complement"] * len(left)})


def baskets_table(log: Log, ids: Ids) -> pa.Table:
    """What was purchased together: one row a session with at least two purchases."""
    bought = np.flatnonzero(log.kind == KINDS.index("purchase"))
    bought = bought[np.argsort(log.session[bought], kind="stable")]
    session, begin, size = np.unique(log.session[bought], return_index=True, return_counts=True)
    bought, first = bought[np.repeat(size >= 2, size)], bought[begin[size >= 2]]
    items = pa.ListArray.from_arrays(
        np.cumsum(np.append(0, size[size >= 2])), ids.array.take(pa.array(log.item[bought]))
    )
    return pa.table(
        {"session": session[size >= 2], "user": log.user[first] + 1, "time": log.time[first], "items": items}
    )


def _check(n_users: int, n_items: int, n_interactions: int) -> None:
    if n_items < 200 or n_users < 1:
        raise DataError(
            f"a shop of {n_items:,} items and {n_users:,} users is too small: at least 200 items and 1 user."
        )
    if not n_users <= n_interactions <= n_users * n_items // 8:
        raise DataError(
            f"{n_users:,} users and {n_items:,} items have from {n_users:,} to {n_users * n_items // 8:,} interactions "
            f"here, not {n_interactions:,}: one a user at least, and one pair in eight at most."
        )
