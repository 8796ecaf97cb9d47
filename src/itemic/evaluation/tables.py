"""The tables that README and docs show: systems from the registry, results from the files in `results/`.

`python -m itemic.evaluation.tables README.md` brings both up to date between their markers in a file.
"""

import json
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from itemic import registry
from itemic.errors import DataError
from itemic.files import write_text

MARKED = re.compile(
    r"<!-- (results|systems|(?:variants|protocols|settings) [\w-]+ [\w-]+|[\w-]+ [a-z]+) -->.*?<!-- /\1 -->", re.DOTALL
)
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


def standing(dataset: str, split: str, folder: str | Path = "results") -> str:
    """A Markdown table of all systems measured on one split of a data set, each at its best, the best one first.

    `split` is how the data were divided: official, random, last, time.

    Raises:
        DataError: nothing was measured there.
    """
    best: dict[str, dict[str, Any]] = {}
    for facts in _results(folder):
        if (facts["dataset"], facts["split"].partition(",")[0]) == (dataset, split) and _value(facts) > _value(
            best.get(facts["system"], {})
        ):
            best[facts["system"]] = facts
    if not best:
        raise DataError(f"{folder} holds no results on {dataset}, split {split}. Make one: itemic reproduce")
    shown = {
        f"`{name}`" + (f", {facts['variant']}" if facts["variant"] not in (None, split) else ""): facts
        for name, facts in best.items()
    }
    return _side_by_side("system", shown)


def variants(system: str, dataset: str, folder: str | Path = "results") -> str:
    """A Markdown table of what the recipes of one system on a data set gave, the best one first.

    Raises:
        DataError: nothing was measured there.
    """
    found = [f for f in _results(folder) if (f["system"], f["dataset"]) == (system, dataset)]
    if not found:
        raise DataError(
            f"{folder} holds no results of {system} on {dataset}. Make one: itemic reproduce {system} {dataset}"
        )
    return _side_by_side("recipe", {facts["variant"] or "the main one": facts for facts in found})


def protocols(dataset: str, variant: str, folder: str | Path = "results") -> str:
    """A Markdown table of all systems measured on a data set under several protocols, by the first metric of each; the
    best one under the first protocol first.

    Raises:
        DataError: nothing was measured there.
    """
    found = [f for f in _results(folder) if (f["dataset"], f["variant"]) == (dataset, variant) and f["also"]]
    if not found:
        raise DataError(f"{folder} holds no results on {dataset}, variant {variant}. Make one: itemic reproduce")
    metric = next(iter(found[0]["metrics"]))
    rows = [("system", *(f"{metric}, {name}" for name in (found[0]["protocol"], *found[0]["also"])))]
    rows.append(("---", *["---:"] * (len(rows[0]) - 1)))
    for facts in sorted(found, key=_value, reverse=True):
        values = [facts["metrics"][metric]["value"], *(other[metric] for other in facts["also"].values())]
        rows.append((f"`{facts['system']}`", *(f"{value:.4f}" for value in values)))
    return _markdown(rows)


def settings(system: str, dataset: str, folder: str | Path = "results") -> str:
    """A Markdown table of what the recipes of one system on a data set were measured beside, recipe by recipe, with the
    95 % interval of how far each setting is behind by the first metric.

    Raises:
        DataError: nothing was measured there.
    """
    found = [f for f in _results(folder) if (f["system"], f["dataset"]) == (system, dataset) and f["beside"]]
    if not found:
        raise DataError(
            f"{folder} holds no results of {system} on {dataset} beside others. Make one: itemic reproduce {system} "
            f"{dataset}"
        )
    names = list(found[0]["metrics"])
    rows = [("setting", *names, f"behind, {names[0]}"), ("---", *["---:"] * (len(names) + 1))]
    for facts in sorted(found, key=lambda facts: facts["variant"] or ""):
        whole = f"**`{system}`**" + (f", {facts['variant']}" if facts["variant"] else "")
        rows.append((whole, *(f"{facts['metrics'][name]['value']:.4f}" for name in names), ""))
        for name, other in facts["beside"].items():
            low, high = other.get("behind", {}).get(names[0], (None, None))
            gap = "–" if low is None else f"{low:.4f} to {high:.4f}"
            rows.append((name, *(f"{other['metrics'][metric]:.4f}" for metric in names), gap))
    return _markdown(rows)


def _side_by_side(what: str, results: dict[str, dict[str, Any]]) -> str:
    """Results by name, the best one first by the metric that most of them have first."""
    ((first, _),) = Counter(next(iter(facts["metrics"])) for facts in results.values()).most_common(1)

    def worth(result: tuple[str, dict[str, Any]]) -> float:
        return result[1]["metrics"].get(first, {"value": -1.0})["value"]

    found = sorted(results.items(), key=worth, reverse=True)
    names = [first, *(name for name in found[0][1]["metrics"] if name != first)]
    rows = [(what, *names, "fit, s"), ("---", *["---:"] * len(names), "---:")]
    for shown, facts in found:
        measured = [f"{facts['metrics'][name]['value']:.4f}" if name in facts["metrics"] else "–" for name in names]
        seconds = f"{facts['seconds']:,.0f}" if facts["seconds"] >= 10 else f"{facts['seconds']:.1f}"
        rows.append((shown, *measured, seconds))
    return _markdown(rows)


OF_TWO = {"variants": variants, "protocols": protocols, "settings": settings}
"""The tables that a mark names by a word and two names behind it."""


def write_tables(path: str | Path, folder: str | Path = "results") -> None:
    """Puts tables between their markers: `<!-- results -->` to `<!-- /results -->`, the same with `systems`, for the
    standing on a data set with its name and split, as in `<!-- gowalla-ngcf official -->`, for the recipes of a system
    with `<!-- variants sasrec amazon-beauty -->`, for several protocols with `<!-- protocols amazon-beauty cold -->`,
    for what stands beside with `<!-- settings ilm ml-1m -->`.

    Raises:
        DataError: the file has not both markers of any table, or there are no results.
    """
    path = Path(path)

    def table(marked: re.Match[str]) -> str:
        name, *where = marked[1].split()
        if name in OF_TWO:
            made = OF_TWO[name](where[0], where[1], folder)
        elif where:
            made = standing(name, where[0], folder)
        else:
            made = {"results": results_table, "systems": systems_table}[name](folder)
        return f"<!-- {marked[1]} -->\n{made}<!-- /{marked[1]} -->"

    text, found = MARKED.subn(table, path.read_text())
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
        needed = ("system", "dataset", "variant", "split", "metrics", "seconds", "protocol")
        return {key: facts[key] for key in needed} | {key: facts.get(key, {}) for key in ("also", "beside")}
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


def _value(facts: dict[str, Any]) -> float:
    """The first metric of a result, by which results are ordered."""
    return next(iter(facts["metrics"].values()))["value"] if facts else -1.0


def _markdown(rows: list[tuple[str, ...]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


if __name__ == "__main__":
    for named in sys.argv[1:]:
        write_tables(named)
