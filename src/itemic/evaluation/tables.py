"""The tables that README and docs show: systems from the registry, results from the files in `results/`.

`python -m itemic.evaluation.tables README.md` brings both up to date between their markers in a file.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

from itemic import registry
from itemic.errors import DataError
from itemic.files import write_text

HEADER = ("system", "data set", "metric", "measured", "published or reference", "ratio", "fit, s")
ALIGNED = ("---", "---", "---", "---:", "---:", "---:", "---:")


def results_table(folder: str | Path = "results", system: str | None = None) -> str:
    """A Markdown table: what each recipe (of one system, or of all) gave beside what was published.

    Raises:
        DataError: the folder holds no results, or one cannot be read.
    """
    found = [f for f in _results(folder) if system is None or f["system"] == system]
    if not found:
        recipe = f"{system or 'ease'} lastfm-lightgcn"
        raise DataError(f"{folder} holds no results of {system or 'any system'}. Make one: itemic reproduce {recipe}")
    rows = [_row(facts) for facts in sorted(found, key=lambda f: (f["dataset"], f["system"], f["variant"] or ""))]
    return _markdown([HEADER, ALIGNED, *rows])


def systems_table(folder: str | Path = "results", link: str = "") -> str:
    """A Markdown table of the registry: what each system needs and answers, and its results with a published number.

    `link` is where the page of a system is, with {} for its name.
    """
    found = _results(folder)
    rows = [("system", "for", "needs", "answers", "cold items", "measured (published)"), ("---",) * 6]
    for name, entry in registry.entries().items():
        best = [_beside(facts) for facts in found if facts["system"] == name and not facts["variant"]]
        shown = f"[{name}]({link.format(name)})" if link else f"`{name}`"
        cold = "yes" if entry.cold_items else "no"
        summary = entry.summary.partition(": ")[2].rstrip(".") or entry.summary
        rows.append((shown, summary, ", ".join(entry.needs), ", ".join(entry.answers), cold, "<br>".join(best)))
    return _markdown(rows)


def write_tables(path: str | Path, folder: str | Path = "results") -> None:
    """Puts both tables between their markers, `<!-- results -->` to `<!-- /results -->` and the same with `systems`.

    Raises:
        DataError: the file has not both markers of either table, or there are no results.
    """
    path = Path(path)
    text, found = path.read_text(), False
    for name, make in (("results", results_table), ("systems", systems_table)):
        start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
        if re.search(f"{start}.*{end}", text, re.DOTALL):
            table, found = f"{start}\n{make(folder)}{end}", True
            text = re.sub(f"{start}.*?{end}", lambda _, table=table: table, text, flags=re.DOTALL)
    if not found:
        raise DataError(
            f"{path} has no lines <!-- results --> and <!-- /results -->. Put them where the table belongs."
        )
    write_text(path, text)


def _results(folder: str | Path) -> list[dict[str, Any]]:
    return [_read(path) for path in sorted(Path(folder).glob("*.json"))]


def _read(path: Path) -> dict[str, Any]:
    try:
        facts = json.loads(path.read_text())
        return {key: facts[key] for key in ("system", "dataset", "variant", "metrics", "seconds", "protocol")}
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is not a result: {error}. Make it again with itemic reproduce.") from error


def _row(facts: dict[str, Any]) -> tuple[str, ...]:
    metrics = facts["metrics"].values()
    where = facts["dataset"] + (f", {facts['variant']}" if facts["variant"] else "")
    sampled = f" ({facts['protocol']})" if "sampled" in facts["protocol"] else ""
    measured = [f"{m['value']:.4f}" for m in metrics]
    published = [f"{m['published']:.4f}" if m["published"] is not None else "–" for m in metrics]
    ratio = [f"{m['value'] / m['published']:.3f}" if m["published"] else "–" for m in metrics]
    columns = [" / ".join(cells) for cells in (facts["metrics"], measured, published, ratio)]
    return (facts["system"], where + sampled, *columns, f"{facts['seconds']:.1f}")


def _beside(facts: dict[str, Any]) -> str:
    """The first metric of a result: `gowalla-ngcf recall@20 0.1765 (0.1765)`."""
    name, metric = next(iter(facts["metrics"].items()))
    published = f"{metric['published']:.4f}" if metric["published"] is not None else "none"
    return f"{facts['dataset']} {name} {metric['value']:.4f} ({published})"


def _markdown(rows: list[tuple[str, ...]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


if __name__ == "__main__":
    for named in sys.argv[1:]:
        write_tables(named)
