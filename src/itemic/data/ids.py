"""External ids at the doors, contiguous integer codes inside."""

import hashlib
from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
from jaxtyping import Int32

from itemic.errors import DataError, UnknownItems, some

pc: Any = pyarrow.compute  # its functions are made at import, out of a type checker's sight


class Ids:
    """The ids of a table's rows: row r has code r. All of them are integers (int64) or all are strings.

    >>> ids = Ids(["a", "b"])
    >>> ids.codes(["b", "z"]).tolist(), ids.external([1, 0]).tolist()
    ([1, -1], ['b', 'a'])
    """

    def __init__(self, values: "pa.Array | pa.ChunkedArray | np.ndarray | Iterable[Any]", what: str = "item") -> None:
        self.array = _normal(values, what)
        self.what = what

    @classmethod
    def numbered(cls, n: int, what: str = "item") -> "Ids":
        """The ids 0 to n - 1."""
        return cls(np.arange(n, dtype=np.int64), what)

    def __len__(self) -> int:
        return len(self.array)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Ids) and self.array.equals(other.array)

    __hash__ = None  # pyright: ignore[reportAssignmentType]

    @property
    def are_integers(self) -> bool:
        return pa.types.is_integer(self.array.type)

    def codes(self, external: "pa.Array | np.ndarray | Iterable[Any]") -> Int32[np.ndarray, " n"]:
        """The code of each external id, -1 where there is none; text that reads as a number finds an integer id."""
        wanted: Any = external if isinstance(external, pa.Array | pa.ChunkedArray) else pa.array(list(external))
        if pa.types.is_null(wanted.type):
            return np.full(len(wanted), -1, np.int32)
        if self.are_integers and not pa.types.is_integer(wanted.type):
            text = pc.utf8_trim_whitespace(wanted.cast(pa.string()))
            digits = pc.match_substring_regex(text, r"^-?[0-9]{1,18}$")
            wanted = pc.if_else(digits, text, None).cast(pa.int64())
        elif not self.are_integers:
            wanted = wanted.cast(pa.string())
        found = pc.index_in(wanted.cast(self.array.type), value_set=self.array, skip_nulls=True)
        return pc.fill_null(found, -1).to_numpy(zero_copy_only=False).astype(np.int32)

    def known(self, external: "np.ndarray | Iterable[Any]", mend: str) -> Int32[np.ndarray, " n"]:
        """The code of each external id.

        Raises:
            UnknownItems: one of them is not in the table; the message ends with `mend`.
        """
        listed = list(external)
        codes = self.codes(listed)
        if (codes < 0).any():
            unknown = [listed[i] for i in np.flatnonzero(codes < 0)]
            raise UnknownItems(
                f"{len(unknown)} of {len(listed)} {self.what}s are not in the catalogue: {some(unknown)}. {mend}"
            )
        return codes

    def external(self, codes: "np.ndarray | Iterable[int]") -> np.ndarray:
        """The external ids of these codes, as an array of int64 or of str objects."""
        taken = self.array.take(pa.array(np.asarray(codes, dtype=np.int64)))
        return taken.to_numpy(zero_copy_only=False)

    def digest(self) -> str:
        """A hash of the ids and their order, the same on every machine."""
        sha = hashlib.blake2b(digest_size=16)
        for start in range(0, len(self.array), 1 << 20):
            part = self.array.slice(start, 1 << 20)
            if self.are_integers:
                sha.update(part.to_numpy(zero_copy_only=False).tobytes())
            else:
                sha.update("\n".join(part.to_pylist()).encode())
        return sha.hexdigest()


def _normal(values: Any, what: str) -> Any:
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    array: Any = values if isinstance(values, pa.Array | np.ndarray) else list(values)
    array = array if isinstance(array, pa.Array) else pa.array(array)
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if array.null_count:
        row = _first(pc.is_null(array)) + 1
        raise DataError(f"{array.null_count:,} {what} ids are missing, the first in row {row:,}. Fill them in.")
    array = array.cast(pa.int64() if pa.types.is_integer(array.type) else pa.string())
    if pc.count_distinct(array).as_py() != len(array):
        counts = pc.value_counts(array)
        twice = counts.field("values").filter(pc.greater(counts.field("counts"), 1)).to_pylist()
        raise DataError(f"{len(twice):,} {what} ids appear more than once: {some(twice)}. Keep one row for each.")
    if pa.types.is_string(array.type):
        broken = pc.match_substring_regex(array, "[\r\n]")
        if pc.any(broken).as_py():
            row = _first(broken)
            raise DataError(f"{what} id {array[row].as_py()!r} in row {row + 1:,} holds a line break. Take it out.")
    return array


def _first(mask: Any) -> int:
    return int(np.flatnonzero(mask.to_numpy(zero_copy_only=False))[0])
