"""The Q-Former: who sees whom, by changing what is seen; and what its one vector does to its attention."""

import pytest
import torch

from itemic.nn.attention import Cache
from itemic.nn.text import Texts
from itemic.systems.language.qformer import QFormer

WORDS, DIM, QUERIES = 20, 16, 3


@pytest.fixture
def qformer():
    torch.manual_seed(0)
    return QFormer(WORDS, DIM, layers=3, heads=2, n_queries=QUERIES, entity=8, every=2, n_places=12, dropout=0.0).eval()


@pytest.fixture
def texts():
    token = torch.randint(WORDS, (2, 6), generator=torch.Generator().manual_seed(1))
    return Texts(token, torch.tensor([[True] * 6, [True] * 4 + [False] * 2]))


def entity(n_tokens=1, seed=2):
    return torch.randn(2, n_tokens, 8, generator=torch.Generator().manual_seed(seed))


def changed(texts, at):
    token = texts.token.clone()
    token[:, at] = (token[:, at] + 1) % WORDS
    return texts._replace(token=token)


@pytest.mark.parametrize("sight", ["apart", "causal"])
def test_no_word_reaches_the_queries_where_they_may_not_see_text(qformer, texts, sight):
    before, after = (qformer(entity(), given, sight)[0] for given in (texts, changed(texts, 1)))
    assert torch.equal(before, after)


def test_queries_and_words_see_each_other_where_all_see_all(qformer, texts):
    query, words = qformer(entity(), texts, "together")
    other_query, _ = qformer(entity(), changed(texts, 1), "together")
    _, other_words = qformer(entity(seed=3), texts, "together")
    assert not torch.allclose(query, other_query)
    assert not torch.allclose(words, other_words)


def test_text_read_apart_knows_nothing_of_the_entity(qformer, texts):
    before, after = (qformer(entity(seed=seed), texts, "apart")[1] for seed in (2, 3))
    assert torch.equal(before, after)


def test_a_word_changes_no_word_before_it_when_text_is_told(qformer, texts):
    for at in range(1, 6):
        before, after = (qformer(entity(), given, "causal")[1] for given in (texts, changed(texts, at)))
        assert torch.equal(before[:, :at], after[:, :at])
        assert not torch.allclose(before[0, at:], after[0, at:])


def test_apart_is_two_passes(qformer, texts):
    query, words = qformer(entity(), texts, "apart")
    torch.testing.assert_close(query, qformer.draw(entity()), atol=1e-5, rtol=0)
    torch.testing.assert_close(words[texts.real], qformer.read(texts)[texts.real], atol=1e-5, rtol=0)


def test_telling_after_kept_queries_is_the_joint_pass(qformer, texts):
    cache = Cache()
    query = qformer.draw(entity(), cache)
    told = qformer.tell(texts, cache)
    joint_query, joint = qformer(entity(), texts, "causal")
    torch.testing.assert_close(query, joint_query, atol=1e-5, rtol=0)
    torch.testing.assert_close(told[texts.real], joint[texts.real], atol=1e-5, rtol=0)


def test_states_that_nobody_wants_are_not_made_and_the_others_are_the_same(qformer, texts):
    for sight in ("apart", "together", "causal"):
        query, words = qformer(entity(), texts, sight, queries_only=True)
        assert words.shape == (2, 0, DIM)
        torch.testing.assert_close(query, qformer(entity(), texts, sight)[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(qformer.read(texts, 1), qformer.read(texts)[:, :1], atol=1e-5, rtol=0)


def test_padding_changes_nothing(qformer, texts):
    short = Texts(texts.token[1:, :4], texts.real[1:, :4])
    for sight in ("apart", "together", "causal"):
        query, words = qformer(entity(), texts, sight)
        alone_query, alone = qformer(entity()[1:], short, sight)
        torch.testing.assert_close(query[1:], alone_query, atol=1e-5, rtol=0)
        torch.testing.assert_close(words[1:, :4], alone, atol=1e-5, rtol=0)


def test_the_two_feeds_begin_equal_and_part_when_only_one_is_used(qformer, texts):
    for layer in qformer.layers:
        for one, other in zip(layer.text_feed.parameters(), layer.query_feed.parameters()):
            assert torch.equal(one, other)
    qformer.read(texts)[..., 0].sum().backward()
    for layer in qformer.layers:
        assert layer.text_feed.inner.weight.grad.norm() > 0
        assert layer.query_feed.inner.weight.grad is None
        assert layer.cross is None or layer.cross.value.weight.grad is None
    assert qformer.queries.grad is None


def test_one_vector_leaves_nothing_to_choose_and_two_do(qformer):
    for n_tokens, chooses in ((1, False), (2, True)):
        qformer.zero_grad()
        made = qformer.draw(entity(n_tokens))
        (made * torch.randn(made.shape, generator=torch.Generator().manual_seed(4))).sum().backward()
        for layer in qformer.layers:
            if layer.cross is not None:
                for linear in (layer.cross.query, layer.cross.key):
                    assert (linear.weight.grad.abs() > 1e-6).any() == chooses  # of one, rounding is left
                assert layer.cross.value.weight.grad.norm() > 0
    assert [layer.cross is not None for layer in qformer.layers] == [True, False, True]
