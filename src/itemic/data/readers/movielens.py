"""MovieLens as GroupLens publishes it: `u.data` (100K), `ratings.dat` (1M, 10M) or `ratings.csv` (20M and later)."""

from dataclasses import replace
from pathlib import Path

import pyarrow as pa

from itemic.data.columns import Columns
from itemic.data.readers.lists import no_columns, part_file
from itemic.data.readers.source import Source, source_of
from itemic.data.readers.tables import parsed, read_events, read_table, readable
from itemic.errors import DataError

GENRES = [
    "unknown",
    "Action",
    "Adventure",
    "Animation",
    "Children's",
    "Comedy",
    "Crime",
    "Documentary",
    "Drama",
    "Fantasy",
    "Film-Noir",
    "Horror",
    "Musical",
    "Mystery",
    "Romance",
    "Sci-Fi",
    "Thriller",
    "War",
    "Western",
]
"""What the flags of u.item stand for, in their order."""

FORMS = (("ratings.csv", "movies.csv"), ("ratings.dat", "movies.dat"), ("u.data", "u.item"))
"""The files of ratings and of movies, the newest form first."""


def read_movielens(path: Path, columns: Columns = None) -> Source:
    """Ratings with titles and genres, and users where the set describes them; `path` is the folder or its ratings.

    Raises:
        DataError: the folder holds none of the three forms, or a file cannot be read.
    """
    for (ratings, _), read in zip(FORMS, (_csv, _dat, _u_data)):
        file = part_file(path, ratings) if path.is_dir() else path
        if file is not None and file.name.removesuffix(".gz") == ratings:
            return read(file, columns)
    raise DataError(f"{path} is not MovieLens: there is no ratings.csv, ratings.dat or u.data.")


def is_movielens(path: Path) -> bool:
    """Whether a folder, or the file of ratings in it, is MovieLens in one of its forms."""
    folder = path if path.is_dir() else path.parent
    return any(
        (folder / ratings).is_file() and (folder / movies).is_file() and path in (folder, folder / ratings)
        for ratings, movies in FORMS
    )


def with_imdb_ids(movies: pa.Table, links: pa.Table) -> pa.Table:
    """The movies with the IMDb ids that the links give them, by which they are found in other sets."""
    return movies.join(links.select(["id", "imdbId"]).rename_columns(["id", "imdb_id"]), "id")


def _csv(ratings: Path, columns: Columns) -> Source:
    movies, links = (part_file(ratings.parent, name) for name in ("movies.csv", "links.csv"))
    table = movies and read_table(movies, "item")
    if table is not None and links is not None:
        table = with_imdb_ids(table, read_table(links, "item"))
    return _described(read_events(ratings, columns), table, movies)


def _dat(ratings: Path, columns: Columns) -> Source:
    no_columns(ratings, columns)
    movies, users = (part_file(ratings.parent, name) for name in ("movies.dat", "users.dat"))
    source = _described(_ratings(ratings, "::"), movies and _table(movies, "::", ["id", "title", "genres"]), movies)
    if users is not None:
        source = replace(
            source, users=_table(users, "::", ["id", "gender", "age", "occupation", "-"]).drop_columns(["-"])
        )
    return source


def _u_data(ratings: Path, columns: Columns) -> Source:
    no_columns(ratings, columns)
    movies, users = (part_file(ratings.parent, name) for name in ("u.item", "u.user"))
    table = None
    if movies is not None:
        table = _table(movies, "|", ["id", "title", "released", "video", "imdb", *GENRES])
        flags = [table.column(genre).to_pylist() for genre in GENRES]
        genres = ["|".join(g for g, flag in zip(GENRES, row) if flag) for row in zip(*flags)]
        table = table.select(["id", "title", "released"]).append_column("genres", [genres])
    source = _described(_ratings(ratings, "\t"), table, movies)
    if users is not None:
        names = ["id", "age", "gender", "occupation", "-"]
        source = replace(source, users=_table(users, "|", names).drop_columns(["-"]))
    return source


def _ratings(path: Path, delimiter: str) -> Source:
    names = ["user", "item", "rating", "time"]
    return source_of(_table(path, delimiter, names), label=str(path))


def _table(path: Path, delimiter: str, names: list[str]) -> pa.Table:
    """The table in a file without header, quotes or a stated encoding: UTF-8 in newer sets, Latin-1 in older ones."""
    texts = {name: pa.string() for name in names if name in ("id", "title", "user", "item")}
    with readable(path), pa.input_stream(str(path), compression="detect") as stream:
        raw = stream.read()
        try:
            raw.decode()
        except UnicodeDecodeError:
            raw = raw.decode("latin-1").encode()
        if len(delimiter) > 1:
            raw, delimiter = raw.replace(delimiter.encode(), b"\t"), "\t"
        return parsed(pa.BufferReader(raw), delimiter, texts, names=names, quoted=False)


def _described(source: Source, movies: pa.Table | None, label: Path | None) -> Source:
    if movies is None:
        return source
    return replace(
        source, items=movies, items_label=str(label), roles={"title": ["title"], "text": ["title", "genres"]}
    )
