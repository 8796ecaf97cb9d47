import numpy as np
import pytest
from threadpoolctl import threadpool_info

from itemic import threads
from itemic.data import Interactions, Query, Ragged
from itemic.data.simulated import planted_groups
from itemic.errors import ConfigError, QueryError
from itemic.evaluation import evaluate
from itemic.nn.least_squares import gram, solve
from itemic.registry import find
from itemic.systems.baselines.ials import IALS, Config, Problem, factorise, objective


@pytest.fixture(scope="module")
def planted():
    return planted_groups(n_users=200, n_items=400, n_groups=4, loyalty=0.7, seed=0)


def random_matrix(n_users=40, n_items=60, seed=0):
    rng = np.random.default_rng(seed)
    user, item = np.nonzero(rng.random((n_users, n_items)) < 0.1)
    return Interactions.of(user, item, n_users, n_items).matrix()


def dense_objective(x, w, h, config):
    """The loss as the paper writes it, over every cell."""
    x, cells = x.toarray(), w @ h.T
    seen, penalty = (x * (cells - 1) ** 2).sum(), 0.0
    for vectors, counts, others in ((w, x.sum(1), x.shape[1]), (h, x.sum(0), x.shape[0])):
        penalty += ((counts + config.a0 * others) ** config.nu * (vectors**2).sum(1)).sum()
    return seen + config.a0 * (cells**2).sum() + config.l2 * penalty


def hu_objective(x, w, h, config):
    """The loss of Hu, Koren and Volinsky, over every cell."""
    x, cells = x.toarray(), w @ h.T
    return ((1 + config.alpha * x) * (x - cells) ** 2).sum() + config.l2 * ((w**2).sum() + (h**2).sum())


@pytest.mark.parametrize("nu", [0.0, 0.5, 1.0])
def test_the_objective_is_the_papers_written_over_all_cells(nu):
    x, rng, config = random_matrix(), np.random.default_rng(1), Config(a0=0.2, l2=0.03, nu=nu)
    w, h = rng.standard_normal((40, 5)), rng.standard_normal((60, 5))
    assert objective(Problem.of(x, config), w, h, block=7) == pytest.approx(dense_objective(x, w, h, config))


def test_the_objective_of_hu_is_that_paper_divided_by_alpha_up_to_a_constant():
    x, rng, config = random_matrix(), np.random.default_rng(1), Config(param="hu", alpha=8, l2=2)
    differences = []
    for _ in range(3):
        w, h = rng.standard_normal((40, 5)), rng.standard_normal((60, 5))
        differences.append(objective(Problem.of(x, config), w, h) - hu_objective(x, w, h, config) / 8)
    np.testing.assert_allclose(differences, differences[0])


@pytest.mark.parametrize("config", [Config(dim=8, a0=0.3), Config(dim=8, param="hu", alpha=8, l2=2)])
def test_no_exact_half_epoch_raises_the_objective(config):
    x, rng = random_matrix(), np.random.default_rng(0)
    problem = Problem.of(x, config)
    w, h = 0.1 * rng.standard_normal((40, 8)), 0.1 * rng.standard_normal((60, 8))
    losses = [objective(problem, w, h)]
    for _ in range(10):
        w = solve(problem.users, h, problem.everywhere * h.T @ h, problem.target)
        losses.append(objective(problem, w, h))
        h = solve(problem.items, w, problem.everywhere * w.T @ w, problem.target)
        losses.append(objective(problem, w, h))
    assert np.diff(losses).max() <= 1e-9 * losses[0]
    assert losses[-1] < 0.9 * losses[0]


def test_three_gradient_steps_end_as_low_as_exact_solves(planted):
    x = planted[0].interactions.matrix()
    loss = {}
    for steps in (1, 3, None):
        config = Config(dim=16, cg_steps=steps)
        problem = Problem.of(x, config)
        loss[steps] = objective(problem, *factorise(problem, config))
    assert loss[3] == pytest.approx(loss[None], rel=0.001)
    assert abs(loss[3] - loss[None]) < abs(loss[1] - loss[None])


def test_hu_is_rendle_rescaled():
    alpha, l2 = 8.0, 2.0
    scale = np.sqrt(1 + 1 / alpha)
    hu = Config(dim=4, param="hu", alpha=alpha, l2=l2)
    rendle = Config(dim=4, a0=1 / alpha, l2=l2 / (1 + alpha), nu=0)
    x = random_matrix()
    vectors = {}
    for config, length in ((hu, scale), (rendle, 1.0)):
        problem, rng = Problem.of(x, config), np.random.default_rng(0)
        w, h = (length * 0.1 * rng.standard_normal((n, 4)) for n in x.shape)
        for _ in range(5):
            w = solve(problem.users, h, problem.everywhere * h.T @ h, problem.target)
            h = solve(problem.items, w, problem.everywhere * w.T @ w, problem.target)
        vectors[config.param] = w, h
    for one, other in zip(vectors["hu"], vectors["rendle"]):
        np.testing.assert_allclose(one, scale * other, atol=1e-10)


@pytest.mark.parametrize("options", [{}, {"cg_steps": None}, {"param": "hu", "alpha": 10.0, "l2": 5.0}])
def test_a_users_vector_is_the_fold_in_of_what_the_user_did(options, planted):
    train, _ = planted
    model = IALS(dim=16, **options).fit(train)
    histories = train.interactions.histories()
    known = model.query_vectors(Query(user=np.arange(200, dtype=np.int32), history=histories))
    np.testing.assert_array_equal(known, model.weights["user"])
    np.testing.assert_allclose(model.query_vectors(Query(history=histories)), known, atol=1e-4)
    mixed = np.where(np.arange(200) % 2, np.arange(200), -1).astype(np.int32)
    np.testing.assert_allclose(model.query_vectors(Query(user=mixed, history=histories)), known, atol=1e-4)


def test_a_repeated_or_empty_history_folds_in_as_it_should(planted):
    model = IALS(dim=8).fit(planted[0])
    once, twice, none = model.fold_in(Ragged.from_lists([[5, 9], [9, 5, 9], []]))
    np.testing.assert_array_equal(once, twice)
    assert once.any()
    assert not none.any()


def test_an_unknown_user_without_a_history_is_refused(planted):
    model = IALS(dim=8).fit(planted[0])
    with pytest.raises(QueryError, match=r"ials does not know this user. Give what they did: Query\(history=...\)."):
        model.rank(Query(user=np.array([3, -1], np.int32)), 5)


def test_it_finds_planted_groups_and_needs_the_unseen_cells(planted):
    train, test = planted
    popular = evaluate(find("popularity")().fit(train), test, "recall@20")["recall@20"]
    full = evaluate(IALS(dim=16).fit(train), test, "recall@20")["recall@20"]
    # with hardly any weight on unseen cells, the loss is lowest where every cell is 1
    blind = evaluate(IALS(dim=16, a0=1e-6, l2=1e-4, nu=0).fit(train), test, "recall@20")["recall@20"]
    assert full > 3 * popular
    assert blind < 0.7 * full


def test_other_seeds_give_other_vectors_of_the_same_quality(planted):
    train, test = planted
    one, other = (IALS(dim=16, seed=seed).fit(train) for seed in (0, 1))
    assert not np.allclose(one.weights["item"], other.weights["item"])
    quality = [evaluate(model, test, "recall@20")["recall@20"] for model in (one, other)]
    assert quality[0] == pytest.approx(quality[1], abs=0.05)


def test_the_saved_gram_is_that_of_the_items(planted):
    model = IALS(dim=8).fit(planted[0])
    np.testing.assert_array_equal(model.tables["gram"], gram(model.weights["item"]))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"alpha": 10.0}, 'param cannot be .rendle.: .*alpha is read under param="hu" only'),
        ({"param": "hu", "a0": 0.3}, 'param cannot be .hu.: .*a0 is read under param="rendle" only'),
        ({"param": "hu", "nu": 0.5}, 'nu is read under param="rendle" only'),
    ],
)
def test_an_option_that_the_form_of_the_loss_does_not_read_is_refused(options, text):
    with pytest.raises(ConfigError, match=text):
        IALS(**options)


def test_blas_keeps_to_one_thread_while_blocks_run_on_several(monkeypatch):
    seen = []

    def spy(x, rows, fixed, everywhere, target, steps, each):
        for pools in each(lambda _: threadpool_info(), range(4)):
            seen.extend(pool["num_threads"] for pool in pools if pool["user_api"] == "blas")
        return x

    monkeypatch.setattr("itemic.systems.baselines.ials.improve", spy)
    config = Config(dim=4, epochs=1)
    with threads.use(2):
        factorise(Problem.of(random_matrix(), config), config)
    assert set(seen) == {1}  # else both wait for each other: fifteen times slower on a busy machine
