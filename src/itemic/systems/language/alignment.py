"""What a Q-Former learns before a language model hears of it: which text is of which item, what the text says, and
which items and users go together (phase 1 of ILM, section 3 of arXiv:2406.02844, after BLIP-2)."""

import torch
from jaxtyping import Bool, Float, Int64
from torch import Generator, Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from itemic.nn.attention import Cache
from itemic.nn.losses.contrastive import paired
from itemic.nn.masks import NEVER
from itemic.nn.text import Texts, WordHead, as_in_bert
from itemic.systems.language.qformer import QFormer

WIDTH = 256
"""Width in which texts, items and users are compared. BLIP-2: 256."""
SMOOTH = 0.1
"""Label smoothing where texts are told apart or told. BLIP-2: 0.1."""
COLDEST, HOTTEST = 0.01, 0.5
"""Bounds of the temperatures."""


class Heads(nn.Module):
    """What is made of the states of queries and texts in phase 1."""

    def __init__(self, n_words: int, dim: int) -> None:
        super().__init__()
        self.text, self.item, self.pair = (nn.Linear(dim, WIDTH) for _ in range(3))
        self.match = nn.Linear(dim, 2)
        as_in_bert(self)
        self.words = WordHead(n_words, dim, 1e-12)
        self.temperatures = nn.Parameter(torch.full((3,), 0.07))
        """Of items and texts, of items and items, of users and items. BLIP-2: 0.07, learned."""

    def temperature(self, n: int) -> Float[Tensor, ""]:
        return self.temperatures[n].clamp(COLDEST, HOTTEST)


def best_pairs(
    a: Float[Tensor, "n queries dim"], b: Float[Tensor, "m others dim"], chunk: int = 1 << 24
) -> Float[Tensor, "n m"]:
    """The largest inner product of any vector of each row of `a` with any of each row of `b`.

    No more than `chunk` products are held at a time.

    >>> best_pairs(torch.tensor([[[1.0, 0], [0, 1]]]), torch.tensor([[[3.0, 4]], [[2, 1]]])).tolist()
    [[4.0, 2.0]]
    """
    size = max(1, chunk // max(1, a.shape[1] * b.shape[0] * b.shape[1]))
    flat = b.flatten(0, 1).T
    parts = [
        (part.flatten(0, 1) @ flat).unflatten(0, part.shape[:2]).unflatten(2, b.shape[:2]) for part in a.split(size)
    ]
    return torch.cat([part.amax((1, 3)) for part in parts])


def hard_negatives(
    scores: Float[Tensor, "batch batch"], same: Bool[Tensor, "batch batch"], rng: Generator | None = None
) -> tuple[Int64[Tensor, " rows"], Int64[Tensor, " rows"]]:
    """For each row that has any a column that is not its own, drawn by the softmax of its scores: rows and columns.

    Columns that `same` marks, and the row's own, are never drawn.

    >>> same = torch.tensor([[True, True, False]] * 2 + [[False, False, True]])
    >>> [found.tolist() for found in hard_negatives(torch.zeros(3, 3), same)][0]
    [0, 1, 2]
    """
    barred = same | torch.eye(len(scores), dtype=torch.bool, device=scores.device)
    rows = (~barred).any(1).nonzero()[:, 0]
    chances = scores.detach().float().masked_fill(barred, NEVER)[rows].softmax(1)
    chances = chances.clamp(min=1e-9).masked_fill(barred[rows], 0.0)  # far ones may have vanished
    return rows, torch.multinomial(chances, 1, generator=rng)[:, 0]


def item_text_losses(
    qformer: QFormer,
    heads: Heads,
    entity: Float[Tensor, "batch tokens width"],
    texts: Texts,
    same: Bool[Tensor, "batch batch"],
    begin: int,
) -> dict[str, Float[Tensor, ""]]:
    """Contrast, matching with hard negatives, and telling the text after the item; `same` marks equal items or texts.

    `begin` is the word that stands first where a text is told, in place of the one where it is read.
    """
    cache = Cache()
    query = qformer.draw(entity, cache)
    scores = item_text_scores(query, qformer.read(texts, 1)[:, 0], heads)
    contrast = paired(scores, same, smooth=SMOOTH, both=True)
    matching = _matching(qformer, heads, entity, texts, scores, same)
    told = texts._replace(token=torch.cat([torch.full_like(texts.token[:, :1], begin), texts.token[:, 1:]], 1))
    real = texts.real[:, 1:]
    states = heads.words(qformer.tell(told, cache)[:, :-1][real])
    logits = states @ qformer.word.weight.T + heads.words.bias
    telling = cross_entropy(logits.float(), texts.token[:, 1:][real], label_smoothing=SMOOTH)
    return {"contrast": contrast, "matching": matching, "telling": telling}


def item_text_scores(
    query: Float[Tensor, "items queries dim"], first: Float[Tensor, "texts dim"], heads: Heads
) -> Float[Tensor, "items texts"]:
    """The cosine of each text with the nearest query of each item, divided by the temperature."""
    told, read = normalize(heads.item(query).float(), dim=-1), normalize(heads.text(first).float(), dim=-1)
    return best_pairs(told, read[:, None]) / heads.temperature(0)


def pair_loss(
    qformer: QFormer,
    heads: Heads,
    left: Float[Tensor, "batch tokens width"],
    right: Float[Tensor, "batch tokens width"],
    same: Bool[Tensor, "batch batch"],
    kind: int,
) -> Float[Tensor, ""]:
    """Items (kind 1) or users (kind 2) on the left told apart by what they go with on the right, and the other way
    round; `same` marks what is no negative of the row."""
    a, b = (paired_vectors(qformer.draw(entity), heads) for entity in (left, right))
    return paired(best_pairs(a, b) / heads.temperature(kind), same, both=True)


def paired_vectors(query: Float[Tensor, "n queries dim"], heads: Heads) -> Float[Tensor, "n queries width"]:
    """The unit vectors by which items and users go together."""
    return normalize(heads.pair(query).float(), dim=-1)


def _matching(
    qformer: QFormer, heads: Heads, entity: Tensor, texts: Texts, scores: Tensor, same: Tensor
) -> Float[Tensor, ""]:
    """Whether a text is of an item: its own, and for each item a wrong text and for each text a wrong item."""
    own = torch.arange(len(entity), device=entity.device)
    items, wrong_texts = hard_negatives(scores, same)
    of_texts, wrong_items = hard_negatives(scores.T, same)
    item, text = torch.cat([own, items, wrong_items]), torch.cat([own, wrong_texts, of_texts])
    query, _ = qformer(entity[item], Texts(texts.token[text], texts.real[text]), "together", queries_only=True)
    fits = (torch.arange(len(item), device=item.device) < len(own)).long()
    return cross_entropy(heads.match(query).mean(1).float(), fits)
