"""The service without its doors: models, histories, items and the store, kept in step.

All that reads or changes a model runs on one thread. What is known of users and items follows the store: whoever stored
something, this service or another one on the same store, it is read from there, in the order in which it was stored.
What is stored here is in the next answer when it is acknowledged.
"""

import asyncio
import logging
import secrets
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from itemic.data import Dataset, Query, Ragged, Ranking, Table
from itemic.errors import ConfigError, DataError, ItemicError, QueryError, did_you_mean
from itemic.nn.reranking import joined
from itemic.nn.topk import top_k
from itemic.serving.catalogue import Catalogue
from itemic.serving.config import Config
from itemic.serving.gathering import Gatherer, Rounds
from itemic.serving.histories import Histories
from itemic.serving.items import Given, as_table, lined_up, now_of, replaced
from itemic.serving.search import TextIndex
from itemic.serving.stores import Event, Impression, Store
from itemic.serving.stores.base import Changes, digest, now
from itemic.serving.vectors import check_vectors, settled
from itemic.serving.versions import recover, stamps
from itemic.systems.base import Recommender
from itemic.systems.pipelines.config import Config as PipelineConfig
from itemic.systems.pipelines.pipeline import SPOKE, Pipeline

LOG = logging.getLogger("itemic.serving")
FOUND = 200
"""Items found by words that behaviour may reorder."""
UNTOLD = {"events": 0, "deletions": -1}
"""What a model has learned of the store that was never refreshed: up to which places."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One request in codes."""

    user: int
    history: np.ndarray
    k: int
    exclude: np.ndarray
    candidates: np.ndarray | None = None


class Service:
    """Answers for users by id, takes events and items, and forgets whom it must.

    Raises:
        ConfigError: a pipeline names what is not there, or vectors cannot be where they shall be.
        DataError: the models do not know the same items.
    """

    def __init__(self, config: Config, models: Mapping[str, Recommender], store: Store, items: Table | None = None):
        check_vectors(config.vectors, store)
        self.config, self.models, self.store = config, dict(models), store
        self.since = now()
        """When it was made, in milliseconds since 1970."""
        self.stamps: list = []
        """What was in the folders of the models when they were read."""
        self.thread = ThreadPoolExecutor(1, "itemic-model")
        chosen = dict(config.pipelines) or {name: _alone(name) for name in models}
        self.pipelines = {name: self._pipeline(name, one, items) for name, one in chosen.items()}
        for name in config.traffic:
            if name not in self.pipelines:
                near, listed = did_you_mean(name, self.pipelines), ", ".join(self.pipelines)
                raise ConfigError(f"traffic names '{name}', which is not served.{near} Models: {listed}.")
        first = next(iter(self.pipelines.values()))
        self.repeats = first.catalogue.repeats
        self.items = Catalogue(first.catalogue.items)
        self._texts: TextIndex | None = None
        self.places = store.last_places()
        """Up to where it has followed the store."""
        self._take_known(dict(store.items()))
        learned = UNTOLD | first.fitted_on.get("store", {})
        self.histories = Histories(first.catalogue.users.ids, first.histories, store.forgotten(learned["deletions"]))
        self._remember(store.events(after=learned["events"], until=self.places["events"]))
        self._count(self._coded(store.events(until=self.places["events"])))
        self._leaving: dict[str, str] = {}  # users by their digests, who are being deleted
        self._rounds = Rounds(self._follow)
        self._in_store = settled(self.models, config.vectors, store)
        self.gatherer = Gatherer(self._answer, self.thread)
        self._asking: dict[object, str | None] = {}  # for whom each list is that is being made

    @classmethod
    def open(cls, config: Config, store: Store) -> "Service":
        """The service of the folders that a config names.

        Raises:
            ConfigError: there is no model, or a pipeline names one that is not there.
            LoadError: a model cannot be loaded.
        """
        if not config.models:
            raise ConfigError("there is no model to serve. Name its folder: itemic serve runs/e")
        folders = list(config.models.values())
        recover(folders)
        found = stamps(folders)
        models = {name: Recommender.load(folder) for name, folder in config.models.items()}
        items = Dataset.open(config.data).items if config.data is not None else None
        first = next(iter(models.values()))
        if items is not None and "store" in first.fitted_on:  # it knows also what the store has, and not what it lost
            items = lined_up(items, first.catalogue.items.ids)
        made = cls(config, models, store, items)
        made.stamps = found
        return made

    def close(self) -> None:
        """Ends the thread and lets go of vectors in the store; that itself is its owner's."""
        self.thread.shutdown()
        for index in self._in_store:
            index.close()

    def warm(self) -> None:
        """Answers once by every pipeline, so that the first who asks does not wait for what is loaded late."""
        for name in self.pipelines:
            for user in (0, -1):
                self._answer((name, None, False), [Asked(user, np.zeros(1, np.int32), 1, np.empty(0, np.int32))])

    def _pipeline(self, name: str, config: PipelineConfig, items: Table | None) -> Pipeline:
        for role in config.roles:
            if role not in self.models:
                near, listed = did_you_mean(role, self.models), ", ".join(self.models)
                raise ConfigError(
                    f"pipelines.{name} names the model '{role}', which is not served.{near} Models: {listed}."
                )
        if not config.roles:
            raise ConfigError(f"pipelines.{name} names no model. Give it a source that is one.")
        return Pipeline.over(config, items, **{role: self.models[role] for role in config.roles})

    # Asking -----------------------------------------------------------------------------------------------------

    def pipeline(self, name: str | None, user: str | None = None) -> tuple[str, Pipeline]:
        """The pipeline of this name; else the one that a user has by the shares of traffic, or the first.

        Raises:
            QueryError: there is none of this name.
        """
        if name is None and user is not None and self.config.traffic:
            name = _drawn(user, self.config.traffic)
        if name is None:
            return next(iter(self.pipelines.items()))
        if name not in self.pipelines:
            near = did_you_mean(name, self.pipelines)
            raise QueryError(f"there is no model '{name}'.{near} Models: {', '.join(self.pipelines)}.")
        return name, self.pipelines[name]

    def asked(
        self,
        user: str | None,
        history: Sequence[str] | None,
        k: int,
        exclude: Sequence[str] = (),
        candidates: Sequence[str] | None = None,
    ) -> Asked:
        """A request in codes; a history that is given stands in the place of the one that is known.

        Raises:
            QueryError: none of the items of a history is known, or k is more than there are.
        """
        n_items = len(self.items)
        if k > n_items:
            raise QueryError(f"k is {k:,}; the catalogue has {n_items:,} items. Ask for 1 to {n_items:,}.")
        if history is not None:
            code, items = -1, self.items.known(history)
            if history and not len(items):
                raise QueryError(f"none of the items of the history, such as {history[0]!r}, is in the catalogue.")
        else:
            code, items = self.histories.of(user) if user is not None else (-1, np.empty(0, np.int32))
        wanted = None if candidates is None else np.unique(self.items.known(candidates))
        return Asked(code, items, k, self.items.known(exclude), wanted)

    async def recommend(self, model: str | None, user: str | None, one: Asked, where: str | None = None) -> dict:
        """The answer to a request, with the name under which it is logged."""
        name, _ = self.pipeline(model, user)
        asking = object()
        self._asking[asking] = user
        try:
            row = await self.gatherer.ask((name, where, one.candidates is not None), one)
        finally:
            user = self._asking.pop(asking)
        answer = {"id": secrets.token_hex(8), "model": name, **row}
        drawn = (
            [item["propensity"] for item in row["items"]] if row["items"] and "propensity" in row["items"][0] else None
        )
        self.store.log(Impression(answer["id"], user, now(), name, [item["item"] for item in row["items"]], drawn))
        return answer

    def _answer(self, key: tuple[str, str | None, bool], asked: Sequence[Asked]) -> list[dict]:
        """The answers to requests that differ in nothing but who asks; on the thread of the models."""
        name, where, given = key
        pipeline = self.pipelines[name]
        lengths = np.fromiter((len(one.history) for one in asked), np.int64, len(asked))
        candidates: Any = None
        if where is not None:
            candidates = np.flatnonzero(self.where(pipeline, where)).astype(np.int32)
        if given:
            lists = [one.candidates if one.candidates is not None else np.empty(0, np.int32) for one in asked]
            if candidates is not None:
                lists = [one[np.isin(one, candidates)] for one in lists]
            sizes = np.fromiter((len(one) for one in lists), np.int64, len(lists))
            candidates = Ragged.from_lengths(np.concatenate(lists), sizes)
        out = [one.exclude for one in asked]
        exclude = None
        if any(len(codes) for codes in out):
            exclude = Ragged.from_lengths(np.concatenate(out), np.fromiter(map(len, out), np.int64, len(out)))
        query = Query(
            user=np.array([one.user for one in asked], np.int32),
            history=Ragged.from_lengths(np.concatenate([one.history for one in asked]), lengths),
            candidates=candidates,
            exclude=exclude,
            repeats=self.repeats,
        )
        ranking = pipeline.rank(query, max(one.k for one in asked))
        return [self._row(ranking, row, one.k) for row, one in enumerate(asked)]

    def where(self, pipeline: Pipeline, condition: str) -> np.ndarray:
        """Which items satisfy an SQL condition.

        Raises:
            QueryError: it cannot be read, or names what is not there.
        """
        try:
            return pipeline.rules.where(condition)
        except DataError as error:
            raise QueryError(str(error).replace("--where", "where")) from None

    def _row(self, ranking: Ranking, row: int, k: int) -> dict:
        """What one request is answered, in ids."""
        items, known, gone = [], self.items, self.items.gone
        source, drawn = ranking.columns.get("source"), ranking.columns.get("propensity")
        said: set[str] = set()
        for place, (code, score) in enumerate(zip(ranking.items[row, :k].tolist(), ranking.scores[row, :k].tolist())):
            if code < 0 or gone[code]:
                continue
            one: dict[str, Any] = {"item": known.names[code], "score": score}
            if known.titles[code] is not None:
                one["title"] = known.titles[code]
            if source is not None:
                one["source"] = str(source[row, place])
                said.add(one["source"])
            if drawn is not None:
                one["propensity"] = float(drawn[row, place])
            items.append(one)
        mine = [
            reason for reason in ranking.reasons if not reason.endswith(SPOKE) or reason.removesuffix(SPOKE) in said
        ]
        return {"items": items, "reasons": mine}

    async def similar(self, model: str | None, item: str, k: int) -> dict:
        """The items most like an item."""
        name, pipeline = self.pipeline(model)
        code = self.items.code(item)
        k = min(k, pipeline.judge.catalogue.n_items)
        ranking = await self._on_thread(pipeline.similar, [code], k)
        return {"model": name, **self._row(ranking, 0, k)}

    async def complete(self, model: str | None, basket: Sequence[str], k: int) -> dict:
        """Items that go with a basket; a model that knows no baskets reads it as a history."""
        name, pipeline = self.pipeline(model)
        codes = self.items.known(basket)
        if not len(codes):
            raise QueryError(f"none of the items of the basket, such as {basket[0]!r}, is in the catalogue.")
        rows = Ragged.from_lengths(codes, np.array([len(codes)]))
        reads = "basket" in pipeline.judge.entry.answers
        query = Query(basket=rows, exclude=rows) if reads else Query(history=rows)
        ranking = await self._on_thread(pipeline.rank, query, min(k, len(self.items)))
        answer = self._row(ranking, 0, k)
        if not reads:
            answer["reasons"].append(f"{pipeline.judge.entry.name} read the basket as a history")
        return {"model": name, **answer}

    async def search(self, model: str | None, text: str, one: Asked | None, k: int, where: str | None) -> dict:
        """Items by words; where somebody asks, those found are put into an order that also follows what they did."""
        name, pipeline = self.pipeline(model)
        return {"model": name, **await self._on_thread(self._search, pipeline, text, one, k, where)}

    def _search(self, pipeline: Pipeline, text: str, one: Asked | None, k: int, where: str | None) -> dict:
        if self._texts is None:
            self._texts = TextIndex(pipeline.catalogue.items)
        scores = self._texts.scores(text)
        scores[self.items.gone[: len(scores)]] = 0
        if where is not None:
            scores = np.where(self.where(pipeline, where), scores, 0)
        scores = np.where(scores > 0, scores, np.float32(-np.inf))
        items, worth = top_k(scores[None], min(max(k, FOUND), len(scores)))
        reasons = () if self._texts.columns else ("the items have no texts: serve them with --data",)
        if one is not None and (one.user >= 0 or len(one.history)):
            found = items[0][items[0] >= 0]
            query = Query(
                user=np.array([one.user], np.int32),
                history=Ragged.from_lengths(one.history, np.array([len(one.history)])),
                candidates=Ragged.from_lengths(found, np.array([len(found)])),
                repeats=True,
            )
            liked = pipeline.rank(query, max(1, len(found))).items
            pool = joined([items, liked], [1.0, 1.0])
            items, worth = pool.items, pool.scores
        return self._row(Ranking(items, worth, None, reasons), 0, k)

    async def explain(self, model: str | None, one: Asked, item: str, k: int) -> dict:
        """Which items of the history a recommendation comes from, and what it shares with them."""
        name, pipeline = self.pipeline(model)
        code = self.items.code(item)
        shares = await self._on_thread(pipeline.shares, one.history, code)
        names, titles = self.items.names, self.items.titles
        because = [{"item": names[c], "title": titles[c], "share": round(share, 4)} for c, share in shares[:k]]
        return {"model": name, "item": item, "because": because, "shared": self._shared(pipeline, one.history, code)}

    def _shared(self, pipeline: Pipeline, history: np.ndarray, code: int) -> dict[str, Any]:
        """The values that an item shares with most of a history, by column, and with how many of its items."""
        table, shared = pipeline.catalogue.items, {}
        own = {name for role in ("title", "text", "image") for name in table.roles.get(role, [])}
        for column in table.names:
            if column in own or not len(history):
                continue
            mine, *theirs = table.column(column).take(pa.array([code, *history[-50:].tolist()])).to_pylist()
            n = sum(value == mine for value in theirs)
            if mine is not None and n:
                shared[column] = {"value": mine, "items": n}
        return shared

    async def _on_thread(self, work: Any, *values: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self.thread, work, *values)

    # Taking events ----------------------------------------------------------------------------------------------

    async def add_events(self, events: Sequence[Event]) -> dict[str, int]:
        """Stores events, and from then on answers by them; says how many were new."""
        new = await asyncio.wrap_future(self.store.add_events(events))
        await self.keep_up()
        strange = sum(event.item not in self.items.codes for event in events)
        return {"accepted": sum(new), "repeated": len(new) - sum(new), "unknown_items": strange}

    def _remember(self, events: Iterable[Event]) -> None:
        for event in events:
            code = self.items.codes.get(event.item)
            if code is not None:
                self.histories.add(event.user, code, event.time)

    def _coded(self, events: Iterable[Event]) -> list[tuple[int, int]]:
        """The item and the time of each event with an item of the catalogue."""
        codes = self.items.codes
        return [(codes[event.item], event.time) for event in events if event.item in codes]

    def _count(self, taken: Sequence[tuple[int, int]]) -> None:
        if taken:
            codes, times = (np.array(column) for column in zip(*taken))
            for pipeline in self.pipelines.values():
                pipeline.took(codes, times)

    async def user(self, user: str) -> dict | None:
        """All that is known of a user; None where nothing is."""
        await asyncio.wrap_future(self.store.flush())
        events, shown = await asyncio.to_thread(self._stored_of, user)
        if not (events or shown or self.histories.knows(user)):
            return None
        _, history = self.histories.of(user)
        return {"user": user, "history": [self.items.names[c] for c in history], "events": events, "impressions": shown}

    def _stored_of(self, user: str) -> tuple[list[dict], list[dict]]:
        events, shown = self.store.events(user=user), self.store.impressions(user=user)
        return [event._asdict() for event in events], [one._asdict() for one in shown]

    async def delete_user(self, user: str) -> dict[str, int]:
        """Forgets a user: events, impressions and history; models at the next refresh."""
        self._asking |= {asking: None for asking, who in self._asking.items() if who == user}  # to be logged for nobody
        self._leaving[digest(user)] = user
        try:
            gone = await asyncio.wrap_future(self.store.delete_user(user))
            await self.keep_up()
        finally:
            self._leaving.pop(digest(user), None)
        return gone

    # Taking items -----------------------------------------------------------------------------------------------

    async def put_items(self, items: Given) -> dict[str, Any]:
        """Stores items and takes them in; they may be listed at once by whatever ranks new items."""
        await self._on_thread(self._checked, items)
        n_known = sum(name in self.items.codes for name in items)
        await asyncio.wrap_future(self.store.put_items(items))
        await self.keep_up()
        n_items, pipelines = len(self.items), self.pipelines.values()
        behind = sorted({role for p in pipelines for role in p.declared if p.parts[role].catalogue.n_items < n_items})
        return {"new": len(items) - n_known, "changed": n_known, "not_ranked_by": behind}

    def _checked(self, items: Given) -> Table:
        return as_table(items, next(iter(self.pipelines.values())).catalogue.items)

    def _take_items(self, items: Given, table: Table) -> None:
        where = np.array([self.items.codes.get(name, -1) for name in items], np.int64)
        old, new = np.flatnonzero(where >= 0), np.flatnonzero(where < 0)
        pipelines = list(self.pipelines.values())
        if len(old):
            changed = replaced(pipelines[0].catalogue.items, where[old], table.take(old))
            for pipeline in pipelines:
                pipeline.describe_items(changed)
                pipeline.open_items(where[old])
        if len(new):
            for pipeline in pipelines:
                pipeline.add_items(table.take(new))
        self.items.take(items, pipelines[0].catalogue.items)
        self._texts = None

    async def delete_items(self, names: Sequence[str]) -> dict[str, int]:
        """Deletes items: no answer names them from now on."""
        await asyncio.wrap_future(self.store.delete_items(names))
        await self.keep_up()
        return {"deleted": len(self.items.known(names))}

    def item(self, name: str) -> dict[str, Any]:
        """The attributes of an item."""
        table = next(iter(self.pipelines.values())).catalogue.items
        return {"item": name, "attributes": self.items.attributes(name, table)}

    def _take_known(self, items: Mapping[str, Mapping[str, Any] | None]) -> None:
        """Brings the catalogue to where the store left it: attributes by item, None for one deleted."""
        kept, deleted = now_of(items)
        codes = self.items.known(deleted)
        self.items.drop(codes)
        for pipeline in self.pipelines.values():
            pipeline.close_items(codes)
        if kept:
            self._take_items(kept, self._checked(kept))

    # Following the store ----------------------------------------------------------------------------------------

    async def keep_up(self) -> None:
        """All that was stored before this, here or by other services, is in the answers after it.

        Raises:
            SaveError: the store cannot be read.
        """
        await self._rounds.next()

    async def _follow(self) -> None:
        changes, users, again = await asyncio.to_thread(self._changes)
        if changes.items:  # first, as events may be of them
            await self._on_thread(self._take_changed, changes.items)
        if coded := self._took(changes, users, again):
            self.thread.submit(self._count, coded)

    def catch_up(self) -> None:
        """The same, where nobody answers by it yet."""
        changes, users, again = self._changes()
        self._take_changed(changes.items)
        self._count(self._took(changes, users, again))

    def _changes(self) -> tuple[Changes, set[str], list[Event]]:
        """What was stored since, who is to be forgotten, and what they did after they were deleted."""
        changes = self.store.changes(self.places)
        users = {user for one in changes.users if (user := self._leaving.get(one)) is not None}
        strange = changes.users - {digest(user) for user in users}
        if strange:  # deleted by another service
            users |= {user for user in self.histories.users() if digest(user) in strange}
        until = changes.places["events"]
        return changes, users, [event for user in users for event in self.store.events(user=user, until=until)]

    def _took(self, changes: Changes, users: set[str], again: list[Event]) -> list[tuple[int, int]]:
        """Brings histories to where the store was; what is to be counted."""
        for user in users:
            self.histories.forget(user)
        self._remember(again)
        self._remember(event for event in changes.events if event.user not in users)
        self.places = changes.places
        return self._coded(changes.events)

    def _take_changed(self, items: Mapping[str, Mapping[str, Any] | None]) -> None:
        try:
            self._take_known(items)
        except ItemicError:  # one does not fit here, as another service has other columns
            for name, attributes in items.items():
                try:
                    self._take_known({name: attributes})
                except ItemicError as error:
                    LOG.warning("item %s of another service is not taken in: %s", name, error)
        except Exception:  # whatever it is, what comes behind them shall not wait for them
            LOG.exception("%d items are not taken in", len(items))


def _alone(name: str) -> PipelineConfig:
    sources = {name: {}, "trending": {"kind": "trending"}}
    return PipelineConfig.model_validate({"sources": sources, "fallback": ["trending"]})


def _drawn(user: str, shares: Mapping[str, float]) -> str:
    """The name that falls to a user, always the same while the shares are.

    >>> names = [_drawn(str(n), {"a": 75, "b": 25}) for n in range(1000)]
    >>> 0.7 < names.count("a") / 1000 < 0.8
    True
    """
    point, bounds = int(digest(user)[:12], 16) / 16**12 * 100, np.cumsum(list(shares.values()))
    return list(shares)[min(int(np.searchsorted(bounds, point, side="right")), len(shares) - 1)]
