"""A diagnosis of codes as one self-contained HTML page: tables, a heat map of levels, a tree of prefixes."""

from html import escape
from typing import Any

import numpy as np
from jaxtyping import Int32, Int64

from itemic.data import Table
from itemic.data.html import GRID, INK, chart, figure_svg, page, paragraph, table
from itemic.tokenizers.base import ItemTokenizer
from itemic.tokenizers.collisions import groups
from itemic.tokenizers.diagnostics import Diagnosis

COLUMNS = 256
"""Columns of the heat map, at most."""
BRANCHES = (24, 8, 6)
"""How many of the largest prefixes of each length the tree shows."""
TITLES, HINTS = 8, 3
"""How many items it names of each: opened, and closed."""
MEANINGS = (
    "Used: codes that some item has. Entropy: in bits, of the most there can be. Largest: share of the items with the "
    "most frequent code. Prefixes: different beginnings of this length; most: items of the most frequent one. "
    "Unexplained: share of the variance of the vectors that these beginnings leave over. Purity: share of the items "
    "whose category is the commonest of their prefix, beside what it would be by chance."
)
TREE_CSS = (
    "<style>details { margin-left: 1.2rem; } summary { cursor: pointer; } "
    ".tree p { margin: .1rem 0 .3rem 2.4rem; }</style>"
)


def report(found: Diagnosis, model: ItemTokenizer[Any, Any], items: Table) -> str:
    """The page of a diagnosis."""
    sections = [
        ("Levels", table(found.columns(), found.cells()) + paragraph(MEANINGS, quiet=True)),
        ("In words", "".join(paragraph(line) for line in found.notes())),
        ("How codes are used", _heat(model.codes, model.sizes)),
        ("By depth", _curves(found)),
        ("Tree of prefixes", _tree(model.codes[:, : len(model.content_sizes)], items)),
    ]
    subtitle = f"{found.tokenizer}: {found.items:,} items, {len(found.levels)} codes each"
    return page(f"Codes of {model.catalogue.name}", sections, subtitle)


def _heat(codes: Int32[np.ndarray, "items levels"], sizes: tuple[int, ...]) -> str:
    """A row for each level, its codes from the most to the least frequent, the darker the more items have it."""
    width = min(COLUMNS, max(sizes))
    shown = np.full((len(sizes), width), np.nan)
    for level, size in enumerate(sizes):
        counts = np.bincount(codes[codes[:, level] >= 0, level], minlength=size)
        even = np.sort(counts)[::-1] * size / counts.sum()
        parts = np.array_split(even, min(width, size))
        shown[level, : len(parts)] = [part.mean() for part in parts]
    figure, axes = chart("codes, most frequent first", "level", width=9.0, height=0.9 + 0.35 * len(sizes))
    image = axes.imshow(np.log2(shown + 2**-4), aspect="auto", cmap="Blues", vmin=-4, vmax=4, interpolation="none")
    axes.set_yticks(np.arange(len(sizes)), [str(level + 1) for level in range(len(sizes))])
    axes.grid(visible=False)
    bar = figure.colorbar(image, ax=axes, ticks=[-4, 0, 4])
    bar.ax.set_yticklabels(["none", "even", "16 x"], color=INK, fontsize=9)
    bar.outline.set_edgecolor(GRID)  # pyright: ignore[reportCallIssue]
    return figure_svg(figure, "How often each code is used, beside all being used alike")


def _curves(found: Diagnosis) -> str:
    made = []
    left = [level.unexplained for level in found.levels if level.unexplained is not None]
    figure, axes = chart("levels known", "unexplained")
    axes.plot(np.arange(len(left) + 1), [1.0, *left], marker="o")
    axes.set_ylim(bottom=0)
    axes.locator_params(axis="x", integer=True)
    made.append(figure_svg(figure, "Share of the variance of the vectors that is left over"))
    purity = np.array([[level.purity, level.chance] for level in found.levels if level.purity is not None], float)
    if len(purity):
        figure, axes = chart("levels known", f"purity by {found.category}")
        axes.plot(np.arange(1, len(purity) + 1), purity[:, 0], marker="o")
        axes.plot(np.arange(1, len(purity) + 1), purity[:, 1], color=GRID, linestyle="--")
        axes.set_ylim(0, 1.02)
        axes.locator_params(axis="x", integer=True)
        made.append(figure_svg(figure, "Items whose category is the commonest of their prefix; dashed: by chance"))
    return "".join(made)


def _tree(codes: Int32[np.ndarray, "items levels"], items: Table) -> str:
    there = np.flatnonzero(codes[:, 0] >= 0)
    text = "The largest prefixes, and some of the items of each; a click opens one."
    return TREE_CSS + paragraph(text, quiet=True) + f'<div class="tree">{_branches(codes, there, items, 0)}</div>'


def _branches(
    codes: Int32[np.ndarray, "items levels"], rows: Int64[np.ndarray, " some"], items: Table, depth: int
) -> str:
    if depth == min(len(BRANCHES), codes.shape[1]):
        return ""
    by_size = sorted(groups(codes[rows, depth].astype(np.int64)), key=lambda group: -len(group[1]))
    made = []
    for _, members in by_size[: BRANCHES[depth]]:
        inside = rows[members]
        code = "-".join(map(str, codes[inside[0], : depth + 1].tolist()))
        named = [title or str(n) for n, title in zip(inside[:TITLES], items.titles(inside[:TITLES]))]
        below = _branches(codes, inside, items, depth + 1) if len(inside) > 1 else ""
        more = f" and {len(inside) - len(named):,} more" if len(inside) > len(named) else ""
        made.append(
            f"<details><summary>{code} <span class=quiet>{len(inside):,}: {escape(' · '.join(named[:HINTS]))}</span>"
            f"</summary><p>{escape(' · '.join(named))}{more}</p>{below}</details>"
        )
    if len(by_size) > BRANCHES[depth]:
        made.append(f'<p class="quiet">and {len(by_size) - BRANCHES[depth]:,} smaller ones</p>')
    return "".join(made)
