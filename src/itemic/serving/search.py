"""Items by words of their texts, by BM25."""

import numpy as np
from jaxtyping import Float32

from itemic.data import Table

SATURATION, LENGTH = 1.2, 0.75
"""k1 and b of BM25, the usual ones."""


class TextIndex:
    """The words of all items, each with the items that have it.

    >>> from itemic.data import Ids
    >>> table = Table.of(Ids(["a", "b"]), {"title": ["Red cup", "Red, red pot"]})
    >>> TextIndex(table).scores("cup").round(2).tolist()
    [0.75, 0.0]
    """

    def __init__(self, items: Table) -> None:
        import polars as pl
        import pyarrow as pa

        names = items.roles.get("text") or items.roles.get("title") or []
        self.columns = [name for name in names if pa.types.is_string(items.column(name).type) or
                        pa.types.is_large_string(items.column(name).type)]  # fmt: skip
        self.n_items = len(items)
        frame = pl.DataFrame({"text": pl.Series("text", [""] * len(items))})
        if self.columns:
            read = pl.from_arrow(items.frame.select(self.columns))
            assert isinstance(read, pl.DataFrame)
            frame = read.select(pl.concat_str(self.columns, separator=" ", ignore_nulls=True).alias("text"))
        words = _words(frame["text"]).alias("word")
        pairs = (
            pl.DataFrame({"item": np.arange(len(items), dtype=np.int32), "word": words}).explode("word").drop_nulls()
        )
        counts = pairs.group_by("word", "item").len().sort("word", "item")
        lengths = np.bincount(pairs["item"].to_numpy(), minlength=len(items))
        runs = counts.group_by("word", maintain_order=True).len()
        ends = np.cumsum(runs["len"].to_numpy())
        self._runs = dict(zip(runs["word"].to_list(), zip((ends - runs["len"].to_numpy()).tolist(), ends.tolist())))
        self._items, often = counts["item"].to_numpy(), counts["len"].to_numpy().astype(np.float64)
        relative = lengths[self._items] / max(lengths.mean(), 1e-9) if len(items) else lengths[self._items]
        self._worth = often * (SATURATION + 1) / (often + SATURATION * (1 - LENGTH + LENGTH * relative))

    def scores(self, text: str) -> Float32[np.ndarray, " items"]:
        """How well the texts of each item fit; 0 where no word is shared."""
        import polars as pl

        found = np.zeros(self.n_items, np.float64)
        for word in dict.fromkeys(_words(pl.Series([text]))[0]):
            first, last = self._runs.get(word, (0, 0))
            rare = np.log(1 + (self.n_items - (last - first) + 0.5) / (last - first + 0.5))
            found[self._items[first:last]] += rare * self._worth[first:last]
        return found.astype(np.float32)


def _words(texts):
    return texts.str.to_lowercase().str.extract_all(r"[\p{L}\p{N}]+")
