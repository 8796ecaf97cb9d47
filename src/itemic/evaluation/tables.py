"""The table of results that README and docs show, made from the files in `results/`.

`python -m itemic.evaluation.tables README.md docs/systems.md` brings it up to date between the markers in these files.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

from itemic.errors import DataError
from itemic.files import write_text

START, END = "<!-- results -->", "<!-- /results -->"
HEADER = ("system", "data set", "metric", "measured", "published", "ratio", "fit, s")


def results_table(folder: str | Path = "results") -> str:
    """A Markdown table: what each recipe gave beside what was published, by data set and system.

    Raises:
        DataError: the folder holds no results, or one cannot be read.
    """
    found = [_read(path) for path in sorted(Path(folder).glob("*.json"))]
    if not found:
        raise DataError(f"{folder} holds no results. Make one: itemic reproduce ease lastfm-lightgcn")
    rows = [_row(facts) for facts in sorted(found, key=lambda f: (f["dataset"], f["system"], f["variant"] or ""))]
    lines = [HEADER, ("---", "---", "---", "---:", "---:", "---:", "---:"), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def write_tables(path: str | Path, folder: str | Path = "results") -> None:
    """Puts the table between the markers `<!-- results -->` and `<!-- /results -->` of a text file.

    Raises:
        DataError: the file has not both markers, or there are no results.
    """
    path = Path(path)
    text = path.read_text()
    if not re.search(f"{START}.*{END}", text, re.DOTALL):
        raise DataError(f"{path} has no lines {START} and {END}. Put them where the table belongs.")
    table = f"{START}\n{results_table(folder)}{END}"
    write_text(path, re.sub(f"{START}.*?{END}", lambda _: table, text, flags=re.DOTALL))


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


if __name__ == "__main__":
    for named in sys.argv[1:]:
        write_tables(named)
