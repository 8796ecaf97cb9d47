"""Inner products of rows: the compiled loops beside torch's operations, values and gradients."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from itemic.nn.inner_products import gathered_products, inner_products


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
