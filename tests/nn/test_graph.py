import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from itemic import threads
from itemic.nn.graph import Graph, propagate

USER, ITEM = np.array([0, 0, 1, 1, 2]), np.array([0, 1, 1, 2, 2])  # 3 users, 4 items; nobody took item 3
NORMS = ["sym", "row_selfloop", "row_plus_identity"]


def tiny(norm="sym"):
    return Graph.bipartite(USER, ITEM, 3, 4, norm)


def adjacency(user=USER, item=ITEM, n_users=3, n_items=4):
    a = np.zeros((n_users + n_items,) * 2)
    a[user, n_users + item] = a[n_users + item, user] = 1
    return a


def reference(a, norm):
    """The three matrices as their definitions read, dense."""
    degree = a.sum(1)
    with np.errstate(divide="ignore"):
        inverse = np.where(degree > 0, 1 / degree, 0)
    if norm == "sym":
        return np.sqrt(inverse)[:, None] * a * np.sqrt(inverse)
    eye = np.eye(len(a))
    return (a + eye) / (degree + 1)[:, None] if norm == "row_selfloop" else inverse[:, None] * a + eye


def dense(graph):
    return (graph @ torch.eye(graph.shape[1])).numpy()


@pytest.mark.parametrize("norm", NORMS)
def test_each_norm_is_its_definition_written_densely(norm):
    np.testing.assert_allclose(dense(tiny(norm)), reference(adjacency(), norm), atol=1e-7)


def test_row_selfloop_sums_to_one_in_every_row_and_sym_is_its_own_transpose():
    np.testing.assert_allclose(dense(tiny("row_selfloop")).sum(1), 1, atol=1e-6)
    np.testing.assert_array_equal(dense(tiny("sym")), dense(tiny("sym")).T)
    assert not np.array_equal(dense(tiny("row_selfloop")), dense(tiny("row_selfloop")).T)


def test_a_repeated_pair_counts_once_in_any_order():
    order = np.array([4, 0, 2, 1, 3, 0, 2])
    again = Graph.bipartite(USER[order], ITEM[order], 3, 4)
    np.testing.assert_array_equal(dense(again), dense(tiny()))


@pytest.mark.parametrize("norm", NORMS)
def test_the_gradient_is_the_transpose_times_the_gradient(norm):
    graph, x = tiny(norm), torch.randn(7, 5, requires_grad=True)
    after = torch.randn(7, 5)
    (graph @ x).backward(after)
    assert x.grad is not None
    np.testing.assert_allclose(x.grad, reference(adjacency(), norm).T @ after.numpy(), atol=1e-6)


def test_the_gradient_of_any_sparse_matrix_agrees_with_differences():
    offsets, columns = np.array([0, 2, 2, 3]), np.array([1, 3, 0])
    graph = Graph(offsets, columns, np.array([2.0, -1.0, 0.5]), 5)  # float64, 3 rows, 5 columns
    x = torch.randn(5, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: graph @ x, (x,))
    assert torch.autograd.gradcheck(lambda x: graph.dropped(0.5, torch.Generator().manual_seed(1)) @ x, (x,))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("combine", ["mean", "last", "concat"])
def test_propagation_and_its_gradient_are_those_of_dense_powers(norm, combine):
    graph, s = tiny(norm), torch.from_numpy(reference(adjacency(), norm)).float()
    x = torch.randn(7, 5, requires_grad=True)
    powers = [torch.linalg.matrix_power(s, n) @ x for n in range(4)]
    wanted = {"mean": torch.stack(powers).mean(0), "last": powers[-1], "concat": torch.cat(powers, 1)}[combine]
    found = propagate(graph, x, 3, combine)
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-6)
    weight = torch.randn_like(wanted)
    gradients = [torch.autograd.grad((z * weight).sum(), x, retain_graph=True)[0] for z in (found, wanted)]
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("combine", ["mean", "last", "concat"])
@pytest.mark.parametrize("n_layers", [0, 1, 3])
def test_some_rows_of_a_propagation_and_their_gradient_are_those_of_the_whole(norm, combine, n_layers):
    graph, x, rows = (
        tiny(norm),
        torch.randn(7, 5, requires_grad=True),
        torch.tensor([5, 0, 6, 5]),
    )  # node 6 stands alone
    found, wanted = propagate(graph, x, n_layers, combine, rows), propagate(graph, x, n_layers, combine)[rows]
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-6)
    weight = torch.randn_like(wanted)
    gradients = [torch.autograd.grad((z * weight).sum(), x)[0] for z in (found, wanted)]
    torch.testing.assert_close(*gradients, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("combine", ["mean", "last", "concat"])
def test_no_layers_leave_the_vectors_as_they_are(combine):
    x = torch.randn(7, 5)
    torch.testing.assert_close(propagate(tiny(), x, 0, combine), x)


@given(st.integers(0, 1000))
def test_relabelled_nodes_get_the_relabelled_vectors(seed):
    rng = np.random.default_rng(seed)
    users, items = rng.permutation(3), rng.permutation(4)
    x = torch.from_numpy(rng.standard_normal((7, 2)).astype(np.float32))
    moved = torch.empty_like(x)
    moved[users], moved[3 + items] = x[:3], x[3:]
    before, after = propagate(tiny(), x, 3), propagate(Graph.bipartite(users[USER], items[ITEM], 3, 4), moved, 3)
    torch.testing.assert_close(after[users], before[:3])
    torch.testing.assert_close(after[3 + items], before[3:])


@pytest.mark.parametrize("norm", NORMS)
def test_dropped_edges_are_gone_forward_and_backward_and_the_others_are_scaled(norm):
    rng = np.random.default_rng(0)
    user, item = np.nonzero(rng.random((60, 80)) < 0.3)
    graph = Graph.bipartite(user, item, 60, 80, norm)
    thinned = graph.dropped(0.25, torch.Generator().manual_seed(0))
    whole, left = dense(graph), dense(thinned)
    kept = left != 0
    np.testing.assert_allclose(left[kept], whole[kept] / 0.75, rtol=1e-6)
    assert kept.sum() / (whole != 0).sum() == pytest.approx(0.75, abs=0.02)
    np.testing.assert_array_equal(thinned.back_times(torch.eye(140)).numpy(), left.T)
    assert not np.array_equal(left, dense(graph.dropped(0.25, torch.Generator().manual_seed(1))))
    np.testing.assert_array_equal(dense(graph), whole)  # the graph itself stays whole


@pytest.mark.parametrize("n_threads", [1, 2])
def test_the_compiled_loops_do_what_torchs_sparse_products_do(n_threads):
    """float64 vectors, which the graph's float32 values go without, take torch's way."""
    rng = np.random.default_rng(1)
    user, item = np.nonzero(rng.random((50, 30)) < 0.2)
    graph, rows = Graph.bipartite(user, item, 50, 30, "row_selfloop"), torch.tensor([70, 3, 3, 41])
    x = torch.randn(80, 5, requires_grad=True)

    def found(x):
        with threads.use(n_threads):
            outputs = [graph @ x, graph.times_rows(rows, x), propagate(graph, x, 3), propagate(graph, x, 2, rows=rows)]
            gradients = [torch.autograd.grad((out * out.detach().cos()).sum(), x)[0] for out in outputs]
        return [*outputs, *gradients]

    double = x.detach().double().requires_grad_()
    for one, other in zip(found(x), found(double), strict=True):
        torch.testing.assert_close(one, other.float(), atol=1e-5, rtol=1e-5)


def test_the_graph_moves_with_its_module_and_stays_out_of_its_state():
    holder = torch.nn.Module()
    holder.graph = tiny()
    assert holder.state_dict() == {}
    assert holder.to("meta").graph.columns.device.type == "meta"


def test_under_autocast_the_product_stays_float32():
    x = torch.randn(7, 5)
    with torch.autocast("cpu", torch.bfloat16):
        found = tiny() @ x
        torch.testing.assert_close(tiny() @ x.bfloat16(), found, atol=0.02, rtol=0.02)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, tiny() @ x)
