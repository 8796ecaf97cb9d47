"""What codes are worth: how evenly they are used, whom they confuse, what they keep, and how they bear new items."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
from jaxtyping import Int, Int64

from itemic.data import Table
from itemic.errors import DataError
from itemic.files import write_text
from itemic.tokenizers.base import ItemTokenizer
from itemic.tokenizers.collisions import numbered

pc: Any = pyarrow.compute  # its functions are made at import, out of a type checker's sight


@dataclass(frozen=True)
class Level:
    """One level of the codes, and the prefixes that end with it."""

    size: int
    used: int
    """Codes that some item has."""
    entropy: float
    """In bits; the logarithm of the size where all codes are equally frequent."""
    largest: float
    """Share of the items that have the most frequent code."""
    prefixes: int
    """Different beginnings of this length."""
    most: int
    """Items of the most frequent one."""
    unexplained: float | None
    """Share of the variance of the vectors that these beginnings leave over; None for a level that only tells apart."""
    purity: float | None
    """Share of the items whose category is the commonest of their prefix."""
    chance: float | None
    """What purity would be if categories fell on items by chance."""


@dataclass(frozen=True)
class Drift:
    """How items that were added differ from those that codes were fitted on."""

    added: int
    unexplained: float
    """Of the added items, by the variance of the fitted ones."""
    unexplained_fitted: float
    divergence: list[float]
    """Jensen-Shannon divergence of the use of codes, in bits, at each level that a vector decides: 0 alike, 1 apart."""
    chance: list[float]
    """The same between parts of these sizes drawn by chance."""


@dataclass(frozen=True)
class Diagnosis:
    tokenizer: str
    items: int
    without: int
    """Items without a vector, which have no codes."""
    levels: list[Level]
    colliding: float
    """Share of the items whose vectors got the same codes as another's, before they are told apart."""
    groups: int
    """Groups of such items."""
    sharing: int
    """Items that share their codes still."""
    category: str | None
    """The column that purity is judged by."""
    drift: Drift | None

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain JSON."""
        return asdict(self)

    def columns(self) -> list[str]:
        """The header of `cells`."""
        judged = ["purity", "by chance"] if self.category else []
        return ["level", "codes", "used", "entropy", "largest", "prefixes", "most", "unexplained", *judged]

    def cells(self) -> list[list[str]]:
        """A row for each level."""
        rows = []
        for number, level in enumerate(self.levels, 1):
            judged = [_share(level.purity), _share(level.chance)] if self.category else []
            used = f"{level.used / level.size:.0%}".replace("%", " %")
            bits = f"{level.entropy:.2f} of {np.log2(level.size):.2f}"
            counts = [f"{level.prefixes:,}", f"{level.most:,}"]
            shown = [used, bits, _share(level.largest), *counts, _share(level.unexplained), *judged]
            rows.append([str(number), f"{level.size:,}", *shown])
        return rows

    def notes(self) -> list[str]:
        """In words: who has no codes, who collides, who shares, and what became of added items."""
        lines = [f"{self.items:,} items, {self.without:,} without a vector"] if self.without else []
        there = self.items - self.without
        share = f"{self.colliding:.1%}".replace("%", " %")
        lines.append(f"{share} of {there:,} items ({self.groups:,} groups) have the nearest codes of another")
        lines.append(f"{self.sharing:,} items share their codes" if self.sharing else "all codes are unique")
        if self.drift is not None:
            drift = self.drift
            apart = ", ".join(f"{x:.3f} ({by:.3f})" for x, by in zip(drift.divergence, drift.chance))
            left = (
                f"{drift.unexplained:.3f} of the variance unexplained ({drift.unexplained_fitted:.3f} of fitted ones)"
            )
            lines.append(f"{drift.added:,} items were added: {left}; codes apart by level (by chance): {apart} bits")
        return lines

    def to_json(self, path: Path) -> None:
        """Writes all of it as a JSON file."""
        write_text(path, json.dumps(self.to_dict(), indent=1) + "\n")


def diagnose(model: ItemTokenizer[Any, Any], items: Table, category: str | None = None) -> Diagnosis:
    """What the codes of a fitted tokenizer are worth for its items, whose columns its encoder and `category` need.

    Without a `category` named, purity is judged by the first column with that role, or with the role of attributes.

    Raises:
        DataError: there is no such column, or the items are not those of the tokenizer.
    """
    if items.ids.digest() != model.catalogue.items.ids.digest():
        raise DataError(
            f"{model.entry.name} knows {model.catalogue.n_items:,} items, and not these {len(items):,} in this order. "
            "Take those of its catalogue."
        )
    codes, sizes, n_content = model.codes, model.sizes, len(model.content_sizes)
    vectors = model.vectors_of(items)
    there = np.flatnonzero(codes[:, 0] >= 0)
    column, pure = purities(codes, items, category)
    coded = codes[there]
    levels = []
    for depth, size in enumerate(sizes, 1):
        counts, prefix = np.bincount(coded[:, depth - 1], minlength=size), numbered(coded[:, :depth])
        kept = model.unexplained(vectors, codes[:, :depth]) if depth <= n_content else None
        among = np.bincount(prefix)
        levels.append(
            Level(
                size,
                int((counts > 0).sum()),
                entropy(counts),
                float(counts.max() / counts.sum()),
                len(among),
                int(among.max()),
                kept,
                *(pure[depth - 1] if pure else (None, None)),
            )
        )
    nearest = numbered(model.encode(vectors)[there])
    repeats = np.bincount(nearest)
    same = np.bincount(numbered(coded))
    return Diagnosis(
        model.entry.name,
        len(codes),
        len(codes) - len(there),
        levels,
        float((repeats[nearest] > 1).mean()),
        int((repeats > 1).sum()),
        int(same[same > 1].sum()),
        column,
        _drift(model, vectors),
    )


def purities(
    codes: Int[np.ndarray, "items levels"], items: Table, category: str | None = None
) -> tuple[str | None, list[tuple[float, float]]]:
    """The column whose values are the categories, and by level the share of the items whose category is the commonest
    of those with the same beginning of codes, beside what it would be if categories fell on items by chance.

    Without a `category` named it is the first column with that role, or with the role of attributes; no levels are told
    where there is none, or nothing in it.

    Raises:
        DataError: there is no such column.
    """
    column = category if category is not None else _category_of(items)
    if column is None:
        return None, []
    label = _labels(items, column)
    known = (codes[:, 0] >= 0) & (label >= 0)
    coded, label = codes[known], label[known]
    if not len(label):
        return column, []
    shuffled = np.random.default_rng(0).permutation(label)
    beginnings = [numbered(coded[:, :depth]) for depth in range(1, codes.shape[1] + 1)]
    return column, [(_purity(prefix, label), _purity(prefix, shuffled)) for prefix in beginnings]


def entropy(counts: Int64[np.ndarray, " codes"]) -> float:
    """How evenly codes are used, in bits: 0 for one alone, the logarithm of their number for all alike.

    >>> entropy(np.array([5, 5, 5, 5])), entropy(np.array([7, 0]))
    (2.0, 0.0)
    """
    share = counts[counts > 0] / counts.sum()
    return float(-(share * np.log2(share)).sum()) + 0.0


def divergence(a: Int64[np.ndarray, " codes"], b: Int64[np.ndarray, " codes"]) -> float:
    """How far apart two uses of the same codes are, in bits: 0 for the same shares, 1 for no code in common.

    >>> divergence(np.array([2, 2, 0]), np.array([1, 1, 0])), divergence(np.array([3, 0]), np.array([0, 1]))
    (0.0, 1.0)
    """
    p, q = a / a.sum(), b / b.sum()
    middle = (p + q) / 2

    def from_middle(share: np.ndarray) -> float:
        used = share > 0
        return float((share[used] * np.log2(share[used] / middle[used])).sum())

    return max(0.0, (from_middle(p) + from_middle(q)) / 2)


def _purity(group: Int64[np.ndarray, " items"], label: Int64[np.ndarray, " items"]) -> float:
    pairs, counts = np.unique(group * (int(label.max()) + 1) + label, return_counts=True)
    best = np.zeros(int(group.max()) + 1, np.int64)
    np.maximum.at(best, pairs // (int(label.max()) + 1), counts)
    return float(best.sum() / len(group))


def _category_of(items: Table) -> str | None:
    return next((name for role in ("category", "attributes") for name in items.roles.get(role, ())), None)


def _labels(items: Table, column: str) -> Int64[np.ndarray, " items"]:
    """The first value of each item, or the first level of its path, as a number; -1 where it has none."""
    values = items.column(column)
    if pa.types.is_list(values.type) or pa.types.is_large_list(values.type):
        values = pc.list_element(pc.if_else(pc.equal(pc.list_value_length(values), 0), None, values), 0)
    first = pc.list_element(pc.split_pattern_regex(values.cast(pa.string()), r"\s*[>|,;]\s*"), 0)
    coded = pc.dictionary_encode(first)
    return pc.fill_null(coded.combine_chunks().indices, -1).to_numpy().astype(np.int64)


def _drift(model: ItemTokenizer[Any, Any], vectors: np.ndarray) -> Drift | None:
    n_fitted, codes = model.shape["fitted_items"], model.codes
    if len(codes) == n_fitted:
        return None
    there = np.flatnonzero(codes[:, 0] >= 0)
    added = there >= n_fitted
    if not added.any():
        return None
    mixed = np.random.default_rng(0).permutation(added)
    found: list[list[float]] = []
    for new in (added, mixed):
        used: list[float] = []
        for level, size in enumerate(model.content_sizes):
            code = codes[there, level]
            used.append(divergence(*(np.bincount(code[part], minlength=size) for part in (~new, new))))
        found.append(used)
    width = len(model.content_sizes)
    old_rows, new_rows = there[~added], there[added]
    variance = float(np.var(vectors[old_rows], axis=0).sum())
    error_old, error_new = (
        float(np.square(vectors[rows] - model.decode(codes[rows, :width])).sum(1).mean())
        for rows in (old_rows, new_rows)
    )
    return Drift(int(added.sum()), error_new / variance, error_old / variance, *found)


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
