import pytest
import torch

from itemic.nn import products
from itemic.nn.products import fast_products, usual_products

SETTINGS = torch.backends.mkldnn.matmul


@pytest.fixture
def decided(monkeypatch):
    """A function that settles whether the other way is found exact and faster."""
    return lambda found: monkeypatch.setattr(products, "_faster_and_exact", lambda: found)


def test_the_setting_holds_inside_only_even_after_an_error(decided):
    decided(True)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"), fast_products():  # noqa: PT012
        assert SETTINGS.fp32_precision == "bf16"
        torch.ones(2, 3) @ torch.ones(2, 3)
    assert SETTINGS.fp32_precision == "none"


def test_it_may_be_entered_twice(decided):
    decided(True)
    with fast_products():
        with fast_products():
            assert SETTINGS.fp32_precision == "bf16"
        assert SETTINGS.fp32_precision == "bf16"
    assert SETTINGS.fp32_precision == "none"


def test_a_precision_that_the_user_chose_stays(decided):
    decided(True)
    try:
        SETTINGS.fp32_precision = "ieee"
        with fast_products():
            assert SETTINGS.fp32_precision == "ieee"
    finally:
        SETTINGS.fp32_precision = "none"


def test_inside_it_can_be_left_for_a_while_unless_the_user_chose(decided):
    decided(True)
    with fast_products():
        with usual_products():
            assert SETTINGS.fp32_precision == "none"
        assert SETTINGS.fp32_precision == "bf16"
    try:
        SETTINGS.fp32_precision = "bf16"
        with usual_products():
            assert SETTINGS.fp32_precision == "bf16"
    finally:
        SETTINGS.fp32_precision = "none"


def test_where_it_is_slower_or_rounds_nothing_changes(decided):
    decided(False)
    with fast_products():
        assert SETTINGS.fp32_precision == "none"


@pytest.mark.parametrize("shape", [(7, 3, 5), (256, 64, 300), (33, 500, 65)])
def test_products_inside_are_as_exact_as_float32_allows(shape):
    n, inner, m = shape
    x, y = torch.randn(n, inner), torch.randn(inner, m)
    exact = x.double() @ y.double()
    with fast_products():
        for made in (x @ y, (y.T @ x.T).T, torch.nn.functional.linear(x, y.T)):
            assert ((made - exact).norm() / exact.norm()).item() < 1e-6
