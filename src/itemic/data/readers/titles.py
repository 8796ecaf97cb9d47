"""Titles in what people say: where they stand, and in place of the ids that stood there."""

import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import unquote

import pyarrow as pa

from itemic.data.matching import title_and_year

FILM = re.compile(r"@([0-9]+)")


def with_titles(text: str, titles: Mapping[int, str | None]) -> dict[str, Any]:
    """A text with titles where it has @ids, and what it names: text, items, starts, ends. Other @ids stay as they are.

    >>> with_titles("I liked @7, not @8", {7: "Heat (1995)"})
    {'text': 'I liked Heat (1995), not @8', 'items': [7], 'starts': [8], 'ends': [19]}
    """
    pieces, items, starts, ends, place, length = [], [], [], [], 0, 0
    for found in FILM.finditer(text):
        item = int(found[1])
        if item not in titles:
            continue
        before, title = text[place : found.start()], titles[item] or found[0]
        pieces += [before, title]
        items.append(item)
        starts.append(length + len(before))
        length += len(before) + len(title)
        ends.append(length)
        place = found.end()
    return {"text": "".join([*pieces, text[place:]]), "items": items, "starts": starts, "ends": ends}


def placed(text: str, names: Sequence[str]) -> list[tuple[int, int]]:
    """Where each name stands in a text as words of their own, in any letters; (-1, -1) where it does not.

    A name that stands there twice has the places one after the other; no two names overlap.

    >>> placed("Up? HEAT, upon Up", ["Up", "Heat", "up", "up"])
    [(0, 2), (4, 8), (15, 17), (-1, -1)]
    """
    small = text.lower() if len(text.lower()) == len(text) else text  # a few letters grow
    taken: list[tuple[int, int]] = []
    found = []
    for name in names:
        word, start = name.lower(), -1
        while word and (start := small.find(word, start + 1)) >= 0:
            stop = start + len(word)
            alone = not (small[start - 1 : start].isalnum() or small[stop : stop + 1].isalnum())
            if alone and all(stop <= a or start >= b for a, b in taken):
                taken.append((start, stop))
                break
        found.append((start, start + len(word)) if start >= 0 else (-1, -1))
    return found


def clean(title: str | None) -> str | None:
    """A title without what the web and hasty fingers did to it; None where nothing is left.

    >>> clean("Why Him%3F  (2016)"), clean(" ")
    ('Why Him? (2016)', None)
    """
    return " ".join(unquote(title or "").split()) or None


def film_table(titles: Mapping[int, str | None]) -> pa.Table:
    """Films by id, with their titles and the years that stand in them."""
    years = [title_and_year(title or "")[1] for title in titles.values()]
    return pa.table({"id": list(titles), "title": list(titles.values()), "year": pa.array(years, pa.int32())})
