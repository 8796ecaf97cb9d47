"""Seconds in which a fitted TIGER and a fitted AlphaRec take in 1,000 new items, and how often these are recommended.

    python benchmarks/new_items.py                                   # needs $ITEMIC_DATA/amazon-beauty

1,000 items of Amazon Beauty with five interactions or more leave the catalogue with all that was done with them. The
systems have their recipes; the rest of the catalogue is whole, but only some users train them, for a few epochs: that
changes how good they are, not how long `add_items` takes. It reads the titles by all-MiniLM-L6-v2, gives TIGER's items
codes, and leaves those of all others as they are; nothing is kept from an earlier run. Target: under 10 seconds.
"""

import argparse
import os
import time
from pathlib import Path

import numpy as np

from itemic import threads
from itemic.data import Dataset, Interactions, Query
from itemic.data.readers.known import known_set
from itemic.evaluation.recipes import find_recipe, merged
from itemic.registry import find

RECIPES = {"tiger": ("amazon-beauty", None), "alpharec": ("amazon-beauty", "random")}
EPOCHS = {"tiger": 2, "alpharec": 10}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--systems", nargs="*", choices=list(RECIPES), default=list(RECIPES))
    parser.add_argument("--new", type=int, default=1000)
    parser.add_argument("--users", type=int, default=2000, help="users that train")
    parser.add_argument("--threads", type=int, default=threads.count())
    given = parser.parse_args()
    whole = known_set(Path(os.environ.get("ITEMIC_DATA", "../shared/data")) / "amazon-beauty")
    known, new = parted(whole, given.new)
    print(f"{given.new:,} of {whole.n_items:,} items are new; {given.threads} threads, load {os.getloadavg()[0]:.1f}")
    with threads.use(given.threads):
        for system in given.systems:
            measure(system, whole, known, new, given.users)


def parted(whole: Dataset, n: int) -> tuple[np.ndarray, np.ndarray]:
    """The items that stay and those that come later."""
    often = np.flatnonzero(whole.interactions.item_counts() >= 5)
    new = np.sort(np.random.default_rng(0).permutation(often)[:n])
    return np.setdiff1d(np.arange(whole.n_items), new), new


def measure(system: str, whole: Dataset, known: np.ndarray, new: np.ndarray, n_users: int) -> None:
    """Prints a line: how long it took, and what came of it."""
    log, taken_later = whole.interactions, np.isin(whole.interactions.item, new)
    some = log.user < n_users
    kept = some & ~taken_later
    events = Interactions.of(log.user[kept], np.searchsorted(known, log.item[kept]), n_users, len(known))
    users = whole.users.take(np.arange(n_users))
    data = Dataset(whole.items.take(known), users, events, name="before", ordered=True)
    few = {"training": {"epochs": EPOCHS[system], "patience": None}}
    model = find(system)(**merged(find_recipe(system, *RECIPES[system]).config, few)).fit(data)
    start = time.perf_counter()
    model.add_items(whole.items.take(new))
    seconds = time.perf_counter() - start
    lists = model.rank(Query(history=events.histories()), 20).items
    came, wanted = lists >= len(known), log.select(some & taken_later)
    code = len(known) + np.searchsorted(new, wanted.item)
    found = (lists[wanted.user] == code[:, None]).any(1).mean()
    print(
        f"{system}: {len(new):,} items in {seconds:.2f} s; {100 * came.mean():.1f} % of the 20 items that each of "
        f"{n_users:,} users gets are new, {len(np.unique(lists[came])):,} different ones; recall@20 of the new ones "
        f"they took is {found:.4f}, by chance {20 / whole.n_items:.4f}"
    )


if __name__ == "__main__":
    main()
