"""INSPIRED as published: `train.tsv`, `dev.tsv`, `test.tsv`, a row an utterance, films as "Heat (1995); Up (2009)"."""

from pathlib import Path
from typing import Any

import pyarrow as pa

from itemic.data.columns import Columns
from itemic.data.matching import title_and_year
from itemic.data.readers.lists import no_columns
from itemic.data.readers.source import Source
from itemic.data.readers.tables import first_lines, read_delimited
from itemic.data.readers.titles import placed
from itemic.errors import DataError

FILES = {"train": "train.tsv", "valid": "dev.tsv", "test": "test.tsv"}
USED = ("dialog_id", "utt_id", "speaker", "text", "movies")
ROLES = {"SEEKER": "user", "RECOMMENDER": "recommender"}
QUOTE = "QUOTATION_MARK"
"""How the text writes a quotation mark."""


def read_inspired(path: Path, columns: Columns = None) -> Source:
    """Whole dialogues with the films that they name, known by title and year; `path` is the folder of the three files.

    Whatever the recommender names is recommended. A film has a place where its title stands in the text. The files say
    whether a film was accepted, but not which one, so nothing is known to be liked.

    Raises:
        DataError: a file or column is missing, or a speaker is neither seeker nor recommender.
    """
    no_columns(path, columns)
    turns: list[dict[str, Any]] = []
    starts = []
    for part, name in FILES.items():
        starts.append((len(turns), str(path / name)))
        rows = _table(path / name).to_pylist()
        turns += [_turn(row, part, f"{path / name} row {number:,}") for number, row in enumerate(rows, 1)]
    titles = list(dict.fromkeys(title for turn in turns for title in turn["items"]))
    years = pa.array([title_and_year(title)[1] for title in titles], pa.int32())
    films = pa.table({"id": titles, "title": titles, "year": years})
    table = pa.Table.from_pylist(turns)
    return Source(pa.table({}), str(path), items=films, starts=tuple(starts), turns=table, repeats=True)


def is_inspired(path: Path) -> bool:
    """Whether this is the folder of the three files."""
    file = path / FILES["train"]
    return path.is_dir() and file.is_file() and {*USED} <= {*first_lines(file, 1)[0].split("\t")}


def _turn(row: dict[str, Any], part: str, where: str) -> dict[str, Any]:
    if row["speaker"] not in ROLES:
        raise DataError(f"{where}: the speaker {row['speaker']!r} is neither SEEKER nor RECOMMENDER. Mend the row.")
    text = (row["text"] or "").replace(QUOTE, '"')
    items = [title for film in (row["movies"] or "").split(";") if (title := " ".join(film.split()))]
    places = placed(text, [title_and_year(title)[0] for title in items])
    return {
        "dialogue": row["dialog_id"],
        "turn": row["utt_id"],
        "role": ROLES[row["speaker"]],
        "text": text,
        "items": items,
        "starts": [start for start, _ in places],
        "ends": [end for _, end in places],
        "part": part,
    }


def _table(file: Path) -> pa.Table:
    """The columns used."""
    types = {**dict.fromkeys(USED, pa.string()), "utt_id": pa.int64()}
    table = read_delimited(file, "\t", types, quoted=False)
    missing = [name for name in USED if name not in table.column_names]
    if missing:
        names = ", ".join(table.column_names)
        raise DataError(f"{file} has no column {missing[0]}; its columns are {names}. INSPIRED has {', '.join(USED)}.")
    return table.select(list(USED))
