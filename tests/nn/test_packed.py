import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator

from itemic import threads
from itemic.nn import masks
from itemic.nn.attention import Attention, Where, attend
from itemic.nn.masks import Near
from itemic.nn.packed import ALL, packed_attention
from itemic.nn.packing import Packing
from itemic.nn.positions import Buckets

HEADS, DIM, WIDTH = 2, 8, 5


def packings(*lengths):
    return [Packing(torch.tensor([0, *each]).cumsum(0)) for each in lengths]


def some(of_q, of_k, seed=0):
    rng = Generator().manual_seed(seed)
    shapes = (int(of_q.offsets[-1]), DIM), (int(of_k.offsets[-1]), DIM), (int(of_k.offsets[-1]), WIDTH)
    qkv = [torch.randn(n, HEADS, dim, generator=rng) for n, dim in shapes]
    return [x.requires_grad_() for x in qkv], torch.randn(HEADS, of_q.longest, of_k.longest, generator=rng)


def one_by_one(q, k, v, of_q, of_k, bias, near, stays=None):
    """The same from its definition, in float64: one sequence after the other."""
    parts = [q.new_zeros((0, HEADS, WIDTH))]
    q, k, v = (x.double() for x in (q, k, v))
    for s, (n, m) in enumerate(zip(of_q.lengths.tolist(), of_k.lengths.tolist())):
        rows, keys = (slice(int(of.offsets[s]), int(of.offsets[s + 1])) for of in (of_q, of_k))
        logits = torch.einsum("qhd,khd->hqk", q[rows], k[keys]) / DIM**0.5
        logits = logits if bias is None else logits + bias[:, :n, :m]
        allow = near(torch.arange(n), torch.arange(m))
        weights = logits.masked_fill(~allow, -torch.inf).softmax(-1).nan_to_num(0)
        weights = weights if stays is None else weights * stays[rows, :, :m].transpose(0, 1)
        parts.append(torch.einsum("hqk,khd->qhd", weights, v[keys]))
    return torch.cat(parts)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=6),
    st.sampled_from([ALL, Near(1 << 40, 0), Near(2, 1), Near(0, 3)]),
    st.booleans(),
)
def test_packed_attention_and_its_gradients_are_those_of_each_sequence_alone(lengths, near, biased):
    of_q, of_k = packings(*zip(*lengths))
    qkv, bias = some(of_q, of_k)
    asked = [*qkv, bias.requires_grad_()] if biased else qkv
    made = packed_attention(*qkv, of_q, of_k, bias if biased else None, near)
    expected = one_by_one(*qkv, of_q, of_k, bias if biased else None, near)
    torch.testing.assert_close(made.double(), expected, rtol=1e-5, atol=1e-5)
    weights = torch.randn(made.shape)
    found, exact = (torch.autograd.grad((x * weights).sum(), asked, allow_unused=True) for x in (made, expected))
    for one, other in zip(found, exact):
        torch.testing.assert_close(one, torch.zeros_like(one) if other is None else other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("near", [ALL, Near(1 << 40, 0), Near(20, 5)])
def test_sequences_longer_than_what_is_made_at_a_time_are_no_different(near):
    of_q, of_k = packings([150, 3], [150, 70])
    qkv, bias = some(of_q, of_k)
    made, expected = (how(*qkv, of_q, of_k, bias, near) for how in (packed_attention, one_by_one))
    torch.testing.assert_close(made.double(), expected, rtol=1e-5, atol=1e-5)


def test_gradients_with_dropout_are_those_of_the_very_weights_that_stayed():
    of_q, of_k = packings([3, 70, 1], [5, 4, 2])
    (q, k, v), bias = some(of_q, of_k)
    bias.requires_grad_()

    def seeded(v, dropout=0.4):
        torch.manual_seed(5)
        return packed_attention(q, k, v, of_q, of_k, bias, ALL, dropout)

    eye = torch.zeros(len(v), HEADS, 5)
    for s, m in enumerate([5, 4, 2]):
        eye[int(of_k.offsets[s]) + torch.arange(m), :, torch.arange(m)] = 1
    left, whole = seeded(eye), seeded(eye, 1e-9)
    stays = (left / whole.where(whole > 0, 1)).detach()  # by query, head and key
    scale = stays[stays > 0]
    torch.testing.assert_close(scale, torch.full_like(scale, 1 / 0.6), rtol=1e-4, atol=0)
    assert 0.3 < 1 - len(scale) / (whole > 0).sum().item() < 0.5
    made, expected = seeded(v), one_by_one(q, k, v, of_q, of_k, bias, ALL, stays.double())
    torch.testing.assert_close(made.double(), expected, rtol=1e-4, atol=1e-4)
    weights = torch.randn(made.shape)
    found, exact = (torch.autograd.grad((x * weights).sum(), [q, k, v, bias]) for x in (made, expected))
    for one, other in zip(found, exact):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_a_large_logit_takes_all_the_weight_and_one_far_below_none():
    packing = packings([3])[0]
    q, k = torch.tensor([[[1e3]]] * 3), torch.tensor([[[1.0]], [[0.9]], [[-1e30]]])
    v = torch.eye(3)[:, None]
    assert packed_attention(q, k, v, packing, packing)[:, 0].tolist() == [[1, 0, 0]] * 3


def test_weights_fall_away_by_their_chance_whatever_the_count_of_threads():
    packing = packings([40] * 50)[0]
    q, v = torch.zeros(2000, 1, 4), torch.ones(2000, 1, 1)
    q.requires_grad_()
    bias = torch.zeros(1, 40, 40, requires_grad=True)
    made = []
    for n in (1, 2):
        with threads.use(n):
            torch.manual_seed(0)
            x = packed_attention(q, q, v, packing, packing, bias, dropout=0.25)
            made.append((x.detach(), *torch.autograd.grad((x * torch.arange(2000)[:, None, None]).sum(), [q, bias])))
    for one, other in zip(*made):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    kept = made[0][0].flatten() * 40 * 0.75  # of 40 keys, how many stayed
    assert kept.mean().item() == pytest.approx(30, abs=4 * (40 * 0.25 * 0.75 / 2000) ** 0.5)
    assert kept.var().item() == pytest.approx(40 * 0.25 * 0.75, rel=0.15)


@pytest.mark.parametrize(
    "rule", [None, masks.causal, Near(2, 1), lambda q, k: masks.causal(q, k) & masks.window(q, k, 3)]
)
@pytest.mark.parametrize("positions", [None, Buckets(HEADS)])
def test_attention_takes_the_packed_way_in_training_and_says_the_same(rule, positions):
    """Nothing falls away at this chance, but it is that of training."""
    torch.manual_seed(0)
    packing = packings([3, 0, 7, 1])[0]
    layer, x = Attention(DIM, HEADS, dropout=1e-9), torch.randn(11, DIM)
    where = Where(rule, packing, positions)
    trained = layer(x, None, where)
    torch.testing.assert_close(trained, layer.eval()(x, None, where), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("train", [True, False])
def test_packed_queries_read_the_sequence_of_a_memory_that_is_theirs(train):
    torch.manual_seed(0)
    (packing,) = packings([3, 9, 1])
    layer = Attention(DIM, HEADS, kv_dim=4, dropout=1e-9).train(train)
    x, memory = torch.randn(3 * 2, DIM), torch.randn(13, 4)
    made = layer(x, memory, Where(packing=packing, queries=2))
    for s in range(3):
        alone = layer.eval()(x[None, 2 * s : 2 * s + 2], memory[None, packing.offsets[s] : packing.offsets[s + 1]])
        torch.testing.assert_close(made[2 * s : 2 * s + 2], alone[0], rtol=1e-4, atol=1e-5)


def test_nothing_as_large_as_all_pairs_is_kept_for_the_gradient():
    packing, kept = packings([200])[0], []
    x = torch.randn(200, 1, 8, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
        packed_attention(x, x, x, packing, packing, dropout=0.2).sum().backward()
    assert max(kept) == 200 * 8 < 200 * 200


def test_packed_and_padded_attention_learn_the_same():
    x = torch.randn(12, HEADS, DIM, requires_grad=True)
    packing = packings([4, 4, 4])[0]
    packed = packed_attention(x, x, x, packing, packing, near=Near(1 << 40, 0))
    blocks = x.unflatten(0, (3, 4)).transpose(1, 2)
    padded = attend(blocks, blocks, blocks, causal=True).transpose(1, 2).flatten(0, 1)
    one, other = (torch.autograd.grad(y.square().sum(), x)[0] for y in (packed, padded))
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
