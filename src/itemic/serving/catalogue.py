"""The items of a service by their ids: codes, titles, what was said of them since, and which are gone."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Int, Int32

from itemic.data import Table
from itemic.errors import QueryError


class UnknownItem(QueryError):
    """An item that is asked for by its id and is not there."""


class Catalogue:
    """The items of a table, and those that come and go after it.

    >>> from itemic.data import Ids
    >>> cups = Table.of(Ids(["a", "b"]), {"title": ["cup", "pot"]})
    >>> known = Catalogue(cups)
    >>> known.drop(known.known(["a", "nothing"]))
    >>> known.take({"c": {"title": "pan"}}, cups.extended(Table.of(Ids(["c"]), {"title": ["pan"]})))
    >>> known.code("c"), known.titles, known.n_there, len(known)
    (2, ['cup', 'pot', 'pan'], 2, 3)
    """

    def __init__(self, items: Table) -> None:
        self.names: list[str] = [str(name) for name in items.ids.array.to_pylist()]
        self.codes = {name: code for code, name in enumerate(self.names)}
        self.titles = items.titles(np.arange(len(items)))
        self._attributes: dict[str, dict[str, Any]] = {}
        self._gone = np.zeros(len(self.names), bool)

    def __len__(self) -> int:
        """Also those that are gone: they keep their codes."""
        return len(self.names)

    @property
    def n_there(self) -> int:
        """How many are not gone."""
        return len(self) - int(self._gone.sum())

    @property
    def gone(self) -> Bool[np.ndarray, " items"]:
        """Which were deleted."""
        return self._gone

    def code(self, item: str) -> int:
        """The code of an item.

        Raises:
            UnknownItem: there is none of this id, or it was deleted.
        """
        code = self.codes.get(item, -1)
        if code < 0 or self._gone[code]:
            raise UnknownItem(f"there is no item '{item}'.")
        return code

    def known(self, names: Sequence[str]) -> Int32[np.ndarray, " known"]:
        """The codes of these items, without those that are not known."""
        return np.array([self.codes[name] for name in names if name in self.codes], np.int32)

    def take(self, items: Mapping[str, Mapping[str, Any]], table: Table) -> None:
        """Takes items with their attributes in, new ones behind the others; `table` holds all that there are then."""
        new = [name for name in items if name not in self.codes]
        self.codes |= {name: len(self) + n for n, name in enumerate(new)}
        self.names += new
        self.titles += [None] * len(new)
        codes = np.array([self.codes[name] for name in items], np.int64)
        for code, title in zip(codes.tolist(), table.titles(codes)):
            self.titles[code] = title
        gone = np.pad(self._gone, (0, len(new)))
        gone[codes] = False
        self._gone = gone
        self._attributes |= {name: dict(attributes) for name, attributes in items.items()}

    def drop(self, codes: Int[np.ndarray, " items"]) -> None:
        """Deletes items."""
        self._gone[codes] = True
        for code in codes.tolist():
            self._attributes.pop(self.names[code], None)

    def attributes(self, name: str, table: Table) -> dict[str, Any]:
        """What is known of an item: what was said of it last, else its row in the table.

        Raises:
            UnknownItem: there is none of this id, or it was deleted.
        """
        code = self.code(name)
        if name in self._attributes:
            return self._attributes[name]
        row = table.frame.slice(code, 1).to_pylist()[0] if table.names else {}
        return {key: value for key, value in row.items() if not isinstance(value, bytes | None)}
