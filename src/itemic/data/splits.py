"""Which interactions are for training, validation and test.

A split is one byte an interaction and the recipe it came from. What is drawn is drawn from a seeded generator, so the
same seed gives the same parts on any machine.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Int64, UInt8

from itemic.data.dataset import TEST, TEST_HISTORY, TRAIN, UNUSED, VALID, VALID_HISTORY, Dataset, Split
from itemic.data.dialogues import RECOMMENDED, Dialogues
from itemic.data.interactions import Interactions
from itemic.errors import DataError, LeakError, did_you_mean

TARGET = 0.2
"""Share of a held-out user's interactions that are to be found; the rest is the history they are found from."""
MIN_PER_USER, MIN_PER_ITEM = 2, 5
"""Users and items with fewer interactions are not held out."""

Parts = UInt8[np.ndarray, " rows"]
Splitter = Callable[[Dataset, float, float, np.random.Generator], Parts]


def split(
    dataset: Dataset,
    by: str = "auto",
    test: float = 0.1,
    valid: float = 0.1,
    seed: int = 0,
    mask_valid: bool | None = None,
) -> Dataset:
    """The dataset with its interactions divided into train, validation and test; the arrays are shared.

    `by` says how:

    - `time`: the newest `test` share of all interactions is test, the `valid` share before it validation. Interactions
      of the same time stay together, in the newer part.
    - `last`: each user's last interaction is test, the one before it validation (none if `valid` is 0). Users with
      fewer than three (two) stay in train.
    - `random`: these shares of each user's interactions, rounded; at least one stays in train.
    - `users`: these shares of the users with two or more interactions are not trained on. The last 20 % of what each
      did (a random 20 % where no order is known) is to be found, from the rest as history.
    - `sessions`: the newest users by their last interaction, as when each session is a user: everything that is trained
      on is older. Of these shares of the users, those with two or more interactions are held out as in `users`.
    - `items`: these shares of the items with five or more interactions are not trained on at all.
    - `cold`: this share (`test`) of the same items is test as a whole, and of what is left the last of each user, as in
      `last`: one fit answers for warm, cold and mixed lists (the protocols of `evaluate`).
    - `dialogues`: turns of a recommender that are the test part are to be found from what was said before. The parts
      that came with the dialogues, else these shares of the dialogues whole. What was said after a held-out turn is
      not trained on.
    - `official`: the split that came with the data, as it is.
    - `auto`: dialogues, else official, else time, else last if rows stand in order, else random, whichever is possible
      first.

    Unless the dataset declares repeats, a test interaction whose user already had the item in an earlier part (or in
    the history it is found from) could never be found, because seen items are masked. It becomes unused, and
    `n_repeats_dropped` counts such rows, validation ones included. An official split is not touched but checked.

    `mask_valid` says whether validation items are masked at test; by default they are where they came before it.

    >>> data = Dataset.from_frame({"user": list("aaab"), "item": list("wxyz"), "timestamp": [1, 2, 3, 4]})
    >>> split(data, by="last").split.part.tolist()  # 0 train, 1 validation, 2 test
    [0, 1, 2, 0]

    Raises:
        DataError: the data or the shares do not allow this split.
        LeakError: the official split tests with what it trains on.
    """
    if by == "auto":
        by = _auto(dataset)
    _check(dataset, by, test, valid, seed)
    how: dict[str, object] = {"by": by}
    if by in ("last", "cold"):
        how |= {} if valid else {"valid": 0.0}
        how |= {"test": test, "seed": seed} if by == "cold" else {}
    elif by != "official" and not (by == "dialogues" and is_divided(dataset)):
        how |= {"test": test, "valid": valid} | ({} if by in ("time", "sessions") else {"seed": seed})
    part = SPLITTERS[by](dataset, test, valid, np.random.Generator(np.random.PCG64(seed)))
    _check_parts(part, by, test)
    if by != "official" and not dataset.repeats:
        repeated = _repeated(dataset.interactions, part)
        part[repeated] = UNUSED
        how["n_repeats_dropped"] = int(repeated.sum())
        if not (part == TEST).any():
            raise DataError(
                f"split by {by} leaves no test part: each of its interactions repeats an item that its user had "
                "before. Declare that repeats count (repeats=True), or use another split."
            )
    if mask_valid is not None:
        how["mask_valid"] = mask_valid
    done = replace(dataset, split=Split(part, how))
    if by == "official":
        check_leak(done)
    return done


def held_out(dataset: Dataset, rows: Bool[np.ndarray, " rows"], how: str) -> Dataset:
    """The dataset with these interactions as its validation part, named `how`, and all others as its train part.

    One that repeats what its user had before could not be found, as seen items are masked, and is left out.

    >>> data = Dataset.from_frame({"user": list("aab"), "item": list("xyx")})
    >>> held_out(data, np.array([False, True, False]), "newest").train.interactions.histories().to_lists()
    [[0], [0]]
    """
    part = np.where(rows, VALID, TRAIN).astype(np.uint8)
    if not dataset.repeats:
        part[_repeated(dataset.interactions, part)] = UNUSED
    return replace(dataset, split=Split(part, {"by": how, "valid": round(float(rows.mean()), 6)}))


def check_leak(dataset: Dataset) -> None:
    """Passes if no (user, item) of the test or validation part is in the train part, or if repeats are declared.

    Raises:
        LeakError: some are; the message counts them and names one.
    """
    if dataset.split is None or dataset.repeats:
        return
    log, part = dataset.interactions, dataset.split.part
    held = (part == TEST) | (part == VALID)
    leaking = np.flatnonzero(held)[_also_in(log, held, part == TRAIN)]
    if len(leaking):
        first = int(leaking[0])
        user, item = dataset.users.ids.array[log.user[first]].as_py(), dataset.items.ids.array[log.item[first]].as_py()
        raise LeakError(
            f"{len(leaking):,} of {held.sum():,} test and validation interactions of {dataset.name} are in its train "
            f"part too, the first of user {user!r} with item {item!r}. Drop one of each pair, or declare that taking "
            "an item again counts (--repeats)."
        )


def divided(dataset: Dataset) -> Dialogues:
    """The dialogues of a dataset that is split by dialogues, each turn with its part."""
    assert dataset.split is not None
    how = dataset.split.how
    if "seed" not in how:
        return dataset.dialogues
    rng = np.random.Generator(np.random.PCG64(how["seed"]))
    return _drawn_dialogues(dataset.dialogues, how["test"], how["valid"], rng)


def as_given(dataset: Dataset) -> Dataset:
    """The dataset split as its dialogues came, even if that leaves nothing to train or test on."""
    part = _of_turns(dataset, dataset.dialogues)
    if not dataset.repeats:
        part[_repeated(dataset.interactions, part)] = UNUSED
    return replace(dataset, split=Split(part, {"by": "dialogues"}))


def is_divided(dataset: Dataset) -> bool:
    """Whether the dialogues came with a split of their own."""
    return bool((dataset.dialogues.turns.part != TRAIN).any())


def _auto(dataset: Dataset) -> str:
    if "dialogues" in dataset.extras:
        return "dialogues"
    if dataset.official is not None:
        return "official"
    if dataset.interactions.time is not None:
        return "time"
    return "last" if dataset.ordered else "random"


def _check(dataset: Dataset, by: str, test: float, valid: float, seed: int) -> None:
    log = dataset.interactions
    if by not in SPLITTERS:
        names = ", ".join(["auto", *SPLITTERS])
        raise DataError(f"there is no split by '{by}'.{did_you_mean(by, SPLITTERS)} Choose one of {names}.")
    if not (0 < test < 1 and 0 <= valid < 1 and test + valid < 1):
        raise DataError(
            f"test {test} and valid {valid} leave no train part or are no shares. Give test above 0, valid 0 or more, "
            "and together less than 1."
        )
    if seed < 0:
        raise DataError(f"a seed is 0 or more, not {seed}.")
    if not len(log):
        raise DataError(f"{dataset.name} has no interactions to split. Import some first.")
    present = ", ".join(log.columns)
    if by in ("time", "sessions") and log.time is None:
        raise DataError(
            f"split by {by} needs a 'time' column; interactions has {present}. "
            "Name it when importing (--columns time=NAME), or split by random."
        )
    if by in ("last", "cold") and not _in_order(dataset):
        raise DataError(
            f"split by {by} needs a 'time' column or rows in order; interactions has {present}, in no known order. "
            "Name it when importing (--columns time=NAME), or split by random."
        )
    if by == "official" and dataset.official is None:
        raise DataError(
            f"{dataset.name} came without a split of its own. Split by time, last, random, users, sessions, items or "
            "cold."
        )


def _check_parts(part: Parts, by: str, test: float) -> None:
    n = len(part)
    if not (part == TEST).any():
        few = {
            "last": "no user has enough interactions",
            "random": f"no user has enough for a share of {test}",
            "sessions": f"too few of the newest have {MIN_PER_USER} interactions or more for a share of {test}",
            "users": f"too few users have {MIN_PER_USER} or more for a share of {test}",
            "items": f"too few items have {MIN_PER_ITEM} or more for a share of {test}",
            "cold": f"too few items have {MIN_PER_ITEM} or more for a share of {test}",
            "dialogues": f"no dialogue is marked so, or too few recommend anything for a share of {test}",
            "official": "it marks none as test",
        }.get(by, f"a share of {test} is less than one")
        raise DataError(
            f"split by {by} of {n:,} interactions leaves no test part: {few}. Raise test or use another split."
        )
    if not (part == TRAIN).any():
        raise DataError(
            f"split by {by} of {n:,} interactions leaves no train part. Lower test and valid or use another split."
        )


def _by_time(dataset: Dataset, test: float, valid: float, rng: np.random.Generator) -> Parts:
    time = dataset.interactions.time
    assert time is not None
    part = np.full(len(time), TRAIN, np.uint8)
    tested = _newest(time, _rounded(test * len(time)))
    part[tested] = TEST
    earlier = np.flatnonzero(~tested)
    part[earlier[_newest(time[earlier], _rounded(valid * len(time)))]] = VALID
    return part


def _by_last(dataset: Dataset, test: float, valid: float, rng: np.random.Generator) -> Parts:
    return _last(dataset.interactions, 2 if valid else 1)


def _last(log: Interactions, n_held: int) -> Parts:
    part = np.full(len(log), TRAIN, np.uint8)
    ends = log.offsets[1:][np.diff(log.offsets) > n_held]
    part[ends - n_held] = VALID  # overwritten with TEST where nothing but the last is held out
    part[ends - 1] = TEST
    return part


def _by_random(dataset: Dataset, test: float, valid: float, rng: np.random.Generator) -> Parts:
    log = dataset.interactions
    counts = np.diff(log.offsets)
    n_test = np.minimum(_rounded(test * counts), np.maximum(counts - 1, 0))
    n_valid = np.minimum(_rounded(valid * counts), np.maximum(counts - 1 - n_test, 0))
    rank = _shuffled_rank(log, rng)
    part = np.full(len(log), TRAIN, np.uint8)
    part[rank < (n_test + n_valid)[log.user]] = VALID
    part[rank < n_test[log.user]] = TEST
    return part


def _by_users(dataset: Dataset, test: float, valid: float, rng: np.random.Generator) -> Parts:
    log = dataset.interactions
    return _found_from_the_rest(dataset, _drawn(np.diff(log.offsets) >= MIN_PER_USER, test, valid, rng), rng)


def _by_sessions(dataset: Dataset, test: float, valid: float, rng: np.random.Generator) -> Parts:
    log = dataset.interactions
    assert log.time is not None
    counts = np.diff(log.offsets)
    there = np.flatnonzero(counts)
    ended = log.time[log.offsets[there + 1] - 1]
    group = np.full(len(counts), TRAIN, np.uint8)
    tested = _newest(ended, _rounded(test * len(there)))
    group[there[tested]] = TEST
    group[there[~tested][_newest(ended[~tested], _rounded(valid * len(there)))]] = VALID
    group[(group != TRAIN) & (counts < MIN_PER_USER)] = UNUSED
    return _found_from_the_rest(dataset, group, rng)


def _found_from_the_rest(dataset: Dataset, group: UInt8[np.ndarray, " users"], rng: np.random.Generator) -> Parts:
    """Of each user held out the share to be found is the target, and what they did before it the history."""
    log = dataset.interactions
    counts, group = np.diff(log.offsets), group[log.user]
    rank = np.arange(len(log)) - log.offsets[log.user] if _in_order(dataset) else _shuffled_rank(log, rng)
    n_known = counts - np.maximum(_rounded(TARGET * counts), 1)
    known = rank < n_known[log.user]
    history = np.where(group == TEST, TEST_HISTORY, VALID_HISTORY)
    return np.where(known & (group != TRAIN), history, group).astype(np.uint8)


def _by_items(dataset: Dataset, test: float, valid: float, rng: np.random.Generator) -> Parts:
    log = dataset.interactions
    counts = np.bincount(log.item, minlength=dataset.n_items)
    return _drawn(counts >= MIN_PER_ITEM, test, valid, rng)[log.item]


def _by_cold(dataset: Dataset, test: float, valid: float, rng: np.random.Generator) -> Parts:
    log = dataset.interactions
    part = _by_items(dataset, test, 0, rng)
    warm = part == TRAIN
    part[warm] = _last(log.select(warm), 2 if valid else 1)
    return part


def _by_dialogues(dataset: Dataset, test: float, valid: float, rng: np.random.Generator) -> Parts:
    talk = dataset.dialogues
    return _of_turns(dataset, talk if is_divided(dataset) else _drawn_dialogues(talk, test, valid, rng))


def _of_turns(dataset: Dataset, talk: Dialogues) -> Parts:
    """The part of the turn of each interaction; what a held-out turn names without recommending it is history."""
    log, turn = talk.interactions(dataset.n_users, dataset.n_items)
    ours = dataset.interactions
    if not (np.array_equal(log.user, ours.user) and np.array_equal(log.item, ours.item)):
        raise DataError(
            f"split by dialogues needs the interactions that are in them; {dataset.name} has others. Split by time, "
            "last or random."
        )
    part = talk.turns.part[turn]
    history = np.where(part == TEST, TEST_HISTORY, VALID_HISTORY)
    sought = np.where((part == TRAIN) | (log.kind == RECOMMENDED), part, history).astype(np.uint8)
    held_out_from = talk.held_out_from(TRAIN)[np.searchsorted(talk.first, turn, "right") - 1]
    sought[(part == TRAIN) & (turn >= held_out_from)] = UNUSED
    return sought


def _drawn_dialogues(talk: Dialogues, test: float, valid: float, rng: np.random.Generator) -> Dialogues:
    """With these shares of the dialogues that recommend anything as test and validation part."""
    owner = np.repeat(np.arange(len(talk)), talk.lengths)
    recommends = np.bincount(owner[talk.turns.recommends], minlength=len(talk)) > 0
    return replace(talk, turns=replace(talk.turns, part=_drawn(recommends, test, valid, rng)[owner]))


def _official(dataset: Dataset, test: float, valid: float, rng: np.random.Generator) -> Parts:
    assert dataset.official is not None
    return np.asarray(dataset.official, np.uint8)


SPLITTERS: dict[str, Splitter] = {
    "time": _by_time,
    "last": _by_last,
    "random": _by_random,
    "users": _by_users,
    "sessions": _by_sessions,
    "items": _by_items,
    "cold": _by_cold,
    "dialogues": _by_dialogues,
    "official": _official,
}


def _in_order(dataset: Dataset) -> bool:
    return dataset.ordered or dataset.interactions.time is not None


def _rounded(numbers: "float | np.ndarray") -> Int64[np.ndarray, " ..."]:
    """To the nearest integer, halves up."""
    return np.asarray(np.floor(np.asarray(numbers) + 0.5), np.int64)


def _newest(time: Int64[np.ndarray, " rows"], n: "int | np.ndarray") -> Bool[np.ndarray, " rows"]:
    """The n newest, and all as old as the oldest of them."""
    n = min(int(n), len(time))
    if n == 0:
        return np.zeros(len(time), bool)
    return time >= np.partition(time, len(time) - n)[len(time) - n]


def _drawn(
    eligible: Bool[np.ndarray, " n"], test: float, valid: float, rng: np.random.Generator
) -> UInt8[np.ndarray, " n"]:
    """TEST and VALID for these shares of the eligible ones, drawn without replacement; TRAIN for all others."""
    shuffled = rng.permutation(np.flatnonzero(eligible))
    n_test, n_valid = (int(_rounded(share * len(shuffled))) for share in (test, valid))
    group = np.full(len(eligible), TRAIN, np.uint8)
    group[shuffled[:n_test]] = TEST
    group[shuffled[n_test : n_test + n_valid]] = VALID
    return group


def _shuffled_rank(log: Interactions, rng: np.random.Generator) -> Int64[np.ndarray, " rows"]:
    """The place of each row, from 0, in a random order of its user's rows."""
    order = np.lexsort((rng.random(len(log)), log.user))
    rank = np.empty(len(log), np.int64)
    rank[order] = np.arange(len(log)) - log.offsets[log.user]
    return rank


def _repeated(log: Interactions, part: Parts) -> Bool[np.ndarray, " rows"]:
    """Which test and validation rows hold a (user, item) that is known before they are asked for."""
    known = np.isin(part, (TRAIN, VALID_HISTORY, TEST_HISTORY))
    repeated = np.zeros(len(part), bool)
    for target in (VALID, TEST):
        rows = part == target
        repeated[rows] = _also_in(log, rows, known)
        known |= rows  # validation is earlier than test
    return repeated


def _also_in(
    log: Interactions, rows: Bool[np.ndarray, " rows"], others: Bool[np.ndarray, " rows"]
) -> Bool[np.ndarray, " chosen"]:
    """Which of the chosen rows hold a (user, item) that one of the other rows holds too."""
    wanted, other = (log.user[mask].astype(np.int64) * log.n_items + log.item[mask] for mask in (rows, others))
    distinct = np.append(np.unique(wanted), -1)  # -1 stands after the last: no pair equals it
    where = np.searchsorted(distinct[:-1], other)  # fast: rows stand by user, so neighbours look in the same place
    found = np.zeros(len(distinct), bool)
    found[where[distinct[where] == other]] = True
    return found[np.searchsorted(distinct[:-1], wanted)]
