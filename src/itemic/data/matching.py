"""The same films, books or songs in two catalogues: by title and year, or by IMDb id."""

import re
import unicodedata
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int32

from itemic.data.columns import first_named
from itemic.data.table import Table
from itemic.errors import DataError

YEAR = re.compile(r"\s*\((\d{4})(?: [a-z ]+)?\)\s*$")
"""The year at the end of "Heat (1995)" and of "Halloween (2018 film)"."""
ALIAS = re.compile(r"(?<=\S)\s*\([^()]*\)\s*$")
ARTICLE_LAST = re.compile(r"^(.*), (the|an?|les?|la|el|los|las|il|lo|gli|der|die|das|het|den|det)$")
"""An article that was put last so that lists sort well: "matrix, the"."""


@dataclass(frozen=True)
class Matching:
    """Which item of another catalogue each item is."""

    codes: Int32[np.ndarray, " items"]
    """The code of the same item in the other catalogue; -1 where there is none, or where several could be meant."""
    by_id: Bool[np.ndarray, " items"]
    """Which were found by their IMDb id alone; the others have the same title and year."""

    @property
    def coverage(self) -> float:
        """The share of the items that were found."""
        return float((self.codes >= 0).mean()) if len(self.codes) else 0.0


def matched(items: Table, others: Table) -> Matching:
    """For each of these items the same one of the others.

    Years stand in a column `year` or at the end of the title, as in "Heat (1995)"; IMDb ids in a column `imdb_id`, as
    tt0133093, 0133093 or 133093. What several of the others share names none of them. Where the two disagree the title
    and year decide: of the ids of ReDial some are wrong, such as a remake's, and all 8 that disagree with
    MovieLens are.

    >>> from itemic.data import Ids
    >>> ours = Table.of(Ids([1, 2]), {"title": ["The Matrix (1999)", "Heat"], "imdb_id": [None, "tt0113277"]})
    >>> theirs = Table.of(Ids([7, 8]), {"title": ["Matrix, The (1999)", "Heat (1995)"], "imdbId": [133093, 113277]})
    >>> found = matched(ours, theirs)
    >>> found.codes.tolist(), found.by_id.tolist(), found.coverage
    ([0, 1], [False, True], 1.0)

    Raises:
        DataError: one of the two has neither IMDb ids nor titles.
    """
    for table in (items, others):
        if _column(table, "imdb_id") is None and not table.roles.get("title"):
            listed = ", ".join(table.names) or "none"
            raise DataError(f"items cannot be matched: they have no column imdb_id or title. Columns: {listed}.")
    by_id, by_title = (_places(keys(items), keys(others)) for keys in (_imdb_ids, _titles))
    return Matching(np.where(by_title >= 0, by_title, by_id), (by_title < 0) & (by_id >= 0))


def title_and_year(text: str) -> tuple[str, int | None]:
    """A title without its year, and the year if it ends with one.

    >>> title_and_year("Heat (1995)"), title_and_year("2012"), title_and_year("Halloween (2018 film)")
    (('Heat', 1995), ('2012', None), ('Halloween', 2018))
    """
    found = YEAR.search(text)
    return (text[: found.start()].strip(), int(found[1])) if found else (text.strip(), None)


def plain(title: str) -> str:
    """What titles are compared by: words in small letters without accents and signs, the article first, no alias.

    >>> plain("Matrix, The"), plain("Postino, Il (The Postman)"), plain("Misérables, Les"), plain("Mr. & Mrs. Smith")
    ('the matrix', 'il postino', 'les miserables', 'mr and mrs smith')
    """
    letters = unicodedata.normalize("NFKD", title.casefold().replace("&", " and "))
    bare = ALIAS.sub("", "".join(sign for sign in letters if not unicodedata.combining(sign))).strip()
    if found := ARTICLE_LAST.match(bare):
        bare = f"{found[2]} {found[1]}"
    return " ".join(re.sub(r"\W", " ", re.sub(r"['’.]", "", bare)).split())


def _imdb_ids(table: Table) -> list[int | None]:
    """The digits of each id."""
    values = _column(table, "imdb_id")
    digits = [re.fullmatch(r"(?:tt)?0*([0-9]+)", str(value).strip()) for value in values or ()]
    return [int(found[1]) if found else None for found in digits] or [None] * len(table)


def _titles(table: Table) -> list[tuple[str, int] | None]:
    """Title and year of each item that has both."""
    titles, years = table.titles(np.arange(len(table))), _column(table, "year") or [None] * len(table)
    keys = []
    for text, given in zip(titles, years):
        title, year = title_and_year(text or "")
        year = year if year is not None else int(str(given)) if str(given).strip().isdigit() else None
        keys.append((plain(title), year) if title and year is not None else None)
    return keys


def _column(table: Table, name: str) -> list | None:
    found = first_named(table.names, name)
    return None if found is None else table.column(found).to_pylist()


def _places(ours: Sequence[Hashable], theirs: Sequence[Hashable]) -> Int32[np.ndarray, " ours"]:
    """Where each of our keys stands among theirs; -1 for those that stand there more than once, or are None."""
    place: dict[Hashable, int] = {None: -1}
    for number, key in enumerate(theirs):
        place[key] = -1 if key in place else number
    return np.array([place.get(key, -1) for key in ours], np.int32)
