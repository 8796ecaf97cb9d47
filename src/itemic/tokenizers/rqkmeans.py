"""RQ-KMeans: codes by k-means, then by k-means of what is left over, level by level; no training.

Choose it first: others found it as good as rqvae for generative retrieval, it takes seconds, and its codes are a tree,
coarse to fine. Distances between the vectors must mean something, as those of a text encoder do: it learns no other.
Papers: Chen et al. 2010 (residual quantisation); as semantic ids in GRID and OneRec. Set-ups: recipes/tiger/.
"""

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Float32, Int64
from pydantic import Field

from itemic.progress import track
from itemic.registry import tokenizer
from itemic.tokenizers.base import ItemTokenizer, TokenizerConfig, sampled

if TYPE_CHECKING:
    from torch import Tensor


class Config(TokenizerConfig):
    levels: int = Field(3, ge=1)
    """Codes of an item, beside what tells it apart. TIGER: 3; LC-Rec: 4."""
    size: int = Field(256, ge=2)
    """Codes to choose from at each level. TIGER and LC-Rec: 256."""
    balanced: bool = False
    """Whether no code may stand for more than its share of the vectors that are fitted on: codes are used more evenly,
    and fewer items get the same. Titles of MovieLens-1M: 8 % instead of 22 % of them, their vectors met as well."""
    sample: int | None = Field(256, ge=1)
    """Vectors for each code that are fitted on, drawn at random; None for all. faiss: 256."""
    steps: int = Field(25, ge=1)
    """Steps of k-means a level, at most. faiss: 25."""


@tokenizer("rqkmeans")
class RQKMeans(ItemTokenizer[Config]):
    @property
    def content_sizes(self) -> tuple[int, ...]:
        return (self.config.size,) * self.config.levels

    def learn(self, x: Float32[np.ndarray, "rows dim"]) -> dict[str, np.ndarray]:
        from torch import Generator

        from itemic.nn.kmeans import kmeans

        config, codebooks = self.config, []
        self.enough(len(x), config.size)
        rng = Generator().manual_seed(config.seed)
        rest = Rest(sampled(x, config.size, config.sample, rng))
        cap = -(-len(rest.x) // config.size) if config.balanced else None
        for _ in track(range(config.levels), "k-means of what is left over", config.levels):
            made = kmeans(rest, config.size, rng, steps=config.steps, cap=cap)
            rest.subtract(made.centres, made.code)
            codebooks.append(made.centres.numpy())
        return {"codebooks": np.stack(codebooks)}

    def coded(self, x: "Float[Tensor, 'rows dim']") -> "Int64[Tensor, 'rows coded']":
        from itemic.nn.quantise import residual_codes

        return residual_codes(x, self._codebooks)[0]

    def last_costs(self, x: "Float[Tensor, 'rows dim']") -> "Float[Tensor, 'rows size']":
        from itemic.nn.kmeans import distances
        from itemic.nn.quantise import residual_codes

        *before, last = self._codebooks
        return distances(residual_codes(x, before)[1] if before else x, last)

    def meant(self, codes: "Int64[Tensor, 'rows some']") -> "Float[Tensor, 'rows dim']":
        from itemic.nn.quantise import residual_sum

        return residual_sum(codes, self._codebooks)

    @property
    def _codebooks(self) -> "list[Float[Tensor, 'size dim']]":
        import torch

        return list(torch.from_numpy(self.weights["codebooks"]))


class Rest:
    """Vectors less what codes stand for already, read from where they lie whenever they are asked for."""

    def __init__(self, x: Float32[np.ndarray, "rows dim"]) -> None:
        self.x, self.shape = x, x.shape
        self.levels: list[tuple[Tensor, Tensor]] = []
        """Centres and codes."""

    def __getitem__(self, rows: "slice | Tensor") -> "Tensor":
        import torch

        rest = torch.from_numpy(np.array(self.x[rows], np.float32))
        for centres, code in self.levels:
            rest -= centres[code[rows]]
        return rest

    def subtract(self, centres: "Float[Tensor, 'size dim']", code: "Int64[Tensor, ' rows']") -> None:
        """From now on each row is less by the centre that it belongs to."""
        self.levels.append((centres, code))
