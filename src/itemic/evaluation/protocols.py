"""One model on one EvalSet: what is ranked, what is masked, and what comes out per query.

Full ranking of the catalogue is the default. Sampled candidates exist to reproduce papers, and every Result says so.
"""

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from jaxtyping import Bool, Float64, Int32

from itemic import metrics as formulas
from itemic.data import EvalSet, Query, Ragged, Ranking
from itemic.errors import ConfigError
from itemic.model import Model

DEFAULT_METRICS = ("ndcg@10", "recall@20")
AUC = "auc"
"""The metric that is counted over scores of candidates, not over lists."""
NAMED = ("full", "candidates", "held-out", "warm", "cold")
SAMPLED = re.compile(r"sampled-(uniform|popularity):(\d+)")
BLOCK = 1 << 24
"""How many random numbers the drawing of candidates holds at a time."""


class Ranks(Protocol):
    """Whatever answers a Query with a Ranking: any recommender, or a table of lists made elsewhere."""

    def rank(self, query: Query, k: int = 10) -> Ranking:
        """The k best items of each request."""
        ...


@dataclass(frozen=True)
class Result:
    """What one model did on one EvalSet. `result["recall@20"]` is the mean over queries."""

    name: str
    values: dict[str, Float64[np.ndarray, " queries"]]
    """Every metric for every query."""
    lists: Int32[np.ndarray, "queries depth"]
    """The items ranked, as deep as the deepest metric."""
    split: str
    """How the EvalSet came about."""
    protocol: str
    """What was ranked: 'full ranking', or the word sampled with what was drawn."""
    seconds: float
    """For ranking alone, without the metrics."""
    n_skipped: int = 0
    """Users left out because nothing was relevant for them."""

    def __getitem__(self, metric: str) -> float:
        return float(self.values[metric].mean())

    @property
    def n_queries(self) -> int:
        return len(self.lists)

    @property
    def queries_per_second(self) -> float:
        return self.n_queries / max(self.seconds, 1e-9)


def evaluate(
    model: Ranks,
    test: EvalSet,
    metrics: str | Sequence[str] = DEFAULT_METRICS,
    *,
    protocol: str = "full",
    seed: int = 0,
    name: str | None = None,
) -> Result:
    """The metrics of a model on an EvalSet, per query.

    `protocol` says what is ranked:

    - `full`: every item but those of history and exclude.
    - `candidates`: those of test.query.
    - `held-out`: what is relevant to anybody; after a split by items these are the cold ones, among themselves.
    - `warm`, `cold`: items that somebody, or nobody, took in the train part, for those who seek any of them.
    - `sampled-uniform:100`, `sampled-popularity:100`: what is relevant among 100 unseen items, drawn without
      replacement, the second in proportion to how often the histories of the set hold an item.

    Raises:
        ConfigError: an unknown metric or protocol.
        QueryError: the model does not answer such queries.
    """
    names = [metrics] if isinstance(metrics, str) else list(metrics)
    named = [formulas.metric(metric) for metric in names if metric != AUC]
    n_items = _n_items(model, test)
    test = under(protocol, test, n_items, seed)
    deepest = int(test.relevant.lengths.max(initial=1))
    depth = max((metric.k or deepest for metric in named), default=1)
    k = min(depth, n_items) if isinstance(model, Model) else depth
    if isinstance(model, Model):
        model.rank(test.query.block(0, 1), k)  # what is loaded or compiled at the first request is not timed
    start = time.perf_counter()
    lists = model.rank(test.query, k).items
    seconds = time.perf_counter() - start
    lists = np.pad(lists, ((0, 0), (0, depth - lists.shape[1])), constant_values=-1)
    values = formulas.evaluate_lists(
        lists, test.relevant, metrics=[metric.name for metric in named], grades=test.grades
    )
    if AUC in names:
        values[AUC] = _auc(model, test, n_items)
    label = name or getattr(getattr(model, "entry", None), "name", type(model).__name__)
    values = {metric: values[metric] for metric in names}
    return Result(label, values, lists, test.label, label_of(protocol), seconds, test.n_skipped)


def _auc(model: Ranks, test: EvalSet, n_items: int) -> Float64[np.ndarray, " queries"]:
    """The chance that a relevant candidate outscores another one, per query; of the whole catalogue in blocks."""
    score = getattr(model, "score", None)
    if score is None:
        raise ConfigError("'auc' needs the scores of all candidates; these are lists. Leave it out.")
    found, size = [], max(1, BLOCK // (4 * n_items))
    for start in range(0, len(test), size):
        query, relevant = test.query.block(start, start + size), test.relevant.block(start, start + size)
        if not isinstance(query.candidates, Ragged):
            open_ = np.ones((len(query), n_items), dtype=bool)
            masked = query.masked()
            open_[masked.row_of_value, masked.values] = False
            rows, items = np.nonzero(open_)
            query = replace(query, candidates=Ragged.from_pairs(rows, items.astype(np.int32), len(query)))
        assert isinstance(query.candidates, Ragged)
        keys = [rows.row_of_value * n_items + rows.values for rows in (query.candidates, relevant)]
        found.append(formulas.auc(score(query), np.isin(keys[0], keys[1])))
    return np.concatenate(found) if found else np.empty(0)


def under(protocol: str, test: EvalSet, n_items: int, seed: int = 0) -> EvalSet:
    """The same requests with the candidates that the protocol gives them.

    Raises:
        ConfigError: the protocol has another name, or wants candidates where there are none.
    """
    if protocol == "full":
        return test if test.query.candidates is None else replace(test, query=replace(test.query, candidates=None))
    if protocol == "candidates":
        if test.query.candidates is None:
            raise ConfigError("protocol 'candidates' needs an EvalSet whose query has candidates; this one has none.")
        return test
    if protocol == "held-out":
        return replace(test, query=replace(test.query, candidates=np.unique(test.relevant.values)))
    if protocol in ("warm", "cold"):
        if test.unseen is None:
            raise ConfigError(f"protocol '{protocol}' needs to know what was trained on. Use data.test of a split.")
        return _among(test, test.unseen if protocol == "cold" else ~test.unseen)
    check_protocol(protocol)
    sampled = SAMPLED.fullmatch(protocol)
    assert sampled is not None
    history = test.query.history if test.query.history is not None else Ragged.empty(len(test))
    weights = np.ones(n_items)
    if sampled[1] == "popularity":
        weights = np.bincount(history.values, minlength=n_items).astype(np.float64)
    negatives = draw(test.relevant.joined(history), weights, int(sampled[2]), seed)
    return replace(test, query=replace(test.query, candidates=test.relevant.joined(negatives)))


def check_protocol(name: str) -> str:
    """The name, if it is that of a protocol.

    Raises:
        ConfigError: it is not.
    """
    if name not in NAMED and not SAMPLED.fullmatch(name):
        listed = ", ".join([*NAMED, "sampled-uniform:100", "sampled-popularity:100"])
        raise ConfigError(f"there is no protocol '{name}'. Protocols: {listed}.")
    return name


def _among(test: EvalSet, items: Bool[np.ndarray, " items"]) -> EvalSet:
    """The requests for some of these items, with these as candidates."""
    relevant = formulas.only(test.relevant, items)
    rows = np.flatnonzero(relevant.lengths)
    return replace(
        test,
        query=replace(test.query.take(rows), candidates=np.flatnonzero(items).astype(np.int32)),
        relevant=relevant.take(rows),
        grades=None if test.grades is None else test.grades[items[test.relevant.values]],
        n_skipped=test.n_skipped + len(test) - len(rows),
        users=None if test.users is None else test.users[rows],
    )


def label_of(protocol: str) -> str:
    """How tables name a protocol.

    >>> label_of("sampled-uniform:100"), label_of("full")
    ('sampled candidates (100, uniform)', 'full ranking')
    """
    sampled = SAMPLED.fullmatch(protocol)
    if sampled:
        return f"sampled candidates ({sampled[2]}, {sampled[1]})"
    named = {"candidates": "given candidates", "held-out": "held-out items only"}
    return named.get(protocol, f"{protocol} items only" if protocol in ("warm", "cold") else "full ranking")


def draw(taken: Ragged, weights: Float64[np.ndarray, " items"], n: int, seed: int) -> Ragged:
    """n different items a row, none of `taken`, drawn in proportion to `weights`; fewer where fewer are left.

    Successive draws without replacement, as the largest of log(weight) + Gumbel noise (Efraimidis and Spirakis, 2006).
    """
    rng, n_items = np.random.default_rng(seed), len(weights)
    with np.errstate(divide="ignore"):
        log_weights = np.log(weights)
    size, drawn = max(1, BLOCK // n_items), []
    for start in range(0, len(taken), size):
        block = taken.block(start, start + size)
        keys = log_weights + rng.gumbel(size=(len(block), n_items))
        keys[block.row_of_value, block.values] = -np.inf
        best = np.argpartition(-keys, min(n, n_items) - 1, axis=1)[:, :n].astype(np.int32)
        real = np.take_along_axis(keys, best, axis=1) > -np.inf
        drawn.append(Ragged.from_lengths(best[real], real.sum(1)))
    values = np.concatenate([rows.values for rows in drawn]) if drawn else np.empty(0, np.int32)
    return Ragged.from_lengths(values, np.concatenate([rows.lengths for rows in drawn]) if drawn else np.empty(0, int))


def _n_items(model: Ranks, test: EvalSet) -> int:
    catalogue = getattr(model, "catalogue", None)
    known = [test.relevant.values] if test.query.history is None else [test.relevant.values, test.query.history.values]
    return catalogue.n_items if catalogue is not None else int(max(v.max(initial=-1) for v in known)) + 1
