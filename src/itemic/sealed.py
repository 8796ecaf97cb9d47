"""What a saved folder is made of: its facts, the seals of its files, short tables and lists of items.

Nothing here runs code from a folder: tensors are safetensors, tables Parquet, the rest JSON.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from itemic.data import Ragged, Table
from itemic.errors import LoadError

FORMAT, FORMAT_VERSION = "itemic-model", 1
SHORT = 64
"""Item columns whose text is longer than this on average stay out of a saved model; the rest can be filtered on."""


def read_facts(folder: Path) -> dict[str, Any]:
    """What `system.json` of a saved model says.

    Raises:
        LoadError: there is none, or it is damaged or of another version.
    """
    path = folder / "system.json"
    if not path.exists():
        reason = "it holds no system.json" if folder.is_dir() else "there is no such folder"
        raise LoadError(f"{folder} is not a saved model: {reason}. Make one: itemic fit ease DATA --out {folder}")
    try:
        facts = json.loads(path.read_text())
        fmt, version = facts["format"], facts["version"]
        system, files, _ = facts["system"], facts["files"], (facts["config"], facts["shape"], facts["catalogue"])
    except (ValueError, KeyError, TypeError) as error:
        reason = f"has no {error}" if isinstance(error, KeyError) else f"cannot be read ({error})"
        raise LoadError(f"{folder} is damaged: system.json {reason}. Restore the folder whole or fit again.") from None
    if fmt != FORMAT:
        raise LoadError(f"{folder} is of the format {fmt!r}, not {FORMAT!r}.")
    if version != FORMAT_VERSION:
        mend = "Upgrade itemic." if isinstance(version, int) and version > FORMAT_VERSION else "Fit the model again."
        raise LoadError(f"{folder} has format version {version!r}; this itemic reads {FORMAT_VERSION}. {mend}")
    if not isinstance(system, str) or not isinstance(files, dict):
        raise LoadError(f"{folder} is damaged: system.json names no system. Restore the folder whole or fit again.")
    return facts


def seal_of(path: Path) -> dict[str, Any]:
    """The size and the hash by which a file is known again."""
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "blake2b": hashlib.file_digest(file, "blake2b").hexdigest()[:32]}


def check_seal(path: Path, seal: Mapping[str, Any]) -> None:
    """Passes if a file is what was saved.

    Raises:
        LoadError: it is missing, or of another size or content.
    """
    whole = "Restore the folder whole or fit again."
    if not path.exists():
        raise LoadError(f"{path.parent} is damaged: {path.name} is missing. {whole}")
    if path.stat().st_size != seal["bytes"]:
        size = path.stat().st_size
        raise LoadError(f"{path.parent} is damaged: {path.name} has {size:,} bytes, not {seal['bytes']:,}. {whole}")
    if seal_of(path) != seal:
        raise LoadError(f"{path.parent} is damaged: {path.name} is not what was saved. {whole}")


def short(table: Table) -> Table:
    """The table without its long texts, bytes and nested columns: what a saved model can show and filter on."""
    kept = []
    for name in table.names:
        column = table.frame.column(name)
        texts = pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
        flat = not (pa.types.is_nested(column.type) or pa.types.is_binary(column.type))
        is_title = name in table.roles.get("title", [])
        if flat and (is_title or not texts or column.nbytes <= (SHORT + 4) * len(table)):
            kept.append(name)
    roles = {role: [n for n in names if n in kept] for role, names in table.roles.items()}
    return replace(table, source=table.frame.select(kept), roles={r: n for r, n in roles.items() if n})


def write_ragged(rows: Ragged, path: Path) -> None:
    """Writes lists of codes as a Parquet file with one column, `items`."""
    lists = pa.LargeListArray.from_arrays(pa.array(rows.offsets), pa.array(np.ascontiguousarray(rows.values)))
    pq.write_table(pa.table({"items": lists}), path, compression="zstd")


def read_ragged(path: Path) -> Ragged:
    """What `write_ragged` wrote."""
    lists = pq.read_table(path).column("items").combine_chunks()
    offsets = lists.offsets.to_numpy().astype(np.int64)
    return Ragged(lists.values.to_numpy().astype(np.int32)[offsets[0] : offsets[-1]], offsets - offsets[0])
