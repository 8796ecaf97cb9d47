"""Rows of different lengths in two flat arrays, so that nothing is padded before a module wants it."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64, Shaped


@dataclass(frozen=True)
class Ragged:
    """`values[offsets[r]:offsets[r + 1]]` is row r. The arrays are shared, not copied, and may be memory-mapped.

    >>> r = Ragged.from_lists([[3, 1], [], [2]])
    >>> len(r), r.lengths.tolist(), r[0].tolist(), r.take([2, 0]).to_lists()
    (3, [2, 0, 1], [3, 1], [[2], [3, 1]])
    """

    values: Shaped[np.ndarray, " n ..."]
    offsets: Int64[np.ndarray, " bounds"]

    def __post_init__(self) -> None:
        if len(self.offsets) == 0 or self.offsets[0] != 0 or self.offsets[-1] != len(self.values):
            raise ValueError(f"offsets must run from 0 to {len(self.values)}, the number of values")

    @classmethod
    def from_lists(cls, rows: Iterable[Sequence[int]], dtype: type = np.int32) -> "Ragged":
        """The rows of a nested list (for tests and the doors; hot paths build the two arrays themselves)."""
        arrays = [np.asarray(row, dtype=dtype) for row in rows]
        values = np.concatenate(arrays) if arrays else np.empty(0, dtype)
        return cls.from_lengths(values, np.fromiter((len(a) for a in arrays), np.int64, len(arrays)))

    @classmethod
    def from_lengths(cls, values: np.ndarray, lengths: np.ndarray) -> "Ragged":
        """Consecutive runs of `values`, the r-th of them `lengths[r]` long."""
        return cls(values, np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64))

    @classmethod
    def from_pairs(cls, rows: np.ndarray, values: np.ndarray, n_rows: int) -> "Ragged":
        """Groups `values` by their row number, keeping their order inside a row; O(n) plus a stable sort.

        >>> Ragged.from_pairs(np.array([1, 0, 1]), np.array([7, 8, 9]), 3).to_lists()
        [[8], [7, 9], []]
        """
        rows = np.asarray(rows)
        in_order = len(rows) < 2 or bool((rows[1:] >= rows[:-1]).all())
        grouped = values if in_order else values[np.argsort(rows, kind="stable")]
        return cls.from_lengths(grouped, np.bincount(rows, minlength=n_rows))

    @classmethod
    def repeated(cls, values: "np.ndarray | Sequence[int]", n_rows: int, dtype: type = np.int32) -> "Ragged":
        """`n_rows` rows that all hold the same values.

        >>> Ragged.repeated([7, 8], 2).to_lists()
        [[7, 8], [7, 8]]
        """
        row = np.asarray(values, dtype)
        return cls(np.tile(row, n_rows), np.arange(n_rows + 1, dtype=np.int64) * len(row))

    @classmethod
    def empty(cls, n_rows: int, dtype: type = np.int32) -> "Ragged":
        """`n_rows` rows with nothing in them."""
        return cls(np.empty(0, dtype), np.zeros(n_rows + 1, np.int64))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> np.ndarray:
        row = range(len(self))[row]  # negative rows count from the end, beyond it is an IndexError
        return self.values[self.offsets[row] : self.offsets[row + 1]]

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[row] for row in range(len(self)))

    @property
    def lengths(self) -> Int64[np.ndarray, " rows"]:
        return np.diff(self.offsets)

    @property
    def row_of_value(self) -> Int64[np.ndarray, " n"]:
        """The row each value belongs to: [0, 0, 2] for rows of lengths 2, 0, 1."""
        return np.repeat(np.arange(len(self), dtype=np.int64), self.lengths)

    @property
    def places(self) -> Int64[np.ndarray, " n"]:
        """How many values of its row come before each value: [0, 1, 0] for rows of lengths 2, 0, 1."""
        return np.arange(len(self.values)) - np.repeat(self.offsets[:-1], self.lengths)

    def positions(self, rows: "np.ndarray | Sequence[int]") -> Int64[np.ndarray, " n"]:
        """Where the values of these rows stand in `values`, row after row."""
        rows = np.asarray(rows, dtype=np.int64)
        return runs(self.offsets[rows], self.offsets[rows + 1] - self.offsets[rows])

    def take(self, rows: "np.ndarray | Sequence[int]") -> "Ragged":
        """These rows, in this order."""
        rows = np.asarray(rows, dtype=np.int64)
        return Ragged.from_lengths(self.values[self.positions(rows)], self.offsets[rows + 1] - self.offsets[rows])

    def block(self, start: int, stop: int) -> "Ragged":
        """Rows start to stop - 1 without copying their values."""
        stop = min(stop, len(self))
        first, last = self.offsets[start], self.offsets[stop]
        return Ragged(self.values[first:last], self.offsets[start : stop + 1] - first)

    def keep(self, mask: np.ndarray) -> "Ragged":
        """The same rows with only the values where `mask` (one bool a value) is true."""
        lengths = np.bincount(self.row_of_value[mask], minlength=len(self))
        return Ragged.from_lengths(self.values[mask], lengths)

    def last(self, n: int) -> "Ragged":
        """The last n values of each row: the newest, where rows are in time order."""
        starts = np.maximum(self.offsets[1:] - n, self.offsets[:-1])
        rank = np.arange(len(self.values)) >= np.repeat(starts, self.lengths)
        return self.keep(rank)

    def joined(self, other: "Ragged") -> "Ragged":
        """Row r of this followed by row r of the other."""
        if len(self) != len(other):
            raise ValueError(f"cannot join {len(self)} rows with {len(other)} rows")
        rows = np.concatenate([self.row_of_value, other.row_of_value])
        return Ragged.from_pairs(rows, np.concatenate([self.values, other.values]), len(self))

    def to_lists(self) -> list[list]:
        return [row.tolist() for row in self]


def runs(starts: Int64[np.ndarray, " n"], lengths: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " values"]:
    """Consecutive numbers from each start, as many as its length, run after run.

    >>> runs(np.array([5, 2, 9]), np.array([2, 0, 3])).tolist()
    [5, 6, 9, 10, 11]
    """
    shift = np.asarray(starts, np.int64) - np.concatenate([[0], np.cumsum(lengths)])[:-1]
    return np.arange(int(lengths.sum()), dtype=np.int64) + np.repeat(shift, lengths)
