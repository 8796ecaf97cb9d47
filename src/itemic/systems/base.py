"""Recommender and its bases, which follow the shape of the answer: scores of all items, or vectors to compare.

A base brings `rank`, `score` and `similar` with blocks, masks and ties; a system brings the numbers.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from jaxtyping import Bool, Float32, Int32

from itemic import metrics, registry
from itemic.data import Dataset, EvalSet, Interactions, Query, Ragged, Ranking, Table
from itemic.data.importing import item_table
from itemic.errors import ItemicError, QueryError
from itemic.indexes import Exact, Index
from itemic.indexes.choosing import Measured, graph_for
from itemic.indexes.hnsw import HNSW, By
from itemic.model import C, M, Model, ModelConfig
from itemic.nn.topk import score_pairs, top_k, top_k_inner

BLOCK_BYTES = 128 << 20
"""How much memory one block of scores may take."""
GRAPH = "graph."
"""Begins the names of the tables that hold a graph over items."""
VALIDATED = ["recall@10", "ndcg@10", "recall@20", "ndcg@20"]


class SystemConfig(ModelConfig):
    """The options of a recommender."""


class Recommender(Model[C, M]):
    """Answers "which items?": a Query in, a Ranking out. Systems derive from one of the bases below."""

    unrelated: ClassVar[float | None] = None
    """The score of items for which nothing speaks, if there is one; a service lists others in their place."""
    _open: tuple[Int32[np.ndarray, " candidates"], Bool[np.ndarray, " items"]] | None = None
    """The candidates of the request before and what they say of all items: those of a service often share them."""

    def rank(self, query: Query, k: int = 10) -> Ranking:
        """The k best items of each request, ties to the lower code, -1 where fewer than k may be ranked.

        Items of `query.exclude`, and of `query.history` unless `query.repeats`, are left out.

        Raises:
            QueryError: k is not between 1 and the size of the catalogue, or the query lacks what the model answers.
        """
        self._check(query)
        n_items = self.catalogue.n_items
        if not 1 <= k <= n_items:
            raise QueryError(f"k is {k:,}; the catalogue has {n_items:,} items. Ask for 1 to {n_items:,}.")
        items, scores = np.empty((len(query), k), np.int32), np.empty((len(query), k), np.float32)
        allowed = self._allowed(query, n_items)
        for start, stop in self._blocks(len(query)):
            block = query.block(start, stop)
            if isinstance(block.candidates, Ragged):
                answer = self._rank_candidates(block, k)
            else:
                answer = self._rank_block(block, k, allowed)
            items[start:stop], scores[start:stop] = answer
        return Ranking(items, scores, self.catalogue.items)

    def _allowed(self, query: Query, n_items: int) -> Bool[np.ndarray, " items"] | None:
        if query.candidates is None or isinstance(query.candidates, Ragged):
            return None
        asked, last = np.asarray(query.candidates), self._open
        if last is not None and len(last[1]) == n_items and np.array_equal(last[0], asked):
            return last[1]
        allowed = np.zeros(n_items, dtype=bool)
        allowed[asked] = True
        self._open = asked.copy(), allowed
        return allowed

    def score(self, query: Query) -> Ragged:
        """The score of each of `query.candidates`, in their order: float32 rows as long as the candidates'.

        Raises:
            QueryError: the query has no candidates, or lacks what the model answers.
        """
        self._check(query)
        if query.candidates is None:
            raise QueryError("score needs candidates; this query has none. Use rank, or give Query(candidates=...).")
        if not isinstance(query.candidates, Ragged):
            query = replace(query, candidates=Ragged.repeated(query.candidates, len(query)))
        assert isinstance(query.candidates, Ragged)
        parts = [self._score_candidates(query.block(*bounds)) for bounds in self._blocks(len(query))]
        return Ragged(np.concatenate(parts) if parts else np.empty(0, np.float32), query.candidates.offsets)

    def similar(self, items: "np.ndarray | Sequence[int]", k: int = 10) -> Ranking:
        """The k items most like each of these: what the model ranks after a history of that item alone.

        Raises:
            QueryError: the model does not rank by history.
        """
        codes = np.asarray(items, np.int32)
        if "history" not in self.entry.answers or "anyone" in self.entry.answers:
            others = [
                e.name for e in registry.entries().values() if "history" in e.answers and "anyone" not in e.answers
            ]
            raise QueryError(
                f"{self.entry.name} knows nothing of likeness between items. Use one of: {', '.join(others)}."
            )
        return self.rank(Query(history=Ragged.from_lengths(codes, np.ones(len(codes), np.int64))), k)

    def add_items(self, items: Any) -> Self:
        """Appends items it never saw to the catalogue: they are ranked at once, and `save` keeps them.

        `items` is a Polars, pandas or Arrow table or a dict of columns, one of them their ids. Items known before keep
        their codes and vectors, histories theirs; nothing is trained. Columns that the model reads must be there, with
        missing values where nothing is known; others are kept if the catalogue has them.

        Raises:
            ItemicError: the model ranks only items that it was fitted with.
            DataError: an id is known already, or a column is missing or cannot be read.
        """
        catalogue, name = self.catalogue, self.entry.name
        if not self.entry.cold_items:
            able = ", ".join(e.name for e in registry.entries().values() if e.cold_items)
            raise ItemicError(f"{name} ranks only items that it was fitted with. Fit it again, or use one of: {able}.")
        new = items if isinstance(items, Table) else item_table(items)
        longer = catalogue.items.extended(new)
        self.encode_items(new)
        nothing = Interactions.none(catalogue.n_users, len(longer))
        self._catalogue = replace(catalogue, items=longer, interactions=nothing)
        return self

    def adopt(self, train: Dataset) -> Self:
        """A model for other data, made without training, by a system that keeps nothing of a single item or user.

        Raises:
            ItemicError: the model knows only what it was fitted with.
            DataError: there is nothing that the model reads.
        """
        name = self.entry.name
        raise ItemicError(f"{name} knows only the items that it was fitted with. Fit it on {train.name}.")

    def encode_items(self, items: Table) -> None:
        """Appends what answering needs of these items to `weights` and `tables`."""
        raise TypeError(f"{type(self).__name__} encodes no items")

    def validate(self, valid: EvalSet | None) -> dict[str, float]:
        """By full ranking of the validation part: recall and ndcg at 10 and 20, and what training is judged by."""
        assert valid is not None
        self.finish()
        training = getattr(self.config, "training", None)
        names = [*VALIDATED, *([training.metric] if training is not None else [])]
        wanted = [metrics.metric(name) for name in dict.fromkeys(names)]
        depth = max(metric.k or 0 for metric in wanted)
        lists = self.rank(valid.query, min(depth, self.catalogue.n_items)).items
        lists = np.pad(lists, ((0, 0), (0, depth - lists.shape[1])), constant_values=-1)
        values = metrics.evaluate_lists(
            lists, valid.relevant, metrics=[metric.name for metric in wanted], grades=valid.grades
        )
        return {name: float(np.nanmean(value)) for name, value in values.items()}

    def ask(
        self,
        users: "Sequence[Any] | np.ndarray | None" = None,
        histories: "Sequence[Sequence[Any]] | None" = None,
        candidates: "Sequence[Any] | None" = None,
        exclude: "Sequence[Any] | None" = None,
        where: str | None = None,
        context: "dict[str, np.ndarray] | None" = None,
    ) -> Query:
        """A Query from external ids: known users with their saved histories, or histories of users never seen.

        `candidates` and `exclude` hold for all requests; `where` is an SQL condition on the item table.

        Raises:
            UnknownItems: a user or item is not in the catalogue.
            QueryError: a history holds no known item, or the model was saved without histories.
        """
        known = self.catalogue
        if (users is None) == (histories is None):
            raise QueryError("give users or histories, one of the two.")
        fields: dict[str, Any] = {"repeats": known.repeats, "context": context or {}}
        if users is not None:
            mend = "Give what they did instead: --history a,b,c"
            codes = known.users.ids.known(list(users), mend)
            if self.histories is None:
                raise QueryError("this model was saved without histories, so it cannot look up users. " + mend)
            fields |= {"user": codes, "history": self.histories.take(codes)}
        else:
            fields["history"] = self._known_histories(histories or [])
        if exclude is not None:
            fields["exclude"] = known.items.ids.known(list(exclude), "Leave them out of --exclude.")
        allowed = None
        if candidates is not None:
            allowed = known.items.ids.known(list(candidates), "Leave them out of --candidates.")
        if where is not None:
            chosen = np.flatnonzero(known.items.where(where)).astype(np.int32)
            allowed = chosen if allowed is None else allowed[np.isin(allowed, chosen)]
            if len(allowed) == 0:
                raise QueryError(f"no item satisfies --where {where!r}. Widen the condition.")
        return Query(candidates=allowed, **fields)

    def _known_histories(self, histories: "Sequence[Sequence[Any]]") -> Ragged:
        if any(isinstance(history, str | int | np.integer) for history in histories):
            raise QueryError(
                f"histories is a list of histories, each a list of items: histories=[{list(histories)!r}]."
            )
        lengths = np.fromiter((len(h) for h in histories), np.int64, len(histories))
        flat = [item for history in histories for item in history]
        found = Ragged.from_lengths(self.catalogue.items.ids.codes(flat), lengths)
        kept = found.keep(found.values >= 0)
        lost = np.flatnonzero((kept.lengths == 0) & (lengths > 0))
        if len(lost):
            shown = ",".join(map(str, list(histories[int(lost[0])])[:3]))
            raise QueryError(f"none of the items of the history {shown!r} is in the catalogue. Use ids of its items.")
        return kept

    def _check(self, query: Query) -> None:
        answers, there = set(self.entry.answers), set(query.fields)
        if not answers & {*there, "anyone"}:
            wanted, name = " or a ".join(self.entry.answers), self.entry.name
            able = [e.name for e in registry.entries().values() if there & set(e.answers) or "anyone" in e.answers]
            has = " and ".join(sorted(there)) or "nothing"
            raise QueryError(
                f"{name} answers queries with a {wanted}; this one has {has}. Use one of: {', '.join(able)}."
            )
        if not self.is_fitted:
            raise ItemicError(f"{self.entry.name} is not fitted. Call fit(train) or itemic.load(folder) first.")

    def _blocks(self, n_queries: int) -> Iterator[tuple[int, int]]:
        size = max(16, min(4096, BLOCK_BYTES // (4 * max(1, self.catalogue.n_items))))
        return ((start, min(start + size, n_queries)) for start in range(0, n_queries, size))

    def _rank_candidates(
        self, query: Query, k: int
    ) -> tuple[Int32[np.ndarray, "queries k"], Float32[np.ndarray, "queries k"]]:
        assert isinstance(query.candidates, Ragged)
        return best_candidates(query.candidates, self._score_candidates(query), query.masked(), k)

    def _rank_block(
        self, query: Query, k: int, allowed: Bool[np.ndarray, " items"] | None
    ) -> tuple[Int32[np.ndarray, "queries k"], Float32[np.ndarray, "queries k"]]:
        raise TypeError(f"{type(self).__name__} derives from no base that ranks")

    def _score_candidates(self, query: Query) -> Float32[np.ndarray, " candidates"]:
        raise TypeError(f"{type(self).__name__} derives from no base that scores")


class ScoreRecommender(Recommender[C, M]):
    """For systems that score the whole catalogue at once (popularity, EASE, item-kNN, autoencoders)."""

    def scores(self, query: Query) -> Float32[np.ndarray, "queries items"]:
        """The score of every item for each request; called with blocks that fit in memory."""
        raise TypeError(f"{type(self).__name__} defines no scores")

    def _rank_block(
        self, query: Query, k: int, allowed: Bool[np.ndarray, " items"] | None
    ) -> tuple[Int32[np.ndarray, "queries k"], Float32[np.ndarray, "queries k"]]:
        scores = self.scores(query)
        if allowed is not None:
            scores = np.where(allowed, scores, np.float32(-np.inf))
        masked = query.masked()
        return top_k(scores, k, exclude=(masked.values, masked.offsets))

    def _score_candidates(self, query: Query) -> Float32[np.ndarray, " candidates"]:
        assert isinstance(query.candidates, Ragged)
        return self.scores(query)[query.candidates.row_of_value, query.candidates.values]


class VectorRecommender(Recommender[C, M]):
    """For systems whose score is the inner product of a vector of the request and a vector of the item."""

    _index: Index | None = None

    def fit(self, *data: Any, **how: Any) -> Self:
        self._index = None
        return super().fit(*data, **how)

    def save(self, folder: str | Path, *, histories: bool = True) -> Path:
        if isinstance(self._index, HNSW):
            self._keep(self._index)
        return super().save(folder, histories=histories)

    def add_items(self, items: Any) -> Self:
        super().add_items(items)
        if self._index is not None:
            self._index.extend(np.asarray(self.item_vectors(), np.float32))
        return self

    def query_vectors(self, query: Query) -> Float32[np.ndarray, "queries dim"]:
        """One vector a request."""
        raise TypeError(f"{type(self).__name__} defines no query_vectors")

    def item_vectors(self) -> Float32[np.ndarray, "items dim"]:
        """One vector an item of the catalogue, in the order of their codes."""
        raise TypeError(f"{type(self).__name__} defines no item_vectors")

    def likeness_vectors(self) -> Float32[np.ndarray, "items dim"]:
        """By whose directions items are alike: those of `item_vectors`, unless some coordinates say something else."""
        return self.item_vectors()

    def similar(self, items: "np.ndarray | Sequence[int]", k: int = 10) -> Ranking:
        """The k items whose vectors have the largest cosine with each of these, themselves left out."""
        codes, vectors = np.asarray(items, np.int32), np.asarray(self.likeness_vectors(), np.float32)
        n_items = len(vectors)
        if not 1 <= k <= n_items:
            raise QueryError(f"k is {k:,}; the catalogue has {n_items:,} items. Ask for 1 to {n_items:,}.")
        unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        offsets = np.arange(len(codes) + 1, dtype=np.int64)
        found, scores = top_k_inner(unit[codes], unit, k, exclude=(codes, offsets))
        return Ranking(found, scores, self.catalogue.items)

    def _rank_block(
        self, query: Query, k: int, allowed: Bool[np.ndarray, " items"] | None
    ) -> tuple[Int32[np.ndarray, "queries k"], Float32[np.ndarray, "queries k"]]:
        vectors = np.ascontiguousarray(self.query_vectors(query), np.float32)
        masked = query.masked()
        exclude = (masked.values, masked.offsets)
        allowed = None if allowed is not None and allowed.all() else allowed
        if self._index is not None:
            return self._index.search(vectors, k, exclude, allowed)
        return top_k_inner(vectors, np.asarray(self.item_vectors(), np.float32), k, exclude=exclude, allowed=allowed)

    # Searching often --------------------------------------------------------------------------------------------

    @property
    def _graph(self) -> dict[str, np.ndarray]:
        return {name.removeprefix(GRAPH): x for name, x in self.tables.items() if name.startswith(GRAPH)}

    def settle(self, index: Index | None = None) -> None:
        """Makes a model that answers often ready for it: by an index of its vectors that lies elsewhere; else by the
        graph that `index` made; else by its vectors in the order in which they are searched, which it then holds a
        second time. `add_items` keeps it ready."""
        if index is not None:
            self._index = index
            return
        vectors, graph = np.asarray(self.item_vectors(), np.float32), self._graph
        try:
            self._index = HNSW.of(vectors, graph) if graph else Exact(vectors)
        except (ValueError, KeyError) as error:
            raise ItemicError(f"{self.entry.name}: {error}. Index it again: itemic index FOLDER") from None

    def index(self, *, recall: float = 0.95, links: int = 16, by: By | None = None, sample: int = 1000) -> Measured:
        """Makes a graph of the items, which the saved model keeps, for a settled model to search along; and says what
        it costs. It finds so large a share of the 10 best items of the requests that `asked` gives; `by` as in
        `graph_for`.

        Raises:
            ItemicError: no effort finds so many; nothing is changed.
            ConfigError: the package faiss is missing.
        """
        vectors = np.asarray(self.item_vectors(), np.float32)
        queries, exclude = self.asked(sample)
        made, facts = graph_for(vectors, queries, exclude, recall=recall, links=links, by=by)
        self._index = made
        self._keep(made)
        self.fitted_on["index"] = {"recall": recall, "links": links, "by": by}
        return facts

    def asked(self, sample: int) -> tuple[Float32[np.ndarray, "queries dim"], Ragged]:
        """Some requests as an index sees them, to measure it by, and what each leaves out: of users with histories,
        without these; of some items as requests, where the model keeps no users."""
        vectors, rng = np.asarray(self.item_vectors(), np.float32), np.random.default_rng(0)
        if self.histories is not None and {"history", "user"} & set(self.entry.answers):
            users = np.flatnonzero(self.histories.lengths)
            users = np.sort(rng.choice(users, min(sample, len(users)), replace=False)).astype(np.int32)
            query = Query(user=users, history=self.histories.take(users))
            return np.asarray(self.query_vectors(query), np.float32), query.masked()
        queries = vectors[np.isfinite(vectors).all(1)]
        queries = queries[rng.choice(len(queries), min(sample, len(queries)), replace=False)]
        return queries, Ragged.empty(len(queries))

    def _keep(self, made: HNSW) -> None:
        self.tables |= {GRAPH + name: values for name, values in made.arrays().items()}

    def _score_candidates(self, query: Query) -> Float32[np.ndarray, " candidates"]:
        assert isinstance(query.candidates, Ragged)
        vectors = np.ascontiguousarray(self.query_vectors(query), np.float32)
        return score_pairs(vectors, self.item_vectors(), query.candidates.row_of_value, query.candidates.values)


def best_candidates(
    candidates: Ragged, scores: Float32[np.ndarray, " candidates"], masked: Ragged, k: int
) -> tuple[Int32[np.ndarray, "queries k"], Float32[np.ndarray, "queries k"]]:
    """The k best of each row's own candidates: a candidate given twice counts once, masked ones not at all."""
    row, item = candidates.row_of_value, candidates.values.astype(np.int64)
    size = int(max(item.max(initial=0), masked.values.max(initial=0))) + 1
    keys, first = np.unique(row * size + item, return_index=True)
    open_ = ~np.isin(keys, masked.row_of_value * size + masked.values) & (scores[first] > -np.inf)
    row, item, scores = row[first][open_], item[first][open_], scores[first][open_]
    order = np.lexsort((item, -scores, row))
    row, item, scores = row[order], item[order], scores[order]
    place = np.arange(len(row)) - np.searchsorted(row, row)  # 0 for the best of its row
    items = np.full((len(candidates), k), -1, np.int32)
    best = np.full((len(candidates), k), -np.inf, np.float32)
    top = place < k
    items[row[top], place[top]], best[row[top], place[top]] = item[top], scores[top]
    return items, best
