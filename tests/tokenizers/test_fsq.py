import numpy as np
import pytest
import torch

from itemic.errors import ConfigError
from itemic.model import load
from itemic.nn.attention import Where
from itemic.tokenizers.fsq import FSQ, Config, Network

QUICK = {"lr": 3e-3, "batch_size": 64, "epochs": 40, "eval_every": 10, "metric": "explained"}


def groups(n, n_groups, dim=16, seed=0):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(n_groups, dim))
    return (centres[np.arange(n) % n_groups] + 0.05 * rng.normal(size=(n, dim))).astype(np.float32)


@pytest.fixture
def fitted(shop, vectors):
    """A function that fits on an array of vectors."""
    options = {"slots": 2, "scalars": (5, 4, 3), "layers": 1, "heads": 2, "dropout": 0.0, "collisions": "shared"}

    def made(x, training=None, **more):
        return FSQ(vectors=vectors(), **options | more, training={**QUICK, **(training or {})}).fit(shop(x))

    return made


def test_the_loss_is_the_mean_distance_to_what_codes_stand_for():
    torch.manual_seed(0)
    made, x = Network(16, Config(slots=2, scalars=(5, 4), heads=2, dropout=0.0)), torch.randn(6, 16)
    scalars = torch.stack([made.latent(x)[:, slot] for slot in range(2)], 1)
    count, half = torch.tensor([5.0, 4.0]), torch.tensor([4.0, 3.0]) * 0.999 / 2
    offset = torch.tensor([0.0, 0.5])
    whole = ((scalars + (offset / half).tan()).tanh() * half - offset).round()
    inside = made.outward(whole / (count // 2)) + made.places
    for block in made.stack.blocks:
        inside = block(inside, Where())
    torch.testing.assert_close(made(x)["reconstruction"], (made.widen(inside[:, -1]) - x).abs().mean())


def test_it_learns_codes_that_explain_the_vectors_and_better_than_at_the_start(fitted):
    x = groups(300, 20)
    explained = [1 - m.unexplained(x, m.encode(x)) for m in (fitted(x), fitted(x, {"epochs": 1, "lr": 1e-9}))]
    assert explained[0] > 0.6 > explained[1]


def test_codes_are_within_their_range_and_the_same_vectors_have_the_same(fitted):
    model = fitted(groups(100, 10), {"epochs": 2})
    wild = np.concatenate([1e3 * groups(50, 10, seed=1), groups(100, 10)])
    codes = model.encode(wild)
    assert codes.min() >= 0
    assert codes.max() < 60
    assert model.sizes == (60, 60)
    assert (codes[50:] == model.codes).all()


def test_the_nearest_last_code_is_the_one_that_a_vector_gets(fitted):
    x = groups(80, 10)
    model = fitted(x, {"epochs": 2})
    assert (model.last_costs(torch.from_numpy(x)).argmin(1).numpy() == model.encode(x)[:, 1]).all()


def test_it_survives_save_and_load_and_takes_new_items(fitted, items, tmp_path):
    model = fitted(groups(100, 10), {"epochs": 5}, collisions="nearest")
    again = load(model.save(tmp_path / "codes"))
    assert (again.codes == model.codes).all()
    again.add_items(items(groups(10, 10, seed=0), first=100))
    assert len(np.unique(again.codes, axis=0)) == 110


def test_a_width_that_cannot_be_cut_is_an_error(fitted):
    with pytest.raises(ConfigError) as error:
        fitted(groups(20, 4), slots=3)
    assert str(error.value) == (
        "fsq: vectors of width 16 cannot be cut into 3 slots of 2 heads each. "
        "Set slots or heads so that their product divides the width."
    )
    with pytest.raises(ConfigError, match="fsq: scalars has 1; a number needs 2 values or more."):
        fitted(groups(20, 4), scalars=(5, 1))
