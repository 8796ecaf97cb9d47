"""The losses of phase 1 beside loops that spell them out."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import normalize

from itemic.nn.text import Texts
from itemic.systems.language import alignment
from itemic.systems.language.alignment import Heads, best_pairs, hard_negatives
from itemic.systems.language.qformer import QFormer

ENTITY = 8


@pytest.fixture
def reader():
    torch.manual_seed(0)
    qformer = QFormer(30, 16, layers=2, heads=2, n_queries=3, entity=ENTITY, every=1, n_places=8, dropout=0.0)
    return qformer, Heads(30, 16)


def batch(n=5):
    rng = torch.Generator().manual_seed(1)
    token, lengths = torch.randint(29, (n, 6), generator=rng), torch.tensor([6, 4, 5, 3, 6])[:n]
    return torch.randn(n, 1, ENTITY, generator=rng), Texts(token, torch.arange(6) < lengths[:, None])


def smoothed(logits, own, competes):
    """-log shares by hand: nine tenths of the wish on the own column, the rest spread over those that compete."""
    total = sum(math.exp(logits[n]) for n in competes)
    shares = {n: logits[n] - math.log(total) for n in competes}
    return -(0.9 * shares[own] + 0.1 * sum(shares.values()) / len(competes))


def test_the_contrast_of_items_and_texts_is_its_definition_written_as_loops(reader):
    qformer, heads = reader
    entity, texts = batch()
    same = torch.eye(5, dtype=torch.bool)
    same[0, 3] = same[3, 0] = True
    made = alignment.item_text_losses(qformer, heads, entity, texts, same, begin=29)
    with torch.no_grad():
        query, read = qformer.draw(entity), qformer.read(texts)[:, 0]
        scores = [
            [
                max(float(normalize(heads.item(q), dim=0) @ normalize(heads.text(t), dim=0)) for q in item) / 0.07
                for t in read
            ]
            for item in query
        ]
    rows = [smoothed(scores[i], i, [j for j in range(5) if j == i or not same[i, j]]) for i in range(5)]
    columns = [
        smoothed([scores[i][j] for i in range(5)], j, [i for i in range(5) if i == j or not same[i, j]])
        for j in range(5)
    ]
    assert made["contrast"].item() == pytest.approx((sum(rows) + sum(columns)) / 10, abs=1e-4)


def test_pairs_are_compared_by_their_nearest_queries():
    rng = torch.Generator().manual_seed(0)
    a, b = torch.randn(7, 3, 4, generator=rng), torch.randn(5, 2, 4, generator=rng)
    found = best_pairs(a, b, chunk=40)
    for i in range(7):
        for j in range(5):
            assert found[i, j].item() == pytest.approx(max(float(p @ q) for p in a[i] for q in b[j]), abs=1e-5)


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 8), st.integers(0, 1000))
def test_a_hard_negative_is_never_the_own_text_nor_one_like_it(n, seed):
    rng = torch.Generator().manual_seed(seed)
    group = torch.randint(4, (n,), generator=rng)
    same = group[:, None] == group
    rows, columns = hard_negatives(100 * torch.randn(n, n, generator=rng), same, rng)
    assert not same[rows, columns].any()
    assert rows.tolist() == [i for i in range(n) if not same[i].all()]


def test_telling_loses_nothing_on_padding_and_reads_no_word_ahead(reader):
    qformer, heads = reader
    entity, texts = batch()
    losses = []
    for fill in (0, 7):
        filled = texts._replace(token=texts.token.masked_fill(~texts.real, fill))
        losses.append(alignment.item_text_losses(qformer, heads, entity, filled, torch.eye(5, dtype=torch.bool), 29))
    assert losses[0]["telling"].item() == pytest.approx(losses[1]["telling"].item(), abs=1e-6)
    assert losses[0]["contrast"].item() == pytest.approx(losses[1]["contrast"].item(), abs=1e-6)


def test_matching_learns_which_text_is_whose(reader):
    qformer, heads = reader
    entity, texts = batch()
    optimizer = torch.optim.Adam([*qformer.parameters(), *heads.parameters()], 1e-2)
    same = torch.eye(5, dtype=torch.bool)
    torch.manual_seed(0)
    for _ in range(150):
        losses = alignment.item_text_losses(qformer, heads, entity, texts, same, 29)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
    with torch.no_grad():
        right = heads.match(qformer(entity, texts, "together")[0]).mean(1).argmax(1)
        order = torch.tensor([1, 2, 3, 4, 0])
        wrong = Texts(texts.token[order], texts.real[order])
        wrong = heads.match(qformer(entity, wrong, "together")[0]).mean(1).argmax(1)
    assert right.tolist() == [1] * 5
    assert wrong.tolist() == [0] * 5


def test_pairs_that_share_an_item_are_no_negatives_of_each_other(reader):
    qformer, heads = reader
    left = torch.randn(3, 1, ENTITY, generator=torch.Generator().manual_seed(2))
    right = left[[0, 0, 2]] + 1
    same = torch.tensor([[True, True, False], [True, True, False], [False, False, True]])
    told = [alignment.paired_vectors(qformer.draw(x), heads) for x in (left, right)]
    logits = best_pairs(*told) / 0.07
    wanted = []
    for scores in (logits, logits.T):
        for i, competing in enumerate(([0, 2], [1, 2], [0, 1, 2])):
            wanted.append(torch.logsumexp(scores[i, competing], 0) - scores[i, i])
    made = alignment.pair_loss(qformer, heads, left, right, same, kind=2)
    assert made.item() == pytest.approx(torch.stack(wanted).mean().item(), abs=1e-4)


def test_temperatures_stay_within_their_bounds():
    heads = Heads(10, 8)
    with torch.no_grad():
        heads.temperatures.copy_(torch.tensor([-1.0, 0.2, 3.0]))
    assert [round(heads.temperature(n).item(), 3) for n in range(3)] == [0.01, 0.2, 0.5]
