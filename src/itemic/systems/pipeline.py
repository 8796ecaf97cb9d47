"""Pipeline: lists of several sources, filtered, ranked, varied and explained; itself a recommender.

Choose it to serve: sources that know the user beside what is new, trending or chosen by hand, with rules that no model
learns (what is out of stock, three of a brand at most). One that names a single source answers as that source does.
Its parts are the models that its sources and its ranker name; those not given are fitted first.
"""

import re
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as Late
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

import numpy as np
from jaxtyping import Bool, Float, Float32, Int, Int32
from pydantic import Field, model_validator

from itemic.data import Dataset, Interactions, Query, Ragged, Ranking, Table
from itemic.data.importing import item_table
from itemic.errors import ConfigError, DataError, QueryError
from itemic.model import Part, facts_of
from itemic.nn.reranking import Pool, diverse, drawn, from_0_to_1, joined
from itemic.options import ModelConfig
from itemic.registry import entries, system
from itemic.systems.base import Recommender, SystemConfig, VectorRecommender, best_candidates

DAY = 86_400_000
"""Milliseconds."""
FEW = 256
"""Items closed to everybody that are cheaper to leave out one by one than by marking all the others."""
REMEMBERED = 64
"""Conditions whose items are remembered."""
SPOKE = " spoke for others that had too little"
"""What is said of a fallback, after its name."""
LAST = 50
"""Items of a history, the newest, among which an explanation looks."""


class Source(ModelConfig):
    kind: Literal["model", "trending", "recent", "list"] = "model"
    """A model, what many took of late, the newest items, or a list made by hand."""
    n: int = Field(default=200, ge=1)
    """How many items it names for each request."""
    weight: float = Field(default=1.0, gt=0)
    """How much its places count beside those of other sources, where no ranker decides."""
    budget: float | None = Field(default=None, gt=0)
    """Milliseconds after which it is not waited for; None waits."""
    model: str | None = None
    """Of a model: its role among the parts; None is the name of the source."""
    half_life: float | None = Field(default=None, gt=0)
    """Of trending: days after which an interaction counts half. Default: 7."""
    column: str | None = None
    """Of recent: the column of the item table that says how new an item is; None takes those added last."""
    items: tuple[str, ...] | None = None
    """Of a list: ids of its items, best first."""

    @model_validator(mode="after")
    def _fits_its_kind(self) -> "Source":
        owner = {"model": "model", "half_life": "trending", "column": "recent", "items": "list"}
        for option, kind in owner.items():
            if getattr(self, option) is not None and self.kind != kind:
                raise ValueError(f"{option} is an option of sources of the kind '{kind}', not '{self.kind}'")
        if self.kind == "list" and not self.items:
            raise ValueError("a list needs items")
        return self


class Filters(ModelConfig):
    where: str | None = None
    """An SQL condition on the item table that every listed item satisfies, such as "stock > 0"."""
    blocked: tuple[str, ...] = ()
    """Ids of items that are never listed."""
    seen: bool | None = None
    """Whether items of the history are left out; None does as the request says."""


class Diversity(ModelConfig):
    mmr: float = Field(default=0.0, ge=0, lt=1)
    """The share of unlikeness in maximal marginal relevance; 0 is off."""
    vectors: str | None = None
    """The part by whose vectors items are alike; None takes the first that has vectors."""
    caps: dict[str, int] = Field(default={})
    """How many items with the same value of a column a list may have."""
    pin: tuple[str, ...] = ()
    """Ids of items that come first, in this order, wherever they may be listed."""
    boost: dict[str, float] = Field(default={})
    """By an SQL condition on the item table: what the relevance (0 to 1) of items that satisfy it is multiplied by."""

    @property
    def reorders(self) -> bool:
        """Whether the list is made step by step."""
        return self.mmr > 0 or bool(self.caps)


class Config(SystemConfig):
    sources: dict[str, Source] = Field(default={"itemknn": Source(), "trending": Source(kind="trending")})
    """Where candidates come from, by name."""
    fallback: tuple[str, ...] = ("trending",)
    """Sources that are asked only for what is missing, in this order: where the others have nothing or were late."""
    filters: Filters = Filters()
    """What may not be listed."""
    ranker: str | None = None
    """The part by whose scores candidates are ranked; None joins the lists of the sources by places."""
    budget: float | None = Field(default=None, gt=0)
    """Milliseconds that the ranker may take; when it is late the places in the lists decide."""
    diversity: Diversity = Diversity()
    """What is changed about the order."""
    temperature: float | None = Field(default=None, gt=0)
    """Explores: lists are drawn by the model of Plackett and Luce with relevance, from 0 to 1, divided by this. None
    draws nothing."""
    seed: int | None = None
    """Of the draws; None draws anew each time."""

    @model_validator(mode="after")
    def _is_whole(self) -> "Config":
        for name in self.fallback:
            if name not in self.sources:
                raise ValueError(f"the fallback '{name}' is no source; sources: {', '.join(self.sources)}")
        if not [name for name in self.sources if name not in self.fallback]:
            raise ValueError("give a source that is no fallback")
        if self.temperature is not None and (self.diversity.reorders or self.diversity.pin):
            raise ValueError("what is drawn cannot be reordered or pinned: its propensities would be wrong")
        for role in self.roles:
            if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", role) or hasattr(Pipeline, role):
                raise ValueError(f"'{role}' cannot name a part; take another name")
        return self

    @property
    def roles(self) -> list[str]:
        """The parts that the sources and the ranker name."""
        models = [source.model or name for name, source in self.sources.items() if source.kind == "model"]
        others = [role for role in (self.ranker, self.diversity.vectors) if role is not None]
        return list(dict.fromkeys([*models, *others]))


@dataclass
class Lists:
    """What is said of each place of the lists."""

    items: Int32[np.ndarray, "queries k"]
    scores: Float32[np.ndarray, "queries k"]
    source: Int32[np.ndarray, "queries k"]
    """Which of the sources in the order of the config; -1 for none, and for what is pinned."""
    chance: Float32[np.ndarray, "queries k"] | None = None


@system("pipeline", family="pipelines", answers=["user", "history"])
class Pipeline(Recommender[Config]):
    def __init__(self, config: Config | None = None, /, **options: Any) -> None:
        given = {name: value for name, value in options.items() if name in Config.model_fields}
        roles = (self.configured(given) if config is None else config).roles
        self.declared = {role: _part(role) for role in roles}  # pyright: ignore[reportAttributeAccessIssue]
        super().__init__(config, **options)
        self._closed: set[int] = set()
        self._cached: dict[Any, Any] = {}
        self._late: dict[str, Future] = {}
        self._threads: ThreadPoolExecutor | None = None
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
        for gate in self.config.diversity.boost:
            self.where(gate)
        for column in self.config.diversity.caps:
            self._groups(column)
        for name, source in self.config.sources.items():
            if source.kind == "recent":
                self._newest(source)
            if source.kind == "list":
                self._codes(source.items or (), f"sources.{name}.items")
        self._codes(self.config.diversity.pin, "diversity.pin")
        self._codes(self.config.filters.blocked, "filters.blocked")
        self._open_to_all()
        if self.config.diversity.mmr > 0:
            self._vectors()

    def _codes(self, ids: Sequence[str], path: str) -> Int32[np.ndarray, " ids"]:
        return self.catalogue.items.ids.known(list(ids), f"Take them out of {path}.")

    # Who is asked -----------------------------------------------------------------------------------------------

    @property
    def judge(self) -> Recommender:
        """The part whose scores count: the ranker, else the first source that is a model."""
        if not self.declared:
            raise QueryError("this pipeline has no model: it can rank, but not score, explain or say what is similar.")
        return getattr(self, self.config.ranker or next(iter(self.declared)))

    @property
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
        allowed = self._allowed(query)
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
            lists = _nothing(len(query), k)
        lists = self._completed(query, lists, k, allowed, reasons)
        return self._pinned(query, lists, allowed) if config.diversity.pin else lists

    def _ordered(self, query: Query, pool: Pool, source: np.ndarray, k: int, reasons: list[str]) -> Lists:
        """The k items of a pool that are listed, by ranker, boosts, draws and variety."""
        config, diversity, scores = self.config, self.config.diversity, pool.scores
        if config.ranker is not None:
            ranked = self._in_time("ranker", config.budget, lambda: self._ranked(query, pool), reasons)
            scores = scores if ranked is None else ranked
        relevance = from_0_to_1(scores)
        unknown = (pool.items >= 0) & ~np.isfinite(relevance)  # behind those that the ranker knows, in their order
        relevance = np.where(unknown, -1e-6 * (1 + np.arange(pool.items.shape[1])), relevance)
        for condition, factor in diversity.boost.items():
            relevance = np.where(self.where(condition)[pool.items], relevance * factor, relevance)
        relevance = np.where(pool.items >= 0, relevance, -np.inf)
        chance = None
        if config.temperature is not None:
            chosen, chance = drawn(relevance, k, config.temperature, self._rng)
        elif diversity.reorders:
            groups = [(self._groups(column)[pool.items], cap) for column, cap in diversity.caps.items()]
            vectors = self._vectors()[pool.items] if diversity.mmr else None
            chosen = diverse(relevance, k, vectors, diversity.mmr, groups)
        else:
            order = np.lexsort((pool.items, -relevance))[:, :k]
            order = np.pad(order, ((0, 0), (0, k - order.shape[1])), constant_values=-1)
            chosen = np.where(np.take_along_axis(_padded(relevance, -np.inf), order, 1) > -np.inf, order, -1)
        shown = relevance if diversity.boost else np.where(unknown, -np.inf, scores)
        items = np.take_along_axis(_padded(pool.items, -1), chosen, 1).astype(np.int32)
        worth = np.take_along_axis(_padded(shown, -np.inf), chosen, 1).astype(np.float32)
        named = np.take_along_axis(_padded(source[pool.source], -1), chosen, 1).astype(np.int32)
        return Lists(items, worth, named, None if chance is None else chance.astype(np.float32))

    def _ranked(self, query: Query, pool: Pool) -> Float[np.ndarray, "queries pool"]:
        """The ranker's score of each candidate; -inf of one that it does not know."""
        ranker = getattr(self, self.config.ranker or "")
        known = (pool.items >= 0) & (pool.items < ranker.catalogue.n_items)
        candidates = Ragged.from_lengths(pool.items[known], known.sum(1))
        scores = np.full(pool.items.shape, -np.inf, np.float32)
        scores[known] = ranker.score(_within(replace(query, candidates=candidates, exclude=None), ranker)).values
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
        pins = _first_open(self._codes(self.config.diversity.pin, "diversity.pin"), query, allowed, k)
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
        asked = _within(replace(query, candidates=query.candidates.keep(known)), judge)
        scores[known] = judge.score(asked).values
        return scores

    def _rank_candidates(self, query: Query, k: int) -> tuple:
        assert isinstance(query.candidates, Ragged)
        allowed, candidates = self._open_to_all(), query.candidates
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
            return self._in_time(name, source.budget, lambda: self._by_model(name, query, n, allowed), reasons)
        if source.kind == "trending":
            counts = self.weights[f"trending.{name}"]
            order = self._remembered(("trend", name), lambda: np.argsort(-counts, kind="stable").astype(np.int32))
            items = _first_open(order, query, allowed, n)
            worth = counts[items].astype(np.float32)
        else:
            order = self._newest(source) if source.kind == "recent" else self._codes(source.items or (), name)
            items = _first_open(order, query, allowed, n)
            worth = np.broadcast_to(-np.arange(items.shape[1], dtype=np.float32), items.shape)
        return items, np.where(items >= 0, worth, np.float32(-np.inf))

    def _by_model(self, name: str, query: Query, n: int, allowed: Bool[np.ndarray, " items"] | None) -> tuple:
        model = getattr(self, self.config.sources[name].model or name)
        n_items = model.catalogue.n_items
        query = _within(query, model)
        if allowed is not None and not allowed[:n_items].all():
            closed = np.flatnonzero(~allowed[:n_items]).astype(np.int32)
            if len(closed) <= FEW:
                row = Ragged.from_lengths(np.tile(closed, len(query)), np.full(len(query), len(closed)))
                before = query.exclude
                if before is not None and not isinstance(before, Ragged):
                    before = Ragged.from_lengths(np.tile(before, len(query)), np.full(len(query), len(before)))
                query = replace(query, exclude=row if before is None else before.joined(row), candidates=None)
            else:
                query = replace(query, candidates=np.flatnonzero(allowed[:n_items]).astype(np.int32))
        else:
            query = replace(query, candidates=None)
        silent = self._silent(model, query) if self.config.fallback else np.zeros(len(query), bool)
        items = np.full((len(query), n), -1, np.int32)
        scores = np.full((len(query), n), -np.inf, np.float32)
        told = np.flatnonzero(~silent)
        if len(told):
            ranking = model.rank(query if len(told) == len(query) else query.take(told), min(n, n_items))
            items[told, : ranking.k], scores[told, : ranking.k] = ranking.items, ranking.scores
        return items, scores

    @staticmethod
    def _silent(model: Recommender, query: Query) -> Bool[np.ndarray, " queries"]:
        """Which requests say nothing that the model answers."""
        silent, answers = np.ones(len(query), bool), set(model.entry.answers)
        if "anyone" in answers:
            silent[:] = False
        if "user" in answers and query.user is not None:
            silent &= query.user < 0
        for field in ("history", "basket"):
            value = getattr(query, field)
            if field in answers and value is not None:
                silent &= value.lengths == 0
        return silent

    def _in_time(self, name: str, budget: float | None, work: Callable[[], Any], reasons: list[str]) -> Any:
        """What `work` gives; None when it takes longer than its budget, or is still at an earlier request."""
        if budget is None:
            return work()
        if name in self._late:
            if not self._late[name].done():
                reasons.append(f"{name} is still late with an earlier request")
                return None
            del self._late[name]
        if self._threads is None:
            self._threads = ThreadPoolExecutor(1 + len(self.config.sources), "itemic-pipeline")
        future = self._threads.submit(work)
        try:
            return future.result(budget / 1000)
        except Late:
            if future.done():  # the work itself ran out of some time of its own
                raise
            self._late[name] = future
            reasons.append(f"{name} took longer than its {budget:g} ms")
            return None

    # What may be listed -----------------------------------------------------------------------------------------

    def close_items(self, codes: "np.ndarray | Sequence[int]") -> None:
        """These items are not listed from now on."""
        self._closed |= {int(code) for code in codes}
        self._cached.clear()

    def open_items(self, codes: "np.ndarray | Sequence[int]") -> None:
        """These items may be listed again."""
        self._closed -= {int(code) for code in codes}
        self._cached.clear()

    def _open_to_all(self) -> Bool[np.ndarray, " items"] | None:
        """Which items may be listed for whoever asks; None when all may."""

        def look() -> Any:
            filters, mask = self.config.filters, np.ones(self.catalogue.n_items, bool)
            if filters.where is not None:
                mask &= self.where(filters.where)
            mask[self._codes(filters.blocked, "filters.blocked")] = False
            mask[sorted(self._closed)] = False
            return None if mask.all() else mask

        return self._remembered("open", look)

    def _allowed(self, query: Query) -> Bool[np.ndarray, " items"] | None:
        mask = self._open_to_all()
        if query.candidates is None:
            return mask
        chosen = np.zeros(self.catalogue.n_items, bool)
        chosen[np.asarray(query.candidates)] = True
        return chosen if mask is None else chosen & mask

    def where(self, condition: str) -> Bool[np.ndarray, " items"]:
        """Which items satisfy an SQL condition; remembered until items change.

        Raises:
            DataError: the condition cannot be read or names a column that is not there.
        """
        return self._remembered(("where", condition), lambda: self.catalogue.items.where(condition))

    def _groups(self, column: str) -> Int32[np.ndarray, " items"]:
        """A number for each value of a column, -1 where it is missing."""

        def number() -> Any:
            values = self.catalogue.items.column(column).to_pylist()
            index: dict[str, int] = {}
            return np.array([-1 if v is None else index.setdefault(str(v), len(index)) for v in values], np.int32)

        return self._remembered(("groups", column), number)

    def _vectors(self) -> Float32[np.ndarray, "items dim"]:
        """The vectors by which items are alike; zeros for one that has none."""

        def find() -> Any:
            named = self.config.diversity.vectors
            roles = [named] if named else list(self.declared)
            able = [getattr(self, role) for role in roles if isinstance(getattr(self, role), VectorRecommender)]
            if not able:
                raise ConfigError("diversity.mmr needs a part with vectors of items, such as bpr. Name it in vectors.")
            vectors = np.nan_to_num(np.asarray(able[0].likeness_vectors(), np.float32))
            return np.pad(vectors, ((0, self.catalogue.n_items - len(vectors)), (0, 0)))

        return self._remembered("vectors", find)

    def _newest(self, source: Source) -> Int32[np.ndarray, " items"]:
        def order() -> Any:
            if source.column is None:
                return np.arange(self.catalogue.n_items, dtype=np.int32)[::-1]
            import polars as pl

            values = pl.Series(self.catalogue.items.column(source.column).to_pylist())
            return values.arg_sort(descending=True, nulls_last=True).to_numpy().astype(np.int32)

        return self._remembered(("newest", source.column), order)

    def _remembered(self, key: Any, make: Callable[[], Any]) -> Any:
        """What was made before, until items change."""
        if key not in self._cached:
            if len(self._cached) >= REMEMBERED:  # conditions of requests come and go
                self._cached.clear()
            self._cached[key] = make()
        return self._cached[key]

    # What changes while it serves -------------------------------------------------------------------------------

    def took(self, codes: "np.ndarray | Sequence[int]", times: "np.ndarray | Sequence[int]") -> None:
        """Counts what somebody just took, at these milliseconds since 1970, among what trends."""
        for name, source in self.config.sources.items():
            if source.kind == "trending":
                age = (np.asarray(times, np.float64) - self.weights[f"now.{name}"]) / DAY / (source.half_life or 7)
                if len(age) and age.max() > 500:  # before the counts overflow
                    self.weights[f"trending.{name}"] *= 0.5 ** age.max()
                    self.weights[f"now.{name}"] = np.array(max(times), np.float64)
                    age -= age.max()
                np.add.at(self.weights[f"trending.{name}"], np.asarray(codes), 2.0**age)
                self._cached.pop(("trend", name), None)

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
        for future in self._late.values():
            future.exception()  # nobody may read a model while it grows
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
        self._cached.clear()
        return self

    def describe_items(self, items: Table) -> None:
        """Other columns for the items it has: filters, caps and boosts follow them, models do not."""
        self._catalogue = replace(self.catalogue, items=items)
        self._cached.clear()

    # Likeness and reasons ---------------------------------------------------------------------------------------

    def similar(self, items: "np.ndarray | Sequence[int]", k: int = 10) -> Ranking:
        """By the judge, without what may not be listed."""
        allowed, judge = self._open_to_all(), self.judge
        n_items = judge.catalogue.n_items
        if not 1 <= k <= n_items:
            raise QueryError(f"k is {k:,}; {judge.entry.name} knows {n_items:,} items. Ask for 1 to {n_items:,}.")
        if max(items, default=0) >= n_items:
            raise QueryError(f"{judge.entry.name} does not know this item: it is newer. Fit it again.")
        depth = k
        while True:
            found = judge.similar(items, depth)
            listed = found.items if allowed is None else np.where(allowed[found.items], found.items, -1)
            if depth == n_items or ((listed >= 0).sum(1) >= k).all():
                break
            depth = min(4 * depth, n_items)
        order = np.argsort((listed < 0) | (found.items < 0), axis=1, kind="stable")[:, :k]
        kept = np.take_along_axis(listed, order, 1)
        scores = np.where(kept >= 0, np.take_along_axis(found.scores, order, 1), np.float32(-np.inf))
        return Ranking(np.where(kept >= 0, kept, -1), scores, self.catalogue.items)

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
        candidates = Ragged.from_lengths(np.full(len(rows), item, np.int32), np.ones(len(rows), np.int64))
        lengths = np.fromiter((len(row) for row in rows), np.int64, len(rows))
        asked = Query(history=Ragged.from_lengths(np.concatenate(rows), lengths), candidates=candidates)
        scores = judge.score(asked).values.astype(np.float64)
        lost = np.maximum(scores[0] - scores[1:], 0)
        lost = np.where(np.isfinite(lost), lost, 0)
        order = [n for n in np.argsort(-lost, kind="stable") if lost[n] > 0]
        return [(int(different[n]), float(lost[n] / lost.sum())) for n in order]


def _part(role: str) -> Part:
    made = Part(role, True, {})
    made.role, made.kind = role, Recommender
    return made


def _within(query: Query, model: Recommender) -> Query:
    """The request in items that the model knows: it may have been fitted before some were added."""
    n_items = model.catalogue.n_items

    def known(rows: Any) -> Any:
        if not isinstance(rows, Ragged) or not len(rows.values) or rows.values.max() < n_items:
            return rows
        return rows.keep(rows.values < n_items)

    changed: dict[str, Any] = {"exclude": known(query.exclude), "basket": known(query.basket)}
    history = query.history
    if history is not None and known(history) is not history:
        kept = history.values < n_items
        changed["history"] = history.keep(kept)
        for name in ("history_time", "history_kind", "history_weight"):
            value = getattr(query, name)
            changed[name] = None if value is None else value[kept]
    return replace(query, **changed)


def _first_open(
    order: Int[np.ndarray, " items"], query: Query, allowed: Bool[np.ndarray, " items"] | None, n: int
) -> Int32[np.ndarray, "queries n"]:
    """The first n items of one list that may be listed for each request."""
    if allowed is not None:
        order = order[allowed[order]]
    masked = query.masked()
    order = order[: n + int(masked.lengths.max(initial=0))]
    size = int(max(order.max(initial=0), masked.values.max(initial=0))) + 1
    rows = np.arange(len(query), dtype=np.int64)[:, None]
    items = np.broadcast_to(order.astype(np.int32), (len(query), len(order)))
    open_ = ~np.isin(rows * size + items, masked.row_of_value * size + masked.values)
    first = np.argsort(~open_, axis=1, kind="stable")[:, :n]
    found = np.where(np.take_along_axis(open_, first, 1), np.take_along_axis(items, first, 1), -1)
    return np.pad(found, ((0, 0), (0, n - found.shape[1])), constant_values=-1).astype(np.int32)


def _padded(pool: np.ndarray, last: float) -> np.ndarray:
    """The rows with one more value, which the place -1 then means."""
    return np.pad(pool, ((0, 0), (0, 1)), constant_values=last)


def _nothing(n: int, k: int) -> Lists:
    return Lists(np.full((n, k), -1, np.int32), np.full((n, k), -np.inf, np.float32), np.full((n, k), -1, np.int32))
