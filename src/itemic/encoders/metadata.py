"""What the item table says of each item, as numbers: words and values by a vocabulary, amounts and times on one scale.

A column is read by its role and type: titles and texts as words, a category path level by level, lists and short texts
as values, numbers as amounts, dates as times. What is learned here is plain data, kept with the model that reads it.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute
from jaxtyping import Bool, Float32, Float64, Int64

from itemic.data import Ragged, Table
from itemic.errors import DataError, did_you_mean

if TYPE_CHECKING:
    from itemic.nn.attributes import Said
    from itemic.nn.graph import Graph

pc: Any = pyarrow.compute  # its functions are made at import, out of a type checker's sight

Kind = Literal["words", "values", "level", "amount", "time"]
Weighting = Literal["none", "idf", "mean"]
DAY = 86_400_000
"""Milliseconds."""
PERIODS = (DAY, 7 * DAY, int(365.2425 * DAY))
"""A day, a week and a year: a time is read by where it is in each."""
FEW = 100
"""Integers of so many different values or fewer are values; of more they are amounts."""


@dataclass(frozen=True)
class Feature:
    """One thing that is read of every item: a column, or one level of its category path."""

    name: str
    """The column, and the number of the level where there are levels: `category/1`."""
    column: str
    kind: Kind
    level: int = 0
    values: tuple[str, ...] = ()
    """The vocabulary, the most frequent first: values[n] has the number n + 1, and 0 is what is missing or unknown."""
    rarity: tuple[float, ...] = ()
    """How much each of these tells: 1 for a value of one item alone, falling with the logarithm of how many have it."""
    mean: float = 0.0
    scale: float = 1.0
    """Of amounts, after a logarithm, and of times, in milliseconds."""

    @property
    def is_number(self) -> bool:
        """Whether it is an amount or a time, which have no vocabulary."""
        return self.kind in ("amount", "time")

    @property
    def width(self) -> int:
        """How many numbers an item has of it."""
        return 1 + 2 * len(PERIODS) if self.kind == "time" else 1

    def said(self, items: Table) -> Int64[np.ndarray, " items"]:
        """How many known values, or numbers, this says of each item."""
        if self.is_number:
            return items.column(self.column).is_valid().to_numpy().astype(np.int64)
        return self.bags(items).lengths

    def bags(self, items: Table) -> Ragged:
        """The numbers of the values of each item, ascending, without repeats; none where nothing known is said."""
        flat, rows = pieces(items, self)
        number = pc.fill_null(pc.index_in(flat, value_set=pa.array(self.values, pa.string())), -1).to_numpy() + 1
        key = np.unique(rows[number > 0] * (len(self.values) + 1) + number[number > 0])
        row, number = np.divmod(key, len(self.values) + 1)
        return Ragged.from_pairs(row, number.astype(np.int32), len(items))

    def numbers(self, items: Table) -> Float32[np.ndarray, "items width"]:
        """The logarithm of each amount in standard deviations from the mean, or each time likewise and as `phases`;
        nan where it is missing."""
        if self.kind == "time":
            time = milliseconds(items, self.column)
            return np.column_stack([(time - self.mean) / self.scale, phases(time)]).astype(np.float32)
        return ((logarithms(items, self.column) - self.mean) / self.scale)[:, None].astype(np.float32)


def learned(
    items: Table, columns: Sequence[str] | None, known: Bool[np.ndarray, " items"], rare: int, reader: str
) -> list[Feature]:
    """The features of these columns, all that can be read where None; vocabularies are those of the `known` items.

    A word or value that fewer than `rare` of them have is left out. Columns with as good as one value an item are no
    metadata but ids: without being asked for they are passed over.

    >>> from itemic.data import Ids
    >>> items = Table.of(Ids(["a", "b", "c"]), {"title": ["red cup", "red pot", "Cup"], "price": [1.0, 2.0, 3.0]})
    >>> [(f.name, f.kind, f.values) for f in learned(items, None, np.ones(3, bool), 2, "it")]
    [('title', 'words', ('cup', 'red')), ('price', 'amount', ())]

    Raises:
        DataError: a column is not there or cannot be read, or nothing is there to read; `reader` is who reads.
    """
    features = []
    for name, kind in readable(items, columns, reader).items():
        found = _features(items, name, kind, known, rare)
        features += [feature for feature in found if feature.is_number or feature.values]
    if not features:
        there = ", ".join(items.names) or "none"
        raise DataError(
            f"{reader} reads what items are, and finds nothing to read in their columns: {there}. "
            "Import the data with an item table (--items FILE) that has titles, categories or attributes."
        )
    return features


def described(features: Sequence[Feature], items: Table, weighting: Weighting) -> "Said":
    """What the features say of each item, as a network reads it: values weighed alike, by their rarity (`idf`), or so
    that those of an item sum to 1."""
    import torch

    from itemic.nn.attributes import Said

    numbers = [feature.numbers(items) for feature in features if feature.is_number]
    bags = [_weighed(feature, items, weighting) for feature in features if not feature.is_number]
    return Said(bags, torch.from_numpy(np.concatenate(numbers, 1)) if numbers else torch.empty(len(items), 0))


def readable(items: Table, columns: Sequence[str] | None, reader: str) -> dict[str, Kind]:
    """How each of these columns is read; all that can be where None.

    Raises:
        DataError: a column is not there or cannot be read; `reader` is who reads.
    """
    found: dict[str, Kind] = {}
    for name in items.names if columns is None else columns:
        kind, reason = kind_of(items, name)
        if kind is None and columns is not None:
            raise DataError(f"{reader} cannot read items.{name}: {reason}. Leave it out of fields.")
        if kind is not None:
            found[name] = kind
    return found


def written(features: Iterable[Feature]) -> list[dict[str, Any]]:
    """The features as plain JSON, which `restored` reads."""
    return [asdict(feature) for feature in features]


def restored(features: Iterable[dict[str, Any]]) -> list[Feature]:
    """The features that were `written`."""
    return [Feature(**{**feature, "values": tuple(feature["values"])}) for feature in features]


def require(columns: Iterable[str], items: Table, reader: str) -> None:
    """Passes if new items have every column that is read of them.

    Raises:
        DataError: one is not there; `reader` is who reads.
    """
    missing = [name for name in dict.fromkeys(columns) if name not in items.names]
    if missing:
        there, hint = ", ".join(items.names) or "none", did_you_mean(missing[0], items.names)
        raise DataError(
            f"{reader} reads {', '.join(missing)} of an item; the new ones have: {there}.{hint} Add what is missing, "
            "with empty values where nothing is known."
        )


def _weighed(feature: Feature, items: Table, weighting: Weighting) -> "Graph":
    """Rows of what the feature says of each item, by its weight; of number 0 and weight 1 where that is nothing."""
    from itemic.nn.graph import Graph

    said = feature.bags(items)
    silent = np.flatnonzero(said.lengths == 0).astype(np.int32)
    rows = np.concatenate([said.row_of_value, silent])
    said = Ragged.from_pairs(rows, np.append(said.values, np.zeros_like(silent)), len(said))
    weight = np.array([1.0, *feature.rarity] if weighting == "idf" else np.ones(len(feature.values) + 1), np.float32)
    shares = np.repeat(said.lengths, said.lengths).astype(np.float32) if weighting == "mean" else np.float32(1)
    return Graph(said.offsets, said.values, weight[said.values] / shares, len(weight))


def _features(items: Table, name: str, kind: Kind, known: Bool[np.ndarray, " items"], rare: int) -> list[Feature]:
    if kind in ("amount", "time"):
        numbers = (logarithms if kind == "amount" else milliseconds)(items, name)[known]
        there = numbers[~np.isnan(numbers)]
        spread = float(there.std()) if len(there) else 0.0
        return [Feature(name, name, kind, mean=float(there.mean()) if len(there) else 0.0, scale=spread or 1.0)]
    if kind != "level":
        return [_counted(Feature(name, name, kind), items, known, rare)]
    return [_counted(level, items, known, rare) for level in levels(items, name)]


def levels(items: Table, name: str) -> list[Feature]:
    """The levels of a category path, as deep as the deepest here, without vocabularies."""
    depth = int(pc.max(pc.list_value_length(_paths(items.column(name)))).as_py() or 0)
    return [Feature(f"{name}/{level}", name, "level", level) for level in range(1, depth + 1)]


def _counted(feature: Feature, items: Table, known: Bool[np.ndarray, " items"], rare: int) -> Feature:
    """The feature with its vocabulary."""
    flat, rows = pieces(items, feature)
    coded = flat.dictionary_encode()
    values, code = coded.dictionary.to_pylist(), coded.indices.to_numpy().astype(np.int64)
    pairs = np.unique(rows[known[rows]] * len(values) + code[known[rows]]) if values else np.empty(0, np.int64)
    counts = np.bincount(pairs % max(1, len(values)), minlength=len(values))
    kept = [n for n in range(len(values)) if counts[n] >= rare]
    kept.sort(key=lambda n: (-counts[n], values[n]))
    rarity = 1 - np.log(counts[kept]) / math.log(1 + known.sum())
    return replace(feature, values=tuple(values[n] for n in kept), rarity=tuple(rarity.round(6).tolist()))


def kind_of(items: Table, name: str) -> tuple[Kind | None, str]:
    """How a column is read; None with the reason where it is not."""
    column = items.column(name)
    kind, n = column.type, len(items)
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    if name in items.roles.get("text", ()) or name in items.roles.get("title", ()):
        return "words", ""
    if name in items.roles.get("category", ()) and (is_text or is_list):
        return "level", ""
    if is_list and pa.types.is_floating(kind.value_type):
        return None, "it holds vectors"
    if is_list or name in items.roles.get("attributes", ()):
        return "values", ""
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return "amount", ""
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return "time", ""
    if not (is_text or pa.types.is_integer(kind) or pa.types.is_boolean(kind) or pa.types.is_dictionary(kind)):
        return None, f"it holds {kind}"
    different = pc.count_distinct(column.cast(pa.string())).as_py()
    if pa.types.is_integer(kind):
        return ("values" if different <= min(FEW, n / 2) else "amount"), ""
    if different > n / 2 and not pa.types.is_boolean(kind):
        return None, f"{different:,} different values of {n:,} items make it an id"
    return "values", ""


def pieces(items: Table, feature: Feature) -> tuple[Any, Int64[np.ndarray, " pieces"]]:
    """Every word or value of every item as text, item after item, and the item of each."""
    column = items.column(feature.column)
    is_list = pa.types.is_list(column.type) or pa.types.is_large_list(column.type)
    if feature.kind == "words":
        text = pc.binary_join(column.cast(pa.list_(pa.string())), " ") if is_list else column.cast(pa.string())
        text = pc.replace_substring_regex(pc.utf8_lower(text), r"[^\p{L}\p{N}]+", " ")
        lists = pc.utf8_split_whitespace(pc.utf8_trim_whitespace(text))
    elif feature.kind == "level":
        path = _paths(column)
        upper = pc.binary_join(pc.list_slice(path, 0, feature.level), " > ")
        deep = pc.greater_equal(pc.list_value_length(path), feature.level)
        lists = pc.split_pattern(pc.if_else(deep, upper, None), "\0")
    elif is_list:
        lists = column.cast(pa.list_(pa.string()))
    else:
        text = column.cast(pa.string())
        is_set = feature.column in items.roles.get("attributes", ())
        lists = pc.split_pattern_regex(text, r"\s*[|,;]\s*") if is_set else pc.split_pattern(text, "\0")
    lists = pa.chunked_array([lists]).combine_chunks() if isinstance(lists, pa.Array) else lists.combine_chunks()
    flat, rows = pc.list_flatten(lists), pc.list_parent_indices(lists).to_numpy(zero_copy_only=False)
    said = pc.fill_null(pc.not_equal(flat, ""), False)
    return flat.filter(said), rows[said.to_numpy(zero_copy_only=False)].astype(np.int64)


def _paths(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A category as the list of its levels, top first, however it was written."""
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        return column.cast(pa.list_(pa.string()))
    return pc.split_pattern_regex(column.cast(pa.string()), r"\s*>\s*")


def amounts(items: Table, name: str) -> Float64[np.ndarray, " items"]:
    """A column of numbers; nan where one is missing."""
    return items.column(name).cast(pa.float64(), safe=False).to_numpy()


def logarithms(items: Table, name: str) -> Float64[np.ndarray, " items"]:
    """The logarithm of each amount and 1, of either sign; nan where it is missing."""
    numbers = amounts(items, name)
    return np.sign(numbers) * np.log1p(np.abs(numbers))


def milliseconds(items: Table, name: str) -> Float64[np.ndarray, " items"]:
    """A column of dates or timestamps as milliseconds since 1970 in universal time; nan where it is missing."""
    column = items.column(name).cast(pa.timestamp("ms", getattr(items.column(name).type, "tz", None)), safe=False)
    return column.cast(pa.int64()).cast(pa.float64()).to_numpy()


def phases(time: Float64[np.ndarray, " items"]) -> Float64[np.ndarray, "items six"]:
    """Where each time is in its day, week and year: the sine and cosine of each, so that midnight is near 23:59.

    >>> phases(np.array([6 * 3_600_000.0])).round(3)[0, :2].tolist()  # a quarter of a day
    [1.0, 0.0]
    """
    angle = 2 * np.pi * (time[:, None] % PERIODS) / PERIODS
    return np.stack([np.sin(angle), np.cos(angle)], 2).reshape(len(time), -1)
