"""Product quantisation: codes of parts of the vector that know nothing of each other; rotated first, it is OPQ.

Choose it where all codes of an item are to be predicted at once: they say nothing of each other. They form no tree from
coarse to fine, and without a rotation they keep less of the vectors than as many residual codes do (rqkmeans).
Papers: Jégou et al., PAMI 2011 (PQ); Ge et al., CVPR 2013 (OPQ).
"""

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float32
from pydantic import Field

from itemic.errors import ConfigError
from itemic.progress import track
from itemic.registry import tokenizer
from itemic.tokenizers.base import ItemTokenizer, TokenizerConfig, sampled

if TYPE_CHECKING:
    from jaxtyping import Float, Int64
    from torch import Tensor

    from itemic.nn.kmeans import Clusters


class Config(TokenizerConfig):
    levels: int = Field(4, ge=1)
    """Parts of a vector, and codes of an item beside what tells it apart."""
    size: int = Field(256, ge=2)
    """Codes to choose from for each part. faiss: 256."""
    rotations: int = Field(0, ge=0)
    """Times the vectors are turned so that their parts are met best (OPQ), k-means being done again each time; 0 for
    none. faiss: 50."""
    sample: int | None = Field(256, ge=1)
    """Vectors for each code that are fitted on, drawn at random; None for all. faiss: 256."""
    steps: int = Field(25, ge=1)
    """Steps of k-means, at most. faiss: 25."""


@tokenizer("pq")
class PQ(ItemTokenizer[Config]):
    @property
    def content_sizes(self) -> tuple[int, ...]:
        return (self.config.size,) * self.config.levels

    def learn(self, x: Float32[np.ndarray, "rows dim"]) -> dict[str, np.ndarray]:
        import torch

        from itemic.nn.kmeans import kmeans

        config, dim = self.config, x.shape[1]
        if dim % config.levels:
            raise ConfigError(
                f"pq: vectors of width {dim:,} cannot be cut into {config.levels} equal parts. Set levels to a divisor."
            )
        self.enough(len(x), config.size)
        rng = torch.Generator().manual_seed(config.seed)
        some = torch.from_numpy(np.array(sampled(x, config.size, config.sample, rng), np.float32))
        mean, turn = some.mean(0), torch.eye(dim)
        some -= mean

        def clustered() -> "list[Clusters]":
            parts = (some @ turn).unflatten(1, (config.levels, -1)).unbind(1)
            return [kmeans(part.contiguous(), config.size, rng, steps=config.steps) for part in parts]

        made = clustered()
        for _ in track(range(config.rotations), "turning the vectors", config.rotations):
            near = torch.cat([part.centres[part.code] for part in made], 1)
            left, _, right = torch.linalg.svd(some.T @ near)
            turn = left @ right
            made = clustered()
        codebooks = torch.stack([part.centres for part in made])
        return {"codebooks": codebooks.numpy(), "mean": mean.numpy(), "turn": turn.numpy()}

    def coded(self, x: "Float[Tensor, 'rows dim']") -> "Int64[Tensor, 'rows coded']":
        import torch

        from itemic.nn.kmeans import nearest

        parts = zip(self._parts(x), self._weight("codebooks"))
        return torch.stack([nearest(part, codebook)[0] for part, codebook in parts], 1)

    def last_costs(self, x: "Float[Tensor, 'rows dim']") -> "Float[Tensor, 'rows size']":
        from itemic.nn.kmeans import distances

        return distances(self._parts(x)[-1], self._weight("codebooks")[-1])

    def meant(self, codes: "Int64[Tensor, 'rows some']") -> "Float[Tensor, 'rows dim']":
        import torch

        codebooks = self._weight("codebooks")
        n_levels, _, width = codebooks.shape
        parts = [codebooks[level][code] for level, code in enumerate(codes.T)]
        parts += [torch.zeros(len(codes), width)] * (n_levels - len(parts))  # the mean, of parts not known
        return torch.cat(parts, 1) @ self._weight("turn").T + self._weight("mean")

    def _parts(self, x: "Float[Tensor, 'rows dim']") -> "list[Float[Tensor, 'rows width']]":
        turned = (x - self._weight("mean")) @ self._weight("turn")
        return [part.contiguous() for part in turned.unflatten(1, (self.config.levels, -1)).unbind(1)]

    def _weight(self, name: str) -> "Tensor":
        import torch

        return torch.from_numpy(self.weights[name])
