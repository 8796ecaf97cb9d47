"""Tables: CSV, TSV, JSON lines and Parquet, the text forms also compressed."""

import csv
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pc_csv
import pyarrow.json as pc_json
import pyarrow.parquet as pq

from itemic.data.columns import Columns, find_columns, headerless, id_column
from itemic.data.readers.source import Source, list_columns, source_of
from itemic.errors import DataError

PACKED = (".gz", ".bz2", ".zst")
PARQUET, JSON = (".parquet", ".pq"), (".json", ".jsonl", ".ndjson")
TABLES = (*PARQUET, *JSON, ".csv", ".tsv")
DELIMITERS = "\t,;|"
BLOCK = 1 << 24
WORDS = pa.dictionary(pa.int32(), pa.string())
"""Ids are read as text, so that '007' stays what it is, and kept once each."""


def read_events(path: Path, columns: Columns = None) -> Source:
    """The interactions in a file of any of these forms, which its suffix tells; anything else is delimited text.

    Raises:
        DataError: the file cannot be read, or has no user or item column.
    """
    suffix = text_suffix(path)
    if suffix in PARQUET:
        return read_parquet(path, columns)
    return read_json(path, columns) if suffix in JSON else read_csv(path, columns)


def read_parquet(path: Path, columns: Columns = None) -> Source:
    """The interactions in a Parquet file, of which only the columns needed are read."""
    with readable(path):
        schema = pq.read_schema(path)
        found = find_columns(schema.names, _named(columns, path), str(path), list_columns(schema))
        table = pq.read_table(path, columns=list(found.values()))
    return source_of(table, found, str(path))


def read_json(path: Path, columns: Columns = None) -> Source:
    """The interactions in a file with one JSON object a line; the columns are those of its first thousands of lines."""
    named = _named(columns, path)
    with readable(path), pa.input_stream(str(path), compression="detect") as stream:
        start = stream.read(BLOCK)
        start = start[: start.rfind(b"\n") + 1] or start
        schema = pc_json.read_json(pa.BufferReader(start)).schema
    found = find_columns(schema.names, named, str(path), list_columns(schema))
    needed = pa.schema([schema.field(name) for name in found.values()])
    try:
        table = _json_table(path, needed)
    except DataError:  # a type changes further down: read all of it, so that every type can be seen
        table = _json_table(path)
    return source_of(table, found, str(path))


def read_csv(path: Path, columns: Columns = None) -> Source:
    """The interactions in a delimited file, of which only the columns needed are read."""
    delimiter, first = sniff(path)
    names = headerless(columns, str(path))
    if names is not None and all(name in ("-", field.strip().lower()) for name, field in zip(names, first)):
        columns, names = {name: field for name, field in zip(names, first) if name != "-"}, None  # a header after all
    if names is None:
        if all(_is_number(field) for field in first):
            raise DataError(
                f"{path} seems to have no header: its first line is {delimiter.join(first)!r}. "
                "Name the columns in order, with '-' for those to pass over: --columns user,item"
            )
    elif len(names) != len(first):
        raise DataError(
            f"{path} has {len(first)} columns and --columns names {len(names)}: its first line is "
            f"{delimiter.join(first)!r}. Name them all, with '-' for those to pass over."
        )
    found = find_columns(names or first, columns, str(path))
    words = {name for role, name in found.items() if role in ("user", "item", "kind", "session")}
    types = {name: WORDS if name in words else pa.string() for name in found.values()}
    quick = types | {found[role]: pa.float32() for role in ("rating", "weight") if role in found}
    quick.pop(found.get("time", ""), None)  # numbers or dates, as the file has them
    only = list(found.values())
    try:
        table = read_delimited(path, delimiter, quick, names=names, only=only)
    except DataError as error:
        if "conversion error" not in str(error):
            raise
        table = read_delimited(path, delimiter, types, names=names, only=only)  # later an error can name the row
    return source_of(table, found, str(path))


def read_turns(path: Path, columns: Columns = None) -> Source:
    """Dialogues in a Parquet file or JSON lines, a row a turn with a list of the items that it names.

    Raises:
        DataError: the file cannot be read, or is of another form.
    """
    if columns:
        raise DataError(f"{path}: --columns cannot name the columns of turns. Call them dialogue, role, text, items.")
    suffix = text_suffix(path)
    if suffix not in (*PARQUET, *JSON):
        raise DataError(f"{path} cannot hold lists of items. Give turns as Parquet or JSON lines.")
    with readable(path):
        table = pq.read_table(path) if suffix in PARQUET else _json_table(path)
    return Source(pa.table({}), str(path), turns=table, repeats=True)


def read_table(path: Path, what: str, column: str | None = None) -> pa.Table:
    """A table of items or users with all its columns, the id first and called `id`.

    Raises:
        DataError: the file cannot be read, or has no id column.
    """
    suffix = text_suffix(path)
    if suffix in PARQUET:
        with readable(path):
            table = pq.read_table(path)
    elif suffix in JSON:
        table = _json_table(path)
    else:
        delimiter, names = sniff(path)
        table = read_delimited(path, delimiter, {id_column(names, what, column, str(path)): pa.string()})
    return id_first(table, what, column, str(path))


def id_first(table: pa.Table, what: str, column: str | None = None, source: str = "") -> pa.Table:
    """The same table with its id column in front, under the name `id`."""
    key = id_column(table.column_names, what, column, source)
    ids = table.column(key)
    return table.drop_columns([key]).add_column(0, "id", ids)


def read_delimited(
    path: Path,
    delimiter: str,
    types: Mapping[str, pa.DataType],
    *,
    names: list[str] | None = None,
    only: list[str] | None = None,
    quoted: bool = True,
) -> pa.Table:
    """A delimited file as it stands; columns without a type get the one their values have in common.

    Raises:
        DataError: the file cannot be read, or a row has another number of fields than the first.
    """
    how = {"names": names, "only": only, "quoted": quoted}
    with readable(path, header=names is None):
        try:
            with pa.input_stream(str(path), compression="detect") as stream:
                return parsed(stream, delimiter, types, **how)
        except pa.ArrowInvalid:  # once more, slowly: on one thread the error tells the row
            with pa.input_stream(str(path), compression="detect") as stream:
                return parsed(stream, delimiter, types, **how, threads=False)


def parsed(
    stream: pa.NativeFile,
    delimiter: str,
    types: Mapping[str, pa.DataType],
    *,
    names: list[str] | None = None,
    only: list[str] | None = None,
    quoted: bool = True,
    threads: bool = True,
) -> pa.Table:
    """The table in a stream of delimited text; `names` where it has no header, `only` the columns wanted."""
    return pc_csv.read_csv(
        stream,
        pc_csv.ReadOptions(block_size=BLOCK, column_names=names, use_threads=threads),
        pc_csv.ParseOptions(delimiter=delimiter, quote_char='"' if quoted else False, newlines_in_values=quoted),
        pc_csv.ConvertOptions(column_types=dict(types), include_columns=only or []),
    )


def sniff(path: Path) -> tuple[str, list[str]]:
    """The delimiter of a file and the fields of its first line."""
    line = first_lines(path, 1)[0]
    delimiter = max(DELIMITERS, key=line.count)
    if delimiter not in line and " " in line.strip():
        delimiter = " "
    return delimiter, next(csv.reader([line], delimiter=delimiter))


def first_lines(path: Path, n: int) -> list[str]:
    """Up to n lines that are not blank from the start of a text file."""
    with readable(path), pa.input_stream(str(path), compression="detect") as stream:
        start = stream.read(1 << 16).decode("utf-8-sig", errors="replace")
    lines = [line for line in start.splitlines() if line.strip()]
    if not lines:
        raise DataError(_EMPTY.format(path))
    return lines[:n]


def text_suffix(path: Path) -> str:
    """The suffix that tells the form: that of `events.csv.gz` is .csv."""
    return Path(path.stem).suffix.lower() if path.suffix.lower() in PACKED else path.suffix.lower()


_EMPTY = "{} is empty. It should hold at least one row of user and item."


@contextmanager
def readable(path: Path, header: bool = False) -> Iterator[None]:
    """Turns what goes wrong while a file is read into one line that names it, and the row where that is known.

    Raises:
        DataError: the file is missing, damaged, or a row does not fit.
    """
    if not path.is_file():
        fault = "is a folder, not a file. Name the file in it" if path.is_dir() else "does not exist. Check the name"
        raise DataError(f"{path} {fault}.")
    if path.stat().st_size == 0:
        raise DataError(_EMPTY.format(path))
    try:
        yield
    except (pa.ArrowException, OSError, EOFError, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        if row := re.search(r"Row #(\d+): (?:CSV )?(.*)", reason):
            raise DataError(f"{path} row {int(row[1]) - header:,}: {row[2]}. Mend the row.") from error
        if row := re.search(r"JSON parse error: (.*) in row (\d+)$", reason):  # which counts from 0
            raise DataError(f"{path} row {int(row[2]) + 1:,}: {row[1].rstrip('.')}. Mend the row.") from error
        raise DataError(f"{path} cannot be read: {reason}. Mend the file or get it again.") from error


def _json_table(path: Path, schema: pa.Schema | None = None) -> pa.Table:
    """The table in a JSON file; only the columns of the schema where there is one."""
    others = "infer" if schema is None else "ignore"
    with readable(path), pa.input_stream(str(path), compression="detect") as stream:
        return pc_json.read_json(
            stream,
            pc_json.ReadOptions(block_size=BLOCK),
            pc_json.ParseOptions(explicit_schema=schema, unexpected_field_behavior=others),
        )


def _named(columns: Columns, path: Path) -> Columns:
    if columns is None or isinstance(columns, Mapping):
        return columns
    raise DataError(f"{path} names its columns itself. Say which is which: --columns user=NAME,item=NAME")


def _is_number(field: str) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True
