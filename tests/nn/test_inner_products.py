"""Inner products of rows: the compiled loops beside torch's operations, values and gradients."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from itemic import threads
from itemic.nn.inner_products import chosen_products, gathered_products, inner_products


def example(n=7, m=9, batch=5, width=3, dim=4, seed=0, dtype=torch.float32):
    rng = torch.Generator().manual_seed(seed)
    left, right = (torch.randn(k, dim, generator=rng, dtype=dtype, requires_grad=True) for k in (n, m))
    return (
        left,
        right,
        torch.randint(n, (batch,), generator=rng),
        torch.randint(m, (batch, width), generator=rng),
    )


def gradients(products, tables, weights, **options):
    left, right, *rows = tables
    found = products(left, right, *rows, **options)
    total = sum((x * w[: x.numel()].view_as(x)).sum() for x, w in zip(found, weights))
    return found, torch.autograd.grad(total, (left, right))


@pytest.mark.parametrize("sparse", [False, True])
@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 5), st.integers(1, 70), st.integers(0, 1000))
def test_values_and_gradients_are_those_of_torchs_operations(sparse, n, batch, width, dim, seed):
    tables = example(n, n + 1, batch, width, dim, seed)
    weights = torch.randn(3, batch * width, generator=torch.Generator().manual_seed(seed))
    found, slopes = gradients(inner_products, tables, weights, sparse=sparse)
    expected, wanted = gradients(gathered_products, tables, weights)
    for a, b in zip(found, expected):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
    for a, b in zip(slopes, wanted):
        assert a.is_sparse == sparse
        torch.testing.assert_close(a.to_dense(), b, atol=1e-4, rtol=1e-4)


def test_a_sparse_gradient_names_the_rows_looked_up_and_no_others():
    left, right, rows, columns = example()
    inner_products(left, right, rows, columns, sparse=True).inner.sum().backward()
    assert left.grad.coalesce().indices()[0].tolist() == sorted(set(rows.tolist()))
    assert right.grad.coalesce().indices()[0].tolist() == sorted(set(columns.flatten().tolist()))


def test_gradients_of_float64_are_those_of_finite_differences():
    left, right, rows, columns = example(dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda a, b: tuple(inner_products(a, b, rows, columns)), (left, right))


@pytest.mark.parametrize("n_threads", [1, 2])
@given(st.integers(1, 300), st.integers(1, 12), st.integers(0, 5), st.integers(1, 70), st.integers(0, 1000))
def test_products_with_chosen_rows_are_those_of_gathered_ones(n_threads, n, m, width, dim, seed):
    rng = torch.Generator().manual_seed(seed)
    x, table = (torch.randn(k, dim, generator=rng, requires_grad=True) for k in (n, m))
    columns, weights = torch.randint(m, (n, width), generator=rng), torch.randn(n, width, generator=rng)
    with threads.use(n_threads):
        found = chosen_products(x, table, columns)
        slopes = torch.autograd.grad((found * weights).sum(), (x, table))
    expected = (x[:, None] * table[columns]).sum(-1)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    for a, b in zip(slopes, torch.autograd.grad((expected * weights).sum(), (x, table))):
        torch.testing.assert_close(a, b, atol=1e-3, rtol=1e-4)


def test_products_with_chosen_rows_work_in_float64_and_under_autocast():
    rng = torch.Generator().manual_seed(0)
    x, table = (torch.randn(k, 4, generator=rng, dtype=torch.float64, requires_grad=True) for k in (5, 9))
    columns = torch.randint(9, (5, 3), generator=rng)
    assert torch.autograd.gradcheck(lambda a, b: chosen_products(a, b, columns), (x, table))
    with torch.autocast("cpu", torch.bfloat16):
        low = chosen_products(x.bfloat16(), table.float(), columns)
    torch.testing.assert_close(low.double(), chosen_products(x, table, columns), atol=0.05, rtol=0.05)
