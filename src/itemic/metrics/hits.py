"""Which places of which lists hold a relevant item: the one step that all ranking metrics share."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float64, Int, Int64

from itemic.data.ragged import Ragged
from itemic.errors import ConfigError, DataError


@dataclass(frozen=True)
class Hits:
    """Lists compared with what should have been found; every ranking metric accepts it in place of the lists.

    >>> h = hits(np.array([[5, 2, 9], [1, 3, -1]]), Ragged.from_lists([[2, 7], [1]]))
    >>> h.grade.tolist(), h.n_relevant.tolist()
    ([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]], [2, 1])
    """

    grade: Float64[np.ndarray, "queries depth"]
    """The grade of each listed item: 0 where it is not relevant, was listed before, or is no item."""
    ideal: Ragged
    """The grades of all relevant items of each query, greatest first."""

    def __len__(self) -> int:
        return len(self.grade)

    @property
    def depth(self) -> int:
        return self.grade.shape[1]

    @property
    def n_relevant(self) -> Int64[np.ndarray, " queries"]:
        return self.ideal.lengths

    def cut(self, k: int | None) -> int:
        """The depth asked for: k itself, or the whole list when it is None."""
        if k is None:
            return self.depth
        if k < 1:
            raise ConfigError(f"a metric looks at the first k places: k must be at least 1, not {k}.")
        return k

    def found(self, k: int | None = None) -> Bool[np.ndarray, "queries places"]:
        """Whether each of the first k places holds a relevant item."""
        return self.grade[:, : self.cut(k)] > 0


Lists = Int[np.ndarray, "queries depth"] | Hits
"""Item codes, best first, with -1 for an empty place; or what `hits` made of them."""


def hits(ranked: Lists, relevant: Ragged | None = None, grades: Float[np.ndarray, " relevant"] | None = None) -> Hits:
    """The lists compared with the relevant items, once for all metrics. `grades` stands beside `relevant.values`.

    A listed item counts at its first place only, a relevant one once, with its first grade; one graded 0 or less is
    not relevant. Takes memory in proportion to the lists and the relevant items, not to the catalogue.

    >>> hits(np.array([[5, 2, 5]]), Ragged.from_lists([[5, 2]]), grades=np.array([3.0, 0.0])).grade.tolist()
    [[3.0, 0.0, 0.0]]
    """
    if isinstance(ranked, Hits):
        if relevant is not None or grades is not None:
            raise ValueError("hits already hold the relevant items and their grades: pass them to hits() only")
        return ranked
    if relevant is None:
        raise ValueError("relevant is missing: metrics compare lists with the relevant items")
    if len(ranked) != len(relevant):
        raise DataError(f"{len(ranked):,} lists cannot be compared with {len(relevant):,} rows of relevant items.")
    if grades is not None and len(grades) != len(relevant.values):
        raise DataError(f"{len(grades):,} grades for {len(relevant.values):,} relevant items: give one for each.")
    if relevant.values.min(initial=0) < 0:
        raise DataError("the relevant items include -1, which is no item. Leave items without a code out.")
    if grades is not None:
        relevant, grades = relevant.keep(grades > 0), grades[grades > 0]

    width = int(max(ranked.max(initial=0), relevant.values.max(initial=0))) + 2  # room for -1, which matches nothing
    row = relevant.row_of_value
    wanted, first = np.unique(row * width + relevant.values + 1, return_index=True)
    row, grade_of = row[first], np.ones(len(first)) if grades is None else grades[first].astype(np.float64)

    listed = np.arange(len(ranked), dtype=np.int64)[:, None] * width + ranked + 1
    where = np.searchsorted(wanted, listed)
    matches = np.append(wanted, -1)[where] == listed
    found, best = np.unique(where[matches], return_index=True)  # the first of equal places is the best one
    grade = np.zeros(ranked.shape)
    grade.flat[np.flatnonzero(matches)[best]] = grade_of[found]

    if grades is not None:
        grade_of = grade_of[np.lexsort((-grade_of, row))]
    return Hits(grade, Ragged.from_lengths(grade_of, np.bincount(row, minlength=len(relevant))))
