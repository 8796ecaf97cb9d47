"""What turns vectors of items and users into words of a language model: the Q-Former with what goes with it, or two
layers; and the network that ILM trains."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import gelu

from itemic.errors import ConfigError
from itemic.systems.language.alignment import Heads
from itemic.systems.language.qformer import QFormer


class Entities(nn.Module):
    """Vectors as what the queries look at: cut into pieces, put in their width, normalised."""

    def __init__(self, width: int, pieces: int, dim: int) -> None:
        super().__init__()
        if width % pieces:
            raise ConfigError(
                f"ilm: vectors of {width:,} numbers cannot be cut into {pieces} pieces. Choose a divisor of {width:,}."
            )
        self.pieces, self.put, self.norm = pieces, nn.Linear(width // pieces, dim), nn.LayerNorm(dim)

    def forward(self, vectors: Float[Tensor, "n width"]) -> Float[Tensor, "n pieces dim"]:
        return self.norm(self.put(vectors.unflatten(1, (self.pieces, -1))))


class Reader(nn.Module):
    """The Q-Former, what it looks at, its heads of phase 1, and the adaptor behind it."""

    def __init__(self, qformer: QFormer, entities: Entities, lm_dim: int) -> None:
        super().__init__()
        n_words, dim = qformer.word.weight.shape
        self.qformer, self.entities, self.heads = qformer, entities, Heads(n_words, dim)
        self.adaptor = nn.Linear(dim, lm_dim)

    def states(self, vectors: Float[Tensor, "n width"]) -> Float[Tensor, "n queries dim"]:
        """What the queries draw out of vectors."""
        return self.qformer.draw(self.entities(vectors))

    def soft(self, vectors: Float[Tensor, "n width"]) -> Float[Tensor, "n queries lm"]:
        """The words that vectors become."""
        return self.adaptor(self.states(vectors))


class TwoLayers(nn.Module):
    """The plain way: two layers from a vector to words, as in CoLLM (Zhang et al., 2023)."""

    def __init__(self, width: int, n_queries: int, lm_dim: int) -> None:
        super().__init__()
        self.n_queries = n_queries
        self.inner, self.adaptor = nn.Linear(width, lm_dim), nn.Linear(lm_dim, n_queries * lm_dim)

    def soft(self, vectors: Float[Tensor, "n width"]) -> Float[Tensor, "n queries lm"]:
        """The words that vectors become."""
        return self.adaptor(gelu(self.inner(vectors))).unflatten(1, (self.n_queries, -1))


class Network(nn.Module):
    """A reader, if any, what of the language model is trained, and the scales of vectors."""

    item_scale: Float[Tensor, "2 width"]
    user_scale: Float[Tensor, "2 width"]
    phase: Int[Tensor, ""]

    def __init__(self, reader: "Reader | TwoLayers | None", adapters: nn.Module, width: int) -> None:
        super().__init__()
        self.reader, self.adapters = reader, adapters
        for name in ("item_scale", "user_scale"):
            self.register_buffer(name, torch.stack([torch.zeros(width), torch.ones(width)]))
        self.register_buffer("phase", torch.tensor(1))  # in a buffer, so that a resumed run knows it

    def soft(self, items: Float[Tensor, "n width"], users: Float[Tensor, "m width"]) -> Float[Tensor, "n+m queries lm"]:
        """The words that items become, then those of users."""
        assert self.reader is not None
        return self.reader.soft(torch.cat([scaled(items, self.item_scale), scaled(users, self.user_scale)]))


def scaled(x: Float[Tensor, "n width"], scale: Float[Tensor, "2 width"]) -> Float[Tensor, "n width"]:
    """Each coordinate less its mean, divided by its deviation, which are the rows of `scale`.

    >>> scaled(torch.tensor([[3.0, 1.0]]), torch.tensor([[1.0, 1.0], [2.0, 5.0]])).tolist()
    [[1.0, 0.0]]
    """
    return (x - scale[0]) / scale[1]


def directions(x: Float[Tensor, "n width"]) -> float:
    """How many directions these vectors differ in, by how they share out their variance: exp of its entropy over them
    (the effective rank of Roy and Vetterli, 2007); 0 where all are the same.

    >>> directions(torch.tensor([[1.0, 0], [-1, 0], [0, 1], [0, -1]]))
    2.0
    """
    values = torch.linalg.svdvals((x - x.mean(0)).double()).square()
    if values.sum() == 0:
        return 0.0
    return torch.special.entr(values / values.sum()).sum().exp().item()


def scale_of(x: Float[Tensor, "n width"]) -> Float[Tensor, "2 width"]:
    """The mean and the deviation of each coordinate: how long vectors are tells how popular things are, and would drown
    the rest."""
    return torch.stack([x.mean(0), x.std(0, correction=0).clamp(min=1e-6)])
