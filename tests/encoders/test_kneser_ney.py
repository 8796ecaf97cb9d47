"""The yardstick of benchmarks/language.py: Kneser-Ney counts against the same written as loops over dicts."""

import math
import runpy
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest

from itemic.data import Ragged
from itemic.encoders.documents import Rows

KneserNey = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "language.py"))["KneserNey"]
N = 12


def some_rows(n, seed, whole=True):
    """Rows of a chain in which the next token hangs on the last two."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(n):
        row = [2]
        for _ in range(rng.integers(1, 14)):
            row.append(
                int(
                    4 + (row[-1] + 2 * row[-2] if len(row) > 1 else 0) % 7 if rng.random() < 0.7 else rng.integers(4, N)
                )
            )
        made.append([*row, 3])
    return Rows(Ragged.from_lists(made), np.full(n, whole))


def by_dicts(rows, asked, order):
    """The chance of each asked (context, word), by recursion."""
    raw = defaultdict(Counter)
    for row in rows.tokens.to_lists():
        for end in range(1, len(row)):
            for n in range(1, order + 1):
                if end - n + 1 >= 0:
                    raw[n][tuple(row[end - n + 1 : end + 1])] += 1
    count = {order: raw[order]}
    for n in range(1, order):
        kinds = Counter(gram[1:] for gram in raw[n + 1])
        count[n] = {gram: times if gram[0] == 2 else kinds[gram] for gram, times in raw[n].items()}
    discount = {}
    for n in count:
        rare = [max(1, sum(c == j for c in count[n].values())) for j in (1, 2, 3, 4)]
        y = rare[0] / (rare[0] + 2 * rare[1])
        discount[n] = [0] + [min(j, max(0, j - (j + 1) * y * rare[j] / rare[j - 1])) for j in (1, 2, 3)]

    def chance(context, word):
        n = len(context) + 1
        below = chance(context[1:], word) if context else 1 / N
        inside = {gram: c for gram, c in count[n].items() if gram[:-1] == context}
        if not inside:
            return below
        total = sum(inside.values())
        own = inside.get((*context, word), 0)
        left = sum(discount[n][min(3, c)] for c in inside.values()) / total
        return max(0, own - discount[n][min(3, own)]) / total + left * below

    return [chance(tuple(context[-(order - 1) :]), word) for context, word in asked]


@pytest.mark.parametrize("order", [2, 3, 4])
def test_chances_are_those_of_the_definition(order):
    read, held = some_rows(60, 0), some_rows(10, 1)
    asked = [(row[:end], row[end]) for row in held.tokens.to_lists() for end in range(1, len(row))]
    np.testing.assert_allclose(
        KneserNey(read, N, order).log_probs(held), np.log(by_dicts(read, asked, order)), atol=1e-9
    )


def test_chances_of_all_words_come_to_one_wherever_they_are_asked():
    model = KneserNey(some_rows(60, 0), N)
    for context in ([2], [2, 5], [2, 5, 6, 7], [2, 11, 4, 9, 8], [2, 3, 3, 3]):
        rows = Rows(Ragged.from_lists([[*context, word] for word in range(N)]), np.ones(N, bool))
        ends = rows.tokens.offsets[1:] - 1 - np.arange(1, N + 1)  # the first token of a row is not asked
        assert np.exp(model.log_probs(rows)[ends]).sum() == pytest.approx(1)


def test_longer_contexts_foresee_more_of_a_chain_and_what_it_knows_beats_guessing():
    read, held = some_rows(600, 0), some_rows(100, 1)
    surprise = [-KneserNey(read, N, order).log_probs(held).mean() for order in (1, 2, 3, 4)]
    assert surprise[2] < surprise[1] < surprise[0] < math.log(N)
    assert surprise[3] < surprise[1]


def test_an_end_that_ends_no_document_is_neither_learned_nor_asked():
    cut, whole = some_rows(20, 0, whole=False), some_rows(20, 0)
    assert len(KneserNey(whole, N).log_probs(cut)) == len(cut.tokens.values) - 40
    assert KneserNey(cut, N).log_probs(whole)[-1] < KneserNey(whole, N).log_probs(whole)[-1]


def test_what_does_not_fit_into_64_bits_is_refused():
    with pytest.raises(ValueError, match="4-grams of 100,000 words do not fit into 64 bits"):
        KneserNey(some_rows(2, 0), 100_000)
