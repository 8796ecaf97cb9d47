"""Pipeline: lists of several sources, filtered, ranked, varied and explained; itself a recommender.

Choose it to serve: sources that know the user beside what is new, trending or chosen by hand, with rules that no model
learns (what is out of stock, three of a brand at most). One that names a single source answers as that source does.
Its parts are the models that its sources and its ranker name; those not given are fitted first.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, Self

import numpy as np
from jaxtyping import Bool, Float, Float32, Int, Int32

from itemic.data import Dataset, Interactions, Query, Ragged, Ranking, Table
from itemic.data.importing import item_table
from itemic.errors import ConfigError, DataError, QueryError
from itemic.indexes.base import Remembered
from itemic.model import Part, facts_of
from itemic.nn.reranking import Pool, diverse, drawn, from_0_to_1, joined
from itemic.registry import entries, system
from itemic.systems.base import Recommender, VectorRecommender, best_candidates
from itemic.systems.pipelines.config import Config, Diversity
from itemic.systems.pipelines.lists import Lists, first_open, nothing, padded, silent, within
from itemic.systems.pipelines.rules import Rules
from itemic.systems.pipelines.timing import Budgets

DAY = 86_400_000
"""Milliseconds."""
FAR = 60
"""Half-lives after which counts of what trends are scaled anew: 2 ** 60 times many millions is still a float32."""
FEW = 256
"""Items closed to everybody that are cheaper to leave out one by one than by marking all the others."""
MANY, LAG = 10_000, 1.0
"""Of more items than that, what trends may lag behind by so many seconds."""
SPOKE = " spoke for others that had too little"
"""What is said of a fallback, after its name."""
LAST = 50
"""Items of a history, the newest, among which an explanation looks."""


@system("pipeline", family="pipelines", answers=["user", "history"])
class Pipeline(Recommender[Config]):
    def __init__(self, config: Config | None = None, /, **options: Any) -> None:
        given = {name: value for name, value in options.items() if name in Config.model_fields}
        roles = (self.configured(given) if config is None else config).roles
        self.declared = {role: _part(role) for role in roles}  # pyright: ignore[reportAttributeAccessIssue]
        super().__init__(config, **options)
        self._rules: Rules | None = None
        self._budgets = Budgets(1 + len(self.config.sources))
        self._chosen = Remembered(_open_and_closed)
        self._trends: dict[str, tuple[Int32[np.ndarray, " items"], float]] = {}  # by falling counts, and made when
        self._moved: set[str] = set()  # those whose counts have changed since
        self._rng = np.random.default_rng(self.config.seed)
        self._tell()

    def __getattr__(self, role: str) -> Any:
        declared = self.__dict__.get("declared", {})
        if role not in declared:
            raise AttributeError(f"'Pipeline' object has no attribute {role!r}")
        return declared[role].__get__(self, type(self))

    def _tell(self) -> None:
        """Says of this pipeline what its parts can do."""
        known, parts = entries(), [self.parts[role].entry if role in self.parts else None for role in self.declared]
        told = [part or known.get(role) for part, role in zip(parts, self.declared)]
        answers = dict.fromkeys(answer for entry in told if entry for answer in entry.answers)
        anyone = any(source.kind != "model" for source in self.config.sources.values())
        cold = anyone or any(entry.cold_items for entry in told if entry)
        said = (*answers, *(["anyone"] if anyone and "anyone" not in answers else []))
        self.entry = replace(type(self).entry, answers=said, cold_items=cold)  # pyright: ignore

    # Fitting ----------------------------------------------------------------------------------------------------

    @classmethod
    def over(cls, config: Config, items: Table | None = None, **parts: Recommender) -> Self:
        """A pipeline of fitted models, which are left as they are; `items` may say more of their items than they keep.

        What trends is counted by what their users did, whose times they do not keep, until `took` says more.

        Raises:
            DataError: the models, or `items`, do not have the same items in the same order.
            ConfigError: the config names a model, an item or a column that is not there.
        """
        made = cls(config, **parts)
        first = next(iter(parts.values()))
        catalogue = first.catalogue
        for name, table in [*((role, part.catalogue.items) for role, part in parts.items()), ("the data", items)]:
            if table is not None and not table.ids.array.equals(catalogue.items.ids.array):
                raise DataError(
                    f"{name} and {first.entry.name} do not have the same items in the same order. "
                    "Fit all models that are served together on the same data."
                )
        made._catalogue = replace(catalogue, items=items) if items is not None else catalogue
        made.histories, made.fitted_on = made.judge.histories, made.judge.fitted_on
        known = made.histories.values if made.histories is not None else np.empty(0, np.int32)
        made.weights = made._counted(known, None, catalogue.n_items)
        made._check_config()
        return made

    def solve(self, train: Dataset) -> dict[str, np.ndarray]:
        self._check_config()
        self.fitted_on = facts_of(train)
        return self._counted(train.interactions.item, train.interactions.time, train.n_items)

    def _read(self, folder: Any, facts: Mapping[str, Any]) -> None:
        super()._read(folder, facts)
        self._tell()

    def _check_config(self) -> None:
        """Looks once at all that the config names."""
        self.rules.check()
        if self.config.diversity.mmr > 0:
            self._vectors()

    @property
    def rules(self) -> Rules:
        """What may be listed of the catalogue as it is now."""
        items, before = self.catalogue.items, self._rules
        if before is None or before.items is not items:
            self._rules = before = Rules(self.config, items, before.closed if before else frozenset())
        return before

    # Who is asked -----------------------------------------------------------------------------------------------

    @property
    def judge(self) -> Recommender:
        """The part whose scores count: the ranker, else the first source that is a model."""
        if not self.declared:
            raise QueryError("this pipeline has no model: it can rank, but not score, explain or say what is similar.")
        return getattr(self, self.config.ranker or next(iter(self.declared)))

    @cached_property
    def plain(self) -> str | None:
        """The one source whose list is the answer as it is; None where lists are joined or reordered."""
        names = [name for name in self.config.sources if name not in self.config.fallback]
        config = self.config
        changed = config.ranker or config.temperature or config.diversity != Diversity()
        return names[0] if len(names) == 1 and not changed else None

    # Ranking ----------------------------------------------------------------------------------------------------

    def rank(self, query: Query, k: int = 10) -> Ranking:
        """As of any recommender; `columns` name the source of each item, `reasons` the stages that had to step in."""
        self._check(query)
        n_items = self.catalogue.n_items
        if not 1 <= k <= n_items:
            raise QueryError(f"k is {k:,}; the catalogue has {n_items:,} items. Ask for 1 to {n_items:,}.")
        if self.config.filters.seen is not None:
            query = replace(query, repeats=not self.config.filters.seen)
        if isinstance(query.candidates, Ragged):
            found = super().rank(query, k)
            return replace(found, columns={"source": np.where(found.items >= 0, "candidates", "")})
        reasons: list[str] = []
        allowed = self.rules.allowed(query)
        blocks = [self._list(query.block(*bounds), k, allowed, reasons) for bounds in self._blocks(len(query))]
        items, scores, source = (
            np.concatenate([getattr(block, name) for block in blocks]) if blocks else np.empty((0, k), kind)
            for name, kind in (("items", np.int32), ("scores", np.float32), ("source", np.int32))
        )
        names = np.array([*self.config.sources, "pin", ""])
        columns: dict[str, np.ndarray] = {"source": names[np.where(items >= 0, source, len(names) - 1)]}
        chances = [block.chance for block in blocks if block.chance is not None]
        if chances:
            columns["propensity"] = np.concatenate(chances)
        return Ranking(items, scores, self.catalogue.items, tuple(dict.fromkeys(reasons)), columns)

    def _list(self, query: Query, k: int, allowed: Bool[np.ndarray, " items"] | None, reasons: list[str]) -> Lists:
        """The lists of a block of requests."""
        config, names = self.config, [*self.config.sources]
        asked = [name for name in names if name not in config.fallback]
        given = {name: self._named(name, query, k, allowed, reasons) for name in asked}
        found = {name: lists for name, lists in given.items() if lists is not None}
        if self.plain is not None and self.plain in found:
            items, scores = found[self.plain]
            lists = Lists(items[:, :k], scores[:, :k], np.full((len(query), k), names.index(self.plain), np.int32))
        elif found:
            pool = joined([items for items, _ in found.values()], [config.sources[name].weight for name in found])
            lists = self._ordered(query, pool, np.array([names.index(name) for name in found]), k, reasons)
        else:
            lists = nothing(len(query), k)
        lists = self._completed(query, lists, k, allowed, reasons)
        return self._pinned(query, lists, allowed) if config.diversity.pin else lists

    def _ordered(self, query: Query, pool: Pool, source: np.ndarray, k: int, reasons: list[str]) -> Lists:
        """The k items of a pool that are listed, by ranker, boosts, draws and variety."""
        config, diversity, scores = self.config, self.config.diversity, pool.scores
        if config.ranker is not None:
            ranked = self._budgets.run("ranker", config.budget, lambda: self._ranked(query, pool), reasons)
            scores = scores if ranked is None else ranked
        relevance = from_0_to_1(scores)
        unknown = (pool.items >= 0) & ~np.isfinite(relevance)  # behind those that the ranker knows, in their order
        relevance = np.where(unknown, -1e-6 * (1 + np.arange(pool.items.shape[1])), relevance)
        for condition, factor in diversity.boost.items():
            relevance = np.where(self.rules.where(condition)[pool.items], relevance * factor, relevance)
        relevance = np.where(pool.items >= 0, relevance, -np.inf)
        chance = None
        if config.temperature is not None:
            chosen, chance = drawn(relevance, k, config.temperature, self._rng)
        elif diversity.reorders:
            groups = [(self.rules.groups(column)[pool.items], cap) for column, cap in diversity.caps.items()]
            vectors = self._vectors()[pool.items] if diversity.mmr else None
            chosen = diverse(relevance, k, vectors, diversity.mmr, groups)
        else:
            order = np.lexsort((pool.items, -relevance))[:, :k]
            order = np.pad(order, ((0, 0), (0, k - order.shape[1])), constant_values=-1)
            chosen = np.where(np.take_along_axis(padded(relevance, -np.inf), order, 1) > -np.inf, order, -1)
        shown = relevance if diversity.boost else np.where(unknown, -np.inf, scores)
        items = np.take_along_axis(padded(pool.items, -1), chosen, 1).astype(np.int32)
        worth = np.take_along_axis(padded(shown, -np.inf), chosen, 1).astype(np.float32)
        named = np.take_along_axis(padded(source[pool.source], -1), chosen, 1).astype(np.int32)
        return Lists(items, worth, named, None if chance is None else chance.astype(np.float32))

    def _ranked(self, query: Query, pool: Pool) -> Float[np.ndarray, "queries pool"]:
        """The ranker's score of each candidate; -inf of one that it does not know."""
        ranker = getattr(self, self.config.ranker or "")
        known = (pool.items >= 0) & (pool.items < ranker.catalogue.n_items)
        candidates = Ragged.from_lengths(pool.items[known], known.sum(1))
        scores = np.full(pool.items.shape, -np.inf, np.float32)
        scores[known] = ranker.score(within(replace(query, candidates=candidates, exclude=None), ranker)).values
        return scores

    def _completed(
        self, query: Query, lists: Lists, k: int, allowed: Bool[np.ndarray, " items"] | None, reasons: list[str]
    ) -> Lists:
        """The lists with what the fallbacks name where they are too short."""
        for name in self.config.fallback:
            short = np.flatnonzero((lists.items < 0).any(1))
            if not len(short):
                break
            listed = lists.items[short]
            there = listed >= 0
            more = Ragged.from_lengths(listed[there], there.sum(1)).joined(query.take(short).masked())
            asking = replace(query.take(short), exclude=more)
            found = self._named(name, asking, k, allowed, reasons)
            if found is None:
                continue
            filled = np.concatenate([listed, found[0]], 1)
            order = np.argsort(filled < 0, axis=1, kind="stable")[:, :k]
            number = np.full(found[0].shape, [*self.config.sources].index(name), np.int32)
            spoke = (np.take_along_axis(filled, order, 1) >= 0).sum(1) > there.sum(1)
            for ours, theirs in (("items", found[0]), ("scores", found[1]), ("source", number)):
                whole = np.concatenate([getattr(lists, ours)[short], theirs], 1)
                getattr(lists, ours)[short] = np.take_along_axis(whole, order, 1)
            if spoke.any():
                reasons.append(name + SPOKE)
        return lists

    def _pinned(self, query: Query, lists: Lists, allowed: Bool[np.ndarray, " items"] | None) -> Lists:
        """The lists with the pinned items in front, where they may be listed."""
        k = lists.items.shape[1]
        pins = first_open(self.rules.codes(self.config.diversity.pin, "diversity.pin"), query, allowed, k)
        twice = (lists.items[:, :, None] == pins[:, None, :]).any(2)
        whole = np.concatenate([pins, np.where(twice, -1, lists.items)], 1)
        order = np.argsort(whole < 0, axis=1, kind="stable")[:, :k]
        best = np.full(pins.shape, lists.scores.max(initial=-np.inf), np.float32)
        number = np.full(pins.shape, len(self.config.sources), np.int32)
        told = zip((pins, best, number), (np.where(twice, -1, lists.items), lists.scores, lists.source))
        return Lists(*(np.take_along_axis(np.concatenate([a, b], 1), order, 1) for a, b in told))

    def _score_candidates(self, query: Query) -> Float32[np.ndarray, " candidates"]:
        """By the judge; -inf for an item that it does not know."""
        assert isinstance(query.candidates, Ragged)
        judge = self.judge
        known = query.candidates.values < judge.catalogue.n_items
        scores = np.full(len(known), -np.inf, np.float32)
        asked = within(replace(query, candidates=query.candidates.keep(known)), judge)
        scores[known] = judge.score(asked).values
        return scores

    def _rank_candidates(self, query: Query, k: int) -> tuple:
        assert isinstance(query.candidates, Ragged)
        allowed, candidates = self.rules.open_to_all(), query.candidates
        if allowed is not None:
            candidates = candidates.keep(allowed[candidates.values])
        query = replace(query, candidates=candidates)
        return best_candidates(candidates, self._score_candidates(query), query.masked(), k)

    # Sources ----------------------------------------------------------------------------------------------------

    def _named(
        self, name: str, query: Query, k: int, allowed: Bool[np.ndarray, " items"] | None, reasons: list[str]
    ) -> tuple[Int32[np.ndarray, "queries n"], Float32[np.ndarray, "queries n"]] | None:
        """The items that a source names for each request, -1 where it has none; None when it was late."""
        source = self.config.sources[name]
        n = k if name == self.plain or name in self.config.fallback else source.n
        n = min(n, self.catalogue.n_items)
        if source.kind == "model":
            return self._budgets.run(name, source.budget, lambda: self._by_model(name, query, n, allowed), reasons)
        if source.kind == "trending":
            counts = self.weights[f"trending.{name}"]
            items = first_open(self._trending(name), query, allowed, n)
            worth = counts[items].astype(np.float32)
        else:
            order = (
                self.rules.newest(source.column)
                if source.kind == "recent"
                else self.rules.codes(source.items or (), f"sources.{name}.items")
            )
            items = first_open(order, query, allowed, n)
            worth = np.broadcast_to(-np.arange(items.shape[1], dtype=np.float32), items.shape)
        return items, np.where(items >= 0, worth, np.float32(-np.inf))

    def _trending(self, name: str) -> Int32[np.ndarray, " items"]:
        """The items by falling counts; of many items as they were a second ago, as sorting them takes a while."""
        counts, now = self.weights[f"trending.{name}"], time.monotonic()
        order, made = self._trends.get(name, (None, 0.0))
        if order is None or (name in self._moved and (len(counts) <= MANY or now - made > LAG)):
            order = np.argsort(-counts, kind="stable").astype(np.int32)
            self._trends[name] = order, now
            self._moved.discard(name)
        return order

    def _by_model(self, name: str, query: Query, n: int, allowed: Bool[np.ndarray, " items"] | None) -> tuple:
        model = getattr(self, self.config.sources[name].model or name)
        n_items = model.catalogue.n_items
        query = within(query, model)
        open_, closed = self._chosen[None if allowed is None else allowed[:n_items]]
        if len(closed):
            if len(closed) <= FEW:
                row = Ragged.repeated(closed, len(query))
                before = query.exclude
                if before is not None and not isinstance(before, Ragged):
                    before = Ragged.repeated(before, len(query))
                query = replace(query, exclude=row if before is None else before.joined(row), candidates=None)
            else:
                query = replace(query, candidates=open_)
        else:
            query = replace(query, candidates=None)
        mute = silent(model, query) if self.config.fallback else np.zeros(len(query), bool)
        items = np.full((len(query), n), -1, np.int32)
        scores = np.full((len(query), n), -np.inf, np.float32)
        told = np.flatnonzero(~mute)
        if len(told):
            ranking = model.rank(query if len(told) == len(query) else query.take(told), min(n, n_items))
            items[told, : ranking.k], scores[told, : ranking.k] = ranking.items, ranking.scores
        return _related(model, items, scores) if self.config.fallback else (items, scores)

    def _vectors(self) -> Float32[np.ndarray, "items dim"]:
        """The vectors by which items are alike; zeros for one that has none."""

        def find() -> Any:
            named = self.config.diversity.vectors
            able = [getattr(self, role) for role in ([named] if named else self.declared)]
            able = [model for model in able if isinstance(model, VectorRecommender)]
            if not able:
                raise ConfigError("diversity.mmr needs a part with vectors of items, such as bpr. Name it in vectors.")
            vectors = np.nan_to_num(np.asarray(able[0].likeness_vectors(), np.float32))
            return np.pad(vectors, ((0, self.catalogue.n_items - len(vectors)), (0, 0)))

        return self.rules.remembered("vectors", find)

    # What changes while it serves -------------------------------------------------------------------------------

    def close_items(self, codes: "np.ndarray | Sequence[int]") -> None:
        """These items are not listed from now on."""
        self._rules = self.rules.closing(self.rules.closed | {int(code) for code in codes})

    def open_items(self, codes: "np.ndarray | Sequence[int]") -> None:
        """These items may be listed again."""
        self._rules = self.rules.closing(self.rules.closed - {int(code) for code in codes})

    def took(self, codes: "np.ndarray | Sequence[int]", times: "np.ndarray | Sequence[int]") -> None:
        """Counts what somebody just took, at these milliseconds since 1970, among what trends."""
        for name, source in self.config.sources.items():
            if source.kind == "trending":
                age = (np.asarray(times, np.float64) - self.weights[f"now.{name}"]) / DAY / (source.half_life or 7)
                if len(age) and age.max() > FAR:
                    self.weights[f"trending.{name}"] *= 0.5 ** age.max()
                    self.weights[f"now.{name}"] = np.array(max(times), np.float64)
                    age -= age.max()
                np.add.at(self.weights[f"trending.{name}"], np.asarray(codes), 2.0**age)
                self._moved.add(name)

    def _counted(
        self, item: Int[np.ndarray, " rows"], when: Int[np.ndarray, " rows"] | None, n_items: int
    ) -> dict[str, np.ndarray]:
        """How often each item was taken, by the half-life of each trending source; all alike without times."""
        counted: dict[str, np.ndarray] = {}
        latest = float(when.max()) if when is not None and len(when) else float(time.time_ns() // 1_000_000)
        for name, source in self.config.sources.items():
            if source.kind == "trending":
                weight = None if when is None else 0.5 ** ((latest - when) / DAY / (source.half_life or 7))
                counts = np.bincount(item, weight, minlength=n_items).astype(np.float64)
                counted[f"trending.{name}"] = counts if when is not None else counts / max(1.0, counts.max(initial=0))
                counted[f"now.{name}"] = np.array(latest, np.float64)
        return counted

    def add_items(self, items: Any) -> Self:
        """Appends new items; the parts that can rank them take them in, the others go on without.

        A column that is not given is null.

        Raises:
            DataError: an id is known already, or a value is not of the kind that its column holds.
        """
        import pyarrow as pa

        catalogue = self.catalogue
        new = items if isinstance(items, Table) else item_table(items)
        longer = catalogue.items.extended(new)
        whole = longer.take(np.arange(len(catalogue.items), len(longer)))
        self._budgets.wait()  # nobody may read a model while it grows
        for role in self.declared:
            part = getattr(self, role)
            if part.entry.cold_items and part.catalogue.n_items == catalogue.n_items:
                missing = [name for name in part.catalogue.items.names if name not in whole.names]
                blank = {name: pa.nulls(len(whole), part.catalogue.items.column(name).type) for name in missing}
                columns = {name: whole.column(name) for name in whole.names} | blank
                part.add_items(Table(whole.ids, pa.table(columns), whole.roles))
        nothing = Interactions.none(catalogue.n_users, len(longer))
        self._catalogue = replace(catalogue, items=longer, interactions=nothing)
        for name in self.weights:
            if name.startswith("trending."):
                self.weights[name] = np.pad(self.weights[name], (0, len(new)))
        self._trends.clear()
        return self

    def describe_items(self, items: Table) -> None:
        """Other columns for the items it has: filters, caps and boosts follow them, models do not."""
        self._catalogue = replace(self.catalogue, items=items)

    # Likeness and reasons ---------------------------------------------------------------------------------------

    def similar(self, items: "np.ndarray | Sequence[int]", k: int = 10) -> Ranking:
        """By the judge, without what may not be listed."""
        allowed, judge = self.rules.open_to_all(), self.judge
        n_items = judge.catalogue.n_items
        if not 1 <= k <= n_items:
            raise QueryError(f"k is {k:,}; {judge.entry.name} knows {n_items:,} items. Ask for 1 to {n_items:,}.")
        if max(items, default=0) >= n_items:
            raise QueryError(f"{judge.entry.name} does not know this item: it is newer. Fit it again.")
        depth = k
        while True:
            found = judge.similar(items, depth)
            related, _ = _related(judge, found.items, found.scores)
            listed = related if allowed is None else np.where(allowed[related], related, -1)
            whole = ((listed >= 0).sum(1) >= k) | (related[:, -1] < 0)
            if depth == n_items or whole.all():
                break
            depth = min(4 * depth, n_items)
        order = np.argsort(listed < 0, axis=1, kind="stable")[:, :k]
        kept = np.take_along_axis(listed, order, 1)
        scores = np.where(kept >= 0, np.take_along_axis(found.scores, order, 1), np.float32(-np.inf))
        alone = int((kept < 0).all(1).sum())
        said = (f"{judge.entry.name} knows of nothing like {alone:,} of {len(kept):,} items",) if alone else ()
        return Ranking(np.where(kept >= 0, kept, -1), scores, self.catalogue.items, said)

    def shares(self, history: Int[np.ndarray, " items"], item: int) -> list[tuple[int, float]]:
        """The items of a history by their share in the judge's score of an item, largest first; they add up to 1.

        The share of one is what the score loses when it is left out, beside what it loses by any of them; those that
        take nothing away are not listed. Of a long history the newest 50 are looked at.
        """
        judge = self.judge
        if "history" not in judge.entry.answers or item >= judge.catalogue.n_items:
            return []
        kept = np.asarray(history, np.int32)
        kept = kept[kept < judge.catalogue.n_items]
        different = np.unique(kept[-LAST:])
        if not len(different):
            return []
        rows = [kept, *(kept[kept != one] for one in different)]
        candidates = Ragged.repeated([item], len(rows))
        lengths = np.fromiter((len(row) for row in rows), np.int64, len(rows))
        asked = Query(history=Ragged.from_lengths(np.concatenate(rows), lengths), candidates=candidates)
        scores = judge.score(asked).values.astype(np.float64)
        lost = np.maximum(scores[0] - scores[1:], 0)
        lost = np.where(np.isfinite(lost), lost, 0)
        order = [n for n in np.argsort(-lost, kind="stable") if lost[n] > 0]
        return [(int(different[n]), float(lost[n] / lost.sum())) for n in order]


def _related(model: Recommender, items: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lists without the items for which nothing speaks, -1 and -inf in their places."""
    if model.unrelated is None:
        return items, scores
    speaks = scores > model.unrelated
    return np.where(speaks, items, -1), np.where(speaks, scores, np.float32(-np.inf))


def _open_and_closed(
    allowed: Bool[np.ndarray, " items"] | None,
) -> tuple[Int32[np.ndarray, " open"], Int32[np.ndarray, " closed"]]:
    """The codes of the items that may be listed, and of those that may not; none of either where all may."""
    if allowed is None:
        return np.empty(0, np.int32), np.empty(0, np.int32)
    return np.flatnonzero(allowed).astype(np.int32), np.flatnonzero(~allowed).astype(np.int32)


def _part(role: str) -> Part:
    made = Part(role, True, {})
    made.role, made.kind = role, Recommender
    return made
