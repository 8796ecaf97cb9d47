"""Adam a row at a time, and Adam itself, by sparse gradients: by the book, and what the trainer makes of them."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import embedding

from itemic import threads
from itemic.training import Stage, Trainer, TrainingConfig
from itemic.training.adam import SGD, Adam
from itemic.training.rowadam import Options, RowAdam, Rows, _update_compiled, clip, update
from itemic.training.state import checkpoints, remove_checkpoints

OPTIONS = {"lr": 0.05, "betas": (0.8, 0.95), "eps": 1e-6}


def table(n=6, dim=3, dtype=torch.float32):
    return nn.Parameter(torch.randn(n, dim, generator=torch.Generator().manual_seed(0), dtype=dtype))


def draws(weight, n_steps=12, n=4):
    """The rows that each step looks up, with repeats, and a gradient for each."""
    rng = torch.Generator().manual_seed(1)
    for _ in range(n_steps):
        yield torch.randint(len(weight), (n,), generator=rng), torch.randn(n, weight.shape[1], generator=rng)


def sparse(weight, rows, gradients):
    return torch.sparse_coo_tensor(rows[None], gradients.to(weight.dtype).clone(), weight.shape, check_invariants=False)


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_each_row_is_adam_by_the_book_with_a_count_of_its_own(decay):
    """Every number by itself, in Python's floats, as Kingma and Ba write it."""
    weight = table()
    expected = weight.tolist()
    moments = [[(0.0, 0.0)] * 3 for _ in expected]
    counts = [0] * len(expected)
    optimizer = RowAdam([weight], weight_decay=decay, **OPTIONS)
    (beta1, beta2), lr, eps = OPTIONS["betas"], OPTIONS["lr"], OPTIONS["eps"]
    for rows, gradients in draws(weight):
        weight.grad = sparse(weight, rows, gradients)
        optimizer.step()
        for row in set(rows.tolist()):
            counts[row] += 1
            for j in range(3):
                g = sum(float(x[j]) for x, r in zip(gradients, rows) if r == row) + decay * expected[row][j]
                m, s = moments[row][j]
                m, s = beta1 * m + (1 - beta1) * g, beta2 * s + (1 - beta2) * g * g
                moments[row][j] = m, s
                full1, full2 = 1 - beta1 ** counts[row], 1 - beta2 ** counts[row]
                expected[row][j] -= lr * (m / full1) / (math.sqrt(s / full2) + eps)
    torch.testing.assert_close(weight.data, torch.tensor(expected), atol=1e-5, rtol=1e-5)


def test_where_every_row_has_a_gradient_it_is_torchs_adam_and_sparse_adam():
    ours, dense, lazy = table(), table(), table()
    optimizers = [RowAdam([ours], **OPTIONS), torch.optim.Adam([dense], **OPTIONS)]
    optimizers.append(torch.optim.SparseAdam([lazy], **OPTIONS))
    everyone = torch.arange(6).repeat(2)
    for _, gradients in draws(ours, n_steps=30, n=12):
        ours.grad, lazy.grad = (sparse(weight, everyone, gradients) for weight in (ours, lazy))
        dense.grad = ours.grad.to_dense()
        for optimizer in optimizers:
            optimizer.step()
    torch.testing.assert_close(ours, dense, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours, lazy, atol=1e-5, rtol=1e-5)


def test_rows_without_a_gradient_keep_every_bit_of_weight_and_state():
    weight = table()
    optimizer = RowAdam([weight], weight_decay=0.1, **OPTIONS)
    weight.grad = sparse(weight, torch.arange(6), torch.ones(6, 3))
    optimizer.step()
    before = {name: value.clone() for name, value in {**optimizer.state[weight], "weight": weight.data}.items()}
    weight.grad = sparse(weight, torch.tensor([1, 4, 1]), torch.ones(3, 3))
    optimizer.step()
    for name, value in {**optimizer.state[weight], "weight": weight.data}.items():
        changed = (value != before[name]).any(1)
        assert changed.nonzero().flatten().tolist() == [1, 4], name


def test_adam_would_have_moved_them():
    weight = table()
    optimizer = torch.optim.Adam([weight], **OPTIONS)
    for rows in (range(6), [1, 4]):
        before = weight.data.clone()
        weight.grad = torch.zeros(6, 3).index_fill_(0, torch.tensor(list(rows)), 1.0)
        optimizer.step()
    assert (weight.data != before).any(1).all()


def test_a_dense_gradient_moves_the_rows_that_it_does_not_leave_alone():
    named, whole = table(), table()
    optimizers = RowAdam([named], **OPTIONS), RowAdam([whole], **OPTIONS)
    for rows, gradients in draws(named):
        named.grad = sparse(named, rows, gradients)
        whole.grad = named.grad.to_dense()
        for optimizer in optimizers:
            optimizer.step()
    torch.testing.assert_close(named, whole)


@pytest.mark.parametrize("shape", [(4,), (4, 2, 3)])
def test_weights_of_any_number_of_axes_have_rows(shape):
    weight = nn.Parameter(torch.zeros(shape))
    weight.grad = torch.zeros(shape)
    weight.grad[2] = 0.5
    RowAdam([weight], lr=0.1).step()
    expected = torch.zeros(shape)
    expected[2] = -0.1
    torch.testing.assert_close(weight.data, expected)


def test_a_weight_without_axes_is_one_row():
    weight = nn.Parameter(torch.tensor(1.0))
    weight.grad = torch.tensor(0.5)
    RowAdam([weight], lr=0.1).step()
    assert weight.item() == pytest.approx(0.9)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 70), st.integers(0, 1000))
def test_the_compiled_loop_does_what_torchs_operations_do(n, n_named, dim, seed):
    rng = torch.Generator().manual_seed(seed)
    mean, weight = torch.randn(2, n, dim, generator=rng)
    start = [weight, mean, torch.rand(n, dim, generator=rng), 0.2 + 0.8 * torch.rand(n, 2, generator=rng)]
    rows, gradients = torch.randint(n, (n_named,), generator=rng), torch.randn(n_named, dim, generator=rng)
    plain, compiled = (Rows(*(x.clone() for x in start)) for _ in range(2))
    options = Options(lr=0.1, beta1=0.9, beta2=0.999, eps=1e-8, decay=0.01)
    update(plain, rows, gradients, options)
    _update_compiled(compiled, rows, gradients.clone(), options)
    for a, b in zip(plain, compiled):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("optimizer", [Adam, RowAdam])
def test_two_threads_move_a_table_as_one_does(optimizer):
    moved = {}
    for n in (1, 2):
        weight = moved[n] = table(10_000)
        steps = optimizer([weight], lr=0.1)
        with threads.use(n):
            for rows, gradients in draws(weight, n_steps=4, n=4_000):
                weight.grad = sparse(weight, rows, gradients)
                steps.step()
    assert moved[1].equal(moved[2])
    assert not moved[1].equal(table(10_000))


@pytest.mark.parametrize(("dtype", "decay"), [(torch.float32, 0.0), (torch.float32, 0.1), (torch.float64, 0.0)])
def test_adam_by_sparse_gradients_is_torchs_adam_by_dense_ones(dtype, decay):
    """Rows rest for a step or for hundreds, and all of them move on; the step size changes as a schedule has it."""
    ours, dense = table(40, dtype=dtype), table(40, dtype=dtype)
    optimizers = [Adam([ours], weight_decay=decay), torch.optim.Adam([dense], weight_decay=decay)]
    rng = torch.Generator().manual_seed(0)
    for step in range(400):
        rows = (40 * torch.rand(5, generator=rng) ** 4).long()  # the last rows rarely
        ours.grad = sparse(ours, rows, torch.randn(5, 3, generator=rng))
        dense.grad = ours.grad.to_dense()
        for optimizer in optimizers:
            optimizer.param_groups[0]["lr"] = 0.01 + 0.01 * math.cos(step)
            optimizer.step()
    torch.testing.assert_close(ours, dense, atol=1e-5, rtol=1e-5)
    assert (ours - table(40, dtype=dtype)).abs().max() > 0.1


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_sgd_by_sparse_gradients_is_torchs_sgd_by_dense_ones(decay):
    ours, dense = table(), table()
    optimizers = [SGD([ours], lr=0.1, weight_decay=decay), torch.optim.SGD([dense], lr=0.1, weight_decay=decay)]
    for rows, gradients in draws(ours):
        ours.grad = sparse(ours, rows, gradients)
        dense.grad = ours.grad.to_dense()
        for optimizer in optimizers:
            optimizer.step()
    torch.testing.assert_close(ours, dense)
    assert not ours.equal(table())


def test_adam_takes_sparse_and_dense_gradients_side_by_side():
    ours, dense = [table(), table(3)], [table(), table(3)]
    optimizers = [Adam(ours, lr=0.1), torch.optim.Adam(dense, lr=0.1)]
    for rows, gradients in draws(ours[0]):
        dense[0].grad, dense[1].grad = sparse(ours[0], rows, gradients).to_dense(), gradients[:3]
        ours[0].grad, ours[1].grad = sparse(ours[0], rows, gradients), gradients[:3]
        for optimizer in optimizers:
            optimizer.step()
    for a, b in zip(ours, dense):
        torch.testing.assert_close(a, b)


def test_clipping_bounds_the_norm_of_sparse_and_dense_gradients_together():
    named, whole = table(), nn.Parameter(torch.zeros(2))
    named.grad = sparse(named, torch.tensor([2, 2, 5]), torch.tensor([[1.0, 0, 0], [2, 0, 0], [0, 4, 0]]))
    whole.grad = torch.tensor([0.0, 12.0])  # 3, 4 and 12: a norm of 13
    clip([named, whole, nn.Parameter(torch.ones(1))], 6.5)
    expected = torch.zeros(6, 3)
    expected[2, 0], expected[5, 1] = 1.5, 2.0
    torch.testing.assert_close(named.grad.to_dense(), expected)
    torch.testing.assert_close(whole.grad, torch.tensor([0.0, 6.0]))
    clip([named, whole], 100.0)
    torch.testing.assert_close(named.grad.to_dense(), expected)


OPTIMIZERS = pytest.mark.parametrize("optimizer", ["rowadam", "adam", "sgd"])


def fitted(folder=None, rows=True, resume=False, **options):
    """A table trained to be a target, two batches an epoch, by sparse gradients or dense ones."""
    torch.manual_seed(0)
    module = nn.ParameterDict({"table": torch.zeros(8, 2)})
    target = torch.randn(8, 2)

    def batches(rng):
        return torch.randint(8, (2, 3), generator=rng).unbind()

    def loss(batch):
        return {"fit": (embedding(batch, module["table"], sparse=rows) - target[batch]).square().mean()}

    training = TrainingConfig(**{"lr": 0.1, "epochs": 5, **options})
    Trainer(module, [Stage("toy", training, batches, loss)], folder=folder).fit(resume)
    return module["table"].data


@OPTIMIZERS
@pytest.mark.parametrize("options", [{}, {"clip": 0.1}, {"accumulate": 2}, {"schedule": "cosine", "warmup": 3}])
def test_training_by_sparse_gradients_is_training_by_dense_ones(optimizer, options):
    options = {"optimizer": optimizer, **options}
    torch.testing.assert_close(fitted(**options), fitted(rows=False, **options))


@OPTIMIZERS
def test_a_run_cut_short_goes_on_with_the_same_bits(tmp_path, optimizer):
    whole = fitted(optimizer=optimizer)
    fitted(tmp_path, checkpoint_steps=7, optimizer=optimizer)
    assert [place.name for place in checkpoints(tmp_path)] == ["step-000000007"]
    assert fitted(tmp_path, resume=True, checkpoint_steps=7, optimizer=optimizer).equal(whole)
    remove_checkpoints(tmp_path)
