"""The trie and the search along it, beside scoring every item one by one."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from itemic.data import Ragged
from itemic.nn.decoding import END, Trie, at_once, beam_search, chances_among, exact, lineage, sample


def chances(query, prefix, n_codes):
    """Logarithms of the chances of what follows a prefix, by some rule that tells all prefixes apart."""
    state = 0.7 * query + sum((3 + place) * (code + 1.3) for place, code in enumerate(prefix))
    return torch.log_softmax(3 * torch.sin(torch.arange(n_codes, dtype=torch.float64) * (1.1 + state) + state), -1)


def model(n_queries, n_codes):
    """A step that remembers what each beam took."""
    prefixes = [[()] for _ in range(n_queries)]

    def step(code, parent):
        nonlocal prefixes
        if code is not None:
            taken = zip(prefixes, parent.tolist(), code.tolist())
            prefixes = [[own[p] + (c,) for p, c in zip(*beams)] for own, *beams in taken]
        made = [torch.stack([chances(q, prefix, n_codes) for prefix in own]) for q, own in enumerate(prefixes)]
        return torch.stack(made).float()

    return step


def one_by_one(n_queries, codes, n_codes):
    """The score of every item for every query, along its own codes."""
    scores = torch.zeros(n_queries, len(codes), dtype=torch.float64)
    for query in range(n_queries):
        for item, row in enumerate(codes.tolist()):
            real = [code for code in row if code != END]
            for place, code in enumerate(real):
                scores[query, item] += chances(query, real[:place], n_codes)[code]
    return scores


def best(scores, k):
    """Items by falling score, equal ones by rising number; -1 where the score is -inf."""
    scores = scores.float()
    order = torch.tensor([sorted(range(len(row)), key=lambda i: (-row[i], i)) for row in scores.tolist()])
    found = scores.gather(1, order)[:, :k]
    return order[:, :k].masked_fill(found == -torch.inf, -1), found


catalogues = st.integers(1, 3).flatmap(
    lambda levels: st.lists(st.tuples(*[st.integers(0, 3)] * levels), min_size=1, max_size=24, unique=True)
)

of_some_length = st.lists(st.integers(0, 3), min_size=1, max_size=5).map(tuple)


@given(catalogues)
def test_every_prefix_has_a_node_and_every_node_the_items_with_its_prefix(rows):
    codes = np.array(rows)
    trie = Trie.of(codes)
    assert codes[trie.item.numpy()].tolist() == sorted(map(list, rows))
    assert trie.item[trie.place].tolist() == list(range(len(rows)))
    above = {(): (0, len(rows))}
    for depth, level in enumerate(trie.levels, 1):
        nodes, children = {}, level.child.tolist()
        for parent, prefix in enumerate(sorted(above)):
            for node in range(children[parent], children[parent + 1]):
                nodes[(*prefix, level.code[node].item())] = (level.begin[node].item(), level.begin[node + 1].item())
        assert nodes.keys() == {row[:depth] for row in map(tuple, rows)}
        for prefix, (begin, end) in nodes.items():
            members = {i for i, row in enumerate(rows) if row[:depth] == prefix}
            assert set(trie.item[begin:end].tolist()) == members
        above = nodes


@settings(max_examples=40)
@given(catalogues, st.integers(0, 30), st.data())
def test_as_wide_as_the_catalogue_the_search_is_the_ranking_of_all_items(rows, k, data):
    codes, n_queries = np.array(rows), 3
    items = st.lists(st.integers(0, len(rows) - 1), max_size=len(rows))
    forbidden = Ragged.from_lists(data.draw(st.lists(items, min_size=n_queries, max_size=n_queries)))
    scores = one_by_one(n_queries, codes, 4)
    scores[forbidden.row_of_value, forbidden.values] = -torch.inf
    arrays = torch.from_numpy(forbidden.values), torch.from_numpy(forbidden.offsets)
    found = beam_search(model(n_queries, 4), Trie.of(codes), n_queries, len(rows), min(k, len(rows)), arrays)
    items, values = best(scores, min(k, len(rows)))
    assert found.items.tolist() == items.tolist()
    torch.testing.assert_close(found.scores, values)


def test_a_chosen_part_of_the_catalogue_is_searched_alone():
    codes = np.random.default_rng(0).permutation(64)[:40, None] // [16, 4, 1] % 4
    chosen = np.array([3, 5, 8, 13, 21, 34])
    scores = one_by_one(2, codes, 4)
    left_out = torch.ones(len(codes), dtype=torch.bool)
    left_out[torch.from_numpy(chosen)] = False
    scores[:, left_out] = -torch.inf
    barred = torch.tensor([3, 4, 8]), torch.tensor([0, 2, 3])
    scores[0, 3] = scores[1, 8] = -torch.inf
    found = beam_search(model(2, 4), Trie.of(codes, chosen), 2, 6, forbidden=barred)
    assert found.items.tolist() == best(scores, 6)[0].tolist()


def test_items_that_share_their_codes_come_out_side_by_side():
    codes = np.array([[1, 0], [0, 1], [1, 0], [0, 1], [1, 0]])
    found = beam_search(model(1, 2), Trie.of(codes), 1, 5, forbidden=(torch.tensor([2]), torch.tensor([0, 1])))
    scores = one_by_one(1, codes, 2)
    scores[0, 2] = -torch.inf
    assert found.items.tolist() == best(scores, 5)[0].tolist()
    assert found.items[0, -1] == -1


def test_codes_of_different_lengths_end_where_they_end():
    codes = np.array([[0, END, END], [1, 1, END], [1, 2, 3], [1, 2, 1], [2, 0, END]])
    found = beam_search(model(3, 4), Trie.of(codes), 3, 5)
    items, values = best(one_by_one(3, codes, 4), 5)
    assert found.items.tolist() == items.tolist()
    torch.testing.assert_close(found.scores, values)


@settings(max_examples=40)
@given(st.sets(of_some_length, min_size=1), st.integers(1, 6), st.data())
def test_beams_that_are_given_up_would_not_have_been_among_the_best(rows, k, data):
    codes = np.full((len(rows), 6), END)
    for row, code in zip(codes, sorted(rows)):
        row[: len(code) + 1] = *code, 4  # a code of its own ends each, as a title does
    items = st.lists(st.integers(0, len(rows) - 1), max_size=3)
    forbidden = Ragged.from_lists(data.draw(st.lists(items, min_size=3, max_size=3)))
    arrays = torch.from_numpy(forbidden.values), torch.from_numpy(forbidden.offsets)
    some, all_of_them = (beam_search(model(3, 5), Trie.of(codes), 3, 7, n, arrays) for n in (k, 7))
    assert some.items.tolist() == all_of_them.items[:, :k].tolist()
    assert some.scores.tolist() == all_of_them.scores[:, :k].tolist()


def among_those_that_go_on(n_queries, codes, n_codes):
    """The score of every item, each of its codes being weighed against those of the items that begin as it does."""
    scores = torch.zeros(n_queries, len(codes), dtype=torch.float64)
    for query in range(n_queries):
        for item, row in enumerate(codes.tolist()):
            for place, code in enumerate(row):
                if code != END:
                    fellows = {other[place] for other in codes.tolist() if other[:place] == row[:place]}
                    told = chances(query, row[:place], n_codes)
                    scores[query, item] += told[code] - told[sorted(fellows)].logsumexp(0)
    return scores


@settings(max_examples=40)
@given(st.sets(of_some_length, min_size=1), st.data())
def test_chances_among_the_codes_of_a_tree_come_to_one_and_are_searched_exactly(rows, data):
    codes = np.full((len(rows), 6), END)
    for row, code in zip(codes, sorted(rows)):
        row[: len(code) + 1] = *code, 4
    whole, scores, everything = Trie.of(codes), among_those_that_go_on(3, codes, 5), torch.arange(len(codes))
    torch.testing.assert_close(scores.exp().sum(1), torch.ones(3, dtype=torch.float64))
    for query in range(3):
        n = int(whole.codes_until_alone(everything).max())
        told = [[chances(query, row[:place], 5) for place in range(n)] for row in codes.tolist()]
        logits = torch.stack([torch.stack(row) for row in told]) + 7 if n else torch.zeros(len(codes), 0, 5)
        torch.testing.assert_close(chances_among(logits, whole, everything), scores[query].float(), atol=1e-5, rtol=0)
    some = data.draw(st.sets(st.integers(0, len(rows) - 1), min_size=1).map(sorted))
    found = beam_search(model(3, 5), Trie.of(codes, np.array(some)), 3, len(codes), among=whole)
    scores[:, [item for item in range(len(codes)) if item not in some]] = -torch.inf
    items, values = best(scores, len(codes))
    torch.testing.assert_close(found.scores, values, atol=1e-5, rtol=0)
    assert [set(row) for row in found.items.tolist()] == [set(row) for row in items.tolist()]


def test_nobody_is_asked_about_what_goes_without_saying():
    asked = []

    def step(code, parent):
        asked.append(1 if code is None else code.shape[1])
        return torch.zeros(1, asked[-1], 5)

    codes = Trie.of(np.array([[0, 1, 2, 3], [1, 2, 2, 0], [1, 3, 0, 0]]))
    assert beam_search(step, codes, 1, 3, among=codes).scores.exp().tolist() == [[0.5, 0.25, 0.25]]
    assert asked == [1, 1]


def test_who_is_asked():
    asked = []

    def step(code, parent):
        asked.append(1 if code is None else code.shape[1])
        return torch.log_softmax(torch.tensor([4.0, 3.0, 1.0, 0.0]), -1).expand(1, asked[-1], -1)

    codes = Trie.of(np.array([[0, END, END, END], [1, 0, END, END], [2, 0, 0, 1], [3, 0, 1, 1]]))
    assert beam_search(step, codes, 1, 4).items.tolist() == [[0, 1, 2, 3]]
    assert asked == [1, 3, 2, 2]  # those that are over are not
    asked.clear()
    assert beam_search(step, codes, 1, 4, 2).items.tolist() == [[0, 1]]
    assert asked == [1, 3]  # nor those that are behind two of them


def test_what_is_forbidden_takes_no_beam():
    codes = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])  # all of one prefix forbidden, and one beam

    def step(code, parent):
        return torch.log_softmax(torch.tensor([[[5.0, 0.0]]]), -1)

    found = beam_search(step, Trie.of(codes), 1, 1, forbidden=(torch.tensor([0, 1]), torch.tensor([0, 2])))
    assert found.items.tolist() == [[2]]


def test_a_narrow_search_gives_exact_scores_of_real_items():
    rng = np.random.default_rng(1)
    codes = np.unique(rng.integers(0, 8, (200, 3)), axis=0)
    scores = one_by_one(4, codes, 8).float()
    found = beam_search(model(4, 8), Trie.of(codes), 4, 5)
    torch.testing.assert_close(found.scores, scores.gather(1, found.items))
    assert (found.scores.diff() <= 0).all()
    assert all(len(set(row)) == 5 for row in found.items.tolist())


@pytest.mark.parametrize("dtype", [np.int16, np.int64])
def test_codes_too_wide_for_one_key_are_sorted_all_the_same(dtype):
    codes = np.random.default_rng(2).integers(0, np.iinfo(np.int16).max, (500, 8)).astype(dtype)
    assert codes[Trie.of(codes).item.numpy()].tolist() == sorted(codes.tolist())


def test_independent_codes_are_scored_exactly():
    rng = np.random.default_rng(3)
    codes = np.unique(rng.integers(0, 6, (60, 3)), axis=0)
    said = torch.log_softmax(torch.randn(5, 3, 6, generator=torch.Generator().manual_seed(0)), -1)
    wanted = torch.stack([sum(row[place, code[place]] for place in range(3)) for row in said for code in codes])
    found = exact(said, torch.from_numpy(codes), 7)
    items, values = best(wanted.view(5, -1), 7)
    assert found.items.tolist() == items.tolist()
    torch.testing.assert_close(found.scores, values)
    beams = beam_search(at_once(said), Trie.of(codes), 5, len(codes), 7)
    assert beams.items.tolist() == items.tolist()
    torch.testing.assert_close(beams.scores, values)


def test_independent_codes_shared_or_missing_come_out_by_number_or_not_at_all():
    codes = np.array([[1, 0], [0, 1], [-1, -1], [1, 0], [1, 0], [0, 0]])
    said = torch.log_softmax(torch.tensor([[[0.0, 3.0], [2.0, 0.0]]] * 2), -1)
    barred = torch.tensor([3]), torch.tensor([0, 0, 1])
    found = exact(said, torch.from_numpy(codes), 3, barred, torch.tensor([True, True, False, True, True, False]))
    assert found.items.tolist() == [[0, 3, 4], [0, 4, 1]]
    few = exact(said, torch.from_numpy(codes), 6, barred, torch.from_numpy(codes[:, 0] == 1))
    assert few.items.tolist() == [[0, 3, 4, -1, -1, -1], [0, 4, -1, -1, -1, -1]]


def test_a_narrow_search_of_independent_codes_finds_the_best_item_where_heads_agree_on_one():
    rng, generator = np.random.default_rng(5), torch.Generator().manual_seed(5)
    codes = np.unique(rng.integers(0, 60, (1000, 4)), axis=0)
    meant = torch.from_numpy(codes[rng.integers(len(codes), size=300)])
    agreed = {}
    for agreement in (3.0, 0.0):
        logits = torch.randn(300, 4, 60, generator=generator)
        logits.scatter_add_(2, meant[..., None], torch.full((300, 4, 1), agreement))
        said = logits.log_softmax(-1)
        found = beam_search(at_once(said), Trie.of(codes), 300, 20).items
        assert ((found >= 0) & (found < len(codes))).all()
        agreed[agreement] = (found[:, 0] == exact(said, torch.from_numpy(codes), 1).items[:, 0]).float().mean()
    assert agreed[3.0] > 0.95
    assert agreed[0.0] < 0.8  # where they say nothing of the kind it is no substitute for looking at all items


def test_beams_see_their_forebears_and_nobody_else():
    steps = [torch.tensor([[0, 0, 0]]), torch.tensor([[2, 0, 2]]), torch.tensor([[1, 1, 0]])]
    allow = None
    for parent in steps:
        allow = lineage(allow, parent)
    seen = [set(np.flatnonzero(row)) for row in allow[0].numpy()]
    assert seen == [{0, 4, 6}, {0, 4, 7}, {2, 3, 8}]


def test_words_are_drawn_as_often_as_their_chances_say_and_only_from_the_likeliest_where_asked():
    logits, rng = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log().expand(20_000, -1), torch.Generator().manual_seed(0)

    def shares(temperature, top_p=1.0):
        return (sample(logits, temperature, top_p, rng).bincount(minlength=4) / 20_000).tolist()

    assert shares(1.0) == pytest.approx([0.5, 0.3, 0.15, 0.05], abs=0.01)
    squared = torch.tensor([0.25, 0.09, 0.0225, 0.0025])
    assert shares(0.5) == pytest.approx((squared / squared.sum()).tolist(), abs=0.01)
    assert shares(1.0, 0.75) == pytest.approx([0.625, 0.375, 0, 0], abs=0.01)  # 0.5 are not enough, 0.8 are
    assert shares(1.0, 1e-9) == shares(0) == [1, 0, 0, 0]


def test_nobody_is_asked_once_all_codes_are_over():
    asked = []

    def step(code, parent):
        asked.append(code)
        return torch.zeros(1, 1 if code is None else code.shape[1], 3)

    found = beam_search(step, Trie.of(np.array([[0, 1, END, END], [2, 0, END, END]])), 1, 4, 2)
    assert (found.items.tolist(), len(asked)) == ([[0, 1]], 2)
