"""One line a user: `user item item ...`, as sequences in time order or as the train and test files of LightGCN."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from itemic.data.columns import Columns
from itemic.data.dataset import TEST, TRAIN, VALID
from itemic.data.readers.source import Source, in_parts
from itemic.data.readers.tables import readable
from itemic.errors import DataError

PARTS = {"train": TRAIN, "valid": VALID, "test": TEST}


def read_sequences(path: Path, columns: Columns = None) -> Source:
    """Each line a user and what they took, oldest first.

    Raises:
        DataError: the file cannot be read.
    """
    no_columns(path, columns)
    return replace(_read_lines(path), ordered=True)


def read_lightgcn(folder: Path, columns: Columns = None) -> Source:
    """The files train.txt, test.txt and perhaps valid.txt of a folder, with the split that they are.

    Raises:
        DataError: one of the two files is missing or cannot be read.
    """
    no_columns(folder, columns)
    files = {part: found for part in PARTS if (found := part_file(folder, f"{part}.txt")) is not None}
    for part in ("train", "test"):
        if part not in files:
            raise DataError(f"{folder} has no {part}.txt or {part}.txt.gz. LightGCN's form needs both train and test.")
    sources = {PARTS[part]: _read_lines(path) for part, path in files.items()}
    users = pa.concat_tables([source.users for source in sources.values() if source.users is not None])
    return replace(in_parts(sources, str(folder)), users=pa.table({"id": users.column("id").unique()}))


def no_columns(path: Path, columns: Columns) -> None:
    """Refuses names of columns for a form that has its own.

    Raises:
        DataError: some are given.
    """
    if columns:
        raise DataError(
            f"{path} is of a form whose columns are known. Leave --columns out, or name another: --form csv"
        )


def part_file(folder: Path, name: str) -> Path | None:
    """The file of this name, plain or gzipped, if the folder has it."""
    return next((path for end in ("", ".gz") if (path := folder / f"{name}{end}").is_file()), None)


def _read_lines(path: Path) -> Source:
    """The events, and all users, also those with an empty list."""
    with readable(path), pa.input_stream(str(path), compression="detect") as stream:
        text = stream.read().decode()
    lengths = np.array([n for line in text.split("\n") if (n := len(line.split()))], np.int64)
    words = pa.array(text.split(), pa.string())
    starts = np.cumsum(lengths) - lengths
    is_item = np.ones(len(words), bool)
    is_item[starts] = False
    owner = words.take(pa.array(np.repeat(starts, lengths - 1)))
    events = pa.table({"user": owner, "item": words.filter(pa.array(is_item))})
    return Source(events, str(path), users=pa.table({"id": words.take(pa.array(starts)).unique()}))
