"""The public sets as they stand in $ITEMIC_DATA: which file of each folder is what."""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq

from itemic.data.building import dataset_of
from itemic.data.dataset import TEST, TEST_HISTORY, TRAIN, Dataset
from itemic.data.readers.crs import read_opendialkg, read_redial_cases, read_redial_dialogues
from itemic.data.readers.lists import PARTS, read_lightgcn
from itemic.data.readers.movielens import with_imdb_ids
from itemic.data.readers.source import Source, in_parts, source_of
from itemic.data.readers.tables import read_events, read_table, readable
from itemic.errors import DataError, did_you_mean

pc: Any = pyarrow.compute  # its functions are made at import, out of a type checker's sight


def known_set(name_or_folder: str | Path) -> Dataset:
    """The dataset in the folder $ITEMIC_DATA/NAME, or in a folder that has the name of a known set.

    Raises:
        DataError: the set is not known, or its folder is not there.
    """
    folder = Path(name_or_folder)
    if len(folder.parts) == 1 and not folder.is_dir():
        folder = Path(os.environ.get("ITEMIC_DATA", ".")) / folder
    if folder.name not in KNOWN:
        hint, names = did_you_mean(folder.name, KNOWN), ", ".join(sorted(KNOWN))
        raise DataError(f"there is no known set {folder.name!r}.{hint} Known: {names}.")
    if not folder.is_dir():
        raise DataError(f"{folder} does not exist. Set ITEMIC_DATA to the folder that holds {folder.name}.")
    return dataset_of(KNOWN[folder.name].read(folder), folder.name)


def is_known(folder: Path) -> bool:
    """Whether a folder has the name and the form of a known set; the publisher's own files may have another."""
    return folder.name in KNOWN and (folder / KNOWN[folder.name].file).is_file()


@dataclass(frozen=True)
class Known:
    """How one folder is read; `file` tells it from the publisher's own form of the same set."""

    file: str
    read: Callable[[Path], Source]


def _lastfm(folder: Path) -> Source:
    columns = ["user", "item", "-"]
    parts = {PARTS[part]: read_events(folder / f"{part}.txt.gz", columns) for part in ("train", "test")}
    everybody = pa.table({"id": np.arange(1, 1893)})  # the source counts 1,892 users; 12 of them have no row
    return replace(in_parts(parts, str(folder)), users=everybody)


def _yelp(folder: Path) -> Source:
    return in_parts({code: read_events(folder / f"{part}.parquet") for part, code in PARTS.items()}, str(folder))


def _steam(folder: Path) -> Source:
    parts = {code: read_events(folder / "splits.parquet", {"item": part}) for part, code in PARTS.items()}
    return replace(in_parts(parts, str(folder)), how={"mask_valid": True})


def _with_items(events: str, items: str, *text: str, repeats: bool = False) -> Known:
    def read(folder: Path) -> Source:
        return replace(
            read_events(folder / events),
            items=read_table(folder / items, "item"),
            items_label=str(folder / items),
            roles={"text": list(text)} if text else {},
            repeats=repeats,
        )

    return Known(events, read)


def _movielens_1m(folder: Path) -> Source:
    movies = read_table(folder / "movies.parquet", "item")
    return replace(
        read_events(folder / "sequences.parquet"),
        items=movies.filter(pc.is_valid(movies.column("sasrec_item"))),  # the 3,416 movies with 5 ratings or more
        roles={"text": ["title", "genres"]},
    )


def _movielens_small(folder: Path) -> Source:
    movies, links = (read_table(folder / f"{name}.parquet", "item") for name in ("movies", "links"))
    return replace(
        read_events(folder / "ratings.parquet"),
        items=with_imdb_ids(movies, links),
        items_label=str(folder / "movies.parquet"),
        roles={"text": ["title", "genres"]},
    )


def _citeulike(folder: Path) -> Source:
    library = replace(read_events(folder / "users.parquet"), ordered=False)
    return replace(library, items=read_table(folder / "items.parquet", "item"))


def _sessions(folder: Path) -> Source:
    """Training sessions, and test cases of a prefix and its next item; every session and case is a user of its own."""
    with readable(folder / "train_sessions.parquet"):
        train = pq.read_table(folder / "train_sessions.parquet", columns=["items"])
    with readable(folder / "test.parquet"):
        test = pq.read_table(folder / "test.parquet", columns=["items", "target"])
    train = train.append_column("user", pa.array(np.arange(len(train))))
    test = test.append_column("user", pa.array(np.arange(len(train), len(train) + len(test))))
    parts = {
        TRAIN: replace(source_of(train), repeats=True),
        TEST_HISTORY: source_of(test.drop_columns(["target"])),
        TEST: source_of(test, {"item": "target"}),
    }
    return in_parts(parts, str(folder))


def _bundles(folder: Path) -> Source:
    titles = read_table(folder / "item_titles.csv.gz", "item").rename_columns(["id", "title"])
    categories = read_table(folder / "item_categories.csv.gz", "item").rename_columns(["id", "categories"])
    items = titles.join(categories, "id")
    items = items.append_column("category", _first_path(items.column("categories")))
    roles = {"text": ["title", "categories"], "category": ["category"]}
    return replace(read_events(folder / "user_item.csv.gz"), items=items, roles=roles)


def _first_path(paths: pa.ChunkedArray) -> pa.ChunkedArray:
    """The first path of each item: 'A, B > C' of '[[A, B,C],[A, B,D]]', where a comma before a blank is in a name."""
    text = pc.utf8_trim(pc.list_element(pc.split_pattern(paths, "],"), 0), "[]")
    for old, new in ((", ", "\n"), (",", " > "), ("\n", ", ")):
        text = pc.replace_substring(text, old, new)
    return text


KNOWN = {
    "lastfm-lightgcn": Known("train.txt.gz", _lastfm),
    "gowalla-ngcf": Known("train.txt.gz", read_lightgcn),
    "ml-1m-lcfn-split": Known("train.txt.gz", read_lightgcn),
    "amazon-book-kgat": Known("train.txt.gz", read_lightgcn),
    "yelp-sslrec": Known("train.parquet", _yelp),
    "steam-setrec": Known("splits.parquet", _steam),
    "ml-100k": _with_items("ratings.parquet", "items.parquet", "title", "genres"),
    "ml-latest-small": Known("ratings.parquet", _movielens_small),
    "ml-1m": Known("sequences.parquet", _movielens_1m),
    "amazon-beauty": _with_items("sequences.parquet", "items.parquet", "title", "words"),
    "amazon-sports": _with_items("sequences.parquet", "items.parquet", "words"),
    "amazon-toys": _with_items("sequences.parquet", "items.parquet", "words"),
    "yelp-s3rec": _with_items("sequences.parquet", "items.parquet", "title", "categories", repeats=True),
    "lastfm-s3rec": _with_items("sequences.parquet", "items.parquet"),
    "citeulike-a": Known("users.parquet", _citeulike),
    "sessions-diginetica": Known("train_sessions.parquet", _sessions),
    "sessions-tmall": Known("train_sessions.parquet", _sessions),
    "sessions-nowplaying": Known("train_sessions.parquet", _sessions),
    "bundle-clothing": Known("user_item.csv.gz", _bundles),
    "crs-opendialkg": Known("train.jsonl.gz", read_opendialkg),
    "crs-redial": Known("test.jsonl.gz", read_redial_cases),
    "crs-redial-dialogues": Known("valid.parquet", read_redial_dialogues),
}
"""What reads each folder; the name of the folder is the name of the dataset."""
