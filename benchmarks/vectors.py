"""Vectors in PostgreSQL by pgvector beside the exact search and the graph of faiss, both in memory.

The table is written and indexed in a PostgreSQL of our own (pgserver); each graph is searched as widely as it must be
to find 95 % of the ten best, and then asked for ten items with ten left out, one and ten requests at once. Vectors are
clustered and of different lengths, as those of items are.

    python benchmarks/vectors.py --items 20000 --dim 64
"""

import argparse
import os
import tempfile
import time

import numpy as np
import pgserver

from itemic import threads
from itemic.data import Ragged
from itemic.indexes import Exact
from itemic.indexes.choosing import graph_for, tuned
from itemic.indexes.pgvector import PgVector
from itemic.serving.stores.postgres import Postgres

K = 10


def vectors(n: int, dim: int, seed: int, centres: np.ndarray) -> np.ndarray:
    rng = np.random.default_rng(seed)
    x = centres[rng.integers(0, len(centres), n)] + 0.7 * rng.normal(size=(n, dim))
    return (x * rng.lognormal(0, 0.3, (n, 1))).astype(np.float32)


def ms(index, queries: np.ndarray, at_once: int) -> str:
    """How long searches of so many queries take: the quickest tenth at most, half of them, and 95 %."""
    spent = []
    for start in range(0, len(queries) - at_once + 1, at_once):
        some = queries[start : start + at_once]
        seen = np.arange(K * at_once) % K, np.arange(at_once + 1) * K
        began = time.perf_counter()
        index.search(some, K, seen)
        spent.append(1000 * (time.perf_counter() - began))
    return " ".join(f"{share:7.2f}" for share in np.quantile(spent, (0.1, 0.5, 0.95)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--queries", type=int, default=500)
    parser.add_argument("--links", type=int, default=16)
    given = parser.parse_args()
    centres = np.random.default_rng(0).normal(size=(100, given.dim))
    items, queries = (vectors(n, given.dim, seed, centres) for seed, n in ((1, given.items), (2, given.queries)))
    nothing = Ragged.empty(200)
    print(f"{given.items:,} x {given.dim}, {threads.count()} thread, load {os.getloadavg()[0]:.1f}")
    server = pgserver.get_server(tempfile.mkdtemp())
    try:
        began = time.perf_counter()
        kept = PgVector(Postgres(server.get_uri("postgres")), "benchmark", items, given.links)
        written = time.perf_counter() - began
        facts = tuned(kept, queries[:200], nothing, links=given.links)
        print(f"pgvector: written and indexed in {written:.1f} s; recall {facts.recall:.3f} at effort {facts.effort}")
        began = time.perf_counter()
        PgVector(Postgres(server.get_uri("postgres")), "benchmark", items, given.links).close()
        print(f"          opened again in {time.perf_counter() - began:.2f} s")
        began = time.perf_counter()
        kept.extend(np.concatenate([items, vectors(100, given.dim, 3, centres)]))
        print(f"          100 items more in {time.perf_counter() - began:.2f} s")
        graph, facts = graph_for(items, queries[:200], nothing, links=given.links)
        print(f"HNSW:     made in {facts.seconds:.1f} s; recall {facts.recall:.3f} at effort {facts.effort}")
        print("ms, 10, 50 and 95 % of searches   1 query                   10 queries")
        for name, index in (("exact", Exact(items)), ("HNSW", graph), ("pgvector", kept)):
            index.search(queries[:10], K)
            print(f"{name:<28} {ms(index, queries, 1)}   {ms(index, queries, 10)}")
        kept.close()
    finally:
        server.cleanup()


if __name__ == "__main__":
    main()
