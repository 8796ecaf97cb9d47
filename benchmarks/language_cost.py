"""What items cost a language model: as vectors of ILM and by their titles, in words, in time and in memory.

    python benchmarks/language_cost.py [--model FOLDER] [--queries 2 4 8] [--items 20] [--runs 20]   # needs ml-1m

The titles are those of MovieLens-1M in $ITEMIC_DATA, cut by the language model's vocabulary. A prompt tells a history
of so many items: as vectors, by titles, or as both, as ILM writes it under write="soft", "text" and "both"; what is
timed is its writing, the Q-Former's vectors of its items and its user, and the language model's reading of it, up to
the chances of the next word. Without a model the weights are random, in the shape of Ettin's micro, with a vocabulary
learned from the titles and genres: what is counted and timed here does not depend on what was learned.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from itemic import threads
from itemic.data import Dataset, Interactions, Ragged
from itemic.encoders.vocabulary import Vocabulary
from itemic.nn.products import fast_products
from itemic.systems.language.alignment import WIDTH
from itemic.systems.language.ilm import ILM
from itemic.systems.language.prompts import TEMPLATES
from itemic.training import Stage

CATALOGUE = 100_000
WAYS = ("soft", "text", "both")
WARM = 3
"""Runs that are not counted."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="A folder of transformers.")
    parser.add_argument("--queries", type=int, nargs="*", default=[2, 4, 8], help="words that an item becomes")
    parser.add_argument("--items", type=int, default=20, help="items of a prompt")
    parser.add_argument("--runs", type=int, default=20)
    given = parser.parse_args()
    from itemic.evaluation.reproduce import data_of

    data = few_users(data_of("ml-1m"), given.items)
    with tempfile.TemporaryDirectory() as own:
        folder = Path(given.model) if given.model else unread(data, Path(own))
        for n in given.queries:
            print(f"\n{n} vectors an item, {Path(folder).name if given.model else 'random weights, Ettin micro'}")
            costs(data, folder, n, given.runs)
    print(f"\nload {os.getloadavg()[0]:.1f}, {threads.describe()}")


def few_users(data: Dataset, n: int) -> Dataset:
    """MovieLens with all its titles, and the newest n films of each of 200 users."""
    histories = data.interactions.histories()
    newest = histories.take(np.flatnonzero(histories.lengths >= n)[:200]).last(n)
    log = Interactions(newest.row_of_value.astype(np.int32), newest.values.astype(np.int32), data.n_users, data.n_items)
    return Dataset(data.items, data.users, log, name="ml-1m", ordered=True)


def unread(data: Dataset, folder: Path) -> Path:
    """A language model that read nothing, in the shape of Ettin's micro, with a vocabulary of 4,096 pieces."""
    from transformers import ModernBertDecoderConfig, ModernBertDecoderForCausalLM

    texts = [
        f"{title}. {genres}" for title, genres in zip(*(data.items.column(n).to_pylist() for n in ("title", "genres")))
    ]
    cutter = Vocabulary.readable([*texts, *TEMPLATES["next"]], 4096)
    torch.manual_seed(0)
    shape = {"hidden_size": 192, "intermediate_size": 288, "num_hidden_layers": 6, "num_attention_heads": 3}
    marks = {"bos_token_id": 0, "eos_token_id": cutter.end, "pad_token_id": 0, "cls_token_id": 0, "sep_token_id": 0}
    config = ModernBertDecoderConfig(vocab_size=len(cutter), max_position_embeddings=2048, **shape, **marks)
    ModernBertDecoderForCausalLM(config).save_pretrained(folder)
    description = json.loads(cutter.description) | {"post_processor": None}
    (folder / "tokenizer.json").write_text(json.dumps(description))
    return folder


class Untaught(ILM):
    """ILM with the weights that it begins with: what is measured needs no training."""

    def stages(self, train: Dataset) -> list[Stage]:
        return []


def costs(data: Dataset, folder: Path, n: int, runs: int) -> None:
    models: dict[str, ILM] = {}
    for way in WAYS:
        options: dict[str, Any] = {"behaviour": {"dim": 64, "epochs": 1}, "layers": 2, "n_queries": n, "write": way}
        options |= {"reader": "none"} if way == "text" else {}
        models[way] = Untaught(lm={"model": str(folder)}, aligned=(), places=1, **options).fit(data)
    titles = Ragged(models["text"].tables["title"], models["text"].tables["title_bounds"]).lengths
    by_title = f"{titles.mean():.1f} on average, {np.quantile(titles, 0.95):.0f} at p95, {titles.max()} at most"
    print(f"words an item: {n} as vectors; by title {by_title}")
    histories = data.interactions.histories()
    history = histories.take(np.flatnonzero(histories.lengths)[:1])
    for way, model in models.items():
        n_words, milliseconds = prompt(model, history, runs)
        print(f"{len(history.values)} items, {way:4}: {n_words:4} words of a prompt, {milliseconds:6.1f} ms")
    memory(models["soft"], n)


def prompt(model: ILM, history: Ragged, runs: int) -> tuple[int, float]:
    """How many words the prompt of a history has, and the median of the milliseconds in which it is read."""
    times, n_words = [], 0
    with torch.no_grad(), fast_products():
        for _ in range(runs + WARM):
            start = time.perf_counter()
            asked = model.asking.ask("next", 0, histories=history)
            prompts = model.asking.prompts(asked, model.module, model.talker)
            model.talker.step(prompts)(None, None)
            times.append(time.perf_counter() - start)
            n_words = int(asked.token.lengths[0])
    return n_words, 1000 * statistics.median(times[WARM:])


def memory(model: ILM, n: int) -> None:
    """What 100,000 items take: as words of the language model, and as what a fitted ILM keeps of them."""
    width, words = model.shape["width"], model.shape["lm"]
    sizes = {
        "words of the language model, all kept, float32": 4 * n * words,
        "the same in float16": 2 * n * words,
        "as kept: the vectors that words are made of, float32": 4 * width,
        "as kept beside them for answer=geometry, float32": 4 * n * WIDTH,
    }
    for what, size in sizes.items():
        print(f"{CATALOGUE:,} items, {what}: {CATALOGUE * size / 1e6:,.1f} MB")
    vectors = torch.randn(4096, width)
    with torch.no_grad(), fast_products():
        model.module.soft(vectors[:64], vectors[:0])
        start = time.perf_counter()
        model.module.soft(vectors, vectors[:0])
    print(f"words made of a vector: {1e6 * (time.perf_counter() - start) / len(vectors):.0f} microseconds an item")


if __name__ == "__main__":
    main()
