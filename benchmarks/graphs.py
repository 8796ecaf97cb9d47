"""What graphs that link by inner products and by direction find of the ten best items, and what a search costs.

Vectors of BPR fitted on users who like four of many topics; vectors drawn at random, their lengths alike or lognormal;
those of any fitted model. Each graph is searched at three widths, one request at a time.

    python benchmarks/graphs.py --model runs/fmrlrec
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

import numpy as np

from itemic import threads
from itemic.indexes import Exact
from itemic.indexes.choosing import KINDS
from itemic.indexes.hnsw import HNSW
from itemic.systems.base import VectorRecommender
from serving import fitted

K = 10
EFFORTS = (64, 256, 1024)


def measured(items: np.ndarray, queries: np.ndarray, links: int) -> list[str]:
    """A row: for each kind of graph how long it takes to make, and what it finds and costs at each width."""
    wanted, row = Exact(items).search(queries, K)[0], []
    for kind in KINDS:
        began = time.perf_counter()
        made = HNSW.built(items, links, kind)
        built, shares, spent = time.perf_counter() - began, [], []
        for made.effort in EFFORTS:
            began = time.perf_counter()
            found = np.concatenate([made.search(one[None], K)[0] for one in queries])
            spent.append(f"{1000 * (time.perf_counter() - began) / len(queries):.2f}")
            shares.append(f"{(found[:, :, None] == wanted[:, None]).any(1).mean():.3f}".lstrip("0"))
        row.append(f"{' '.join(shares)} ({' '.join(spent)}; {built:.0f} s)")
    return row


def asked_of(folder: Path, n: int) -> tuple[np.ndarray, np.ndarray]:
    """The vectors of the items of a model, and those of so many of its users."""
    model = VectorRecommender.load(folder)
    assert isinstance(model, VectorRecommender), f"{folder} is of no system whose scores are inner products"
    who = np.random.default_rng(1).integers(model.catalogue.n_users, size=n)
    vectors = model.item_vectors(), model.query_vectors(model.ask(users=who))
    items, queries = (np.ascontiguousarray(one, np.float32) for one in vectors)
    return items, queries


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=100_000, help="Of the fitted BPR. Default: 100000.")
    parser.add_argument("--drawn", type=int, default=30_000, help="Of vectors at random. Default: 30000.")
    parser.add_argument("--queries", type=int, default=500)
    parser.add_argument("--links", type=int, default=16)
    parser.add_argument("--model", type=Path, action="append", default=[], help="A folder of a fitted model too.")
    given = parser.parse_args()
    rng, n = np.random.default_rng(0), given.queries
    print(f"{given.links} links, efforts {EFFORTS}, {threads.count()} threads, load {os.getloadavg()[0]:.1f}")
    print("| | " + " | ".join(f"by {kind}" for kind in KINDS) + " |\n| --- | --- | --- |")

    def told(name: str, items: np.ndarray, queries: np.ndarray) -> None:
        print(f"| {name} | {' | '.join(measured(items, queries, given.links))} |", flush=True)

    with tempfile.TemporaryDirectory() as place:
        fitted(given.items, given.items // 20, 100, Path(place))
        told(f"{given.items:,} items in topics (BPR, fitted)", *asked_of(Path(place) / "bpr", n))
    items, queries = (rng.normal(size=(rows, 64)).astype(np.float32) for rows in (given.drawn, n))
    told(f"{given.drawn:,} at random, lengths alike", items, queries)
    items *= rng.lognormal(0, 0.5, (len(items), 1)).astype(np.float32)
    told(f"{given.drawn:,} at random, lengths lognormal, 0.5", items, queries)
    for folder in given.model:
        items, queries = asked_of(folder, n)
        told(f"{folder.name}, {len(items):,} items", items, queries)


if __name__ == "__main__":
    main()
