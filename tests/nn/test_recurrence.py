"""The recurrence in parallel beside the same place after place, in complex numbers."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Generator

from itemic.nn.packing import Packing
from itemic.nn.recurrence import Decay, recurrence

DIM = 3


def one_by_one(x, decay, lengths):
    """h[t] = decay h[t - 1] + x[t], written as a loop."""
    states = []
    for part in x.split(lengths):
        h = torch.zeros(DIM, dtype=x.dtype)
        for row in part:
            h = decay * h + row
            states.append(h)
    return torch.stack(states)


def numbers(n, seed=0, size=1.0):
    rng = Generator().manual_seed(seed)
    return size * torch.randn(n, DIM, dtype=torch.complex128, generator=rng)


def packed(lengths):
    return Packing(torch.tensor([0, *lengths]).cumsum(0))


@given(st.lists(st.sampled_from([0, 1, 2, 3, 7, 8, 50]), min_size=1, max_size=5).filter(any))
def test_in_parallel_it_is_the_recurrence_place_after_place_with_the_same_gradients(lengths):
    x, decay, out = numbers(sum(lengths)), numbers(1, 1, 0.6)[0], numbers(sum(lengths), 2)
    found = []
    for parallel in (True, False):
        parts = [y.clone().requires_grad_() for y in (x.real, x.imag, decay.real, decay.imag)]
        if parallel:
            h = torch.complex(*recurrence((parts[0], parts[1]), (parts[2], parts[3]), packed(lengths)))
        else:
            h = one_by_one(torch.complex(*parts[:2]), torch.complex(*parts[2:]), lengths)
        found.append([h, *torch.autograd.grad((h.real * out.real + h.imag * out.imag).sum(), parts)])
    for one, other in zip(*found):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_no_state_reaches_into_another_sequence_or_back():
    lengths = [4, 5]
    x, decay = numbers(9), numbers(1, 1)[0]
    changed = x.clone()
    changed[6] += 1
    one, other = (
        torch.complex(*recurrence((y.real, y.imag), (decay.real, decay.imag), packed(lengths))) for y in (x, changed)
    )
    assert (one != other).any(1).nonzero()[:, 0].tolist() == [6, 7, 8]


@pytest.mark.parametrize("ring", [0.0, 0.5])
def test_decays_begin_inside_their_ring_evenly_and_stay_below_one_whatever_is_learned(ring):
    torch.manual_seed(0)
    decay = Decay(4000, ring)
    real, imaginary, gain = decay()
    radius = torch.hypot(real, imaginary)
    assert ring - 1e-6 <= radius.min()
    assert radius.max() <= ring + 0.1 + 1e-6
    inner = ((ring**2 + (ring + 0.1) ** 2) / 2) ** 0.5  # the circle that halves the area of the ring
    assert (radius < inner).float().mean().item() == pytest.approx(0.5, abs=0.03)
    assert torch.atan2(imaginary, real).mean().item() == pytest.approx(0, abs=0.1)
    torch.testing.assert_close(gain, (1 - radius.square()).sqrt(), rtol=1e-4, atol=1e-5)
    torch.nn.init.normal_(decay.log_rate, std=4)
    real, imaginary, _ = decay()
    assert torch.hypot(real, imaginary).max() <= 1


def test_under_autocast_it_stays_in_float32():
    x, decay = numbers(6).to(torch.complex64), numbers(1, 1, 0.3)[0].to(torch.complex64)
    low = x.real.bfloat16(), x.imag.bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        found = recurrence(low, (decay.real, decay.imag), packed([6]))
    wanted = recurrence((low[0].float(), low[1].float()), (decay.real, decay.imag), packed([6]))
    torch.testing.assert_close(found, wanted)
