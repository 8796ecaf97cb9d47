"""Attention with a window is compared with a loop over tokens here, and with transformers' in tests/encoders."""

from itertools import pairwise

import pytest
import torch

from itemic.nn.attention import Attention, Where
from itemic.nn.masks import window
from itemic.nn.packing import Packing
from itemic.nn.text import TextEncoder, Windowed


@pytest.fixture
def packed():
    torch.manual_seed(0)
    return torch.randn(19, 8), Packing(torch.tensor([0, 12, 13, 19]))


def by_loop(layer, x):
    """One sequence, one token at a time, one head at a time."""
    made = []
    for n in range(len(x)):
        keys = list(range(len(x))) if n == 0 else sorted({0, *range(max(0, n - layer.side), n + layer.side + 1)})
        keys = [key for key in keys if key < len(x)]
        which = "_global" if n == 0 else ""
        q, k, v = (getattr(layer, name + which) for name in ("query", "key", "value"))
        heads = [
            torch.stack([q(x[n])[part] @ k(x[key])[part] for key in keys]).div(part_width**0.5).softmax(0)
            @ torch.stack([v(x[key])[part] for key in keys])
            for part_width in [layer.dim // layer.heads]
            for part in torch.arange(layer.dim).split(part_width)
        ]
        made.append(layer.out(torch.cat(heads)))
    return torch.stack(made)


def test_windowed_attention_equals_a_loop_over_tokens(packed):
    x, packing = packed
    layer = Windowed(8, 2, width=4)
    expected = torch.cat([by_loop(layer, part) for part in x.split(packing.lengths.tolist())])
    torch.testing.assert_close(layer(x, where=Where(packing=packing)), expected, atol=1e-5, rtol=0)


def test_the_projections_of_the_first_token_change_nothing_but_its_output(packed):
    x, packing = packed
    layer = Windowed(8, 2, width=4)
    before = layer(x, where=Where(packing=packing))
    with torch.no_grad():
        layer.query_global.weight.mul_(3)
    changed = (layer(x, where=Where(packing=packing)) != before).any(1)
    assert changed.nonzero().flatten().tolist() == [0, 13]  # the sequence of one token has nothing to choose from


def test_a_token_beyond_the_window_is_seen_by_the_first_token_alone(packed):
    x, packing = packed
    other = x.clone()
    other[11] += 1
    banded = Attention(8, 2)
    where = Where(lambda q, k: window(q, k, 2), packing)
    changed = (banded(other, where=where) != banded(x, where=where)).any(1)
    assert changed.nonzero().flatten().tolist() == [9, 10, 11]
    layer = Windowed(8, 2, width=4)
    changed = (layer(other, where=Where(packing=packing)) != layer(x, where=Where(packing=packing))).any(1)
    assert changed.nonzero().flatten().tolist() == [0, 9, 10, 11]


@pytest.mark.parametrize("width", [None, 8])
def test_sequences_read_together_have_the_states_of_each_read_alone(width):
    torch.manual_seed(0)
    shape = {"layers": 2, "heads": 2, "hidden": 64, "n_places": 40, "n_kinds": 3}
    encoder = TextEncoder(50, 32, **shape, window=width).eval()
    token, kind, bounds = torch.randint(50, (70,)), torch.randint(3, (70,)), torch.tensor([0, 1, 31, 50, 70])
    together = encoder(token, kind, Packing(bounds))
    for start, stop in pairwise(bounds.tolist()):
        alone = encoder(token[start:stop], kind[start:stop], Packing(torch.tensor([0, stop - start])))
        torch.testing.assert_close(together[start:stop], alone, atol=1e-5, rtol=1e-5)
