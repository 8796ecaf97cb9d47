import math

import pytest
import torch
from torch.nn.functional import normalize

from itemic.nn.losses.contrastive import in_batch


def test_three_rows_equal_the_formula_written_as_a_loop():
    torch.manual_seed(0)
    a, b = (normalize(torch.randn(3, 4, dtype=torch.float64)) for _ in range(2))
    loss = 0.0
    for n in range(3):
        terms = [math.exp(float(a[n] @ b[m]) / 0.05) for m in range(3)]
        loss -= math.log(terms[n] / sum(terms)) / 3
    assert in_batch(a, b, 0.05).item() == pytest.approx(loss, abs=1e-6)


def test_rows_marked_as_the_same_do_not_compete_but_partners_do():
    torch.manual_seed(0)
    a, b = torch.randn(4, 3), torch.randn(4, 3)
    b[2] = b[0]
    same = torch.tensor([0, 1, 0, 3])[:, None] == torch.tensor([0, 1, 0, 3])
    logits = a @ b.T
    others = [torch.cat([logits[n, n : n + 1], logits[n][~same[n]]]) for n in range(4)]
    expected = sum(-math.log(row.softmax(0)[0]) for row in others) / 4
    assert in_batch(a, b, 1.0, same).item() == pytest.approx(expected, abs=1e-5)
    assert in_batch(a, b, 1.0).item() > expected
    assert in_batch(a[:1], b[:1], 1.0).item() == 0
