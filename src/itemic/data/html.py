"""One self-contained HTML page: sections, tables with aligned numbers, and figures as inline SVG.

Light and dark follow the reader's system; the figures too, because their ink is the colour of the text around them.
"""

import io
import re
from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK = "#16191d"
"""Lines and text of a figure; becomes the text colour of the page."""
GRID = "#8b9199"
COLOURS = ("#2f6fde", "#e0782f", "#2a9d6f", "#b0459c", "#c9a227", "#d1495b", "#3aa6b9", "#7a6552")
"""One a series, readable on light and dark."""

CSS = """
:root { color-scheme: light dark; --ink: #16191d; --quiet: #646b73; --line: #dfe2e6; --paper: #ffffff; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e8eb; --quiet: #9aa2ab; --line: #353a41; --paper: #15181c; }
}
body { margin: 2.5rem auto; max-width: 75rem; padding: 0 1.25rem; background: var(--paper); color: var(--ink);
  font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 1.6rem; margin: 0 0 .2rem; }
h2 { font-size: 1.1rem; margin: 2.2rem 0 .6rem; }
.quiet, figcaption { color: var(--quiet); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .28rem 1.2rem .28rem 0; border-bottom: 1px solid var(--line); text-align: left; white-space: nowrap; }
th { font-weight: 600; }
.number { text-align: right; }
figure { display: inline-block; margin: .6rem 1.5rem .6rem 0; max-width: 100%; vertical-align: top; }
svg { max-width: 100%; height: auto; color: var(--ink); }
svg text { font-family: inherit !important; }
"""

NUMBER = re.compile(r"[-+−<]?\s?[.\d][\d.,e+-]*(\s?%)?|-?|nan")
"""A cell of a column of numbers; a range such as 0.10-0.12 is one too, and a dash stands for none."""


def page(title: str, sections: Iterable[tuple[str, str]], subtitle: str = "") -> str:
    """A whole page: each section is a heading (text) and a body (HTML made by the functions below, or one's own).

    >>> page("Shop", [("Counts", table(["users"], [[3]]))]).count("<h2>Counts</h2>")
    1
    """
    body = "\n".join(f"<section><h2>{escape(heading)}</h2>\n{content}</section>" for heading, content in sections)
    quiet = f'<p class="quiet">{escape(subtitle)}</p>\n' if subtitle else ""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"/>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"/>'
        f"<title>{escape(title)}</title><style>{CSS}</style></head>\n"
        f"<body><h1>{escape(title)}</h1>\n{quiet}{body}\n</body></html>\n"
    )


def paragraph(text: str, quiet: bool = False) -> str:
    """The text, escaped, as a paragraph."""
    attribute = ' class="quiet"' if quiet else ""
    return f"<p{attribute}>{escape(text)}</p>\n"


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """An HTML table; integers get thousands separators, and columns of numbers stand on the right.

    >>> '<td class="number">1,200</td>' in table(["what", "n"], [["rows", 1200]])
    True
    """
    cells = [[f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row] for row in rows]
    columns = list(zip(*cells, strict=True)) or [()] * len(header)
    numeric = [any(column) and all(NUMBER.fullmatch(cell) for cell in column) for column in columns]

    def line(tag: str, row: Sequence[str]) -> str:
        opening = [f'<{tag} class="number">' if number else f"<{tag}>" for number in numeric]
        return "".join(f"{start}{escape(cell)}</{tag}>" for start, cell in zip(opening, row, strict=True))

    body = "\n".join(f"<tr>{line('td', row)}</tr>" for row in cells)
    head = f"<thead><tr>{line('th', header)}</tr></thead>" if any(header) else ""
    return f'<div class="scroll"><table>{head}<tbody>\n{body}\n</tbody></table></div>\n'


def chart(x_label: str, y_label: str, width: float = 5.6, height: float = 3.0) -> "tuple[Figure, Axes]":
    """An empty figure of this size in inches and its axes, in the style of the page."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.set_xlabel(x_label, color=INK)
    axes.set_ylabel(y_label, color=INK)
    axes.set_prop_cycle(color=COLOURS)
    axes.yaxis.set_major_formatter("{x:,.10g}")
    axes.tick_params(colors=INK, labelsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GRID)
    axes.grid(True, color=GRID, alpha=0.25, linewidth=0.6)
    axes.set_axisbelow(True)
    return figure, axes


def figure_svg(figure: "Figure", caption: str = "") -> str:
    """The figure as inline SVG with a caption; equal figures give equal text, and ids never clash."""
    import matplotlib

    buffer = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "itemic"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    svg = buffer.getvalue()
    svg = re.sub(r'<g id="[^"]*"', "<g", svg[svg.index("<svg") :]).replace(INK, "currentColor")
    words = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f"<figure>{svg}{words}</figure>\n"
