"""Attributes: items as vectors of their categories, tags, numbers and dates, by hashing: nothing is learned but scales.

Choose it where items have columns that say what they are: it needs no vocabulary, so values that nobody saw before have
their place at once. Two values may share a place, the more seldom the wider the vectors are. Which values matter is
learned from clicks by systems that read columns themselves, such as m2trec. Titles and texts are left to `text` unless
they are named.
Paper: Weinberger et al., ICML 2009, arXiv:0902.2206.
"""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
from jaxtyping import Bool, Float32, Float64
from pydantic import Field

from itemic.data import Dataset, Table
from itemic.encoders.cache import hashes
from itemic.encoders.metadata import Feature, amounts, levels, logarithms, milliseconds, phases, pieces, readable
from itemic.errors import ConfigError, DataError, did_you_mean
from itemic.model import Encoder, ModelConfig
from itemic.progress import report
from itemic.registry import encoder

pc: Any = pyarrow.compute  # its functions are made at import, out of a type checker's sight
FAR = 4.0
"""Numbers count as no further from the middle than this: one wild price must not outweigh all that is said."""


class Config(ModelConfig):
    fields: tuple[str, ...] = ()
    """The item columns that are read; none for all but texts and ids."""
    hashed: int = Field(256, ge=1)
    """Numbers of a vector that values share; each number, date and mark of what is missing has its own beside them."""
    log: tuple[str, ...] = ()
    """Columns of numbers that are read by their logarithm: prices and counts that span powers of ten."""


@encoder("attributes", needs=["items"], paper="arXiv:0902.2206")
class Attributes(Encoder[Config]):
    """A vector is `hashed` numbers for values, then for each column what it is and 1 where that is missing.

    The values of a column have together length 1, before two of them share a place. Numbers and dates stand in robust
    deviations from the median, dates also by where they are in their day, week and year.
    """

    def survey(self, train: Dataset) -> None:
        config, items, name = self.config, train.items, self.entry.name
        kinds = readable(items, config.fields or None, name)
        if not config.fields:
            kinds = {column: kind for column, kind in kinds.items() if kind != "words"}
        if not kinds:
            there = ", ".join(items.names) or "none"
            raise DataError(
                f"{name} finds no category, tag, number or date in the items of {train.name}: {there}. "
                "Name columns: --set fields=[NAME]."
            )
        numbers = [column for column, kind in kinds.items() if kind == "amount"]
        for column in config.log:
            if column not in numbers:
                listed, hint = ", ".join(numbers) or "none", did_you_mean(column, numbers)
                raise ConfigError(f"{name}: log names '{column}', no number that is read.{hint} Numbers: {listed}.")
        read = []
        for column, kind in kinds.items():
            facts = {"column": column, "kind": kind}
            if kind in ("amount", "time"):
                middle, spread = _scale(self._numbers(items, facts))
                facts |= {"middle": middle, "spread": spread}
            read.append(facts)
        self.shape = {"read": read}
        if not self._said(items)[1].any():
            listed = ", ".join(kinds)
            raise DataError(f"no item of {train.name} has a value in {listed}. Name others: --set fields=[NAME].")

    def solve(self, train: Dataset) -> dict[str, np.ndarray]:
        return {}  # all that is known is in `shape`

    @property
    def dim(self) -> int:
        widths = {"amount": 2, "time": 2 + 6}
        return self.config.hashed + sum(widths.get(facts["kind"], 1) for facts in self.shape["read"])

    def encode(self, content: Table) -> Float32[np.ndarray, "rows dim"]:
        _ = self.catalogue
        vectors, known = self._said(content)
        if not known.all():
            n, what = len(known), content.ids.what
            report(f"{n - known.sum():,} of {n:,} {what}s have no attribute: their vectors are nan", 1, 1)
        vectors[~known] = np.nan
        return vectors

    def _said(self, items: Table) -> tuple[Float32[np.ndarray, "rows dim"], Bool[np.ndarray, " rows"]]:
        """The vectors, and in which rows anything is known."""
        width = self.config.hashed
        vectors, known, at = np.zeros((len(items), self.dim), np.float32), np.zeros(len(items), bool), width
        for facts in self.shape["read"]:
            if facts["kind"] in ("amount", "time"):
                raw = self._numbers(items, facts)
                there = ~np.isnan(raw)
                scaled = ((raw - facts["middle"]) / facts["spread"]).clip(-FAR, FAR)
                said = scaled[:, None] if facts["kind"] == "amount" else np.column_stack([scaled, phases(raw)])
                vectors[:, at : at + said.shape[1]] = np.where(there[:, None], said, 0)
                at += said.shape[1]
            else:
                there = _hash_into(vectors[:, :width], items, facts)
            vectors[:, at] = ~there
            known |= there
            at += 1
        return vectors, known

    def _numbers(self, items: Table, facts: dict[str, Any]) -> Float64[np.ndarray, " rows"]:
        name, kind = facts["column"], facts["kind"]
        read = milliseconds if kind == "time" else logarithms if name in self.config.log else amounts
        return read(items, name)


def _hash_into(
    vectors: Float32[np.ndarray, "rows hashed"], items: Table, facts: dict[str, Any]
) -> Bool[np.ndarray, " rows"]:
    """Adds the values of a column, each at the place and with the sign that its hash says; which rows have any."""
    name, kind = facts["column"], facts["kind"]
    read = levels(items, name) if kind == "level" else [Feature(name, name, kind)]
    found = [pieces(items, feature) for feature in read]
    values = pa.chunked_array([flat for flat, _ in found], pa.string()).combine_chunks().dictionary_encode()
    rows = np.concatenate([rows for _, rows in found]) if found else np.empty(0, np.int64)
    key = hashes(pc.binary_join_element_wise(name, values.dictionary, "\0"))
    place, sign = (key[:, 0] % vectors.shape[1]).astype(np.int64), 1 - 2 * (key[:, 1] & 1).astype(np.float32)
    n_values = max(1, len(values.dictionary))
    row, value = np.divmod(np.unique(rows * n_values + values.indices.to_numpy().astype(np.int64)), n_values)
    n = np.bincount(row, minlength=len(items))
    np.add.at(vectors, (row, place[value]), sign[value] / np.sqrt(n[row], dtype=np.float32))
    return n > 0


def _scale(numbers: Float64[np.ndarray, " rows"]) -> tuple[float, float]:
    """The median, and the deviation from it: that of a normal distribution with these quartiles, or the standard one.

    >>> _scale(np.array([1.0, 2, 3, 4, 1000]))
    (3.0, 1.482602218505602)
    """
    there = numbers[np.isfinite(numbers)]
    if not len(there):
        return 0.0, 1.0
    low, middle, high = np.quantile(there, [0.25, 0.5, 0.75])
    return float(middle), float((high - low) / 1.3489795003921634 or there.std() or 1.0)
