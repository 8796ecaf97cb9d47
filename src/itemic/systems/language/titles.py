"""Titles of a catalogue in running text: which items somebody names, and what may not be said of others.

Words are compared as in `itemic.data.matching`: small letters, no accents and signs, the article first. A year behind a
title tells equal ones apart; without it the one that most users took is meant.
"""

import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence, Set
from typing import NamedTuple

import numpy as np

from itemic.data.matching import plain, title_and_year

WORD = re.compile(r"&|\w(?:['’.]*\w)*")
OWNING = re.compile(r"['’]s$", re.IGNORECASE)
SENTENCE_ENDS = re.compile(r"[.!?](?=[\s\"”»)]|$)|\n")
CLAUSE_ENDS = re.compile(r"\s*(?:$|[.,;:!?)\"”»\n]|(?:and|or|but|nor)\b)", re.IGNORECASE)
ORDINARY = """a all an and are as at be big but by do for from go he her here him his home how i if in is it me my
    no not now of off on one or our out she so that the them then there they this to up us was we what
    when where who why with yes you your"""
COMMON = frozenset(ORDINARY.split())
"""Words of which each, where it is a title, is meant as one only in quotes or with a year."""
QUOTES = "\"'“”«»‘’*_"


class Named(NamedTuple):
    """Items of one title, the most taken first, where a text names them."""

    start: int
    end: int
    items: tuple[int, ...]


class Titles:
    """The titles of a catalogue, found in texts.

    >>> titles = Titles(["Heat (1995)", "The Heat", "Matrix, The (1999)", "It"], np.array([3, 5, 1, 9]))
    >>> [(n.start, n.items) for n in titles.named("I like the heat, Heat and the Matrix (1999). It is 'It'")]
    [(7, (1,)), (17, (0,)), (26, (2,)), (52, (3,))]
    """

    def __init__(self, titles: Sequence[str | None], taken: np.ndarray) -> None:
        """`taken` says how many users took each."""
        named: dict[str, list[int]] = {}
        self._written: dict[str, set[str]] = {}
        for item in np.argsort(-taken, kind="stable").tolist():
            title = titles[item]
            if not title:
                continue
            bare, year = title_and_year(title)
            ways = {_key(bare), plain(bare)}
            ways |= {f"{way} {year}" for way in ways} if year is not None else set()
            for way in filter(None, ways | {_key(title)}):
                named.setdefault(way, []).append(item)
            self._written.setdefault(_key(bare), set()).add(bare)
        self._keys = sorted(named)
        self._items = [tuple(named[key]) for key in self._keys]

    def named(self, text: str) -> list[Named]:
        """What a text names, in order, the longest title first; a single word that is a title is one where it is
        written so, or where a clause ends behind it."""
        return [found for found, _ in self._scan(text, _words(text), over=True, lenient=True) if found is not None]

    def safe(self, text: str, over: bool) -> Iterator[tuple[Named | None, int]]:
        """What a text names that may still go on, and up to where nothing is left that a title may begin with; nothing
        more, where `over` says that nothing comes."""
        words = _words(text)
        if not over and words and words[-1][2] == len(text):
            words.pop()  # it may go on
        return self._scan(text, words, over, lenient=False)

    def _scan(
        self, text: str, words: list[tuple[str, int, int]], over: bool, lenient: bool
    ) -> Iterator[tuple[Named | None, int]]:
        n = 0
        while n < len(words):
            found, stop, key = None, n, ""
            while stop < len(words):
                key = f"{key} {words[stop][0]}".strip()
                at = bisect_left(self._keys, key)
                if at < len(self._keys) and self._keys[at] == key:
                    start, end = words[n][1], words[stop][2]
                    if stop > n or self._meant(text, key, start, end, lenient):
                        end += text[end : end + 1] == ")" and "(" in text[start:end]
                        found = Named(start, end, self._items[at]), stop
                stop += 1
                at = bisect_left(self._keys, key + " ")
                if at == len(self._keys) or not self._keys[at].startswith(key + " "):
                    break
            else:
                if not over:  # all that is there begins a title
                    return
            if found is not None:
                yield found[0], found[0].end
                n = found[1] + 1
            else:
                yield None, words[n][2]
                n += 1

    def _meant(self, text: str, key: str, start: int, end: int, lenient: bool) -> bool:
        """Whether a single word that is a title is meant as one."""
        quoted = text[start - 1 : start] in QUOTES and text[end : end + 1] in QUOTES
        if start > 0 and quoted and text[end : end + 1]:
            return True
        if key in COMMON:
            return False
        return text[start:end] in self._written.get(key, ()) or (lenient and bool(CLAUSE_ENDS.match(text, end)))


def guarded(pieces: Iterable[str], titles: Titles, allowed: Set[int]) -> Iterator[str]:
    """A text as it comes, without sentences that name an item that is not allowed: of such a sentence nothing is given
    from the title on, and the ellipsis that ends it says so; nothing at all, if it begins with it.

    What may be the beginning of a title is held back until it is known.

    >>> titles = Titles(["Heat", "Heat Wave"], np.array([1, 1]))
    >>> "".join(guarded(["Take He", "at", " Wave. Or see Heat n", "ow. Good."], titles, {1}))
    'Take Heat Wave. Or see… Good.'
    """
    held, begun, dropping = "", False, False
    for piece, over in _with_end(pieces):
        held += piece
        while held:
            if dropping:
                end = SENTENCE_ENDS.search(held)
                if end is None or (end.end() == len(held) and not over and held[-1] != "\n"):
                    held = "" if over else held
                    break
                held, dropping, begun = held[end.end() :], False, False
            upto, barred = 0, None
            for found, stop in titles.safe(held, over):
                if found is not None and not allowed & set(found.items):
                    barred = found
                    break
                upto = stop
            if over and barred is None:
                upto = len(held)
            said = held[: barred.start] if barred else held[:upto]
            ends = list(SENTENCE_ENDS.finditer(said))
            last = said[ends[-1].end() :] if ends else said
            begun = bool(last.strip(f" {QUOTES}")) or (begun and not ends)
            if barred:
                said = said.rstrip(f" {QUOTES}") + ("…" if begun else "")
                held, dropping = held[barred.end :], True
            else:
                held = held[upto:]
            if said:
                yield said
            if not dropping:
                break


def _with_end(pieces: Iterable[str]) -> Iterator[tuple[str, bool]]:
    for piece in pieces:
        yield piece, False
    yield "", True


def _words(text: str) -> list[tuple[str, int, int]]:
    """The words of a text as titles are compared by, with where each begins and ends."""
    found = ((OWNING.sub("", word[0]), word.start()) for word in WORD.finditer(text))
    return [(key, start, start + len(word)) for word, start in found if (key := plain(word))]


def _key(title: str) -> str:
    return " ".join(word for word, _, _ in _words(title))
