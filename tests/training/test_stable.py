"""StableAdamW, one step at a time, against its formula written out and against torch's AdamW."""

import pytest
import torch
from torch import nn

from itemic.training.stable import StableAdamW


def stepped(gradients, **options):
    weight = nn.Parameter(torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64))
    optimizer = StableAdamW([weight], **options)
    for gradient in gradients:
        weight.grad = torch.tensor(gradient, dtype=torch.float64)
        optimizer.step()
    return weight.detach()


def test_7_a_second_step_is_the_formula_written_out_number_by_number():
    gradients, lr, wd, eps = [[0.1, -0.2, 0.3], [4.0, 5.0, -6.0]], 0.01, 3e-4, 1e-6
    weight, mean, square = [1.0, -2.0, 3.0], [0.0] * 3, [0.0] * 3
    for step, gradient in enumerate(gradients, start=1):
        b1, b2 = (b * (1 - b ** (step - 1)) / (1 - b**step) for b in (0.9, 0.98))
        mean = [b1 * m + (1 - b1) * g for m, g in zip(mean, gradient)]
        square = [b2 * v + (1 - b2) * g * g for v, g in zip(square, gradient)]
        growth = (sum(g * g / max(v, eps**2) for g, v in zip(gradient, square)) / 3) ** 0.5
        size = lr / max(1, growth)
        weight = [w * (1 - size / lr * wd) - size * m / (v**0.5 + eps) for w, m, v in zip(weight, mean, square)]
    assert growth > 1.3  # so that the step is a smaller one
    assert stepped(gradients, lr=lr, weight_decay=wd).tolist() == pytest.approx(weight, rel=1e-12)


@pytest.mark.parametrize("share", [1.0, 0.25])
def test_7_where_gradients_do_not_grow_it_is_adamw_with_the_decay_over_the_peak(share):
    falling = [[0.3 * 0.8**n, -0.2 * 0.8**n, 0.1 * 0.8**n] for n in range(12)]
    weight = nn.Parameter(torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64))
    twin = nn.Parameter(weight.detach().clone())
    ours = StableAdamW([weight], lr=0.01, weight_decay=1e-3)
    theirs = torch.optim.AdamW([twin], lr=0.01 * share, betas=(0.9, 0.98), eps=1e-6, weight_decay=1e-3 / 0.01)
    ours.param_groups[0]["lr"] = 0.01 * share
    for gradient in falling:
        weight.grad, twin.grad = (torch.tensor(gradient, dtype=torch.float64) for _ in range(2))
        ours.step(), theirs.step()
    torch.testing.assert_close(weight, twin, rtol=1e-12, atol=0)


def test_7_a_gradient_that_outgrows_the_others_moves_its_tensor_less_than_adamw_would():
    burst = [[0.01, 0.01, 0.01]] * 5 + [[10.0, 10.0, 10.0]]
    calm, tried = stepped(burst[:5], lr=0.01), stepped(burst, lr=0.01)
    weight = nn.Parameter(torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64))
    adamw = torch.optim.AdamW([weight], lr=0.01, betas=(0.9, 0.98), eps=1e-6, weight_decay=0)
    for gradient in burst:
        weight.grad = torch.tensor(gradient, dtype=torch.float64)
        adamw.step()
    assert (tried - calm).abs().max() < 0.5 * (weight.detach() - calm).abs().max()


def test_the_decay_follows_the_step_size_down_and_is_whole_at_the_peak():
    weight = nn.Parameter(torch.ones(2))
    optimizer = StableAdamW([weight], lr=0.5, weight_decay=0.1)
    for lr, left in ((0.5, 0.9), (0.25, 0.9 * 0.95), (0.0, 0.9 * 0.95)):
        optimizer.param_groups[0]["lr"] = lr
        weight.grad = torch.zeros(2)
        optimizer.step()
        torch.testing.assert_close(weight.detach(), torch.full((2,), left))


def test_a_state_put_back_goes_on_bit_for_bit():
    gradients = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))

    def run(cut):
        weight = nn.Parameter(torch.ones(3))
        optimizer = StableAdamW([weight], lr=0.01, weight_decay=0.01)
        for n, gradient in enumerate(gradients):
            if n == cut:
                saved, optimizer = optimizer.state_dict(), StableAdamW([weight], lr=0.3)
                optimizer.load_state_dict(saved)
            weight.grad = gradient.clone()
            optimizer.step()
        return weight.detach()

    assert torch.equal(run(None), run(4))
