import numpy as np
import pytest
import torch

from itemic.errors import DataError
from itemic.model import load
from itemic.nn.quantise import residual_codes
from itemic.tokenizers.rqvae import RQVAE, Config, Network

SMALL = {"levels": 2, "size": 8, "latent": 4, "hidden": (16,)}
QUICK = {"lr": 3e-3, "batch_size": 64, "epochs": 40, "eval_every": 10, "weight_decay": 0.0, "metric": "explained"}


def cloud(n, dim=6, seed=0):
    return np.random.default_rng(seed).normal(size=(n, dim)).astype(np.float32)


def groups(n, n_groups, dim=12, seed=0):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(n_groups, dim))
    return (centres[np.arange(n) % n_groups] + 0.05 * rng.normal(size=(n, dim))).astype(np.float32)


@pytest.fixture
def fitted(shop, vectors):
    """A function that fits on an array of vectors."""
    options = {**SMALL, "collisions": "shared"}

    def made(x, training=None, **more):
        return RQVAE(vectors=vectors(), **options | more, training={**QUICK, **(training or {})}).fit(shop(x))

    return made


# Gradients -------------------------------------------------------------------------------------------------------


def network(dim=6, **options):
    torch.manual_seed(0)
    made = Network(dim, Config(**SMALL | options))
    made.codebooks.data.normal_()
    return made.train()


def terms_of(made, x):
    z = made.latent(x).detach().requires_grad_()
    return z, made.quantised(z)[1]


@pytest.mark.parametrize("grad", ["detach", "ste"])
def test_with_detach_every_level_draws_the_latent_vectors_and_with_ste_only_the_first(grad):
    made, x = network(residual_grad=grad), torch.randn(20, 6)
    z, terms = terms_of(made, x)
    found = torch.autograd.grad(terms["commitment"], z)[0]
    codes, rest = residual_codes(z.detach(), list(made.codebooks.detach()))
    first = z.detach() - made.codebooks.detach()[0][codes[:, 0]]
    wanted = 2 * 0.25 * (first + rest if grad == "detach" else first) / 20
    torch.testing.assert_close(found, wanted)


def test_commitment_moves_no_code_and_the_codebook_term_no_latent_vector():
    made, x = network(), torch.randn(20, 6)
    z, terms = terms_of(made, x)
    assert torch.autograd.grad(terms["commitment"], made.codebooks, allow_unused=True, retain_graph=True)[0] is None
    assert torch.autograd.grad(terms["codebook"], z, allow_unused=True, retain_graph=True)[0] is None
    moved = torch.autograd.grad(terms["codebook"], made.codebooks)[0]
    codes = residual_codes(z.detach(), list(made.codebooks.detach()))[0]
    for level in range(2):
        used = torch.zeros(8, dtype=torch.bool).index_fill_(0, codes[:, level].unique(), True)
        assert (moved[level].abs().sum(1) > 0).equal(used)


def test_the_gradient_of_the_reconstruction_reaches_the_latent_vectors_as_it_is_or_turned():
    x, found = torch.randn(20, 6), {}
    for through in ("straight", "rotation"):
        made, hidden = network(through=through), []

        def keep(z, hidden=hidden):
            z.retain_grad()
            hidden.append(z)

        made.encoder.register_forward_hook(lambda _, __, z, keep=keep: keep(z))
        made.decoder.register_forward_pre_hook(lambda _, args, keep=keep: keep(args[0]))
        made(x)["reconstruction"].backward()
        found[through] = [z.grad for z in hidden]
    assert found["straight"][0].equal(found["straight"][1])
    torch.testing.assert_close(found["rotation"][1], found["straight"][1])
    assert not torch.allclose(found["rotation"][0], found["rotation"][1])


def test_the_loss_is_its_definition_written_out():
    made, x = network(), torch.randn(5, 6)
    z = made.latent(x).detach()
    codes, rest = residual_codes(z, list(made.codebooks.detach()))
    terms = made(x)
    first = z - made.codebooks[0][codes[:, 0]]
    drawn = first.square().sum(1).mean() + rest.square().sum(1).mean()
    torch.testing.assert_close(terms["codebook"], drawn)
    torch.testing.assert_close(terms["commitment"], 0.25 * drawn)
    torch.testing.assert_close(terms["reconstruction"], (made.decoder(z - rest) - x).square().sum(1).mean())


# Training --------------------------------------------------------------------------------------------------------


def test_codebooks_that_begin_as_kmeans_use_all_codes_and_far_ones_do_not():
    x, made = torch.from_numpy(groups(200, 8)), network(dim=12, levels=1)
    made.begin(x, torch.Generator().manual_seed(0))
    codes, rest = residual_codes(made.latent(x), list(made.codebooks.detach()))
    assert len(codes.unique()) == 8
    assert rest.square().sum() < 0.02 * made.latent(x).square().sum()
    made.codebooks.data.normal_().mul_(100)
    assert len(residual_codes(made.latent(x), list(made.codebooks.detach()))[0].unique()) < 8


def test_revival_brings_codes_back_that_stand_for_nothing():
    x, made = torch.from_numpy(cloud(200)), network()
    made.begin(x, torch.Generator().manual_seed(0))
    made.codebooks.data[:, 2:] = 1e3
    before = made.codebooks.detach().clone()
    made.revive(x)
    assert made.codebooks[:, :2].equal(before[:, :2])
    codes = residual_codes(made.latent(x), list(made.codebooks.detach()))[0]
    assert [len(level.unique()) for level in codes.T] == [8, 8]


@pytest.mark.parametrize(
    "options", [{}, {"codebook": "ema", "decay": 0.9}, {"through": "rotation"}, {"residual_grad": "ste"}]
)
def test_it_learns_codes_that_explain_the_vectors_and_better_than_at_the_start(fitted, options):
    x = groups(300, 20)
    model = fitted(x, size=16, **options)
    untrained = fitted(x, size=16, training={"epochs": 1, "lr": 1e-9}, **options)
    explained = [1 - m.unexplained(x, m.encode(x)) for m in (model, untrained)]
    assert explained[0] > 0.6 > explained[1]


def test_moving_averages_are_what_moves_codes_where_they_are_asked_for(fitted):
    x = cloud(200)
    start = fitted(x, codebook="ema", revive=0, training={"epochs": 1, "lr": 1e-9}, decay=0.999999)
    moved = fitted(x, codebook="ema", revive=0, training={"epochs": 5, "lr": 1e-9}, decay=0.5)
    np.testing.assert_allclose(moved.weights["encoder.0.weight"], start.weights["encoder.0.weight"], atol=1e-6)
    assert np.abs(moved.weights["codebooks"] - start.weights["codebooks"]).max() > 1e-3


def test_uniform_last_codes_are_used_more_evenly_in_training(fitted):
    x = cloud(256)
    x[:200] *= 0.02
    made = network(uniform_last=True)
    made.begin(torch.from_numpy(x), torch.Generator().manual_seed(0))
    rest = torch.from_numpy(cloud(64, 4)) * 0.02
    even, plain = (made._code(rest, made.codebooks.detach()[1] * 50, last) for last in (True, False))
    assert even.bincount(minlength=8).max() < plain.bincount(minlength=8).max()
    made.eval()
    assert made._code(rest, made.codebooks.detach()[1] * 50, True).equal(plain)


def test_training_stops_when_codes_get_no_better_and_the_best_are_kept(fitted):
    model = fitted(groups(200, 10), training={"epochs": 200, "eval_every": 1, "patience": 3})
    assert model.fitted_on["epochs"] < 200
    assert model.fitted_on["best_epoch"] == model.fitted_on["epochs"] - 3
    judged = model.shape  # no validation part is needed for it
    assert judged["fitted_items"] == 200


def test_unique_is_the_share_of_items_with_codes_of_their_own(fitted):
    x = groups(120, 10)
    model = fitted(x)
    model._fitting = x  # what it is judged by while it is trained
    codes = [tuple(row) for row in model.encode(x).tolist()]
    found = model.validate(None)
    assert found["unique"] == pytest.approx(np.mean([codes.count(code) == 1 for code in codes]))
    centred = np.square(x - x.mean(0)).sum()
    assert found["explained"] == pytest.approx(
        1 - np.square(x - model.decode(model.encode(x))).sum() / centred, abs=1e-5
    )
    assert found["quality"] == found["unique"] * found["explained"]


def test_a_run_cut_off_goes_on_to_the_same_codes(shop, vectors, tmp_path):
    data, options = shop(groups(100, 10)), {**SMALL, "revive": 2, "collisions": "shared", "vectors": vectors()}
    training = {**QUICK, "epochs": 6, "eval_every": 2, "batch_size": 32, "checkpoint_steps": 5}
    whole = RQVAE(**options, training=training).fit(data)

    class Stop(Exception):
        pass

    def stop(metrics, seen=[]):  # noqa: B006
        seen.append(metrics)
        if len(seen) == 2:
            raise Stop

    with pytest.raises(Stop):
        RQVAE(**options, training=training).fit(data, folder=tmp_path, watch=stop)
    resumed = RQVAE(**options, training=training).fit(data, folder=tmp_path, resume=True)
    for name, value in whole.weights.items():
        np.testing.assert_array_equal(resumed.weights[name], value)
    assert (resumed.codes == whole.codes).all()


def test_it_survives_save_and_load_and_takes_new_items(fitted, items, tmp_path):
    x = groups(100, 10)
    model = fitted(x, collisions="nearest", size=32)
    again = load(model.save(tmp_path / "codes"))
    assert (again.codes == model.codes).all()
    again.add_items(items(groups(10, 10, seed=0), first=100))
    assert (again.codes[:100] == model.codes).all()
    assert len(np.unique(again.codes, axis=0)) == 110


def test_fewer_items_than_codes_are_an_error_that_says_which_size_fits(fitted):
    with pytest.raises(DataError, match="rqvae: 20 items with a vector cannot fill 64 codes. Set size=8."):
        fitted(cloud(20), size=64)
