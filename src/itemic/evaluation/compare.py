"""Several models on one test set, in one table: means with intervals, paired tests against the best baseline, costs.

Baselines that everybody should beat are added where they are missing; a model that has seen the test part is refused.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from itemic import metrics as formulas
from itemic import registry
from itemic.data import Dataset, EvalSet
from itemic.errors import ConfigError, DataError, LoadError, SaveError
from itemic.evaluation.leaks import check_catalogue, check_fitted_on
from itemic.evaluation.protocols import DEFAULT_METRICS, Ranks, Result, evaluate
from itemic.evaluation.recommendations import GivenLists, read_recommendations
from itemic.evaluation.significance import Interval, holm, intervals, paired_test
from itemic.files import write_text
from itemic.model import load
from itemic.progress import track
from itemic.systems.base import Recommender

FAMILY = "baselines"
FEW_ITEMS = 20_000
ALWAYS, SMALL, LARGE = "popularity", "ease", "itemknn"
"""The systems that no comparison goes without: the first, and by the number of items one of the others."""

Entrant = Recommender | str | Path
"""A fitted model, the folder of a saved one, or a file of recommendations."""


class Against(NamedTuple):
    """A system beside the best baseline, in one metric."""

    difference: float
    relative: float | None
    """Of the baseline's mean; None where that is 0."""
    p: float
    """After Holm's correction for all tests of the comparison."""


@dataclass(frozen=True)
class Row:
    """What one system did. `row["recall@20"]` is its mean."""

    name: str
    system: str
    """Its name in the registry; that of the file for lists made elsewhere."""
    result: Result
    intervals: Mapping[str, Interval]
    coverage: float
    """Share of the catalogue that is in at least one list."""
    fit_seconds: float | None
    """None for lists made elsewhere."""
    is_baseline: bool
    against: Mapping[str, Against] = field(default_factory=dict)
    """By metric; empty for the best baseline itself."""

    def __getitem__(self, metric: str) -> float:
        return self.result[metric]

    @property
    def queries_per_second(self) -> float | None:
        return None if self.fit_seconds is None else self.result.queries_per_second


@dataclass(frozen=True)
class Comparison:
    """Rows in the order of the first metric, best first. `comparison["ease"]["recall@20"]` is one mean."""

    rows: Sequence[Row]
    metrics: Sequence[str]
    dataset: Dataset
    test: EvalSet
    baseline: str | None
    """Name of the best baseline by the first metric, against which the others are tested."""
    notes: Sequence[str] = ()
    """What a reader should know: which baselines were added, users without a list."""

    def __getitem__(self, name: str) -> Row:
        return next(row for row in self.rows if row.name == name)

    @property
    def depth(self) -> int:
        """How long the lists are."""
        return self.rows[0].result.lists.shape[1]

    @property
    def header(self) -> str:
        """On what and how was measured, in one line."""
        result = self.rows[0].result
        skipped = f", {self.test.n_skipped:,} skipped (nothing to find)" if self.test.n_skipped else ""
        return f"{self.dataset.name}: split {result.split}; {result.protocol}; {len(self.test):,} users{skipped}"

    @property
    def columns(self) -> list[str]:
        """The header of the table."""
        first, *others = self.metrics
        costs = [f"coverage@{self.depth}", "fit, s", "queries/s"]
        return ["system", first, "95% interval", *others, *costs, *(["against best baseline"] if self.baseline else [])]

    def cells(self) -> list[list[str]]:
        """The table as text, a row a system."""
        return [self._cells(row) for row in self.rows]

    def to_text(self) -> list[str]:
        """The lines of the table under its header."""
        return [self.header, *_aligned([self.columns, *self.cells()])]

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values, for JSON."""
        from itemic.evaluation.analysis import beyond_accuracy, slices

        beyond = beyond_accuracy(self)
        result = self.rows[0].result
        return {
            "dataset": self.dataset.name,
            "split": result.split,
            "protocol": result.protocol,
            "queries": len(self.test),
            "skipped": self.test.n_skipped,
            "baseline": self.baseline,
            "systems": [
                {
                    "name": row.name,
                    "system": row.system,
                    "is_baseline": row.is_baseline,
                    "metrics": {
                        metric: row.intervals[metric]._asdict()
                        | {"against": row.against[metric]._asdict() if row.against else None}
                        for metric in self.metrics
                    },
                    f"coverage@{self.depth}": row.coverage,
                    "fit_seconds": row.fit_seconds,
                    "queries_per_second": row.queries_per_second,
                    "beyond_accuracy": beyond[row.name],
                }
                for row in self.rows
            ],
            "slices": [part._asdict() for part in slices(self)],
            "notes": list(self.notes),
        }

    def to_html(self, path: str | Path) -> Path:
        """Writes a report with plots, one self-contained page.

        Raises:
            SaveError: it cannot be written there.
        """
        from itemic.evaluation.report import report

        write_text(path, report(self))
        return Path(path)

    def _cells(self, row: Row) -> list[str]:
        first, *others = self.metrics
        low, high = row.intervals[first].low, row.intervals[first].high
        scores = [f"{row[first]:.4f}", f"{low:.4f}-{high:.4f}", *(f"{row[metric]:.4f}" for metric in others)]
        fit = "-" if row.fit_seconds is None else f"{row.fit_seconds:.2f}"
        speed = "-" if row.queries_per_second is None else f"{row.queries_per_second:,.0f}"
        cells = [row.name, *scores, f"{100 * row.coverage:.1f} %", fit, speed]
        if self.baseline is None:
            return cells
        return [*cells, "best baseline" if row.name == self.baseline else _tested(row.against.get(first))]


def compare(
    models: "Sequence[Entrant] | Mapping[str, Entrant]",
    dataset: Dataset,
    metrics: str | Sequence[str] = DEFAULT_METRICS,
    *,
    protocol: str = "full",
    part: str = "test",
    test: EvalSet | None = None,
    baselines: bool = True,
    resamples: int = 1000,
    seed: int = 0,
) -> Comparison:
    """Models, saved ones and files of recommendations on the test part of a dataset's split.

    Popularity, and EASE up to 20,000 items (else item-kNN), are fitted on the train part and added, unless they are
    among the models or `baselines` is false; with a dataset in a folder they are kept there. `part` may be "valid",
    and `test` an EvalSet of one's own. Models are loaded one after the other, and only lists are kept of each.

    Raises:
        LeakError: a model was fitted on what it should find.
        DataError: a model knows other items, or a file cannot be read.
        ConfigError: an unknown metric, protocol or part.
    """
    if part not in ("test", "valid"):
        raise ConfigError(f"there is no part '{part}' to compare on. Parts: test, valid.")
    names = [formulas.metric(metric).name for metric in ([metrics] if isinstance(metrics, str) else metrics)]
    if not names:
        raise ConfigError("a comparison needs a metric, such as ndcg@10.")
    test = test if test is not None else (dataset.test if part == "test" else dataset.valid)
    notes: list[str] = []

    def row(ranks: Ranks, label: str, name: str | None = None) -> Row:
        result = evaluate(ranks, _in_codes_of(ranks, test, dataset), names, protocol=protocol, seed=seed, name=label)
        return _row(result, name or result.name, ranks, dataset, resamples)

    rows, labels = [], []
    given = models if isinstance(models, Mapping) else dict(enumerate(models, 1))
    for key, entrant in track(given.items(), "compare", len(given)):
        ranks, label = _opened(entrant, key, dataset, test, notes)
        if isinstance(ranks, Recommender):
            check_catalogue(ranks, dataset, label)
            check_fitted_on(ranks, dataset, test, label, part)
        default = ranks.entry.name if isinstance(ranks, Recommender) else Path(label).name
        rows.append(row(ranks, default, key if isinstance(key, str) else None))
        labels.append(label)
    rows = _told_apart(rows, labels)
    if baselines:
        for name in (ALWAYS, SMALL if dataset.n_items <= FEW_ITEMS else LARGE):
            if name not in [r.system for r in rows]:
                rows.append(row(_baseline(name, dataset, notes), name))
    rows.sort(key=lambda r: -r[names[0]])
    best = next((r for r in rows if r.is_baseline), None)
    return Comparison(_tests(rows, best, names), names, dataset, test, best.name if best else None, notes)


def _opened(entrant: Entrant, key: "str | int", dataset: Dataset, test: EvalSet, notes: list[str]) -> tuple[Ranks, str]:
    """What answers, and what messages call it."""
    if not isinstance(entrant, str | Path):
        return entrant, str(key) if isinstance(key, str) else f"{entrant.entry.name} (model {key})"
    path = Path(entrant)
    if not path.is_file():
        return load(path), str(path)
    if test.users is None:
        raise DataError(f"{path} names users, and this test set does not say who asks. Give EvalSet(users=...).")
    lists = read_recommendations(path, dataset)
    n_missing = int((lists.lists.lengths[test.users] == 0).sum())
    if n_missing:
        notes.append(f"{path} has no list for {n_missing:,} of {len(test):,} users; theirs count as empty.")
    return lists, str(path)


def _in_codes_of(ranks: Ranks, test: EvalSet, dataset: Dataset) -> EvalSet:
    """The same requests with users in the codes of the model, which may know other users; files know them all."""
    if isinstance(ranks, GivenLists):
        return replace(test, query=replace(test.query, user=test.users))
    if not isinstance(ranks, Recommender) or test.query.user is None or ranks.catalogue.users.ids == dataset.users.ids:
        return test
    known = test.query.user >= 0
    user = np.full(len(test), -1, np.int32)
    user[known] = ranks.catalogue.users.ids.codes(dataset.users.ids.external(test.query.user[known]))
    return replace(test, query=replace(test.query, user=user))


def _row(result: Result, name: str, ranks: Ranks, dataset: Dataset, resamples: int) -> Row:
    fitted = isinstance(ranks, Recommender)
    return Row(
        name,
        result.name,
        result,
        intervals(result.values, resamples=resamples),
        formulas.coverage(result.lists, dataset.n_items, result.lists.shape[1]),
        ranks.fitted_on.get("seconds", 0.0) if fitted else None,
        is_baseline=fitted and ranks.entry.family == FAMILY,
    )


def _told_apart(rows: list[Row], labels: list[str]) -> list[Row]:
    """The rows with the place of each model behind its name where two have the same."""
    times = Counter(row.name for row in rows)
    return [
        replace(row, name=f"{row.name} ({label})") if times[row.name] > 1 else row for row, label in zip(rows, labels)
    ]


def _baseline(name: str, dataset: Dataset, notes: list[str]) -> Recommender:
    """The system with its default options, fitted on the train part, or as kept from the last time."""
    known, train = registry.find(name), dataset.train
    place = dataset.path and dataset.path / "cache" / f"{name}-{train.fingerprint[:16]}"
    if place and place.is_dir():
        try:
            kept = known.load(place)
            if kept.config == known().config and kept.fitted_on["train_fingerprint"] == train.fingerprint:
                notes.append(f"{name} added as a baseline, kept from before in {place}.")
                return kept
        except LoadError:
            notes.append(f"{place} could not be read and is made again.")
    model = known().fit(train)
    said = f"{name} added as a baseline, fitted on the train part in {model.fitted_on['seconds']:.2f} s"
    if place:
        try:
            model.save(place, histories=False)
            said += f" and kept in {place}"
        except SaveError as error:
            said += f"; not kept: {error}".rstrip(".")
    notes.append(said + ".")
    return model


def _tests(rows: list[Row], best: Row | None, metrics: Sequence[str]) -> list[Row]:
    """The rows with a paired test of each against the best baseline in every metric."""
    if best is None or best.result.n_queries < 2:
        return rows
    tested = [(row, metric) for row in rows if row is not best for metric in metrics]
    found = [paired_test(row.result.values[metric], best.result.values[metric]) for row, metric in tested]
    corrected = holm(np.array([difference.p for difference in found]))
    against: dict[str, dict[str, Against]] = {}
    for (row, metric), difference, p in zip(tested, found, corrected):
        relative = difference.mean / best[metric] if best[metric] else None
        against.setdefault(row.name, {})[metric] = Against(difference.mean, relative, float(p))
    return [replace(row, against=against.get(row.name, {})) for row in rows]


def _tested(against: Against | None) -> str:
    if against is None:
        return "-"
    change = f"{against.difference:+.4f}" if against.relative is None else f"{100 * against.relative:+.1f} %"
    return f"{change}  p {'< 0.001' if against.p < 0.001 else f'= {against.p:.3f}'}"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as lines: the first column on the left, numbers on the right, the last column on the left again."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    last = len(widths) - 1 if rows[0][-1].startswith("against") else None
    return [
        "   ".join(
            cell.ljust(width) if column in (0, last) else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths))
        ).rstrip()
        for row in rows
    ]
