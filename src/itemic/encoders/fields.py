"""What items say in words: their columns as texts, alone or written together."""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute

from itemic.data import Dataset, Table
from itemic.errors import DataError

pc: Any = pyarrow.compute  # its functions are made at import, out of a type checker's sight


def fields_of(items: Table) -> list[str]:
    """The first three columns that tell what an item is, by their roles: text, then category, then attributes.

    >>> fields_of(Table.of(Table.numbered(1).ids, {"price": [2], "description": ["warm"], "title": ["hat"]}))
    ['title', 'description']
    """
    named = [name for role in ("text", "category", "attributes") for name in items.roles.get(role, [])]
    return list(dict.fromkeys(named))[:3]


def settled(fields: Sequence[str], train: Dataset) -> list[str]:
    """The fields that are read of a dataset: these, or those of `fields_of` where none are given.

    Raises:
        DataError: there are none, or one is no column.
    """
    items = train.items
    found = list(fields) or fields_of(items)
    if not found:
        there = ", ".join(items.names)
        mend = f"Name some (--set fields=[NAME]): {there}." if there else "Import items with titles (--items FILE)."
        raise DataError(f"no column of the items of {train.name} is known as text. {mend}")
    for field in found:
        items.column(field)
    return found


def texts_of(items: Table, field: str) -> list[str]:
    """The values of a column as text, those of a list joined by commas; empty where there is none.

    >>> texts_of(Table.of(Table.numbered(3).ids, {"tags": [["red", "wool"], None, ["blue"]]}), "tags")
    ['red, wool', '', 'blue']
    """
    return _texts(items, field).to_pylist()


def written(items: Table, fields: Sequence[str], template: str) -> pa.Array:
    """The fields of each item by a template, those that say something one behind the other; null where none does.

    >>> items = Table.of(Table.numbered(3).ids, {"title": ["Hat", "Cup", " "], "brand": ["Noa", None, None]})
    >>> written(items, ["title", "brand"], "{name}: {text}").to_pylist()
    ['title: Hat. brand: Noa', 'title: Cup', None]
    """
    whole = pa.chunked_array([pa.repeat("", len(items))])
    for field in fields:
        text = pc.utf8_trim_whitespace(_texts(items, field))
        before, _, behind = template.replace("{name}", field.replace("_", " ")).partition("{text}")
        said = pc.binary_join_element_wise(before, text, behind, "")
        longer = pc.if_else(pc.equal(whole, ""), said, pc.binary_join_element_wise(whole, said, ". "))
        whole = pc.if_else(pc.equal(text, ""), whole, longer)
    return pc.if_else(pc.equal(whole, ""), None, whole).combine_chunks()


def _texts(items: Table, field: str) -> pa.ChunkedArray:
    column = items.column(field)
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        column = pc.binary_join(column.cast(pa.list_(pa.string())), ", ")
    return pc.fill_null(column.cast(pa.string()), "")
