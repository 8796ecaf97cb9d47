"""Items a search along the tree of codes finds a second: itemic beside transformers' `generate` with the same weights.

    python benchmarks/decoding.py [--items 12101] [--users 1000]

A network of the size of TIGER with random weights reads 20 items of four codes and spells out the next, 20 beams.
transformers is held to the tree by `prefix_allowed_tokens_fn`, a look-up in a dict, with `length_penalty=0`; it answers
64 users, in batches of 32. Each on one and on two threads, its best counts; both see all codes of all levels in one
softmax. Then the tree of a million items, and the search in catalogues of ten thousand to a million.
Targets: 10 times the users a second, the same lists for 99 % of users, scores to 1e-4; a tree of a million in 5 s;
a million items take at most a fifth longer than ten thousand.
"""

import argparse
import os
import time
from collections import defaultdict
from typing import Any

import numpy as np
import torch
from torch import Tensor

from itemic import threads
from itemic.nn.decoding import Found, Trie, beam_search
from itemic.nn.packing import Packing
from itemic.nn.products import fast_products
from itemic.systems.generative.tiger import Config, Network

SIZES = (256, 256, 256, 256)
LENGTH, BEAMS, BLOCK = 20, 20, 256


class OneSoftmax(Network):
    """Compares the codes of all levels in one softmax, as a language model does; the first word begins all codes."""

    def told(self, states: Tensor, level: int) -> Tensor:
        logits = torch.cat([states.new_full((*states.shape[:-1], 1), 0.0), *(head(states) for head in self.heads)], -1)
        logits[..., 0] = states @ self.none
        start = 1 + sum(SIZES[:level])
        return logits.float().log_softmax(-1)[..., start : start + SIZES[level]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=12_101)
    parser.add_argument("--users", type=int, default=1000)
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 2])
    given = parser.parse_args()
    torch.manual_seed(0)
    network = OneSoftmax(SIZES, Config()).eval()
    network.none = torch.randn(Config().dim) / Config().dim ** 0.5
    codes = some_codes(given.items)
    histories = np.random.default_rng(1).integers(0, given.items, (given.users, LENGTH))
    trie = Trie.of(codes)
    peer = transformers_model(network)
    rates: dict[str, float] = defaultdict(float)
    found, theirs = None, None
    for n in given.threads:
        with threads.use(n):
            search(network, trie, codes, histories[:BLOCK])
            start = time.perf_counter()
            found = search(network, trie, codes, histories)
            rates["itemic"] = max(rates["itemic"], given.users / (time.perf_counter() - start))
            start = time.perf_counter()
            theirs = generated(peer, codes, histories[:64])
            rates["transformers"] = max(rates["transformers"], 64 / (time.perf_counter() - start))
        print(f"{n} threads: best so far, users a second: {dict(rates)}", flush=True)
    assert found is not None
    assert theirs is not None
    items, scores = theirs
    same = (found.items[:64].numpy() == items).all(1).mean()
    apart = np.abs(found.scores[:64].numpy() - scores).max()
    print(f"{rates['itemic'] / rates['transformers']:.1f} times transformers; the same lists for {same:.0%} of users, ")
    print(f"scores apart by at most {apart:.1e}; load {os.getloadavg()[0]:.1f}")
    for size in (10_000, 100_000, 1_000_000):
        codes = some_codes(size)
        start = time.perf_counter()
        trie = Trie.of(codes)
        made = time.perf_counter() - start
        histories = np.random.default_rng(1).integers(0, size, (given.users, LENGTH))
        seconds = []
        for _ in range(3):
            start = time.perf_counter()
            search(network, trie, codes, histories)
            seconds.append(time.perf_counter() - start)
        print(f"{size:>9,} items: tree in {made:.2f} s, {trie.bytes / size:.0f} bytes an item", end="; ")
        print(f"{given.users:,} users in {min(seconds):.2f} s ({threads.describe()})", flush=True)


def some_codes(n: int) -> np.ndarray:
    """n different rows of four codes; the last tells apart those that share the first three, as TIGER does."""
    rng = np.random.default_rng(0)
    first = np.sort(rng.integers(0, 256**3, n))
    new = np.diff(first, prepend=-1) != 0
    last = np.arange(n) - np.maximum.accumulate(np.where(new, np.arange(n), 0))
    codes = np.stack([first >> 16, first >> 8 & 255, first & 255, last], 1)
    return codes[rng.permutation(n)]


def search(network: Network, trie: Trie, codes: np.ndarray, histories: np.ndarray) -> Found:
    parts = []
    with torch.no_grad(), fast_products():
        for start in range(0, len(histories), BLOCK):
            block = histories[start : start + BLOCK]
            read = torch.from_numpy(codes[block.ravel()])
            packing = Packing(torch.arange(len(block) + 1) * block.shape[1] * codes.shape[1])
            (memory,), (bucket,) = packing.split(network.read(read, packing)), packing.buckets
            parts.append(beam_search(network.step(memory, bucket.real), trie, len(block), BEAMS))
    return Found(*map(torch.cat, zip(*parts)))


def transformers_model(network: OneSoftmax) -> Any:
    from transformers import T5Config, T5ForConditionalGeneration

    config, n_words = Config(), 1 + sum(SIZES)
    theirs = T5ForConditionalGeneration(
        T5Config(
            vocab_size=n_words,
            d_model=config.dim,
            d_kv=config.head_dim,
            d_ff=config.hidden,
            num_layers=config.layers,
            num_decoder_layers=config.layers,
            num_heads=config.heads,
            tie_word_embeddings=False,
            decoder_start_token_id=0,
            pad_token_id=0,
            eos_token_id=None,
        )
    ).eval()
    words = torch.cat([network.begin[None], network.code.weight])
    said = torch.cat([network.none[None], *(head.weight for head in network.heads)])
    theirs.lm_head.weight = torch.nn.Parameter(said.clone())  # it is tied to the words whatever the config says
    given = {"shared.weight": words, "lm_head.weight": said}
    given |= {"encoder.embed_tokens.weight": words, "decoder.embed_tokens.weight": words}
    sides = ("encoder", network.encoder, network.around), ("decoder", network.decoder, network.before)
    for side, stack, positions in sides:
        given[f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"] = positions.table
        given[f"{side}.final_layer_norm.weight"] = stack.norm.weight
        for n, block in enumerate(stack.blocks):
            layers = [("SelfAttention", block.attend, block.attend_norm)]
            if block.cross is not None:
                layers.append(("EncDecAttention", block.cross, block.cross_norm))
            for place, (name, attend, norm) in enumerate(layers):
                at = f"{side}.block.{n}.layer.{place}"
                given[f"{at}.layer_norm.weight"] = norm.weight
                for letter, layer in zip("kvo", (attend.key, attend.value, attend.out)):
                    given[f"{at}.{name}.{letter}.weight"] = layer.weight
                given[f"{at}.{name}.q.weight"] = attend.query.weight / config.head_dim**0.5  # theirs does not divide
            at = f"{side}.block.{n}.layer.{len(layers)}"
            given[f"{at}.layer_norm.weight"] = block.feed_norm.weight
            given[f"{at}.DenseReluDense.wi.weight"] = block.feed.inner.weight
            given[f"{at}.DenseReluDense.wo.weight"] = block.feed.outer.weight
    missing, unknown = theirs.load_state_dict(given, strict=False)
    assert not missing, missing
    assert not unknown, unknown
    return theirs


def generated(model: Any, codes: np.ndarray, histories: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    words = codes + 1 + np.cumsum([0, *SIZES[:-1]])
    children: dict[tuple[int, ...], set[int]] = defaultdict(set)
    item_of = {}
    for item, row in enumerate(words.tolist()):
        item_of[tuple(row)] = item
        for n in range(len(row)):
            children[tuple(row[:n])].add(row[n])
    allowed = {prefix: sorted(nexts) for prefix, nexts in children.items()}
    items, scores = [], []
    for start in range(0, len(histories), 32):
        read = torch.from_numpy(words[histories[start : start + 32]].reshape(-1, LENGTH * len(SIZES)))
        with torch.no_grad():
            made = model.generate(
                input_ids=read,
                attention_mask=torch.ones_like(read),
                max_new_tokens=len(SIZES),
                num_beams=BEAMS,
                num_return_sequences=BEAMS,
                length_penalty=0.0,
                do_sample=False,
                prefix_allowed_tokens_fn=lambda _, said: allowed.get(tuple(said.tolist()[1:]), [0]),
                output_scores=True,
                return_dict_in_generate=True,
            )
        items += [item_of[tuple(row[1:])] for row in made.sequences.tolist()]
        scores += made.sequences_scores.tolist()
    return np.array(items).reshape(-1, BEAMS), np.array(scores).reshape(-1, BEAMS)


if __name__ == "__main__":
    main()
