"""What a comparison's lists are like beyond being right, and for whom and for which items they are right."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute
from jaxtyping import Bool, Int32

from itemic import metrics as formulas
from itemic.data import Dataset, EvalSet, Ragged, Table
from itemic.data.columns import first_named

if TYPE_CHECKING:
    from itemic.evaluation.compare import Comparison

pc: Any = pyarrow.compute  # its functions are made at import, out of a type checker's sight

CATEGORIES = "category categories genre genres category_path main_category department"
"""Common names of the column that says what kind of thing an item is; the first of them is taken."""
SEPARATORS = r" *[|>] *"
"""Between the categories of one item, or the levels of one category, where they are one text."""


class Slice(NamedTuple):
    """The first metric of each system on a part of the queries, or of what is to be found."""

    name: str
    n: int
    """Queries with something to be found in the slice."""
    values: dict[str, float]


def beyond_accuracy(comparison: "Comparison") -> dict[str, dict[str, float | None]]:
    """For each system, how much of the catalogue its lists show, how evenly, how known the items are, how varied."""
    dataset, test, k = comparison.dataset, comparison.test, comparison.depth
    counts, history = item_counts(dataset), test.query.history
    n_users = int((np.diff(dataset.train.interactions.offsets) > 0).sum())
    labels = categories(dataset.items)
    found = {}
    for row in comparison.rows:
        lists = row.result.lists
        shown = formulas.exposure(lists, dataset.n_items, k)
        values: dict[str, float | None] = {
            "coverage": row.coverage,
            "gini of exposure": formulas.gini(shown) if shown.any() else None,
            "novelty, bits": _mean(formulas.novelty(lists, counts, n_users, k)),
        }
        if history is not None:
            values["popularity ratio"] = _mean(formulas.popularity_ratio(lists, counts, history, k))
        if labels is not None:
            values["diversity"] = _mean(_diversity(lists, labels, k))
        if labels is not None and history is not None:
            values["miscalibration"] = _mean(formulas.miscalibration(lists, history, labels, k))
        found[row.name] = values
    return found


def slices(comparison: "Comparison") -> list[Slice]:
    """The first metric by activity of the users, by popularity of the relevant items, and for warm and cold ones."""
    return [*_by_activity(comparison), *_by_items(comparison)]


def item_counts(dataset: Dataset) -> np.ndarray:
    """How many users of the train part have each item."""
    return dataset.train.interactions.item_counts()


def categories(items: Table) -> Ragged | None:
    """The categories of each item as codes; None where no column tells them.

    >>> table = Table.of(Table.numbered(2).ids, {"genres": ["Drama|War", "War"]})
    >>> categories(table).to_lists()
    [[0, 1], [1]]
    """
    name = first_named(items.names, CATEGORIES)
    if name is None:
        return None
    column = items.column(name).combine_chunks()
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        column = pc.split_pattern_regex(column, SEPARATORS)
    if not (pa.types.is_list(column.type) or pa.types.is_large_list(column.type)):
        return None
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
    labels = pc.list_flatten(column).dictionary_encode().indices.to_numpy(zero_copy_only=False)
    return Ragged.from_lengths(labels.astype(np.int32), lengths)


def _by_activity(comparison: "Comparison") -> Iterator[Slice]:
    history, metric = comparison.test.query.history, comparison.metrics[0]
    if history is None:
        return
    for name, mask in formulas.by_activity(history.lengths).items():
        values = {row.name: float(row.result.values[metric][mask].mean()) for row in comparison.rows}
        yield Slice(name, int(mask.sum()), values)


def _by_items(comparison: "Comparison") -> Iterator[Slice]:
    counts, test, metric = item_counts(comparison.dataset), comparison.test, comparison.metrics[0]
    masks = {f"{name} items": m for name, m in {**formulas.by_popularity(counts), **formulas.by_warmth(counts)}.items()}
    for name, mask in masks.items():
        n = int((formulas.only(test.relevant, mask).lengths > 0).sum())
        if n:
            values = {row.name: of_items(mask, row.result.lists, test, [metric])[metric] for row in comparison.rows}
            yield Slice(name, n, values)


def of_items(
    mask: Bool[np.ndarray, " items"], lists: Int32[np.ndarray, "queries depth"], test: EvalSet, metrics: Sequence[str]
) -> dict[str, float]:
    """The metrics where only these items count as found, over the queries that have one of them to find."""
    grades = None if test.grades is None else test.grades[mask[test.relevant.values]]
    found = formulas.evaluate_lists(lists, formulas.only(test.relevant, mask), metrics=metrics, grades=grades)
    return {metric: float(np.nanmean(values)) for metric, values in found.items()}


def _diversity(lists: np.ndarray, labels: Ragged, k: int) -> np.ndarray:
    """By the share of pairs with different labels where items have one each, else by the angle of their label sets."""
    if (labels.lengths <= 1).all():
        one = np.full(len(labels), -1, np.int64)
        one[labels.lengths == 1] = labels.values
        return formulas.label_diversity(lists, one, k)
    vectors = np.zeros((len(labels), int(labels.values.max()) + 1), np.float32)
    vectors[labels.row_of_value, labels.values] = 1
    return formulas.diversity(lists, vectors, k)


def _mean(values: np.ndarray) -> float | None:
    """Over the lists that have a value."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else None
