import pytest
import torch

from itemic.nn.dropout import Dropout, dropout


@pytest.mark.parametrize("p", [0.1, 0.5, 0.93])
def test_values_fall_away_by_their_chance_and_independently(p):
    torch.manual_seed(0)
    fell = (dropout(torch.ones(1000, 64), p) == 0).double()
    spread = (p * (1 - p)) ** 0.5
    assert fell.mean().item() == pytest.approx(p, abs=4 * spread / 64_000**0.5)
    assert (fell.mean(0) - p).abs().max().item() < 5 * spread / 1000**0.5
    for lag in (1, 2, 3, 4, 64):  # four values share a draw of the generator
        flat = fell.flatten() - p
        assert abs((flat[lag:] * flat[:-lag]).mean().item()) < 4 * spread**2 / 64_000**0.5


def test_the_rest_is_scaled_to_keep_the_mean_and_gradients_fall_with_the_values():
    torch.manual_seed(0)
    x = torch.ones(257, 3, requires_grad=True)
    made = dropout(x, 0.2)
    assert made.unique().tolist() == pytest.approx([0, 1.25], rel=1e-4)
    (by,) = torch.autograd.grad(made.sum(), x)
    torch.testing.assert_close(by, made.detach())


def test_the_seed_of_torch_decides_what_falls():
    x = torch.ones(100)
    first, second = ([torch.manual_seed(3), dropout(x, 0.5)][1] for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(second, dropout(x, 0.5))


def test_none_and_all_are_the_bounds():
    x = torch.randn(50)
    assert torch.equal(dropout(x, 0.0), x)
    assert (dropout(x, 1.0) == 0).all()


def test_the_module_does_nothing_in_answering():
    x = torch.ones(50)
    assert Dropout(0.5).eval()(x) is x
    assert (Dropout(0.5)(x) == 0).any()
