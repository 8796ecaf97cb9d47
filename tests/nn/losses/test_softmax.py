"""Cross-entropy against a table: its definition, its gradients, its chunks, and what it never holds."""

import math
from statistics import mean, stdev

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Generator
from torch.autograd import gradcheck
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode

from itemic.nn.losses import softmax
from itemic.nn.losses.softmax import table_cross_entropy


@pytest.fixture
def problem(monkeypatch):
    """Tokens, table, bias and targets; three rows at a time, so that the last chunk is shorter."""
    monkeypatch.setattr(softmax, "ROWS", 3)
    return made()


def made(tokens=7, items=9, dim=4):
    rng = Generator().manual_seed(0)
    x, table = (torch.randn(n, dim, dtype=torch.float64, generator=rng).requires_grad_() for n in (tokens, items))
    bias = torch.randn(items, dtype=torch.float64, generator=rng).requires_grad_()
    return x, table, bias, torch.randint(items, (tokens,), generator=rng)


def by_hand(x, table, target, competitors, extra):
    """The mean over tokens of -log of the target's share, by loops; `extra` is added to an item's logit."""
    total = 0.0
    for row, wanted in zip(x, target.tolist()):
        logit = {n: (row @ table[item]).item() + extra(item, n) for n, item in competitors(wanted)}
        hit = (row @ table[wanted]).item() + extra(wanted, None)
        rest = sum(map(math.exp, logit.values()))
        total += math.log(math.exp(hit) + rest) - hit
    return total / len(x)


def test_it_is_its_definition_written_as_a_loop(problem):
    x, table, bias, target = problem
    others = lambda wanted: [(i, i) for i in range(9) if i != wanted]  # noqa: E731
    expected = by_hand(x / 0.5, table, target, others, lambda item, n: bias[item].item())
    assert table_cross_entropy(x, table, target, bias=bias, temperature=0.5, chunk=1).item() == pytest.approx(expected)


def test_sampled_it_is_its_definition_written_as_a_loop(problem):
    x, table, bias, target = problem
    negatives, log_q = torch.tensor([0, 3, 3, 8]), torch.tensor([0.3, -0.2, -0.2, 1.0], dtype=torch.float64)
    drawn = lambda wanted: [(n, i) for n, i in enumerate(negatives.tolist()) if i != wanted]  # noqa: E731
    extra = lambda item, n: bias[item].item() - (0 if n is None else log_q[n].item())  # noqa: E731
    expected = by_hand(x, table, target, drawn, extra)
    found = table_cross_entropy(x, table, target, negatives=negatives, log_q=log_q, bias=bias, chunk=1)
    assert found.item() == pytest.approx(expected)


@pytest.mark.parametrize("chunk", [1, 1 << 20])
def test_value_and_gradient_are_those_of_the_dense_loss(problem, chunk):
    x, table, bias, target = problem
    weight = torch.arange(1, 8).double()
    losses = cross_entropy(x @ table.T / 0.3 + bias, target, reduction="none")
    dense = (losses * weight).sum() / weight.sum()
    chunked = table_cross_entropy(x, table, target, bias=bias, weight=weight, temperature=0.3, chunk=chunk)
    torch.testing.assert_close(chunked, dense)
    for one, other in zip(*(torch.autograd.grad(3 * loss, [x, table, bias]) for loss in (chunked, dense))):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("sampled", [False, True])
@pytest.mark.parametrize("limited", [False, True])
def test_gradients_are_those_of_finite_differences(problem, sampled, limited):
    x, table, bias, target = problem
    options = {"chunk": 1}
    if sampled:
        options |= {"negatives": torch.tensor([0, 3, 3, 8]), "log_q": torch.randn(4, dtype=torch.float64)}
    if limited:
        allowed = torch.zeros(9, dtype=torch.bool)
        allowed[[3, 5, *target.tolist()]] = True
        options |= {"allowed": allowed}
    assert gradcheck(
        lambda x, table, bias: table_cross_entropy(x, table, target, bias=bias, **options), (x, table, bias)
    )


def test_items_that_are_not_allowed_take_no_part(problem):
    x, table, _, target = problem
    allowed = torch.ones(9, dtype=torch.bool)
    allowed[[i for i in range(9) if i not in target.tolist()]] = False
    kept = allowed.nonzero().squeeze(1)
    small = torch.searchsorted(kept, target)
    torch.testing.assert_close(
        table_cross_entropy(x, table, target, allowed=allowed), table_cross_entropy(x, table[kept], small)
    )
    (by_table,) = torch.autograd.grad(table_cross_entropy(x, table, target, allowed=allowed), table)
    assert (by_table[~allowed] == 0).all()
    assert (by_table[allowed] != 0).all()


def test_with_all_items_as_negatives_the_sampled_loss_is_the_full_one(problem):
    x, table, bias, target = problem
    full = table_cross_entropy(x, table, target, bias=bias)
    sampled = table_cross_entropy(x, table, target, bias=bias, negatives=torch.randperm(9))
    torch.testing.assert_close(sampled, full)
    for one, other in zip(*(torch.autograd.grad(loss, [x, table, bias]) for loss in (sampled, full))):
        torch.testing.assert_close(one, other)


def test_with_log_q_the_sampled_sum_is_unbiased_and_without_it_is_not():
    x, table, _, _ = made(tokens=1, items=50)
    x = x / 3  # less unequal weights, fewer draws
    target, rng = torch.tensor([4]), Generator().manual_seed(0)
    chance = torch.rand(50, dtype=torch.float64, generator=rng) + 0.02
    chance /= chance.sum()
    hit = (x @ table[4]).item()

    def rest(loss):  # the sum over the negatives of exp(logit)
        return math.exp(hit) * (math.exp(loss.item()) - 1)

    full = rest(table_cross_entropy(x, table, target))
    sums = {True: [], False: []}
    for _ in range(400):
        drawn = torch.multinomial(chance, 20, replacement=True, generator=rng)
        for corrected, found in sums.items():
            log_q = (20 * chance[drawn]).log() if corrected else None
            found.append(rest(table_cross_entropy(x, table, target, negatives=drawn, log_q=log_q)))
    off = {corrected: (mean(found) - full) / (stdev(found) / 400**0.5) for corrected, found in sums.items()}
    assert abs(off[True]) < 3  # standard errors
    assert abs(off[False]) > 50


def test_where_every_negative_is_the_target_the_loss_and_its_gradient_are_zero(problem):
    x, table, _, _ = problem
    loss = table_cross_entropy(x, table, torch.full((7,), 2), negatives=torch.tensor([2, 2]))
    assert loss.item() == 0
    assert all((by == 0).all() for by in torch.autograd.grad(loss, [x, table]))


@given(st.integers(1, 40), st.integers(1, 12), st.integers(1, 64))
def test_the_chunk_changes_nothing(tokens, items, chunk):
    x, table, bias, target = made(tokens, items)
    whole = table_cross_entropy(x, table, target, bias=bias)
    torch.testing.assert_close(table_cross_entropy(x, table, target, bias=bias, chunk=chunk), whole)


def test_logits_of_a_thousand_overflow_nothing():
    x = torch.tensor([[1000.0], [-1000.0]], requires_grad=True)
    table = torch.tensor([[1.0], [-1.0]], requires_grad=True)
    loss = table_cross_entropy(x, table, torch.tensor([0, 0]))
    assert loss.item() == 1000  # nothing for the first token, 2,000 for the second
    assert all(torch.isfinite(by).all() for by in torch.autograd.grad(loss, [x, table]))


def test_no_tokens_give_zero():
    x, table = torch.empty(0, 3, requires_grad=True), torch.ones(5, 3, requires_grad=True)
    assert table_cross_entropy(x, table, torch.empty(0, dtype=torch.int64)).item() == 0


def test_under_autocast_only_products_are_rounded():
    rng = Generator().manual_seed(0)
    x, table = (torch.randn(n, 32, generator=rng).requires_grad_() for n in (200, 500))
    target = torch.randint(500, (200,), generator=rng)
    exact = table_cross_entropy(x, table, target)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = table_cross_entropy(x, table, target)
    assert rounded.dtype == torch.float32
    assert rounded.item() != exact.item()
    assert rounded.item() == pytest.approx(exact.item(), rel=2e-3)
    for one, other in zip(*(torch.autograd.grad(loss, [x, table]) for loss in (rounded, exact))):
        assert ((one - other).norm() / other.norm()).item() < 0.01


class Largest(TorchDispatchMode):
    """The number of values of the largest tensor that any operation gives back."""

    size = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else [made]:
            if isinstance(tensor, torch.Tensor):
                self.size = max(self.size, tensor.untyped_storage().nbytes() // tensor.element_size())
        return made


@pytest.mark.parametrize("sampled", [False, True])
def test_no_matrix_of_tokens_by_items_is_ever_held(sampled):
    x, table = torch.randn(4000, 2, requires_grad=True), torch.randn(1000, 2, requires_grad=True)
    target = torch.randint(1000, (4000,))
    negatives = torch.randint(1000, (900,)) if sampled else None
    with Largest() as largest:
        table_cross_entropy(x, table, target, negatives=negatives, chunk=100_000).backward()
    assert 100_000 <= largest.size <= 200_000  # both blocks are made as one tensor
    with Largest() as largest:
        cross_entropy(x @ table.T, target)
    assert largest.size == 4_000_000
