"""ReDial as published: `train_data.jsonl` and `test_data.jsonl`, a dialogue a line, films in the text as @111776."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from itemic.data.columns import Columns
from itemic.data.readers.lists import no_columns, part_file
from itemic.data.readers.source import Source
from itemic.data.readers.tables import first_lines, readable, text_suffix
from itemic.data.readers.titles import clean, film_table, with_titles
from itemic.errors import DataError

FILES = {"train": "train_data.jsonl", "valid": "valid_data.jsonl", "test": "test_data.jsonl"}
KEYS = ("conversationId", "messages", "movieMentions", "initiatorWorkerId", "respondentWorkerId")
SAID = {0: 0, 1: 1}
"""What the forms say of liking a film; 2 stands for "did not say"."""


def read_redial(path: Path, columns: Columns = None) -> Source:
    """Whole dialogues with the films that they name; `path` is the folder or one of its files.

    The seeker is the user, and whatever the recommender names is recommended. Titles stand where the ids stood in the
    text. Of what was liked the form of the seeker tells, or else that of the recommender.

    Raises:
        DataError: there is no such file, or a line of it is no dialogue of this form.
    """
    no_columns(path, columns)
    named = {part: part_file(path, name) for part, name in FILES.items()} if path.is_dir() else {"train": path}
    files = {part: file for part, file in named.items() if file is not None}
    if not files:
        raise DataError(f"{path} has none of {', '.join(FILES.values())}. Name the folder of ReDial's files.")
    turns: list[dict[str, Any]] = []
    titles: dict[int, str | None] = {}
    rows, starts, n_lines = [], [], 0
    for part, file in files.items():
        starts.append((n_lines, str(file)))
        lines = _lines(file)
        for number, line in enumerate(lines):
            if not line.strip():
                continue
            where = f"{file} row {number + 1:,}"
            dialogue = _dialogue(line, where)
            films = {int(film): clean(title) for film, title in dialogue["movieMentions"].items()}
            titles |= {film: title or titles.get(film) for film, title in films.items()}
            said = _turns(dialogue, films, where)
            turns += [{"dialogue": dialogue["conversationId"], **turn, "part": part} for turn in said]
            rows += [n_lines + number] * len(said)
        n_lines += len(lines)
    return Source(
        pa.table({}),
        str(path),
        items=film_table(titles),
        starts=tuple(starts),
        rows=np.array(rows),
        turns=pa.Table.from_pylist(turns),
        repeats=True,
    )


def is_redial(path: Path) -> bool:
    """Whether this is a file of such dialogues, or a folder with the training file."""
    file = part_file(path, FILES["train"]) if path.is_dir() else path
    if file is None or not file.is_file() or text_suffix(file) != ".jsonl" or not file.stat().st_size:
        return False
    return all(f'"{key}"' in first_lines(file, 1)[0] for key in KEYS)


def _lines(file: Path) -> list[str]:
    with readable(file), pa.input_stream(str(file), compression="detect") as stream:
        return stream.read().decode().split("\n")


def _dialogue(line: str, where: str) -> dict[str, Any]:
    try:
        dialogue = json.loads(line)
    except ValueError as error:
        raise DataError(f"{where} is no JSON: {error}. Mend the row.") from None
    missing = [key for key in KEYS if not isinstance(dialogue, dict) or key not in dialogue]
    if missing:
        raise DataError(f"{where} has no {missing[0]}. A dialogue of ReDial has {', '.join(KEYS)}.")
    return dialogue


def _turns(dialogue: dict[str, Any], films: Mapping[int, str | None], where: str) -> list[dict[str, Any]]:
    forms: dict[int, int | None] = {}
    for form in ("respondentQuestions", "initiatorQuestions"):  # the last one, which is the seeker's own, counts
        answers = dialogue.get(form) or {}  # an empty form is a list
        forms |= {int(film): SAID.get(answer.get("liked")) for film, answer in answers.items()}
    roles = {dialogue["respondentWorkerId"]: "recommender", dialogue["initiatorWorkerId"]: "user"}
    turns = []
    for message in dialogue["messages"]:
        worker = message["senderWorkerId"]
        if worker not in roles:
            raise DataError(f"{where}: worker {worker} is neither its initiator nor its respondent. Mend the row.")
        said = with_titles(message["text"], films)
        turns.append({"role": roles[worker], **said, "liked": [forms.get(film) for film in said["items"]]})
    return turns
