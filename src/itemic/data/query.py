"""Requests, answers, and requests with known answers: Query, Ranking, EvalSet."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float32, Int16, Int32, Int64, Shaped

from itemic.data.ragged import Ragged
from itemic.data.table import Table

if TYPE_CHECKING:
    import polars as pl

    from itemic.data.dataset import Dataset
    from itemic.data.dialogues import Dialogues

ItemSets = Ragged | Int32[np.ndarray, " items"]
"""Item codes for each request, or one array of them shared by all requests."""
ROWS = ("user", "history", "basket", "dialogue", "candidates", "exclude")
"""The fields that have a row a request."""


@dataclass(frozen=True)
class Query:
    """A batch of requests in item and user codes; every field is optional, those present have one row a request.

    A model never remembers who saw what: items of `history` and `exclude` are not ranked (those of `history` are when
    `repeats` is true).

    >>> query = Query(history=Ragged.from_lists([[0, 2], [1]]))
    >>> len(query), query.block(1, 2).history.to_lists()
    (2, [[1]])
    """

    user: Int32[np.ndarray, " queries"] | None = None
    """Codes of known users, -1 for somebody never seen."""
    history: Ragged | None = None
    """What each did, item codes, oldest first."""
    history_time: Int64[np.ndarray, " values"] | None = None
    """When, in milliseconds since 1970, aligned with history.values."""
    history_kind: Int16[np.ndarray, " values"] | None = None
    """Which kind of interaction it was, aligned with history.values."""
    history_weight: Float32[np.ndarray, " values"] | None = None
    """How much each counts, aligned with history.values."""
    basket: Ragged | None = None
    """Items that go together, without order."""
    dialogue: "Dialogues | None" = None
    """What was said so far."""
    context: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Facts about the asker or the moment by name, one value a request."""
    candidates: ItemSets | None = None
    """What may be ranked; everything when not given."""
    exclude: ItemSets | None = None
    """What may not be ranked."""
    repeats: bool = False
    """Whether items of the history may come back."""
    n: int | None = None
    """The number of requests, needed only when no field above tells it."""

    def __post_init__(self) -> None:
        sizes = {name: len(value) for name, value in self._rows().items()}
        if self.n is not None:
            sizes["n"] = self.n
        if not sizes:
            raise ValueError("a Query needs at least one field with a row a request, or n")
        if len(set(sizes.values())) > 1:
            raise ValueError(f"the fields of a Query differ in length: {sizes}")
        for name, value in self._aligned().items():
            if self.history is None or len(value) != len(self.history.values):
                raise ValueError(f"{name} must have one value for every item of history")
        object.__setattr__(self, "n", next(iter(sizes.values())))

    def __len__(self) -> int:
        assert self.n is not None
        return self.n

    def _rows(self) -> dict[str, Any]:
        named = {name: getattr(self, name) for name in ROWS}
        shared = {"candidates", "exclude"}
        present = {k: v for k, v in named.items() if v is not None and (k not in shared or isinstance(v, Ragged))}
        return present | dict(self.context)

    def _aligned(self) -> dict[str, np.ndarray]:
        named = {name: getattr(self, name) for name in ("history_time", "history_kind", "history_weight")}
        return {name: value for name, value in named.items() if value is not None}

    def take(self, rows: np.ndarray) -> "Query":
        """These requests, in this order."""
        changed: dict[str, Any] = {"n": len(rows), "context": {k: v[rows] for k, v in self.context.items()}}
        for name, value in self._rows().items():
            if name not in self.context:
                changed[name] = value.take(rows)
        if self.history is not None and self._aligned():
            where = self.history.positions(rows)
            changed |= {name: value[where] for name, value in self._aligned().items()}
        return replace(self, **changed)

    def block(self, start: int, stop: int) -> "Query":
        """Requests start to stop - 1 without copying."""
        stop = min(stop, len(self))
        changed: dict[str, Any] = {"n": stop - start, "context": {k: v[start:stop] for k, v in self.context.items()}}
        for name, value in self._rows().items():
            if name not in self.context:
                changed[name] = value[start:stop] if isinstance(value, np.ndarray) else value.block(start, stop)
        if self.history is not None and self._aligned():
            first, last = self.history.offsets[start], self.history.offsets[stop]
            changed |= {name: value[first:last] for name, value in self._aligned().items()}
        return replace(self, **changed)

    @property
    def fields(self) -> list[str]:
        """Names of the fields that say something, in the order of the class."""
        spoken = {**self._rows(), **self._aligned()}
        return [f.name for f in fields(self) if f.name in spoken or (f.name == "context" and self.context)]

    def masked(self) -> Ragged:
        """What may not be ranked for each request: `exclude`, and `history` unless `repeats`."""
        parts = [] if self.history is None or self.repeats else [self.history]
        if isinstance(self.exclude, Ragged):
            parts.append(self.exclude)
        elif self.exclude is not None and len(self.exclude):
            shared = np.asarray(self.exclude, np.int32)
            parts.append(Ragged.repeated(shared, len(self)))
        if not parts:
            return Ragged.empty(len(self))
        return parts[0] if len(parts) == 1 else parts[0].joined(parts[1])


@dataclass(frozen=True)
class Ranking:
    """One answer a request: the order is the answer, -1 stands where there was nothing left to rank."""

    items: Int32[np.ndarray, "queries k"]
    scores: Float32[np.ndarray, "queries k"]
    catalogue: Table | None = None
    """The items the codes belong to."""
    reasons: tuple[str, ...] = ()
    """What to know about the answer, such as that a fallback spoke."""
    columns: Mapping[str, Shaped[np.ndarray, "queries k"]] = field(default_factory=dict)
    """What else is said of each place, by name, such as the source of the item or how likely it was drawn."""

    def __len__(self) -> int:
        return len(self.items)

    @property
    def k(self) -> int:
        return self.items.shape[1]

    def to_frame(self, users: "np.ndarray | list | None" = None) -> "pl.DataFrame":
        """One row a recommendation: user (or query number), rank from 1, item, score, and title where there is one.

        >>> from itemic.data.ids import Ids
        >>> items = Table.of(Ids(["a", "b"]), {"title": ["Ant", "Bee"]})
        >>> Ranking(np.array([[1, -1]], np.int32), np.array([[2.5, 0]], np.float32), items).to_frame(["u"]).rows()
        [('u', 1, 'b', 2.5, 'Bee')]
        """
        import polars as pl

        row, column = np.nonzero(self.items >= 0)
        codes = self.items[row, column]
        ids = self.catalogue.ids if self.catalogue is not None else None
        columns: dict[str, Any] = {
            "query" if users is None else "user": row if users is None else np.asarray(users)[row],
            "rank": (column + 1).astype(np.int32),
            "item": codes if ids is None else ids.external(codes),
            "score": self.scores[row, column],
        }
        if self.catalogue is not None and self.catalogue.roles.get("title"):
            columns["title"] = self.catalogue.titles(codes)
        return pl.DataFrame({name: list(v) if np.asarray(v).dtype.kind == "O" else v for name, v in columns.items()})


@dataclass(frozen=True)
class EvalSet:
    """Requests with the items that should be found. Requests without any are left out and counted."""

    query: Query
    relevant: Ragged
    """Item codes that should be found, one row a request."""
    grades: Float32[np.ndarray, " values"] | None = None
    """How relevant each is, aligned with relevant.values; all alike when not given."""
    n_skipped: int = 0
    """Requests left out because nothing was relevant."""
    label: str = "given"
    """How the set came about, as tables print it."""
    users: Int32[np.ndarray, " queries"] | None = None
    """Who asks, as user codes; query.user is -1 for those a model fitted on the train part cannot know."""
    unseen: Bool[np.ndarray, " items"] | None = None
    """Which items nobody took in the train part; not known of a test set of one's own."""

    def __len__(self) -> int:
        return len(self.relevant)

    @classmethod
    def from_frame(cls, frame: Any, dataset: "Dataset", columns: Mapping[str, str] | None = None) -> "EvalSet":
        """A test set of one's own: a frame or file of user, item and optionally rating as grade.

        The history of each user, which is masked, comes from the train part of `dataset`.

        Raises:
            DataError: a column is missing, or an item or user is not in the dataset.
        """
        from itemic.data.importing import eval_set

        return eval_set(frame, dataset, columns)
