"""The transformer: packed equals padded, a cache equals reading all at once, and who sees whom, to the bit."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Generator, nn
from torch.nn.functional import gelu, relu

from itemic.nn import attention, masks
from itemic.nn.attention import Attention, Cache, Where, attend
from itemic.nn.decoding import lineage
from itemic.nn.packing import Packing
from itemic.nn.positions import Alibi, Buckets, Positions, Rotary
from itemic.nn.transformer import Block, Feed, Stack

DIM, HEADS = 8, 2
RULES = {
    "everybody": None,
    "causal": masks.causal,
    "window": lambda q, k: masks.window(q, k, 1),
    "prefix": lambda q, k: masks.causal(q, k) | masks.prefix(q, k, 2),
    "before": lambda q, k: ~masks.causal(k, q),  # the first sees nothing
    "near": masks.Near(2, 1),
    "near behind": masks.Near(2, 0),
}


def spread(buckets):
    nn.init.normal_(buckets.table)
    return buckets


POSITIONS = {
    "none": lambda: None,
    "rotary": lambda: Rotary(DIM // HEADS),
    "buckets": lambda: spread(Buckets(HEADS, n=8, furthest=16)),
    "alibi": lambda: Alibi(HEADS),
}


def a_stack(norm="pre", blocks=2, dropout=0.0, cross=False):
    torch.manual_seed(0)
    made = [
        Block(
            Attention(DIM, HEADS, out=norm != "sasrec", dropout=dropout),
            Feed(DIM, 3 * DIM, gelu),
            norm,
            Attention(DIM, HEADS, kv_dim=5) if cross else None,
        )
        for _ in range(blocks)
    ]
    return Stack(made, nn.LayerNorm(DIM)).double()


def tokens(lengths, seed=0):
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    x = torch.randn(int(offsets[-1]), DIM, dtype=torch.float64, generator=Generator().manual_seed(seed))
    return x.requires_grad_(), offsets


def gradients(stack, loss, *more):
    return torch.autograd.grad(loss, [*more, *stack.parameters()], allow_unused=True)


def test_attention_is_its_definition_written_as_a_loop():
    rng = Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 3, n, 4, dtype=torch.float64, generator=rng) for n in (5, 6, 6))
    allow = torch.rand(2, 1, 5, 6, generator=rng) < 0.5
    bias = torch.randn(3, 5, 6, dtype=torch.float64, generator=rng)
    allow[0, 0, 2] = False
    expected = torch.zeros(2, 3, 5, 4, dtype=torch.float64)
    for b in range(2):
        for h in range(3):
            for i in range(5):
                logits = {
                    j: (q[b, h, i] @ k[b, h, j] / 2 + bias[h, i, j]).item() for j in range(6) if allow[b, 0, i, j]
                }
                total = sum(map(math.exp, logits.values()))
                for j, logit in logits.items():
                    expected[b, h, i] += math.exp(logit) / total * v[b, h, j]
    torch.testing.assert_close(attend(q, k, v, allow, bias), expected)
    assert (attend(q, k, v, allow, bias)[0, :, 2] == 0).all()


@pytest.mark.parametrize("dropout", [0.0, 1e-9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_row_that_sees_nothing_gives_zeros_and_its_gradient_is_no_nan(dtype, dropout):
    x = torch.randn(1, 1, 4, 4, dtype=dtype, requires_grad=True)
    bias = torch.randn(1, 4, 4, dtype=dtype, requires_grad=True)
    allow = torch.ones(4, 4, dtype=torch.bool).tril(-1)
    for given_bias in (None, bias):
        made = attend(x, x, x, allow, given_bias, dropout=dropout)
        assert (made[..., 0, :] == 0).all()
        assert torch.isfinite(made).all()
        found = torch.autograd.grad(made.sum(), [x] + ([bias] if given_bias is not None else []))
        assert all(torch.isfinite(by).all() for by in found)


@pytest.mark.parametrize("block", [1 << 20, 40, 1])
def test_the_two_ways_to_attend_agree_where_no_weight_falls_away(monkeypatch, block):
    monkeypatch.setattr(attention, "stays", lambda shape, p, dtype: torch.ones(shape, dtype=dtype))
    monkeypatch.setattr(attention, "share", lambda p: 1.0)
    monkeypatch.setattr(attention, "BLOCK", block)
    q, k, v = (torch.randn(2, 2, 5, 4, dtype=torch.float64) for _ in range(3))
    bias, allow = torch.randn(2, 5, 5, dtype=torch.float64), torch.rand(5, 5) < 0.6
    near, real = {"near": masks.Near(1, 2)}, masks.real(torch.tensor([5, 4]), 5)[:, None]
    rules = [{}, {"allow": allow}, {"causal": True}, {"bias": bias}, {"bias": bias, "causal": True}]
    for mask in (*rules, near, near | {"allow": real}, near | {"bias": bias}, {"near": masks.Near(2, 0)}):
        torch.testing.assert_close(attend(q, k, v, **mask, dropout=0.5), attend(q, k, v, **mask))


def test_dropout_takes_whole_weights_of_the_average():
    torch.manual_seed(0)
    q, k, v = torch.zeros(1, 1, 1, 4), torch.zeros(1, 1, 1000, 4), torch.ones(1, 1, 1000, 4)
    made = attend(q, k, v, dropout=0.25)[0, 0, 0]
    assert (made == made[0]).all()  # a weight that falls away takes its value's every coordinate with it
    assert made[0].item() == pytest.approx(1, abs=0.1)
    assert made[0].item() != 1


@pytest.mark.parametrize("block", [1 << 20, 40])
@pytest.mark.parametrize(
    "mask",
    [{}, {"allow": torch.eye(5).bool().roll(1, 0)}, {"causal": True}, {"bias": True}, {"near": masks.Near(1, 1)}],
)
def test_the_gradient_of_attention_with_dropout_is_that_of_the_very_weights_that_stayed(monkeypatch, block, mask):
    monkeypatch.setattr(attention, "BLOCK", block)
    q, k, v = (torch.randn(2, 2, 5, 4, dtype=torch.float64, requires_grad=True) for _ in range(3))
    bias = torch.randn(2, 5, 5, dtype=torch.float64, requires_grad=True)

    def seeded(q, k, v, bias):
        torch.manual_seed(0)
        return attend(q, k, v, **(mask | {"bias": bias} if "bias" in mask else mask), dropout=0.4)

    assert torch.autograd.gradcheck(seeded, (q, k, v, bias))


@pytest.mark.parametrize("mask", [{"causal": True}, {"allow": torch.ones(1, 200, dtype=torch.bool)}, {}])
def test_with_dropout_nothing_as_large_as_all_pairs_is_kept_for_the_gradient(mask):
    x, kept = torch.randn(1, 1, 200, 8, requires_grad=True), []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda saved: kept.append(saved.numel()) or saved, lambda saved: saved
    ):
        attend(x, x, x, **mask, dropout=0.2).sum().backward()
    assert max(kept) == 200 * 8 < 200 * 200


def test_a_gradient_leaves_the_random_numbers_that_follow_alone():
    x = torch.randn(1, 1, 5, 4, requires_grad=True)
    after = []
    for differentiated in (True, False):
        torch.manual_seed(0)
        made = attend(x, x, x, dropout=0.4).sum()
        if differentiated:
            made.backward()
        after.append(torch.rand(1).item())
    assert after[0] == after[1]


@pytest.mark.parametrize("mask", [{}, {"causal": True}, {"near": masks.Near(3, 3)}, {"near": masks.Near(3, 0)}])
def test_attention_learns_in_bfloat16_what_it_learns_in_float64(monkeypatch, mask):
    monkeypatch.setattr(attention, "ROWS", 8)
    rng = Generator().manual_seed(0)
    exact = [torch.randn(3, 2, 30, 16, dtype=torch.float64, generator=rng).bfloat16().double() for _ in range(4)]
    made = []
    for dtype in (torch.float64, torch.bfloat16):
        *qkv, weights = (x.to(dtype) for x in exact)
        qkv = [x.requires_grad_() for x in qkv]
        found = attend(*qkv, **mask)
        made.append([x.double() for x in (found.detach(), *torch.autograd.grad((found * weights).sum(), qkv))])
    for one, other in zip(*made):
        assert (one - other).norm() < 0.02 * one.norm()


def test_queries_that_see_what_is_near_look_at_nothing_else(monkeypatch):
    """Work in proportion to the window, not to the length: the keys that products are made with are counted."""
    seen = []
    monkeypatch.setattr(attention, "ROWS", 16)
    made = attention._weights
    monkeypatch.setattr(
        attention, "_weights", lambda *given: (seen.append(w.shape[-1]) or (b, r, s, w) for b, r, s, w in made(*given))
    )
    x = torch.randn(1, 1, 160, 4, requires_grad=True)
    attend(x, x, x, near=masks.Near(8, 4), dropout=1e-9)
    assert seen == [20, *[28] * 8, 24]


@given(st.lists(st.integers(0, 9), min_size=1, max_size=12))
def test_buckets_waste_little_and_hold_every_token_once(lengths):
    x, offsets = tokens(lengths)
    packing = Packing(offsets)
    parts = packing.split(x)
    assert sum(part.shape[0] * part.shape[1] for part in parts) <= 1.3 * len(x)
    assert sorted((b.lengths.tolist() for b in packing.buckets), reverse=True) == [
        b.lengths.tolist() for b in packing.buckets
    ]
    if parts:
        torch.testing.assert_close(packing.join(parts), x, rtol=0, atol=0)
        real = torch.cat([part[bucket.real[:, 0]] for part, bucket in zip(parts, packing.buckets)])
        assert sorted(real[:, 0].tolist()) == sorted(x[:, 0].tolist())


@pytest.mark.parametrize("rule", RULES)
def test_blocks_longer_than_their_sequences_change_nothing(rule):
    x, offsets = tokens([3, 1, 7, 0, 6, 2])
    longer = Packing(offsets, step=4)
    assert [bucket.longest for bucket in longer.buckets] == [8, 4, 4]
    stack, positions = a_stack(), POSITIONS["buckets"]()
    expected = stack(x, Where(RULES[rule], Packing(offsets), positions.double()))
    torch.testing.assert_close(stack(x, Where(RULES[rule], longer, positions)), expected)


def test_sequences_of_one_length_are_not_moved():
    x, offsets = tokens([4, 4, 4])
    (part,) = Packing(offsets).split(x)
    assert part.data_ptr() == x.data_ptr()


@pytest.mark.parametrize("norm", ["pre", "post", "sasrec"])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("kind", POSITIONS)
def test_packed_tokens_give_the_values_and_gradients_of_padded_blocks(kind, rule, norm):
    x, offsets = tokens([3, 1, 7, 0, 6, 2])
    stack, positions = a_stack(norm), POSITIONS[kind]()
    positions = positions.double() if positions else None
    weights = torch.randn(x.shape, dtype=torch.float64, generator=Generator().manual_seed(1))
    packing = Packing(offsets)
    together = stack(x, Where(RULES[rule], packing, positions))
    packed = gradients(stack, (together * weights).sum(), x)

    longest = 7
    padded = torch.zeros(6, longest, DIM, dtype=torch.float64).index_put((packing.row, packing.place), x)
    real, places = masks.real(offsets.diff(), longest), torch.arange(longest)
    allow = real if RULES[rule] is None else real & RULES[rule](places, places)
    made = stack(padded, Where(allow, None, positions))[packing.row, packing.place]
    torch.testing.assert_close(together, made)
    for one, other in zip(packed, gradients(stack, (made * weights).sum(), x)):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("kind", ["rotary", "buckets", "alibi"])
def test_given_positions_go_to_the_right_tokens(kind):
    x, offsets = tokens([3, 5, 1])
    stack, positions, packing = a_stack(), POSITIONS[kind]().double(), Packing(offsets)
    pos = packing.place * 3 + packing.row  # other than places, but each sequence by itself the same up to a shift
    together = stack(x, Where(masks.causal, packing, positions, pos))
    for row in range(3):
        part = slice(int(offsets[row]), int(offsets[row + 1]))
        alone = stack(
            x[None, part], Where(masks.causal, None, positions, 3 * torch.arange(part.stop - part.start)[None])
        )
        torch.testing.assert_close(together[part], alone[0])
    assert not torch.allclose(together, stack(x, Where(masks.causal, packing, positions)))


@pytest.mark.parametrize("norm", ["pre", "post", "sasrec"])
def test_causality_holds_to_the_bit(norm):
    x, offsets = tokens([6, 4])
    x = x.detach().float()
    stack, where = a_stack(norm).float(), Where(masks.causal, Packing(offsets))
    before = stack(x, where)
    changed = x.clone()
    changed[3] += 1
    after = stack(changed, where)
    moved = (before != after).any(1)
    assert moved.tolist() == [False] * 3 + [True] * 3 + [False] * 4


def test_without_positions_a_sequence_is_a_set():
    x, offsets = tokens([6])
    stack, order = a_stack(), torch.tensor([3, 0, 5, 1, 4, 2])
    where = Where(None, Packing(offsets))
    torch.testing.assert_close(stack(x[order], where), stack(x, where)[order])
    with_positions = Where(None, Packing(offsets), POSITIONS["rotary"]().double())
    assert not torch.allclose(stack(x[order], with_positions), stack(x, with_positions)[order])


@pytest.mark.parametrize("norm", ["pre", "post", "sasrec"])
@pytest.mark.parametrize("kind", POSITIONS)
@pytest.mark.parametrize("rule", ["causal", "prefix"])
def test_reading_on_with_a_cache_is_reading_all_at_once(rule, kind, norm):
    x = torch.randn(3, 7, DIM, dtype=torch.float64)
    stack, positions = a_stack(norm), POSITIONS[kind]()
    where = Where(RULES[rule], None, positions.double() if positions else None)
    whole, cache = stack(x, where), Cache()
    parts = [stack(x[:, start:stop], where, cache=cache) for start, stop in ((0, 4), (4, 5), (5, 7))]
    torch.testing.assert_close(torch.cat(parts, 1), whole)


@pytest.mark.parametrize("kind", ["rotary", "buckets"])
def test_beams_beside_each_other_are_as_if_each_were_read_alone(kind):
    x, positions = torch.randn(1, 5, DIM, dtype=torch.float64), POSITIONS[kind]().double()
    stack, cache, parents = a_stack(), Cache(), [[0], [0, 0], [1, 1]]  # a root, its two children, two of the second's
    allow, places, made = None, [], []
    for level, (parent, part) in enumerate(zip(parents, x.split([1, 2, 2], 1))):
        allow = lineage(allow, torch.tensor([parent]))
        places += [level] * len(parent)
        made.append(stack(part, Where(allow, None, positions, torch.tensor(places)), cache=cache))
    alone = stack(x[:, [0, 2, 4]], Where(masks.causal, None, positions))
    torch.testing.assert_close(torch.cat(made, 1)[:, [0, 2, 4]], alone)


def test_heads_may_be_wider_together_than_what_they_read():
    attend = Attention(DIM, 2, width=6).double()
    x = torch.randn(1, 4, DIM, dtype=torch.float64)
    q, k, v = (layer(x).unflatten(-1, (2, 3)) for layer in (attend.query, attend.key, attend.value))
    weights = (torch.einsum("bqhd,bkhd->bhqk", q, k) / 3**0.5).softmax(-1)
    torch.testing.assert_close(attend(x), attend.out(torch.einsum("bhqk,bkhd->bqhd", weights, v).flatten(-2)))


def test_a_cache_goes_on_with_chosen_rows_of_the_batch():
    x = torch.randn(3, 5, DIM, dtype=torch.float64)
    stack, where, cache, rows = a_stack(), Where(masks.causal), Cache(), torch.tensor([2, 2, 0])
    stack(x[:, :4], where, cache=cache)
    cache.take(rows)
    torch.testing.assert_close(stack(x[rows, 4:], where, cache=cache), stack(x[rows], where)[:, 4:])


def test_a_memory_is_read_by_its_mask_and_projected_once():
    rng = Generator().manual_seed(0)
    x, memory = (torch.randn(2, n, d, dtype=torch.float64, generator=rng) for n, d in ((4, DIM), (3, 5)))
    stack, where, real = a_stack(cross=True), Where(masks.causal), Where(masks.real(torch.tensor([3, 0]), 3))
    whole = stack(x, where, memory, real)
    other = memory.clone()
    other[1] += 1
    torch.testing.assert_close(stack(x, where, other, real), whole)  # nothing of the second memory may be seen
    cache = Cache()
    parts = [stack(x[:, :3], where, memory, real, cache), stack(x[:, 3:], where, None, real, cache)]
    torch.testing.assert_close(torch.cat(parts, 1), whole)


def test_attention_without_an_output_projection_is_that_of_the_first_sasrec():
    x, _ = tokens([4])
    block = a_stack("sasrec", blocks=1).blocks[0]
    q = block.attend_norm(x)
    heads = [
        layer(states).view(4, HEADS, -1)
        for layer, states in ((block.attend.query, q), (block.attend.key, x), (block.attend.value, x))
    ]
    mixed = torch.zeros(4, DIM, dtype=torch.float64)
    for h in range(HEADS):
        for i in range(4):
            logits = torch.stack([heads[0][i, h] @ heads[1][j, h] / 2 for j in range(i + 1)])
            mixed[i, 4 * h : 4 * h + 4] = logits.softmax(0) @ heads[2][: i + 1, h]
    f = block.feed_norm(q + mixed)
    expected = f + block.feed.outer(gelu(block.feed.inner(f)))
    torch.testing.assert_close(block(x[None], Where(masks.causal))[0], expected)


def test_pre_and_post_are_torch_s_own_encoder_layer():
    x = torch.randn(2, 5, DIM, dtype=torch.float64)
    for norm in ("pre", "post"):
        block = Block(Attention(DIM, HEADS), Feed(DIM, 12, relu), norm).double()
        theirs = nn.TransformerEncoderLayer(
            DIM, HEADS, 12, 0.0, relu, batch_first=True, norm_first=norm == "pre"
        ).double()
        pairs = {
            "self_attn.in_proj_weight": torch.cat([getattr(block.attend, n).weight for n in ("query", "key", "value")]),
            "self_attn.in_proj_bias": torch.cat([getattr(block.attend, n).bias for n in ("query", "key", "value")]),
        }
        names = {"self_attn.out_proj": block.attend.out, "linear1": block.feed.inner, "linear2": block.feed.outer}
        names |= {"norm1": block.attend_norm, "norm2": block.feed_norm}
        pairs |= {f"{name}.{part}": getattr(m, part) for name, m in names.items() for part in ("weight", "bias")}
        theirs.load_state_dict(pairs)
        torch.testing.assert_close(block(x, Where()), theirs(x))


@pytest.mark.parametrize("rule", [None, masks.causal])
def test_a_kernel_for_unpadded_sequences_is_asked_for_what_buckets_compute(rule, monkeypatch):
    """Stands in for the kernel of a GPU: a loop over sequences, by the arguments that torch documents."""

    def kernel(q, k, v, bounds_q, bounds_k, longest_q, longest_k, *, window_size):
        assert bounds_q.dtype == bounds_k.dtype == torch.int32
        assert longest_q == longest_k == 5
        parts = []
        for a, b in zip(bounds_q[:-1].tolist(), bounds_q[1:].tolist()):
            mine = (tensor[a:b].transpose(0, 1) for tensor in (q, k, v))
            parts.append(attend(*mine, causal=window_size == (-1, 0)).transpose(0, 1))
        return torch.cat(parts)

    x, offsets = tokens([2, 5, 1])
    stack, where = a_stack(), Where(rule, Packing(offsets), Rotary(DIM // HEADS).double())
    expected = stack(x, where)
    monkeypatch.setattr(attention, "runs_unpadded", lambda q: True)
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", kernel)
    torch.testing.assert_close(stack(x, where), expected)


def test_a_width_that_heads_cannot_share_is_refused():
    with pytest.raises(ValueError, match="a width of 6 cannot be divided among 4 heads"):
        Attention(6, 4)


def test_all_empty_sequences_give_no_tokens():
    x, offsets = tokens([0, 0])
    assert a_stack()(x, Where(masks.causal, Packing(offsets))).shape == (0, DIM)


def test_no_positions_is_a_kind_of_positions():
    x, offsets = tokens([3, 2])
    stack, packing = a_stack(), Packing(offsets)
    bare = Positions()
    assert bare.add(x, packing.place) is x
    torch.testing.assert_close(stack(x, Where(masks.causal, packing, bare)), stack(x, Where(masks.causal, packing)))
