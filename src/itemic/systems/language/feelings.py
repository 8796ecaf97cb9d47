"""Whether somebody likes what is named in a text, where that is said plainly in English."""

import re
from collections.abc import Sequence

NO = r"(?:\s+not|n['’]?t)(?:\s+(?:really|much|ever|exactly|that))*"
BAD = (
    rf"\b(?:did|do|does|would|could){NO}\s+(?:like|love|enjoy|care\s+for|recommend|stand|finish|want)|\bcan(?:not|['’]?t)\s+stand"
    rf"|\b(?:was|is|were|are|am){NO}\s+(?:good|great|fun|a\s+fan|into|my)|\bnever\s+(?:liked|enjoyed)|\bhate[ds]?\b"
    r"|\bdislike[ds]?\b|\bno\s+fan\s+of\b|\b(?:awful|terrible|boring|bored\s+by|horrible|bad|worst|worse)\b"
    r"|^\s*(?:but\s+|and\s+)?(?:not|no|nothing\s+like|except)\b"
)
GOOD = r"\b(?:like[ds]?|love[ds]?|enjoy(?:ed|s)?|adore[ds]?|great|good|wonderful|favou?rites?|excellent|best)\b"
FEELING = re.compile(rf"(?P<bad>{BAD})|(?P<good>{GOOD})", re.IGNORECASE)
CLAUSE = re.compile(r"[.!?;:\n]|,?\s+but\b|,(?=\s*not\b)|(?:,|\band\b)(?=\s*#+ (?:is|was|are|were)\b)", re.IGNORECASE)
"""Where a clause ends; titles are signs here."""
LIKED, NOT_LIKED, NOT_SAID = 1, 0, -1


def feelings(text: str, named: Sequence[tuple[int, int]]) -> list[int]:
    """For each place where something is named whether it is liked (1), not liked (0), or nothing is said of it (-1).

    What was felt last before it in its clause counts, else what is said behind it up to the next one.

    >>> text = "I loved Heat and Ronin, not Alien. Jaws was boring. Saw Up."
    >>> feelings(text, [(text.index(title), text.index(title) + len(title)) for title in ("Heat", "Ronin", "Alien")])
    [1, 1, 0]
    """
    hidden = list(text)  # a title may sound like a feeling: "Love Actually"
    for start, end in named:
        hidden[start:end] = "#" * (end - start)
    text = "".join(hidden)
    cuts = [0, *(cut.end() for cut in CLAUSE.finditer(text)), len(text)]
    found = []
    for n, (start, end) in enumerate(named):
        first = max(cut for cut in cuts if cut <= start)
        last = min(cut for cut in cuts if cut >= end)
        if n + 1 < len(named):
            last = max(end, min(last, named[n + 1][0]))
        before, behind = list(FEELING.finditer(text[first:start])), FEELING.search(text[end:last])
        felt = before[-1] if before else behind
        found.append(NOT_SAID if felt is None else NOT_LIKED if felt["bad"] else LIKED)
    return found
