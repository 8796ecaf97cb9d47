"""How well a language model of ours foresees text that it did not read: Ettin's decoder beside counts of four tokens.

    python benchmarks/language.py DATA [--model runs/ettin] [--set tokens=100000 ...] [--out runs/ettin]

DATA is a folder or the name of a known set. Without a model one is fitted with these options, and its tokens a second
are told. The counts are those of an interpolated modified Kneser-Ney model of order 4 over the same tokens: the same
texts, cut into the same rows by the same vocabulary; both are asked for each token of the same held-out rows, their
ends among them, and for nothing else.
Target: a lower perplexity than Kneser-Ney's, after less than 30 minutes for both twins.
"""

import argparse
import math
import os
import time
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int64

from itemic import threads
from itemic.data import Ragged
from itemic.encoders.documents import Rows
from itemic.encoders.ettin import Ettin
from itemic.progress import listening


class Order(NamedTuple):
    """N-grams of one length: what is counted of each, and of each context."""

    grams: Int64[np.ndarray, " grams"]
    count: Float[np.ndarray, " grams"]
    contexts: Int64[np.ndarray, " contexts"]
    total: Float[np.ndarray, " contexts"]
    left: Float[np.ndarray, " contexts"]
    """What discounting leaves for the shorter context."""
    discount: Float[np.ndarray, "4"]
    """What is taken off a count of 0, 1, 2, and 3 or more."""


class KneserNey:
    """Interpolated modified Kneser-Ney (Chen and Goodman, 1999); n-grams that begin a row are counted as they are."""

    def __init__(self, rows: Rows, n_words: int, order: int = 4) -> None:
        if order * math.log2(n_words) >= 63:
            raise ValueError(f"{order}-grams of {n_words:,} words do not fit into 64 bits")
        self.n_words, self.orders = n_words, []
        token, place, asked = _flat(rows)
        first = int(token[0])
        longer: np.ndarray | None = None
        for n in range(order, 0, -1):
            grams, count = np.unique(self._keys(token, n)[asked & (place >= n - 1)], return_counts=True)
            if longer is not None:  # how many different words stand before it, unless it begins a row
                before, kinds = np.unique(longer % n_words**n, return_counts=True)
                begins = grams // n_words ** (n - 1) == first
                at = np.searchsorted(before, grams).clip(max=len(before) - 1)
                count = np.where(begins, count, kinds[at])
            self.orders.insert(0, _discounted(grams, count.astype(float), n_words))
            longer = grams

    def log_probs(self, rows: Rows) -> Float[np.ndarray, " asked"]:
        """The logarithm of the chance of each token of the rows but the first."""
        token, place, asked = _flat(rows)
        chance = np.full(int(asked.sum()), 1 / self.n_words)
        for n, order in enumerate(self.orders, start=1):
            keys = self._keys(token, n)[asked]
            count, _ = _found(order.grams, keys, order.count)
            total, known = _found(order.contexts, keys // self.n_words, order.total)
            left, _ = _found(order.contexts, keys // self.n_words, order.left)
            taken = order.discount[count.clip(max=3).astype(int)]
            made = (count - taken).clip(min=0) / np.where(known, total, 1) + left * chance
            chance = np.where(known & (place[asked] >= n - 1), made, chance)
        return np.log(chance)

    def _keys(self, token: Int64[np.ndarray, " tokens"], n: int) -> Int64[np.ndarray, " tokens"]:
        """The n tokens up to each as one number; it means nothing for the first n - 1 of a row."""
        key = token.copy()
        for back in range(1, n):
            key[back:] += token[:-back] * self.n_words**back
        return key


def _discounted(grams: np.ndarray, count: np.ndarray, n_words: int) -> Order:
    rare = np.bincount(count.clip(max=5).astype(int), minlength=6)[1:5].clip(min=1)
    y = rare[0] / (rare[0] + 2 * rare[1])
    discount = np.array([0, *((j - (j + 1) * y * rare[j] / rare[j - 1]) for j in (1, 2, 3))]).clip(min=0)
    discount = np.minimum(discount, np.arange(4))
    contexts, context = np.unique(grams // n_words, return_inverse=True)
    total = np.bincount(context, count)
    left = np.bincount(context, discount[count.clip(max=3).astype(int)]) / total
    return Order(grams, count, contexts, total, left, discount)


def _found(keys: np.ndarray, wanted: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The value of each wanted key, 0 where it is none, and which are."""
    at = np.searchsorted(keys, wanted).clip(max=len(keys) - 1)
    known = keys[at] == wanted
    return np.where(known, values[at], 0.0), known


def _flat(rows: Rows) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All tokens, the place of each in its row, and which of them a model is asked for."""
    tokens: Ragged = rows.tokens
    place = tokens.places
    asked = place > 0
    asked[tokens.offsets[1:][~rows.whole] - 1] = False
    return tokens.values.astype(np.int64), place, asked


def main() -> None:
    from itemic.cli.models import open_data, settings_of

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--model", help="The folder of a fitted one.")
    parser.add_argument("--set", action="append", default=[], metavar="OPTION=VALUE")
    parser.add_argument("--out", help="Where to save the one that is fitted.")
    given = parser.parse_args()
    whole = open_data(given.data)
    model = Ettin.load(given.model) if given.model else fitted(whole.train, settings_of(given.set), given.out)
    parts = [model.rows(part.pieces(model.cutter), model.longest) for part in model.parted(whole.train)]
    read, held = parts
    print(
        f"{len(read.tokens.values):,} tokens read, {len(held.tokens.values):,} held out, {len(model.cutter):,} pieces"
    )
    start = time.perf_counter()
    counted = KneserNey(read, len(model.cutter)).log_probs(held)
    print(f"Kneser-Ney, 4 tokens: {math.exp(-counted.mean()):.2f} ({time.perf_counter() - start:.1f} s)")
    start = time.perf_counter()
    foreseen = math.exp(model.surprise("decoder", held))
    print(f"decoder:              {foreseen:.2f} ({time.perf_counter() - start:.1f} s)")
    print(f"encoder, 15 % hidden: {math.exp(model.surprise('encoder', held)):.2f}")
    print(f"load {os.getloadavg()[0]:.1f}, {threads.describe()}")


def fitted(train, options: dict, out: str | None) -> Ettin:
    model = Ettin(**options)
    with listening(lambda what, done, total, note: print(f"{what} {done}/{total} {note}", flush=True)):
        model.fit(train, folder=f"{out}.run" if out else None)
    seconds, n_tokens = model.fitted_on["seconds"], 2 * model.fitted_on["tokens"]
    print(f"fitted in {seconds:.0f} s: {n_tokens / seconds:,.0f} tokens a second, validation among them")
    if out:
        model.save(out)
    return model


if __name__ == "__main__":
    main()
