"""What a dataset holds, in numbers: sizes, popularity, history lengths, time span, repeats, missing text, the split."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
from jaxtyping import Int64

from itemic.data.dataset import TEST, TEST_HISTORY, TRAIN, UNUSED, VALID, VALID_HISTORY, Dataset
from itemic.data.dialogues import Dialogues
from itemic.data.filters import iso
from itemic.data.html import chart, figure_svg, page, table
from itemic.data.interactions import Interactions
from itemic.data.table import Table
from itemic.files import write_text

pc: Any = pyarrow.compute  # its functions are made at import, out of a type checker's sight
PART_NAMES = {
    TRAIN: "train",
    VALID: "validation",
    TEST: "test",
    VALID_HISTORY: "history for validation",
    TEST_HISTORY: "history for test",
    UNUSED: "unused",
}
TIME_BINS = 40
DAY = 86_400_000


@dataclass(frozen=True)
class Description:
    """The numbers; `facts` puts them into words, for the terminal and for the page."""

    name: str
    n_users: int
    n_items: int
    n_interactions: int
    n_pairs: int
    """Different (user, item)."""
    density: float
    """Share of all possible (user, item) that occur."""
    n_users_without: int
    """Users without an interaction."""
    n_items_without: int
    gini: float
    """Of the interactions of the items: 0 when all have equally many, towards 1 when one has all."""
    popularity: list[float]
    """Share of the interactions that the most popular 0, 1, ..., 100 percent of the items have."""
    history: Mapping[str, float]
    """Interactions of a user, over users who have any: mean, min, p5, p25, median, p75, p95, max."""
    history_histogram: Mapping[str, int]
    """Users with 1, 2-3, 4-7, ... interactions."""
    time: Mapping[str, Any] | None
    """first, last, days; starts and counts of the interactions in 40 equal stretches of time."""
    repeats: bool
    """Whether the dataset declares that taking an item again counts."""
    n_repeats: int
    """Interactions whose user has another, earlier one with the item."""
    n_duplicates: int
    """Those of them that also have the same time and kind as another; none where order stands in for the time."""
    kinds: Mapping[str, int]
    n_sessions: int | None
    dialogues: Mapping[str, int] | None
    """dialogues, turns, mentions, recommendations, and how many of the mentions are known to be liked and not liked."""
    missing: Mapping[str, int]
    """Items without a value, by column, for the columns with a role (title, text, image)."""
    split: Mapping[str, Any] | None
    """label, and for each part its interactions, users and items."""

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, texts, lists and dicts, ready for JSON."""
        return asdict(self)

    @property
    def facts(self) -> list[tuple[str, str]]:
        """What there is to say, as pairs of a name and a text."""
        top = ", ".join(f"{p} % have {_percent(self.popularity[p])}" for p in (1, 10, 50))
        length = self.history
        declared = "declared as new wishes" if self.repeats else "not declared as new wishes"
        facts = [
            ("users", f"{self.n_users:,} ({self.n_users_without:,} without interactions)"),
            ("items", f"{self.n_items:,} ({self.n_items_without:,} without interactions)"),
            ("interactions", f"{self.n_interactions:,} ({self.n_pairs:,} different pairs)"),
            ("density", _percent(self.density)),
            ("history", f"median {length['median']:g}, mean {length['mean']:.1f}, longest {length['max']:,.0f}"),
            ("popularity", f"Gini {self.gini:.3f}; of the interactions, the top {top}"),
            ("repeats", f"{self.n_repeats:,}, {declared} (exact duplicates: {self.n_duplicates:,})"),
        ]
        if self.time:
            facts.append(("time", f"{self.time['first']} to {self.time['last']}, {self.time['days']:,.1f} days"))
        if self.kinds:
            facts.append(("kinds", ", ".join(f"{name} {count:,}" for name, count in self.kinds.items())))
        if self.n_sessions is not None:
            facts.append(("sessions", f"{self.n_sessions:,}"))
        if self.dialogues:
            talk = self.dialogues
            said = talk["liked"] + talk["not_liked"]
            liked = f"; {_percent(talk['liked'] / said)} of {said:,} were liked" if said else ""
            counts = ", ".join(f"{talk[name]:,} {name}" for name in ("turns", "mentions", "recommendations"))
            facts.append(("dialogues", f"{talk['dialogues']:,} ({counts}{liked})"))
        if self.missing:
            facts.append(("missing", ", ".join(f"{name} {count:,}" for name, count in self.missing.items())))
        if self.split:
            facts.append(("split", self.split["label"]))
            for name, sizes in self.split["parts"].items():
                facts.append((f"  {name}", ", ".join(f"{count:,} {what}" for what, count in sizes.items())))
        return facts

    def to_text(self) -> str:
        """Aligned lines for a terminal."""
        width = max(len(what) for what, _ in self.facts)
        return "\n".join([self.name, *(f"  {what:<{width}}  {text}" for what, text in self.facts)])

    def to_html(self, path: str | Path) -> None:
        """Writes a page of its own with the facts and plots."""
        sections = [("Numbers", table(["", ""], self.facts)), ("Popularity and histories", self._plots())]
        if self.time:
            sections.append(("Over time", self._time_plot()))
        write_text(Path(path), page(self.name, sections, subtitle="A description of the dataset"))

    def _plots(self) -> str:
        popularity, axes = chart("most popular items, percent", "share of interactions")
        axes.plot(np.arange(101), self.popularity)
        axes.plot([0, 100], [0, 1], color="#8b9199", linewidth=0.8, linestyle="--")
        lengths, bars = chart("interactions of a user", "users")
        bars.bar(list(self.history_histogram), list(self.history_histogram.values()))
        bars.tick_params(axis="x", rotation=45)
        return figure_svg(popularity, f"Gini {self.gini:.3f}; dashed: all items alike") + figure_svg(
            lengths, f"Median {self.history['median']:g}"
        )

    def _time_plot(self) -> str:
        assert self.time is not None
        figure, axes = chart("time", "interactions", width=9)
        starts = np.array(self.time["starts"], "datetime64[s]")
        axes.bar(starts, self.time["counts"], width=np.diff(starts)[:1], align="edge")
        axes.set_ylim(bottom=0)
        return figure_svg(figure, f"{self.time['first']} to {self.time['last']}")


def describe(dataset: Dataset) -> Description:
    """The numbers of a dataset; needs a sort of the interactions, a few seconds for tens of millions.

    >>> data = Dataset.from_frame({"user": ["u", "u", "v"], "item": ["a", "b", "b"]}, name="shop")
    >>> print("\\n".join(describe(data).to_text().splitlines()[:5]))
    shop
      users         2 (0 without interactions)
      items         2 (0 without interactions)
      interactions  3 (3 different pairs)
      density       75 %
    """
    log = dataset.interactions
    lengths = np.diff(log.offsets)
    counts = np.bincount(log.item, minlength=dataset.n_items)
    n_repeats, n_duplicates = _repeats(log)
    if dataset.ordered and log.time is None:
        n_duplicates = 0
    n_pairs = len(log) - n_repeats
    return Description(
        name=dataset.name,
        n_users=dataset.n_users,
        n_items=dataset.n_items,
        n_interactions=len(log),
        n_pairs=n_pairs,
        density=n_pairs / max(dataset.n_users * dataset.n_items, 1),
        n_users_without=int((lengths == 0).sum()),
        n_items_without=int((counts == 0).sum()),
        gini=gini(counts),
        popularity=popularity(counts).tolist(),
        history=_quantiles(lengths[lengths > 0]),
        history_histogram=_doubling(lengths[lengths > 0]),
        time=_span(log.time) if log.time is not None and len(log) else None,
        repeats=dataset.repeats,
        n_repeats=n_repeats,
        n_duplicates=n_duplicates,
        kinds={} if log.kind is None else _named_counts(log),
        n_sessions=None if log.session is None else _n_sessions(log),
        dialogues=_dialogues(dataset.dialogues) if "dialogues" in dataset.extras else None,
        missing=_missing(dataset.items),
        split=_split(dataset),
    )


def gini(counts: Int64[np.ndarray, " n"]) -> float:
    """How unequal counts are: 0 when all are the same, (n - 1) / n when one has everything, 0 when there is nothing.

    >>> gini(np.array([0, 0, 0, 8])), gini(np.array([2, 2]))
    (0.75, 0.0)
    """
    n, total = len(counts), counts.sum()
    if not total:
        return 0.0
    rank = np.arange(1, n + 1)
    return float((2 * rank - n - 1) @ np.sort(counts) / (n * total))


def popularity(counts: Int64[np.ndarray, " items"]) -> np.ndarray:
    """The share of all counts that the largest 0, 1, ..., 100 percent of them have; between items it is interpolated.

    >>> popularity(np.array([1, 3]))[[0, 25, 50, 100]].tolist()
    [0.0, 0.375, 0.75, 1.0]
    """
    total = counts.sum()
    if not total:
        return np.zeros(101)
    share = np.concatenate([[0], np.cumsum(np.sort(counts)[::-1])]) / total
    return np.interp(np.arange(101), np.arange(len(share)) * 100 / len(counts), share)


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _quantiles(lengths: Int64[np.ndarray, " users"]) -> dict[str, float]:
    if not len(lengths):
        return dict.fromkeys(("mean", "min", "p5", "p25", "median", "p75", "p95", "max"), 0.0)
    names = {"min": 0, "p5": 5, "p25": 25, "median": 50, "p75": 75, "p95": 95, "max": 100}
    values = np.percentile(lengths, list(names.values()))
    return {"mean": float(lengths.mean())} | dict(zip(names, values.tolist(), strict=True))


def _doubling(lengths: Int64[np.ndarray, " users"]) -> dict[str, int]:
    """How many lengths are 1, 2-3, 4-7, ..."""
    exponent = np.frexp(lengths)[1] - 1
    return {"1" if e == 0 else f"{1 << e}-{(2 << e) - 1}": int(count) for e, count in enumerate(np.bincount(exponent))}


def _span(time: Int64[np.ndarray, " rows"]) -> dict[str, Any]:
    first, last = int(time.min()), int(time.max())
    counts, edges = np.histogram(time, TIME_BINS, (first, max(last, first + 1)))
    starts = [str(np.datetime64(int(edge), "ms").astype("datetime64[s]")) for edge in edges[:-1]]
    return {
        "first": iso(first),
        "last": iso(last),
        "days": (last - first) / DAY,
        "starts": starts,
        "counts": counts.tolist(),
    }


def _repeats(log: Interactions) -> tuple[int, int]:
    """Rows whose (user, item) occurred before, and those that moreover have the time and kind of another."""
    pair = log.user.astype(np.int64) * log.n_items + log.item
    order = np.argsort(pair, kind="stable")
    same = np.diff(pair[order]) == 0
    several = order[np.append(same, False) | np.append(False, same)] if len(log) else order
    facts = [pair, *(column for column in (log.time, log.kind) if column is not None)]
    distinct = np.unique(np.stack([fact[several] for fact in facts], axis=1), axis=0)
    return int(same.sum()), len(several) - len(distinct)


def _named_counts(log: Interactions) -> dict[str, int]:
    assert log.kind is not None
    counts = np.bincount(log.kind, minlength=len(log.kinds)).tolist()
    return dict(zip(log.kinds, counts, strict=True))


def _n_sessions(log: Interactions) -> int:
    """Different (user, session)."""
    assert log.session is not None
    return len(np.unique((log.user.astype(np.int64) << 32) + log.session))


def _dialogues(talk: Dialogues) -> dict[str, int]:
    turns = talk.turns
    return {
        "dialogues": len(talk),
        "turns": len(turns),
        "mentions": len(turns.liked),
        "recommendations": int(turns.recommended.sum()),
        "liked": int((turns.liked == 1).sum()),
        "not_liked": int((turns.liked == 0).sum()),
    }


def _missing(items: Table) -> dict[str, int]:
    """How many items have nothing in each column that has a role: null, or blank text."""
    named = dict.fromkeys(name for names in items.roles.values() for name in names)
    return {name: _n_blank(items.column(name)) for name in named}


def _n_blank(column: pa.ChunkedArray) -> int:
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        return column.null_count
    blank = pc.equal(pc.utf8_trim_whitespace(column), "")
    return column.null_count + (pc.sum(blank).as_py() or 0)


def _split(dataset: Dataset) -> dict[str, Any] | None:
    if dataset.split is None:
        return None
    log, part = dataset.interactions, dataset.split.part
    parts = {}
    for code, name in PART_NAMES.items():
        rows = part == code
        if rows.any():
            users, items = (int((np.bincount(column[rows]) > 0).sum()) for column in (log.user, log.item))
            parts[name] = {"interactions": int(rows.sum()), "users": users, "items": items}
    return {"label": dataset.split.label, "parts": parts}
