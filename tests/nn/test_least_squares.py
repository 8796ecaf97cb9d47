import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from itemic.nn.least_squares import Rows, gram, improve, solve

EVERYWHERE, TARGET = 0.3, 1.25


def example(n_rows=30, n_columns=50, dim=5, seed=0, dtype=np.float32):
    """Rows with 0 to 9 seen columns and a penalty each, the vectors of the columns, and where the rows start."""
    rng = np.random.default_rng(seed)
    seen = [rng.choice(n_columns, row % 10, replace=False) for row in range(n_rows)]
    offsets = np.concatenate([[0], np.cumsum([len(columns) for columns in seen])])
    rows = Rows(offsets, np.concatenate(seen).astype(np.int32), rng.uniform(0.5, 2, n_rows))
    fixed, start = (rng.standard_normal((n, dim)).astype(dtype) for n in (n_columns, n_rows))
    return rows, fixed, start


def dense_solution(rows, fixed, row):
    """Least squares over every cell by NumPy: one equation a cell, one a dimension for the penalty."""
    n, dim = fixed.shape
    seen = np.isin(np.arange(n), rows.columns[rows.offsets[row] : rows.offsets[row + 1]])
    weights = np.concatenate([seen.astype(float), np.full(n, EVERYWHERE), np.full(dim, rows.ridge[row])])
    cells = np.concatenate([fixed, fixed, np.eye(dim)])
    targets = np.concatenate([np.full(n, TARGET), np.zeros(n + dim)])
    root = np.sqrt(weights)
    return np.linalg.lstsq(root[:, None] * cells, root * targets)[0]


def test_the_exact_solution_is_least_squares_over_all_cells():
    rows, fixed, _ = example(dtype=np.float64)
    found = solve(rows, fixed, EVERYWHERE * fixed.T @ fixed, TARGET)
    np.testing.assert_allclose(found, [dense_solution(rows, fixed, r) for r in range(len(found))], atol=1e-12)


def test_vectors_that_a_strong_penalty_drew_to_nothing_stay_there():
    """Their squares are so small that a step has a length of nothing over nothing."""
    rng = np.random.default_rng(0)
    fixed, start = rng.standard_normal((50, 5)).astype(np.float32), rng.standard_normal((2000, 5)).astype(np.float32)
    fixed[0] *= np.float32(1e-17)
    rows = Rows(np.arange(2001), np.zeros(2000, np.int32), np.full(2000, 1.3))
    found = improve(np.float32(1e-16) * start, rows, fixed, 0.02, 1.0)
    np.testing.assert_allclose(found, solve(rows, fixed, np.float32(0.02) * gram(fixed), 1.0), atol=1e-20)


@pytest.mark.parametrize("dim", [1, 5, 64])
def test_conjugate_gradient_arrives_at_the_exact_solution(dim):
    rows, fixed, start = example(dim=dim)
    exact = solve(rows, fixed, np.float32(EVERYWHERE) * gram(fixed), TARGET)
    found = improve(start, rows, fixed, EVERYWHERE, TARGET, steps=100)
    np.testing.assert_allclose(found, exact, atol=1e-5)


def test_a_row_is_exact_after_one_step_more_than_it_has_seen_columns_and_not_before():
    rows, fixed, start = example(dim=40)
    exact = solve(rows, fixed, np.float32(EVERYWHERE) * gram(fixed), TARGET)
    n_seen = np.diff(rows.offsets)
    for steps in (2, 5):
        error = np.abs(improve(start, rows, fixed, EVERYWHERE, TARGET, steps) - exact).max(axis=1)
        assert error[n_seen < steps].max() < 1e-5  # without the preconditioner it would need 40
        assert error[n_seen > steps].min() > 1e-5


@given(st.integers(0, 1000), st.integers(1, 4))
def test_each_step_comes_closer_in_the_norm_of_the_loss(seed, steps):
    rows, fixed, start = example(10, 20, 8, seed)
    exact = solve(rows, fixed, np.float32(EVERYWHERE) * gram(fixed), TARGET)

    def distance(x, row):
        y = fixed[rows.columns[rows.offsets[row] : rows.offsets[row + 1]]]
        a = EVERYWHERE * fixed.T @ fixed + y.T @ y + rows.ridge[row] * np.eye(8)
        return (x[row] - exact[row]) @ a @ (x[row] - exact[row])

    fewer = start if steps == 1 else improve(start, rows, fixed, EVERYWHERE, TARGET, steps - 1)
    more = improve(start, rows, fixed, EVERYWHERE, TARGET, steps)
    for row in range(10):
        assert distance(more, row) <= distance(fewer, row) + 1e-8


def test_rows_in_several_blocks_and_threads_are_as_in_one(monkeypatch):
    from concurrent.futures import ThreadPoolExecutor

    rows, fixed, start = example(100, 60, 16)
    whole = improve(start, rows, fixed, EVERYWHERE, TARGET)
    monkeypatch.setattr("itemic.nn.least_squares.BLOCK", 7)
    with ThreadPoolExecutor(2) as pool:
        threaded = improve(start, rows, fixed, EVERYWHERE, TARGET, each=pool.map)
    np.testing.assert_array_equal(threaded, improve(start, rows, fixed, EVERYWHERE, TARGET))
    np.testing.assert_allclose(threaded, whole, atol=1e-5)


def test_rows_without_anything_seen_are_zero():
    rows, fixed = Rows(np.array([0, 0]), np.empty(0, np.int32), np.ones(1)), np.ones((3, 2), np.float32)
    assert not solve(rows, fixed, gram(fixed)).any()
    assert not improve(np.ones((1, 2), np.float32), rows, fixed, 1.0).any()


def test_a_matrix_that_is_not_positive_definite_is_reported():
    rows = Rows(np.array([0, 1]), np.array([0]), np.array([-5.0]))
    with pytest.raises(np.linalg.LinAlgError, match="row 0: the matrix is not positive definite in float32"):
        solve(rows, np.ones((1, 2), np.float32), np.zeros((2, 2), np.float32))
