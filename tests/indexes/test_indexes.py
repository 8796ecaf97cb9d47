"""Indexes: the exact one and the graph, beside a comparison of everything with everything."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from itemic.data import Ragged
from itemic.errors import ItemicError
from itemic.indexes import Exact
from itemic.indexes.choosing import graph_for
from itemic.indexes.hnsw import HNSW
from itemic.nn.topk import plain_top_k

DIM = 16


def vectors(n, seed=0):
    """Clustered, of different lengths."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(8, DIM))[rng.integers(0, 8, n)] + 0.5 * rng.normal(size=(n, DIM))
    return (x * rng.lognormal(0, 0.3, (n, 1))).astype(np.float32)


def recall(found, wanted):
    return np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(found, wanted)])


@pytest.fixture(scope="module")
def items():
    return vectors(3000)


@pytest.fixture(scope="module", params=["product", "direction"])
def graph(items, request):
    return HNSW.built(items, links=32, by=request.param)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 60), st.integers(1, 12), st.integers(0, 1000), st.booleans())
def test_small_graphs_give_just_what_everything_compared_gives(n, k, seed, closed):
    rng, items, queries = np.random.default_rng(seed), vectors(n, seed), vectors(5, seed + 1)
    exclude = [rng.permutation(n)[: rng.integers(0, n + 1)] for _ in queries]
    barred = np.concatenate(exclude), np.cumsum([0, *map(len, exclude)])
    allowed = rng.random(n) < 0.7 if closed else None
    scores = queries @ items.T
    if allowed is not None:
        scores[:, ~allowed] = -np.inf
    wanted = plain_top_k(scores, k, barred)
    for index in (Exact(items), HNSW.built(items), HNSW.built(items, by="direction")):
        found = index.search(queries, k, barred, allowed)
        np.testing.assert_array_equal(found[0], wanted[0])
        np.testing.assert_allclose(found[1], wanted[1], rtol=1e-4)


def test_more_effort_finds_more_and_enough_of_it_nearly_all(items, graph):
    queries = vectors(200, 1)
    wanted = plain_top_k(queries @ items.T, 10)[0]
    found = {}
    for effort in (1, 32, 512):
        graph.effort = effort
        found[effort] = recall(graph.search(queries, 10)[0], wanted)
    graph.effort = 64
    assert found[1] < found[32] <= found[512]
    assert found[512] > 0.97


@pytest.mark.parametrize("by", ["product", "direction"])
def test_what_all_items_have_in_common_does_not_blur_how_they_differ(items, by):
    far, queries = items * np.float32(0.1) + 30, vectors(100, 1)
    made = HNSW.built(far[:-50], by=by)
    made.extend(far)
    made.effort = 512
    wanted = plain_top_k(queries @ far.T, 10)[0]
    for one in (made, HNSW.of(far, made.arrays())):
        assert recall(one.search(queries, 10)[0], wanted) > 0.97


def test_what_is_excluded_or_closed_takes_no_place_from_others(items, graph):
    queries = vectors(50, 2)
    scores, allowed = queries @ items.T, np.arange(len(items)) % 2 == 0
    best = plain_top_k(scores, 30)[0]
    barred = best.ravel(), np.arange(51) * 30
    wanted = plain_top_k(np.where(allowed, scores, -np.inf), 10, barred)[0]
    graph.effort = 512
    found = graph.search(queries, 10, barred, allowed)[0]
    graph.effort = 64
    assert recall(found, wanted) > 0.85
    assert (found >= 0).all()
    assert (found % 2 == 0).all()
    assert not any(set(a) & set(b) for a, b in zip(found, best))


def test_a_graph_from_its_arrays_is_the_same_and_grows_on(items, graph):
    queries = vectors(20, 3)
    again = HNSW.of(items, graph.arrays())
    for one, other in zip(again.search(queries, 10), graph.search(queries, 10)):
        np.testing.assert_array_equal(one, other)
    more = np.concatenate([items, 3 * queries])
    again.extend(more)
    again.effort = 512
    best = plain_top_k(queries @ more.T, 1)[0]
    assert recall(again.search(queries, 1)[0], best) > 0.95
    assert (best >= len(items)).all()
    once_more = HNSW.of(more, again.arrays())
    np.testing.assert_array_equal(once_more.search(queries, 10)[0], again.search(queries, 10)[0])


@pytest.fixture(scope="module")
def clusters():
    """Items in clusters, of which whole ones are short, and requests for each."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(60, DIM))
    items = np.repeat(centres, 50, 0) + 0.1 * rng.normal(size=(3000, DIM))
    items *= np.repeat(rng.uniform(0.2, 2, 60), 50)[:, None]
    return items.astype(np.float32), centres.astype(np.float32)


def test_a_graph_by_direction_finds_short_items_among_their_likes_and_one_by_products_does_not(clusters):
    items, queries = clusters
    wanted, share = plain_top_k(queries @ items.T, 10)[0], {}
    for by in ("product", "direction"):
        made = HNSW.built(items, 4, by)
        made.effort = 256
        share[by] = recall(made.search(queries, 10)[0], wanted)
    assert share["direction"] > 0.97 > share["product"]


def test_the_kind_that_finds_enough_is_kept_or_the_one_that_was_asked_for(clusters):
    items, queries = clusters
    nothing = Ragged.empty(len(queries))
    made, measured = graph_for(items, queries, nothing, recall=0.97, links=4)
    assert made.by == "direction"
    assert measured.recall >= 0.97
    with pytest.raises(ItemicError, match=r"not 97.0%. Give it more links than 4"):
        graph_for(items, queries, nothing, recall=0.97, links=4, by="product")


def test_a_graph_that_was_saved_before_there_were_two_kinds_is_one_by_products(items):
    graph = HNSW.built(items[:200])
    arrays = graph.arrays()
    again = HNSW.of(items[:200], arrays | {"facts": arrays["facts"][:3]})
    assert again.by == "product"
    np.testing.assert_array_equal(again.search(items[:9], 5)[0], graph.search(items[:9], 5)[0])


def test_items_without_a_vector_are_in_no_list():
    items = vectors(40)
    items[::3] = np.nan
    found = HNSW.built(items).search(vectors(5, 4), 40)[0]
    assert set(found.ravel()) == {-1, *np.flatnonzero(np.arange(40) % 3 > 0)}


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("neighbours", lambda x: x + len(x)),
        ("neighbours", lambda x: x[:-1]),
        ("levels", lambda x: x * 0),
        ("levels", lambda x: x + 60),
        ("codes", lambda x: x[::-1]),
        ("facts", lambda x: np.array([16, 10**9, 64])),
        ("facts", lambda x: np.array([16, -5, 64])),
        ("facts", lambda x: np.array([10**6, 0, 64])),
    ],
)
def test_arrays_that_are_no_graph_are_refused(items, graph, name, change):
    arrays = graph.arrays()
    with pytest.raises(ValueError, match="graph of the index is"):
        HNSW.of(items, arrays | {name: change(arrays[name])})
    with pytest.raises(ValueError, match="graph of the index is"):
        HNSW.of(items[:-5], graph.arrays())
