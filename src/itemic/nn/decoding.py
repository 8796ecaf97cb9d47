"""Codes of items as a tree in flat arrays, and the search along it for the items that a model finds most likely.

Only real items can come out, and nothing here depends on how many there are but the tree itself: a beam looks at the
children of its node, never at the catalogue.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Int64
from torch import Tensor
from torch.nn.functional import pad

from itemic.nn.topk import top_k

END = -1
"""Stands behind the end of a code that is shorter than others; it is certain, and costs nothing."""


class Level(NamedTuple):
    """The nodes at one depth of a trie, those of the same parent side by side, by rising code."""

    code: Int64[Tensor, " nodes"]
    """The last code of each node's prefix; END where the code of its item is over."""
    begin: Int64[Tensor, " nodes+1"]
    """Its items are those from begin[n] to begin[n + 1] - 1 in the order of the trie."""
    child: Int64[Tensor, " parents+1"]
    """The nodes below node p of the level above: child[p] to child[p + 1] - 1."""


@dataclass(frozen=True)
class Trie:
    """Which items have codes that begin with a prefix. Items may share their codes: a leaf then holds several.

    >>> trie = Trie.of(np.array([[0, 1], [2, 0], [0, 0], [0, 1]]))
    >>> trie.item.tolist(), [level.code.tolist() for level in trie.levels]
    ([2, 0, 3, 1], [[0, 2], [0, 1, 0]])
    >>> trie.levels[1].child.tolist(), trie.levels[1].begin.tolist()
    ([0, 2, 3], [0, 1, 3, 4])
    """

    levels: tuple[Level, ...]
    item: Int64[Tensor, " items"]
    """The items in the order of their codes; those that share them by rising number."""
    place: Int64[Tensor, " items"]
    """Where each item stands in that order; -1 for items that are not in the trie."""

    @classmethod
    def of(cls, codes: Int[np.ndarray, "items levels"], items: Int[np.ndarray, " some"] | None = None) -> "Trie":
        """The trie of these codes, item n having row n; or only of some `items` among them.

        Codes of different lengths are filled up with END behind.
        """
        codes = np.asarray(codes)
        chosen = np.arange(len(codes)) if items is None else np.unique(items)
        order = chosen[_sorted(codes[chosen])]
        ranked, levels, above = codes[order], [], np.array([0, len(order)])
        new = np.zeros(len(order), bool)
        new[:1] = True
        for column in ranked.T:
            new[1:] |= column[1:] != column[:-1]
            begin = np.flatnonzero(new)
            child = np.append(np.searchsorted(begin, above[:-1]), len(begin))
            bounds = np.append(begin, len(order))
            levels.append(Level(*(torch.from_numpy(x.astype(np.int64)) for x in (column[begin], bounds, child))))
            above = bounds
        place = np.full(len(codes), -1)
        place[order] = np.arange(len(order))
        return cls(tuple(levels), torch.from_numpy(order.astype(np.int64)), torch.from_numpy(place))

    def above(self, items: Int64[Tensor, "*batch"], depth: int) -> Int64[Tensor, "*batch"]:
        """The nodes of so many codes that these items stand below; the root is the one of no code.

        >>> Trie.of(np.array([[0, 1], [2, 0], [0, 0]])).above(torch.tensor([0, 1, 2]), 1).tolist()
        [0, 1, 0]
        """
        return torch.searchsorted(self._begin(depth), self.place[items], right=True) - 1

    def below(
        self, nodes: Int64[Tensor, "*batch"], depth: int
    ) -> tuple[Int64[Tensor, "*batch"], Int64[Tensor, "*batch"]]:
        """How many items stand below each of these nodes of so many codes, and the first of them."""
        begin = self._begin(depth)
        return begin[nodes + 1] - begin[nodes], self.item[begin[nodes]]

    def _begin(self, depth: int) -> Int64[Tensor, " nodes+1"]:
        return self.levels[depth - 1].begin if depth else self.item.new_tensor([0, len(self.item)])

    def codes_until_alone(self, items: Int64[Tensor, " n"]) -> Int64[Tensor, " n"]:
        """How many codes it takes to tell each of these items from all others.

        >>> Trie.of(np.array([[0, 1, 5], [2, 0, 5], [0, 0, 5]])).codes_until_alone(torch.tensor([0, 1, 2])).tolist()
        [2, 1, 2]
        """
        needed = torch.zeros_like(items)
        for depth in range(len(self.levels)):
            needed += self.below(self.above(items, depth), depth)[0] > 1
        return needed

    def to(self, device: torch.device | str) -> "Trie":
        levels = tuple(Level(*(x.to(device) for x in level)) for level in self.levels)
        return Trie(levels, self.item.to(device), self.place.to(device))

    @property
    def bytes(self) -> int:
        """The size of its arrays."""
        arrays = [self.item, self.place, *(x for level in self.levels for x in level)]
        return sum(x.nbytes for x in arrays)


class Found(NamedTuple):
    """The most likely items of each query, best first, ties to the lower item; -1 and -inf where there are no more."""

    items: Int64[Tensor, "queries k"]
    scores: Float[Tensor, "queries k"]


Step = Callable[[Int64[Tensor, "queries beams"] | None, Int64[Tensor, "queries beams"] | None], Float[Tensor, "..."]]
"""Called once a level with the code that each beam took last and the beam of the call before that it goes on from, both
None at first; gives the logarithms of the chances of all codes of the level, [queries, beams, codes], at first of one
beam. Beams whose codes are over are not asked for, so that there are fewer from call to call; where a query has fewer
than others, its last ones are called with code 0 of beam 0, for nothing."""


def beam_search(
    step: Step,
    trie: Trie,
    n_queries: int,
    width: int,
    k: int | None = None,
    forbidden: tuple[Int[Tensor, " values"], Int[Tensor, " bounds"]] | None = None,
    among: Trie | None = None,
) -> Found:
    """The k most likely items along the trie, `width` prefixes of each query being followed; k is `width` if not given.

    The score of an item is the sum of the logarithms of its codes' chances as `step` gives them, of which none is lost
    to codes that lead nowhere. `forbidden` holds items for each query, as values and offsets of rows: they do not come
    out, and prefixes that lead to nothing else take no beam. As wide as there are items the search is exact.

    With `among`, the trie itself or one that holds more items, chances are among the codes that go on there: those of
    all its items come to 1, and nobody is asked about codes that go without saying.
    """
    device = trie.item.device
    k = width if k is None else k
    barred_pairs = _barred(trie, forbidden)
    dead = _dead(trie, *barred_pairs)
    node = torch.zeros(n_queries, 1, dtype=torch.int64, device=device)
    score = torch.zeros(n_queries, 1, device=device)
    code = parent = wider = None
    for depth, (level, (row, barred, above)) in enumerate(zip(trie.levels, dead)):
        first, beyond = level.child[node], level.child[node + 1]
        beyond = beyond.where(score > -torch.inf, first)
        going = beyond > first
        going &= level.code[beyond - 1] != END if len(level.code) else False  # END is the lowest of a node's codes
        if among is not None:
            wider = among.above(trie.below(node, depth)[1], depth)
            going &= among.below(wider, depth)[0] > 1
        if 0 < k < going.shape[1]:  # no chance exceeds 1: whoever is behind k that are over stays behind them
            hopeless = going & (score < score.masked_fill(going, -torch.inf).topk(k).values[:, -1:])
            score, going = score.masked_fill(hopeless, -torch.inf), going & ~hopeless
            beyond = first.where(hopeless, beyond)
        n_going = int(going.sum(1).max()) if len(going) else 0
        if code is not None and parent is not None and n_going < going.shape[1]:  # those that are over stand behind
            order = torch.argsort(going.byte(), dim=1, descending=True, stable=True)
            node, score, first, beyond = (x.gather(1, order) for x in (node, score, first, beyond))
            wider = None if wider is None else wider.gather(1, order)
            going = going.gather(1, order)[:, :n_going]
            code, parent = (x.gather(1, order[:, :n_going]).where(going, 0) for x in (code, parent))
        fan = max(1, int((beyond - first).max())) if first.numel() else 1
        child = first[..., None] + torch.arange(fan, device=device)
        real = child < beyond[..., None]
        child = child.where(real, 0)
        token = level.code[child]
        gained = score.new_zeros(token.shape)
        if n_going:  # else every code is over, and there is nothing to ask
            asked, said = token[:, :n_going], step(code, parent)
            told = said.gather(-1, asked.clamp(min=0))
            if among is not None and wider is not None:
                told -= _of_all(said, among.levels[depth], wider[:, :n_going])[..., None]
            gained[:, :n_going] = told.masked_fill_((asked == END) | ~going[..., None], 0.0)
        made = (score[..., None] + gained).masked_fill_(~real, -torch.inf)
        if len(row):
            at = (node[row] == above[:, None]) & (score[row] > -torch.inf)
            hit, beam = at.nonzero(as_tuple=True)
            made[row[hit], beam, barred[hit] - first[row[hit], beam]] = -torch.inf
        score, pick = made.flatten(1).topk(min(width, made.shape[1] * fan))
        parent, child, code = pick // fan, child.flatten(1), token.flatten(1)
        node, code = child.gather(1, pick), code.gather(1, pick).clamp(min=0)
    return _items_of(trie, node, score, k, *barred_pairs)


def chances_among(
    logits: Float[Tensor, "n levels codes"], trie: Trie, items: Int64[Tensor, " n"]
) -> Float[Tensor, " n"]:
    """The logarithm of the chance of each of these items, its codes' chances being among those that go on in the trie.

    Of the levels are needed only those until the items are alone.

    >>> trie = Trie.of(np.array([[1, 1, 0], [0, 0, 0], [1, 0, 0]]))
    >>> said = torch.tensor([[0.0, 0.5, 0.5], [0.5, 0.25, 0.25]]).log().expand(3, 2, 3)
    >>> chances_among(said, trie, torch.arange(3)).exp()
    tensor([0.3333, 0.0000, 0.6667])
    """
    total = logits.new_zeros(len(items), dtype=torch.float32)
    for depth, (level, said) in enumerate(zip(trie.levels, logits.float().unbind(1))):
        above = trie.above(items, depth)
        own = level.code[trie.above(items, depth + 1)].clamp(min=0)
        total = total + said.gather(1, own[:, None])[:, 0] - _of_all(said, level, above)
    return total


def _of_all(
    said: Float[Tensor, "*batch codes"], level: Level, above: Int64[Tensor, "*batch"]
) -> Float[Tensor, "*batch"]:
    """The logarithm of the sum over all codes of a level that go on from these nodes of the one above."""
    first, beyond = level.child[above], level.child[above + 1]
    child = first[..., None] + torch.arange(int((beyond - first).max()), device=above.device)
    real = child < beyond[..., None]
    codes = level.code[child.where(real, 0)].clamp(min=0)
    return said.gather(-1, codes).masked_fill(~real, -torch.inf).logsumexp(-1)


def exact(
    chances: Float[Tensor, "queries levels codes"],
    codes: Int[Tensor, "items levels"],
    k: int,
    forbidden: tuple[Int[Tensor, " values"], Int[Tensor, " bounds"]] | None = None,
    allowed: Bool[Tensor, " items"] | None = None,
) -> Found:
    """The k most likely items where the codes of an item are independent, as from heads that all speak at once.

    `forbidden` holds items for each query, as values and offsets of rows; `allowed` marks those that may come out at
    all, and only these need codes.
    """
    codes = codes.clamp(min=0)
    total = chances[:, 0].index_select(1, codes[:, 0])
    for level in range(1, codes.shape[1]):
        total += chances[:, level].index_select(1, codes[:, level])
    if allowed is not None:
        total.masked_fill_(~allowed, -torch.inf)
    exclude = None if forbidden is None else (forbidden[0].cpu().numpy(), forbidden[1].cpu().numpy())
    items, scores = top_k(total.cpu().numpy(), k, exclude)
    return Found(torch.from_numpy(items).long().to(total.device), torch.from_numpy(scores).to(total.device))


def at_once(chances: Float[Tensor, "queries levels codes"]) -> Step:
    """The step of a search where heads have said all levels beforehand, whatever the beams took.

    >>> said = torch.tensor([[0.9, 0.1], [0.2, 0.8]]).log()[None]
    >>> beam_search(at_once(said), Trie.of(np.array([[1, 1], [0, 0], [1, 0]])), 1, 2).items
    tensor([[1, 0]])
    """
    levels = iter(chances.unbind(1))
    return lambda code, parent: next(levels)[:, None].expand(-1, 1 if code is None else code.shape[1], -1)


def lineage(
    allow: Bool[Tensor, "queries before keys"] | None, parent: Int64[Tensor, "queries beams"]
) -> Bool[Tensor, "queries beams more"]:
    """Whom beams may see when the states of all beams of all steps are kept side by side: their forebears, and
    themselves. Nothing is copied when beams are chosen; `allow` is what this gave for the step before.

    >>> first = lineage(None, torch.tensor([[0, 0]]))
    >>> lineage(first, torch.tensor([[1, 1]])).int()
    tensor([[[0, 1, 1, 0],
             [0, 1, 0, 1]]], dtype=torch.int32)
    """
    n, width = parent.shape
    own = torch.eye(width, dtype=torch.bool, device=parent.device).expand(n, width, width)
    if allow is None:
        return own
    return torch.cat([allow.gather(1, parent[..., None].expand(-1, -1, allow.shape[2])), own], 2)


def sample(
    logits: Float[Tensor, "queries words"], temperature: float, top_p: float = 1.0, rng: torch.Generator | None = None
) -> Int64[Tensor, " queries"]:
    """A word for each query, by chance: as the softmax of logits over the temperature says; the likeliest at 0.

    Only words are drawn that are among the likeliest ones whose chances come to `top_p`; the first always is.

    >>> sample(torch.tensor([[0.0, 9.0, 8.0]]), temperature=0)
    tensor([1])
    """
    if temperature == 0:
        return logits.argmax(-1)
    chance, word = (logits / temperature).softmax(-1).sort(-1, descending=True)
    chance[chance.cumsum(-1) - chance >= top_p] = 0
    drawn = torch.multinomial(chance.cpu(), 1, generator=rng).to(word.device)  # the generator is a CPU's
    return word.gather(-1, drawn)[:, 0]


def _sorted(codes: Int[np.ndarray, "items levels"]) -> Int[np.ndarray, " items"]:
    """The order of rows by their first code, then their second, and so on; stable."""
    if len(codes) == 0:
        return np.empty(0, np.int64)
    low, high = codes.min(0).astype(np.int64), codes.max(0).astype(np.int64)
    if np.log2((high - low + 1).astype(float)).sum() >= 63:
        return np.lexsort(codes.T[::-1])
    key = np.zeros(len(codes), np.int64)
    for column, least, most in zip(codes.T, low, high):
        key = key * (most - least + 1) + (column - least)
    return np.argsort(key, kind="stable")


Dead = tuple[Int64[Tensor, " n"], Int64[Tensor, " n"], Int64[Tensor, " n"]]
"""Queries, nodes of a level that lead them only to what is forbidden, and the parents of these nodes."""


def _dead(trie: Trie, row: Int64[Tensor, " n"], place: Int64[Tensor, " n"]) -> list[Dead]:
    """Of each level, given the forbidden pairs of query and place."""
    found = []
    for level in trie.levels:
        n_nodes = len(level.code)
        node = torch.searchsorted(level.begin, place, right=True) - 1
        key, count = (row * n_nodes + node).unique(return_counts=True)
        key = key[count == level.begin.diff()[key % n_nodes]]
        node = key % n_nodes
        found.append((key // n_nodes, node, torch.searchsorted(level.child, node, right=True) - 1))
    return found


def _barred(trie: Trie, forbidden: tuple[Tensor, Tensor] | None) -> tuple[Int64[Tensor, " n"], Int64[Tensor, " n"]]:
    """Each forbidden pair of query and place in the trie once."""
    if forbidden is None:
        nothing = torch.empty(0, dtype=torch.int64, device=trie.item.device)
        return nothing, nothing
    values, offsets = (x.to(trie.item.device, torch.int64) for x in forbidden)
    row, place = torch.repeat_interleave(offsets.diff()), trie.place[values]
    key = (row * len(trie.item) + place)[place >= 0].unique()
    return key // len(trie.item), key % len(trie.item)


def _items_of(
    trie: Trie, node: Tensor, score: Tensor, k: int, row: Int64[Tensor, " n"], barred: Int64[Tensor, " n"]
) -> Found:
    """The items at these leaves, without the barred ones among those that share one."""
    begin = trie.levels[-1].begin
    first, beyond = begin[node], begin[node + 1]
    fan = max(1, int((beyond - first).max())) if node.numel() else 1
    place = first[..., None] + torch.arange(fan, device=node.device)
    scores = score[..., None].expand_as(place).masked_fill(place >= beyond[..., None], -torch.inf).flatten(1)
    place = place.clamp(max=len(trie.item) - 1).flatten(1)
    if fan > 1 and len(row):
        own = torch.arange(len(node), device=node.device)[:, None] * len(trie.item) + place
        scores = scores.masked_fill(torch.isin(own, row * len(trie.item) + barred), -torch.inf)
    items = trie.item[place].masked_fill(scores == -torch.inf, -1)
    items, scores = (x[:, :k] for x in _ordered(items, scores))
    short = k - items.shape[1]
    return Found(pad(items, (0, short), value=-1), pad(scores, (0, short), value=-torch.inf))


def _ordered(items: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    """By falling score, equal ones by rising item."""
    by_item = items.argsort(1)
    order = by_item.gather(1, torch.argsort(scores.gather(1, by_item), dim=1, descending=True, stable=True))
    return items.gather(1, order), scores.gather(1, order)
