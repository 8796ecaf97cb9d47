"""A comparison as one self-contained HTML page with plots."""

from typing import TYPE_CHECKING

import numpy as np

from itemic import metrics as formulas
from itemic.data.html import GRID, INK, chart, figure_svg, page, paragraph, table
from itemic.evaluation.analysis import beyond_accuracy, item_counts, slices

if TYPE_CHECKING:
    from itemic.evaluation.compare import Comparison

CURVES = ("recall", "ndcg")
MEANINGS = (
    "Coverage: share of the catalogue in at least one list. Gini of exposure: 0 when all items are shown equally "
    "often, 1 when one item has all places. Novelty: mean surprise of the items shown. Popularity ratio: above 1, "
    "lists are more mainstream than their users' histories. Diversity: how often two items of a list differ in "
    "category. Miscalibration: how far the categories of the list are from those of the history, 0 for equal."
)


def report(comparison: "Comparison") -> str:
    """The page: table, bars with intervals, curves over the depth, exposure, slices, beyond accuracy, notes."""
    sections = [
        ("Results", table(comparison.columns, comparison.cells()) + _about(comparison)),
        ("Means and 95 % intervals", "".join(_bars(comparison, metric) for metric in comparison.metrics)),
        ("By length of the list", "".join(_curve(comparison, metric) for metric in CURVES)),
        ("Which items are shown", _exposure(comparison)),
        (f"{comparison.metrics[0]} by part", _slices(comparison)),
        ("Beyond accuracy", _beyond(comparison) + paragraph(MEANINGS, quiet=True)),
    ]
    if comparison.notes:
        sections.append(("Notes", "".join(paragraph(note) for note in comparison.notes)))
    return page(f"Comparison on {comparison.dataset.name}", sections, comparison.header)


def _about(comparison: "Comparison") -> str:
    text = "Intervals are bootstrapped over users."
    if comparison.baseline is not None:
        text += f" Tests are paired, against {comparison.baseline}, with Holm's correction for all of them."
    return paragraph(text, quiet=True)


def _bars(comparison: "Comparison", metric: str) -> str:
    rows = list(comparison.rows)[::-1]
    means = np.array([row[metric] for row in rows])
    ends = np.array([row.intervals[metric][1:] for row in rows]).T
    figure, axes = chart(metric, "", height=0.9 + 0.38 * len(rows))
    axes.barh(np.arange(len(rows)), means, xerr=np.abs(ends - means), ecolor=GRID, capsize=3, height=0.6)
    axes.set_yticks(np.arange(len(rows)), [_plain(row.name) for row in rows])
    axes.grid(visible=False, axis="y")
    return figure_svg(figure)


def _curve(comparison: "Comparison", metric: str) -> str:
    depths = np.unique(np.geomspace(1, comparison.depth, 12).round().astype(int))
    figure, axes = chart("k", f"{metric}@k")
    for row in comparison.rows:
        hits = formulas.hits(row.result.lists, comparison.test.relevant)
        axes.plot(depths, [np.nanmean(formulas.METRICS[metric](hits, None, int(k))) for k in depths])
    axes.locator_params(axis="x", integer=True)
    axes.set_ylim(bottom=0)
    _name_lines(axes, [row.name for row in comparison.rows])
    return figure_svg(figure, f"{metric}@k over the length k of the list")


def _exposure(comparison: "Comparison") -> str:
    """How much of all places the most popular items have, beside how much of the train interactions they have."""
    counts = item_counts(comparison.dataset)
    order = np.argsort(-counts, kind="stable")
    points = np.unique(np.geomspace(1, len(order), 200).round().astype(int)) - 1
    figure, axes = chart("share of the items, most popular first", "share of the list places")
    for row in comparison.rows:
        shown = formulas.exposure(row.result.lists, len(counts), comparison.depth)
        axes.plot((points + 1) / len(order), _cumulated(shown[order])[points])
    axes.plot((points + 1) / len(order), _cumulated(counts[order])[points], color=GRID, linestyle="--")
    axes.set_xscale("log")
    _name_lines(axes, [*(row.name for row in comparison.rows), "train interactions"])
    caption = "Places taken by the most popular items; above the dashed line, lists favour what is popular already"
    return figure_svg(figure, caption)


def _slices(comparison: "Comparison") -> str:
    names = [row.name for row in comparison.rows]
    rows = [[part.name, part.n, *(f"{part.values[name]:.4f}" for name in names)] for part in slices(comparison)]
    return table(["part", "users", *names], rows)


def _beyond(comparison: "Comparison") -> str:
    found = beyond_accuracy(comparison)
    measures = list(next(iter(found.values())))
    rows = [
        [name, *("-" if values[m] is None else f"{values[m]:.3f}" for m in measures)] for name, values in found.items()
    ]
    return table(["system", *measures], rows)


def _cumulated(amounts: np.ndarray) -> np.ndarray:
    return np.cumsum(amounts) / max(1, amounts.sum())


def _name_lines(axes, names: list[str]) -> None:
    lines, plain = axes.get_lines(), [_plain(name) for name in names]
    axes.figure.legend(lines, plain, loc="outside right upper", frameon=False, fontsize=9, labelcolor=INK)


def _plain(name: str) -> str:
    """The name with dollar signs that stand for themselves, not for mathematics."""
    return name.replace("$", r"\$")
