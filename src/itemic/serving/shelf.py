"""The catalogue as somebody walks along it: pages of items, what they can be filtered by, and their pictures."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
from jaxtyping import Int

from itemic.data import Table
from itemic.serving.service import Service

pc: Any = pyarrow.compute  # its functions are made at import, out of a type checker's sight
MANY = 50
"""Values of a column above which it is not offered as a choice."""
LONG = 300
"""Characters of a text that are shown."""
LARGEST = 10_000_000
"""Bytes of a picture that is shown."""
KINDS = (
    (b"\x89PNG\r\n\x1a\n", 0, "image/png"),
    (b"\xff\xd8\xff", 0, "image/jpeg"),
    (b"GIF8", 0, "image/gif"),
    (b"WEBP", 8, "image/webp"),
    (b"ftypavif", 4, "image/avif"),
)
"""What pictures begin with, from which byte on. Nothing else is sent, whatever a path names."""


class Shelf:
    """What the page asks of a service's catalogue, as it is now; all but `picture` runs on the thread of the models."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self._kept: dict[str, tuple[Any, Any]] = {}

    @property
    def table(self) -> Table:
        """The catalogue with all that is known of it."""
        return next(iter(self.service.pipelines.values())).catalogue.items

    def page(self, offset: int, limit: int, where: str | None) -> dict[str, Any]:
        """Items from a place on, those taken most often first, and how many there are in all."""
        pipeline = next(iter(self.service.pipelines.values()))
        order = self._order()
        if where is not None:
            order = order[self.service.where(pipeline, where)[order]]
        order = order[~self.service.items.gone[order]]
        return {"total": len(order), "items": self._cards(order[offset : offset + limit])}

    def named(self, names: Sequence[str]) -> dict[str, Any]:
        """These items, without those that are not there."""
        codes = self.service.items.known(names)
        codes = codes[~self.service.items.gone[codes]]
        return {"total": len(codes), "items": self._cards(codes)}

    def columns(self) -> dict[str, Any]:
        """What items can be filtered by: columns of few values, the first level of categories, and numbers."""
        items = self.table

        def look() -> list[dict[str, Any]]:
            texts = {*items.roles.get("title", ()), *items.roles.get("text", ()), *items.roles.get("image", ())}
            found = (_column(items, name) for name in items.names if name not in texts)
            return [one for one in found if one is not None]

        return {"pictures": self._pictures() is not None, "columns": self._remembered("columns", items, look)}

    def picture(self, name: str) -> tuple[bytes, str] | None:
        """A picture and its media type; None where there is none that may be shown."""
        column = self._pictures()
        if column is None:
            return None
        value = column[self.service.items.code(name)].as_py()
        data = value if isinstance(value, bytes) else self._read(value)
        if data is None or len(data) > LARGEST:
            return None
        kind = next((kind for start, at, kind in KINDS if data[at : at + len(start)] == start), None)
        return None if kind is None else (data, kind)

    def _read(self, path: str | None) -> bytes | None:
        """The bytes of a file inside the folder of the dataset; None of any other, and where there is none."""
        if not path or self.service.config.data is None:
            return None
        root = Path(self.service.config.data).resolve()
        try:
            place = (root / path).resolve()
            if not place.is_relative_to(root) or place.stat().st_size > LARGEST:
                return None
            return place.read_bytes()
        except (OSError, ValueError):
            return None

    def _pictures(self) -> pa.ChunkedArray | None:
        """The column of pictures, as bytes or as paths."""
        items = self.table
        name = next(iter(items.roles.get("image", ())), None)
        if name is None or name not in items.names:
            return None
        column = items.column(name)
        if pa.types.is_struct(column.type) and column.type.get_field_index("bytes") >= 0:  # as Hugging Face stores them
            column = pc.struct_field(column, "bytes")
        kinds = (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary)
        return column if any(is_one(column.type) for is_one in kinds) else None

    def _order(self) -> Int[np.ndarray, " items"]:
        """All items, those that models saw taken most often first."""
        pipeline = next(iter(self.service.pipelines.values()))
        taken = pipeline.histories.values if pipeline.histories is not None else np.empty(0, np.int32)

        def order() -> np.ndarray:
            return np.argsort(-np.bincount(taken, minlength=len(self.table)), kind="stable")

        return self._remembered("order", self.table, order)

    def _cards(self, codes: Int[np.ndarray, " some"]) -> list[dict[str, Any]]:
        """What is shown of items: id, title, attributes, and whether there is a picture."""
        items, service = self.table, self.service
        hidden = {*items.roles.get("title", ())[:1], *items.roles.get("image", ())}
        shown = [name for name in items.names if name not in hidden]
        rows = items.frame.select(shown).take(pa.array(codes)).to_pylist() if shown else [{} for _ in codes]
        pictures = self._pictures()
        there = pictures.take(pa.array(codes)).is_valid().to_pylist() if pictures is not None else [False] * len(codes)
        return [
            {
                "item": service.items.names[code],
                "title": service.items.titles[code],
                "attributes": {name: value for name, given in row.items() if (value := plain(given)) is not None},
                "picture": has,
            }
            for code, row, has in zip(codes.tolist(), rows, there)
        ]

    def _remembered(self, key: str, of: Any, make: Callable[[], Any]) -> Any:
        """What was made before of the same thing."""
        if key not in self._kept or self._kept[key][0] is not of:
            self._kept[key] = of, make()
        return self._kept[key][1]


def plain(value: Any) -> Any:
    """The value as JSON can hold it, long texts and lists cut; None where it cannot.

    >>> plain({"price": float("nan"), "sizes": [1, 2.5], "text": "a" * 400})["sizes"]
    [1, 2.5]
    """
    if isinstance(value, str):
        return value if len(value) <= LONG else value[:LONG] + "…"
    if isinstance(value, dict):
        return {str(name): plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value[:LONG]]
    if value is None or isinstance(value, bytes) or (isinstance(value, float) and not math.isfinite(value)):
        return None
    return value if isinstance(value, bool | int | float) else str(value)


def _column(items: Table, name: str) -> dict[str, Any] | None:
    """How items can be filtered by a column; None where they cannot.

    >>> from itemic.data import Ids
    >>> table = Table.of(Ids([1, 2, 3]), {"colour": ["red", "red", "blue"], "price": [4.0, 2.0, None]})
    >>> _column(table, "colour")
    {'name': 'colour', 'kind': 'choice', 'values': [{'value': 'red', 'items': 2}, {'value': 'blue', 'items': 1}]}
    >>> _column(table, "price")
    {'name': 'price', 'kind': 'number', 'lowest': 2.0, 'highest': 4.0}
    """
    column = items.column(name)
    if pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
        ends = plain(pc.min_max(column).as_py())
        if None in ends.values() or ends["min"] == ends["max"]:
            return None
        return {"name": name, "kind": "number", "lowest": ends["min"], "highest": ends["max"]}
    kind, text = "choice", pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
    if name in items.roles.get("category", ()) and text:
        kind, column = "beginning", pc.list_element(pc.split_pattern(column, " > "), 0)
    elif not text and not pa.types.is_boolean(column.type):
        return None
    counted = pc.value_counts(column.drop_null().combine_chunks())
    values, counts = counted.field("values").to_pylist(), counted.field("counts").to_pylist()
    if not 1 < len(values) <= MANY:
        return None
    pairs = sorted(zip(values, counts), key=lambda pair: (-pair[1], pair[0]))
    return {"name": name, "kind": kind, "values": [{"value": value, "items": n} for value, n in pairs]}
