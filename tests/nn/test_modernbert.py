"""ModernBERT and its causal twin by what the specification of Ettin asks of them; beside transformers' in
tests/encoders/test_folders.py."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator
from torch.nn.functional import cross_entropy

from itemic.nn.attention import Cache, Where
from itemic.nn.corrupt import mask_words
from itemic.nn.modernbert import ModernBert
from itemic.nn.packing import Packing
from itemic.nn.positions import Rotary

SHAPE = {"layers": 4, "heads": 2, "hidden": 24}


def network(side=4, causal=False, dim=16, **shape):
    """One whose weights are large enough for masks and positions to matter."""
    torch.manual_seed(0)
    model = ModernBert(50, dim, side=side, causal=causal, **(SHAPE | shape)).eval()
    for weight in model.stack.parameters():
        if weight.ndim == 2:
            torch.nn.init.normal_(weight, std=0.2)
    return model


def packed(lengths, seed=0):
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    return torch.randint(5, 50, (int(offsets[-1]),), generator=Generator().manual_seed(seed)), Packing(offsets)


def padded(word, packing, *, left=False):
    """Words and positions of padded blocks, and where in them the packed words are."""
    n, longest = len(packing.lengths), packing.longest
    column = packing.place + (longest - packing.lengths)[packing.row] if left else packing.place
    words, pos = torch.zeros(n, longest, dtype=torch.long), torch.full((n, longest), -1)
    words[packing.row, column], pos[packing.row, column] = word, packing.place
    return words, pos, (packing.row, column)


@pytest.mark.parametrize("causal", [False, True])
@given(lengths=st.lists(st.integers(1, 14), min_size=1, max_size=6), left=st.booleans())
@settings(max_examples=20)
def test_1_padded_blocks_have_the_states_of_packed_words(causal, lengths, left):
    model = network(causal=causal)
    word, packing = packed(lengths)
    words, pos, at = padded(word, packing, left=left)
    assert (model(words, pos=pos)[at] - model(word, packing)).abs().max() < 1e-5


@pytest.mark.parametrize("causal", [False, True])
def test_1_rows_in_another_order_have_their_states_in_that_order(causal):
    model, (word, packing), order = network(causal=causal), packed([9, 2, 14, 5]), [2, 0, 3, 1]
    parts = word.split(packing.lengths.tolist())
    other = model(torch.cat([parts[n] for n in order]), Packing(torch.tensor([0, 14, 23, 28, 30])))
    states = model(word, packing).split(packing.lengths.tolist())
    torch.testing.assert_close(other, torch.cat([states[n] for n in order]), atol=1e-5, rtol=0)


def reach(model, blocks, n=80, at=40):
    """Which tokens' states change when one token does, in a model of these blocks of the original alone."""
    model = model.double()
    model.stack.blocks = torch.nn.ModuleList([model.stack.blocks[b] for b in blocks])
    word, packing = packed([n])
    x = model.norm(model.word(word))
    other = x.clone()
    other[at] += torch.randn(model.dim, generator=Generator().manual_seed(1))
    far, near = model._packed(packing)
    places = [near if b % model.every else far for b in blocks]
    changed = (model.stack(other, places) - model.stack(x, places)).abs().amax(1) > 0
    return changed.nonzero().flatten().tolist()


def test_2_a_local_layer_sees_side_words_to_either_side_and_several_as_many_times():
    assert reach(network(side=5), [1]) == list(range(35, 46))
    assert reach(network(side=5), [1, 2]) == list(range(30, 51))
    assert reach(network(side=64), [1, 2], n=300, at=150) == list(range(150 - 128, 150 + 129))
    assert reach(network(side=5), [0]) == list(range(80))  # layers 0 and 3 are global
    assert reach(network(side=5), [3]) == list(range(80))


def test_2_a_decoder_sees_nothing_ahead_and_half_the_window_behind():
    assert reach(network(side=5, causal=True), [1]) == list(range(40, 46))
    assert reach(network(side=5, causal=True), [1, 2]) == list(range(40, 51))
    assert reach(network(side=5, causal=True), [0, 1, 2, 3]) == list(range(40, 80))


def test_2_short_sequences_are_read_by_local_layers_as_by_global_ones():
    word, packing = packed([5, 3])
    short, long = network(side=4), network(side=100)
    torch.testing.assert_close(short(word, packing), long(word, packing))
    word, packing = packed([6])
    assert not torch.allclose(short(word, packing), long(word, packing))


def test_3_twins_have_the_same_weights_and_differ_in_whom_words_see_alone():
    encoder, decoder = network(), network(causal=True)
    shapes = [{name: value.shape for name, value in model.state_dict().items()} for model in (encoder, decoder)]
    assert shapes[0] == shapes[1]
    torch.manual_seed(1)
    other = ModernBert(50, 16, side=4, causal=True, **SHAPE)
    other.load_state_dict(encoder.state_dict())
    word, packing = packed([12, 7])
    i, j = torch.arange(12)[:, None], torch.arange(12)
    places = [
        Where((j <= i) & ((i - j <= 4) | (n % 3 == 0)), None, encoder.near) for n in range(4)
    ]  # the masks of a decoder, written out and given to the encoder
    alone = encoder.stack(encoder.norm(encoder.word(word[:12]))[None], places)[0]
    torch.testing.assert_close(other(word, packing)[:12], alone, atol=1e-5, rtol=0)
    torch.testing.assert_close(encoder.twin()(word, packing), other(word, packing))
    torch.testing.assert_close(encoder.twin().twin()(word, packing), encoder(word, packing))


def test_4_another_base_of_the_positions_leaves_the_first_place_and_lengths_as_they_are():
    turning, (q, k) = Rotary(8, kept=True), torch.randn(2, 300, 1, 8)
    before = turning.turn(q, k, torch.arange(300))[0]
    turning.rebase(160_000.0)
    after = turning.turn(q, k, torch.arange(300))[0]
    torch.testing.assert_close(after[0], before[0])
    torch.testing.assert_close(after.norm(dim=-1), q.norm(dim=-1))
    assert not torch.allclose(after[299], before[299], atol=0.1)
    torch.testing.assert_close(after, Rotary(8, 160_000.0).turn(q, k, torch.arange(300))[0])
    shifted = turning.turn(q, k, torch.arange(300) + 17)
    keys = turning.turn(q, k, torch.arange(300))[1]
    products = [(a[100:] * b[:-100]).sum(-1) for a, b in (shifted, (after, keys))]
    torch.testing.assert_close(*products, atol=1e-4, rtol=1e-4)


def test_4_frequencies_are_kept_with_the_weights_so_that_a_model_loaded_turns_as_it_did():
    first, second = network(), network()
    first.far.rebase(160_000.0)
    second.load_state_dict(first.state_dict())
    word, packing = packed([30])
    torch.testing.assert_close(second(word, packing), first(word, packing))
    assert not torch.allclose(network()(word, packing), first(word, packing), atol=1e-4)


def test_5_words_are_chosen_hidden_and_never_where_they_are_marks():
    torch.manual_seed(0)
    token, word = torch.randint(5, 1000, (100_000,)), torch.arange(100_000)
    marks = torch.arange(0, 100_000, 50)
    word[marks], token[marks] = -1, 2
    made, hidden = mask_words(token, word, mask=4, n_tokens=1000, share=0.3)
    assert not hidden[marks].any()
    assert hidden.sum().item() / (100_000 - len(marks)) == pytest.approx(0.3, abs=0.01)
    masked, same = (made[hidden] == 4).float().mean().item(), (made[hidden] == token[hidden]).float().mean().item()
    assert masked == pytest.approx(0.8, abs=0.01)
    assert same == pytest.approx(0.1, abs=0.01)
    assert torch.equal(made[~hidden], token[~hidden])


def test_5_and_9_the_loss_of_hidden_words_is_the_full_one_there_and_moves_nothing_elsewhere():
    model, (word, packing) = network(), packed([9, 6])
    states = model(word, packing).detach().requires_grad_()
    hidden = torch.zeros(15, dtype=torch.bool)
    hidden[[1, 4, 11]] = True
    cut = model.loss(states[hidden], word[hidden])
    target = word.masked_fill(~hidden, -100)
    whole = cross_entropy(model.logits(states), target)
    torch.testing.assert_close(cut, whole)
    by_cut, by_whole = (torch.autograd.grad(loss, [states, model.word.weight]) for loss in (cut, whole))
    torch.testing.assert_close(by_cut, by_whole, atol=1e-6, rtol=1e-4)
    assert (by_cut[0][~hidden] == 0).all()


def test_6_a_document_says_nothing_of_the_next_one():
    model, (word, packing) = network(causal=True), packed([7, 8])
    other = word.clone()
    other[7] = (word[7] + 1) % 50
    before, after = (model(w, packing) for w in (word, other))
    assert torch.equal(before[:7], after[:7])
    assert not torch.allclose(before[7:], after[7:])


@pytest.mark.parametrize("cut", [1, 5, 11])
def test_reading_on_with_a_cache_is_reading_all_at_once(cut):
    model, (word, packing) = network(causal=True), packed([12, 7, 9])
    words, pos, at = padded(word, packing, left=True)
    whole, cache = model(words, pos=pos), Cache()
    parts = [model(words[:, :cut], pos=pos[:, :cut], cache=cache)]
    parts += [model(words[:, n : n + 1], pos=pos[:, : n + 1], cache=cache) for n in range(cut, 12)]
    torch.testing.assert_close(torch.cat(parts, 1)[at], whole[at], atol=1e-5, rtol=0)


def test_first_weights_are_cut_normal_and_smaller_the_more_layers_join_the_stream():
    model = ModernBert(4096, 128, layers=8, heads=2, hidden=192)
    for name, weight in model.named_parameters():
        if name.endswith("norm.weight"):
            assert (weight == 1).all()
        elif name == "head.bias":
            assert (weight == 0).all()
        else:
            joins = name.endswith(("attend.out.weight", "feed.outer.weight"))
            std = 0.02 / math.sqrt(16) if joins else 0.02
            assert weight.abs().max() <= 2 * std
            assert weight.std().item() == pytest.approx(0.88 * std, rel=0.03)  # what cutting at 2 leaves


def test_the_first_block_reads_the_stream_as_it_is_and_no_layer_has_a_bias():
    model = network()
    names = dict(model.named_parameters())
    assert [name for name in names if "attend_norm" in name] == [
        f"stack.blocks.{n}.attend_norm.weight" for n in (1, 2, 3)
    ]
    assert [name for name in names if name.endswith("bias")] == ["head.bias"]


def test_dropout_falls_behind_attention_alone():
    model = network(dropout=0.5).train()
    word, packing = packed([9])
    assert not torch.equal(model(word, packing), model(word, packing))
    for block in model.stack.blocks:
        torch.nn.init.zeros_(block.attend.out.weight)
    assert torch.equal(model(word, packing), model(word, packing))
