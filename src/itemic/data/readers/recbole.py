"""RecBole's atomic files `name.inter`, `name.item` and `name.user`: tab-separated named as in `user_id:token`."""

from dataclasses import replace
from pathlib import Path

import pyarrow as pa

from itemic.data.columns import Columns
from itemic.data.readers.lists import PARTS
from itemic.data.readers.source import Source, in_parts, pc, source_of
from itemic.data.readers.tables import id_first, read_delimited, sniff
from itemic.errors import DataError

TYPES = {"token": pa.string(), "token_seq": pa.string(), "float": pa.float64(), "float_seq": pa.string()}
"""A token_seq stays one text: titles are written so."""


def read_recbole(path: Path, columns: Columns = None) -> Source:
    """Interactions with what is said of items and users; `path` is the folder or its `.inter` file.

    Files `name.train.inter`, `name.valid.inter` and `name.test.inter` are an official split.

    Raises:
        DataError: there is not exactly one set in the folder, or a file cannot be read.
    """
    inter = _interactions(path)
    parts = {code: _file(inter, f".{part}.inter") for part, code in PARTS.items()}
    if inter.name.endswith(".train.inter"):
        read = {code: source_of(_table(part), columns, str(part)) for code, part in parts.items() if part.is_file()}
        source = in_parts(read, str(inter.parent))
    else:
        source = source_of(_table(inter), columns, str(inter))
    items, users = _file(inter, ".item"), _file(inter, ".user")
    if items.is_file():
        table = id_first(_table(items), "item", source=str(items))
        source = replace(source, items=table, items_label=str(items))
    if users.is_file():
        table = id_first(_table(users), "user", source=str(users))
        source = replace(source, users=table, users_label=str(users))
    return source


def is_recbole(path: Path) -> bool:
    """Whether this is an `.inter` file or a folder with one."""
    return path.suffix == ".inter" or (path.is_dir() and any(path.glob("*.inter")))


def _interactions(path: Path) -> Path:
    if not path.is_dir():
        return path
    found = sorted(path.glob("*.inter"))
    whole = [f for f in found if f.name.removesuffix(".inter").rpartition(".")[2] not in PARTS]
    trains = [f for f in found if f.name.endswith(".train.inter")]
    if len(whole or trains) != 1:
        names = ", ".join(f.name for f in found) or "none"
        raise DataError(
            f"{path} should hold one .inter file, or one split into .train, .valid and .test; it has {names}."
        )
    return (whole or trains)[0]


def _file(inter: Path, ending: str) -> Path:
    return inter.with_name(inter.name.removesuffix(".inter").removesuffix(".train") + ending)


def _table(path: Path) -> pa.Table:
    _, header = sniff(path)
    fields = [field.strip().rpartition(":") for field in header]
    if not all(name and kind in TYPES for name, _, kind in fields):
        raise DataError(f"{path}: the header {' '.join(header)!r} is not one of RecBole's, such as 'user_id:token'.")
    types = {text.strip(): TYPES[kind] for text, (_, _, kind) in zip(header, fields)}
    table = read_delimited(path, "\t", types, quoted=False).rename_columns([name for name, _, _ in fields])
    for place, (name, _, kind) in enumerate(fields):
        if kind == "float_seq":
            numbers = pc.split_pattern(table.column(name), " ").cast(pa.list_(pa.float32()))
            table = table.set_column(place, name, numbers)
    return table
