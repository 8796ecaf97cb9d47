import numpy as np
import pytest
import torch

from itemic.data import Query
from itemic.data.simulated import planted_groups
from itemic.evaluation import evaluate
from itemic.model import load
from itemic.nn.graph import Graph
from itemic.nn.topk import top_k_inner
from itemic.registry import find
from itemic.systems.collaborative.base import Triples
from itemic.systems.collaborative.ngcf import NGCF, Config, Network
from itemic.training import TrainingConfig

QUICK = TrainingConfig(lr=0.01, batch_size=1024, epochs=12)
PAPER = {"norm": "sym", "activation": "joint"}
USER, ITEM = np.array([0, 1, 1, 2, 2]), np.array([0, 0, 1, 1, 2])  # a path u0 i0 u1 i1 u2 i2; u3 and i3 stand alone


def network(seed=0, **options):
    torch.manual_seed(seed)
    config = Config(**{"dim": 5, "layers": (4, 3)} | options)
    module = Network(4, 4, config)
    module.graph = Graph.bipartite(USER, ITEM, 4, 4, config.norm)
    return module.eval()


def final(module):
    with torch.no_grad():
        return module.joined(module(module.graph)).numpy()


def dense(graph):
    return (graph @ torch.eye(8)).numpy()


@pytest.fixture(scope="module", params=["code", "paper"])
def fitted(request):
    train, test = planted_groups(n_users=200, n_items=400, n_groups=4, loyalty=0.7, seed=0)
    options = PAPER if request.param == "paper" else {}
    return NGCF(dim=16, layers=(16, 12), training=QUICK, **options).fit(train), train, test


def leaky(x):
    return np.where(x > 0, x, 0.2 * x)


@pytest.mark.parametrize("norm", ["row_selfloop", "row_plus_identity", "sym"])
def test_the_code_form_is_its_formulas_written_densely(norm):
    module = network(norm=norm)
    weights = {name: value.numpy() for name, value in module.state_dict().items()}
    g, h = dense(module.graph), weights["nodes"]
    outputs = [h]
    for layer in ("layers.0.", "layers.1."):
        side = g @ h
        a = leaky(side @ weights[layer + "sent.weight"].T + weights[layer + "sent.bias"])
        b = leaky((h * side) @ weights[layer + "shared.weight"].T + weights[layer + "shared.bias"])
        h = a + b
        outputs.append(h / np.linalg.norm(h, axis=1, keepdims=True))
    np.testing.assert_allclose(final(module), np.concatenate(outputs, 1), atol=1e-5)


@pytest.mark.parametrize("options", [{}, PAPER])
def test_some_rows_alone_are_those_of_the_whole_with_the_same_gradients(options):
    rows, gradients = torch.tensor([6, 1]), []
    for chosen in (None, rows):
        module = network(**options)
        made = module.joined(module(module.graph, chosen))
        found = made if chosen is not None else made[rows]
        (found * torch.arange(found.numel()).view_as(found)).sum().backward()
        gradients.append([found.detach(), *(p.grad for p in module.parameters())])
    torch.testing.assert_close(*gradients)


def test_the_paper_form_without_weights_or_activation_is_one_pass_through_the_graph_with_self_loops():
    module = network(layers=(5,), slope=1.0, **PAPER)
    with torch.no_grad():
        for name, value in (("sent", torch.eye(5)), ("shared", torch.zeros(5, 5))):
            linear = getattr(module.layers[0], name)
            linear.weight.copy_(value)
            linear.bias.zero_()
    nodes = module.nodes.detach().numpy()
    wanted = np.concatenate([nodes, (dense(module.graph) + np.eye(8)) @ nodes], 1)
    np.testing.assert_allclose(final(module), wanted, atol=1e-6)


def test_the_paper_form_mixes_what_a_node_shares_with_its_neighbours():
    module = network(layers=(4,), **PAPER)
    weights = {name: value.numpy() for name, value in module.state_dict().items()}
    s, h = dense(module.graph), weights["nodes"]
    sent = (s @ h + h) @ weights["layers.0.sent.weight"].T + weights["layers.0.sent.bias"]
    shared = ((s @ h) * h) @ weights["layers.0.shared.weight"].T + weights["layers.0.shared.bias"]
    np.testing.assert_allclose(final(module), np.concatenate([h, leaky(sent + shared)], 1), atol=1e-6)


def test_relabelled_nodes_get_the_relabelled_vectors():
    module, rng = network(), np.random.default_rng(0)
    before = final(module)
    users, items = rng.permutation(4), rng.permutation(4)
    place = np.concatenate([users, 4 + items])
    with torch.no_grad():
        module.nodes[place] = module.nodes.clone()
    module.graph = Graph.bipartite(users[USER], items[ITEM], 4, 4, "row_selfloop")
    np.testing.assert_allclose(final(module)[place], before, atol=1e-6)


def test_a_score_depends_on_the_free_vectors_within_as_many_steps_as_layers_and_no_others():
    for layers, reached in (((4,), {0, 4, 6, 2}), ((4, 3), {0, 4, 6, 2, 1, 5})):  # u0 and i2, items from node 4
        module = network(layers=layers)
        vectors = module.joined(module(module.graph))
        gradient = torch.autograd.grad((vectors[0] * vectors[6]).sum(), module.nodes)[0]
        assert set(np.flatnonzero(gradient.abs().sum(1))) == reached


def test_dropout_moves_the_vectors_in_training_and_leaves_them_alone_afterwards():
    module = network()
    np.testing.assert_array_equal(final(module), final(module))
    module.train()
    assert not np.array_equal(final(module), final(module))
    still = network(message_dropout=0.0).train()
    np.testing.assert_array_equal(final(still), final(network()))


def test_the_penalty_is_on_the_final_vectors_and_not_on_the_weights_between_layers(fitted):
    model, train, _ = fitted
    batch = Triples(torch.tensor([0, 7]), torch.tensor([200, 201]), torch.tensor([[599], [300]]))
    terms, vectors = model.loss(batch), np.concatenate([model.tables["user"], model.tables["item"]])
    squared = np.square(vectors[[0, 7, 200, 201, 599, 300]].astype(float)).sum()
    assert terms["l2"].item() == pytest.approx(1e-5 / 2 * squared / 2, rel=1e-4)
    user, item, other = vectors[[0, 7]], vectors[[200, 201]], vectors[[599, 300]]
    margin = (user * item).sum(1) - (user * other).sum(1)
    assert terms["bpr"].item() == pytest.approx(np.log1p(np.exp(-margin)).mean(), rel=1e-4)
    assert len(train.items) == 400


def test_it_finds_planted_groups(fitted):
    model, train, test = fitted
    popular = evaluate(find("popularity")().fit(train), test, "recall@20")["recall@20"]
    assert evaluate(model, test, "recall@20")["recall@20"] > 3 * popular


def test_a_user_folded_in_with_their_own_free_vector_is_the_trained_one(fitted):
    model, train, _ = fitted
    users = np.arange(50)
    histories = train.interactions.histories().take(users)
    folded = model.folded(histories, model.weights["nodes"][users])
    np.testing.assert_allclose(folded, model.tables["user"][users], atol=2e-5)


def test_the_list_of_a_user_folded_in_is_much_of_the_trained_list(fitted):
    model, train, test = fitted
    known = model.rank(test.query, 20).items

    def shared(lists):
        return np.mean([len(np.intersect1d(a, b)) / 20 for a, b in zip(known, lists)])

    stranger = model.rank(Query(history=test.query.history), 20).items
    histories = train.interactions.histories()
    blank = model.folded(histories, np.zeros((200, 16), np.float32))  # without the guess of the free vectors
    without = top_k_inner(blank, model.item_vectors(), 20, exclude=(histories.values, histories.offsets))[0]
    assert shared(stranger) > max(0.55, shared(without) + 0.1)
    assert shared(np.roll(stranger, 4, axis=0)) < 0.8 * shared(stranger)  # others of the same group


def test_a_loaded_model_answers_without_torch(fitted, tmp_path):
    model, _, test = fitted
    model.save(tmp_path / "model")
    again = load(tmp_path / "model")
    again.build = None  # what `module` would need
    query = Query(history=test.query.history)
    np.testing.assert_array_equal(again.rank(query, 10).items, model.rank(query, 10).items)
