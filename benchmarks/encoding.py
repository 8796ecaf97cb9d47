"""Texts a second by all-MiniLM-L6-v2: itemic's encoder beside SentenceTransformer.encode, 6.2.0, with its defaults.

    make peers && python benchmarks/encoding.py                      # needs the sets below in $ITEMIC_DATA

20,000 titles of Beauty, Yelp and MovieLens-1M, drawn at random, and the 3,395 abstracts of ir-nfcorpus; both sides get
the same texts in the same order. Each runs on 1 and on 2 threads and is judged at its best; every run has a process of
its own, with the model loaded and warm. itemic reads equal texts once and keeps nothing from run to run. Every vector
is compared with the one that SentenceTransformer makes in float32.
Targets: at least 3 times the texts a second, 4 the aim; cosine at least 0.999 for every text.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from bpr import peers_python
from evaluation import run
from itemic import threads
from itemic.encoders.cache import Cache
from itemic.encoders.pretrained import model_folder
from itemic.registry import find

HERE = Path(__file__).parent
TITLES = (("amazon-beauty", "items"), ("yelp-s3rec", "items"), ("ml-1m", "movies"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--titles", type=int, default=20_000)
    parser.add_argument("--abstracts", type=int, default=3_395)
    parser.add_argument("--repeats", type=int, default=2, help="runs of each; the fastest counts")
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 2], help="counts to try")
    parser.add_argument("--ours", nargs=2, metavar=("FOLDER", "THREADS"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.ours:
        print(json.dumps(ours(Path(given.ours[0]), int(given.ours[1]), given.repeats)))
        return
    python = peers_python()
    for name, texts in (("titles", titles(given.titles)), ("abstracts", abstracts(given.abstracts))):
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "texts.json").write_text(json.dumps(texts))
            print(
                f"{len(texts):,} {name}, {len(set(texts)):,} of them different; load {os.getloadavg()[0]:.1f}",
                flush=True,
            )
            compare(Path(folder), python, given)


def titles(n: int) -> list[str]:
    """Titles of the three sets, mixed."""
    columns = [pq.read_table(data() / name / f"{table}.parquet").column("title") for name, table in TITLES]
    mixed = [title for column in columns for title in column.to_pylist() if title]
    return [mixed[row] for row in np.random.default_rng(0).permutation(len(mixed))[:n]]


def abstracts(n: int) -> list[str]:
    return pq.read_table(data() / "ir-nfcorpus" / "docs.parquet").column("text").to_pylist()[:n]


def data() -> Path:
    return Path(os.environ.get("ITEMIC_DATA", HERE.parent.parent / "shared" / "data"))


def ours(folder: Path, n: int, repeats: int) -> dict[str, Any]:
    """Seconds of one process of itemic; leaves the vectors."""
    os.environ["RAYON_NUM_THREADS"] = str(n)  # of what cuts texts into pieces
    texts, text = json.loads((folder / "texts.json").read_text()), find("text")()
    vectors, seconds = text.encode_texts(texts[:64]), []
    with threads.use(n):
        for _ in range(repeats):
            Cache.memory.clear()
            start = time.perf_counter()
            vectors = text.encode_texts(texts)
            seconds.append(time.perf_counter() - start)
    np.save(folder / "ours.npy", vectors)
    return {"seconds": min(seconds)}


def compare(folder: Path, python: Path, given: argparse.Namespace) -> None:
    commands = {
        "itemic": lambda n: [sys.executable, __file__, "--repeats", given.repeats, "--ours", folder, n],
        "SentenceTransformer": lambda n: [
            python, HERE / "peers" / "sentences_encode.py", folder, model_folder("minilm"), n, given.repeats
        ],
    }  # fmt: skip
    best = {}
    for name, command in commands.items():
        tried = {n: run(command(n), n)["seconds"] for n in given.threads}
        best[name] = min(tried.values())
        rates = len(json.loads((folder / "texts.json").read_text())) / np.array(list(tried.values()))
        print(f"{name:<20}", ", ".join(f"{rate:,.0f} a second on {n}" for rate, n in zip(rates, tried)), flush=True)
    mine, theirs = (np.load(folder / f"{side}.npy") for side in ("ours", "theirs"))
    least = float((mine * theirs).sum(1).min())
    print(f"itemic is {best['SentenceTransformer'] / best['itemic']:.1f} times faster; cosines {least:.5f} and more")
    if least < 0.999:
        sys.exit("error: a vector is not the one of SentenceTransformer")


if __name__ == "__main__":
    main()
