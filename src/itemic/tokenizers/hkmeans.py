"""Hierarchical k-means with caps: the codes of an item are its way down a tree of clusters, and its number in the last.

Choose it where codes must be short and unique by construction: three levels of 32 codes hold 32,768 items, and no
cluster outgrows what fits below it. ColaRec calls such codes GIDs and makes them of collaborative vectors. Where caps
bind, an item may be in another cluster than the nearest one.
Paper: Wang et al., CIKM 2024, arXiv:2403.18480 (ColaRec).
"""

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float32, Int32
from pydantic import Field

from itemic.errors import DataError
from itemic.registry import tokenizer
from itemic.tokenizers.base import ItemTokenizer, SeededConfig, blocks
from itemic.tokenizers.collisions import groups, suffix

if TYPE_CHECKING:
    from jaxtyping import Float, Int64
    from torch import Tensor

FAR = 1e30
"""The cost of a cluster that had no items when the tree was made: it is taken when all others are full."""


class Config(SeededConfig):
    levels: int = Field(3, ge=2)
    """Codes of an item. ColaRec: 3."""
    size: int = Field(32, ge=2)
    """Clusters in each cluster, and items in each of the last. ColaRec: 32."""
    steps: int = Field(25, ge=1)
    """Steps of each k-means, at most."""


@tokenizer("hkmeans", paper="arXiv:2403.18480")
class HKMeans(ItemTokenizer[Config]):
    @property
    def content_sizes(self) -> tuple[int, ...]:
        return (self.config.size,) * (self.config.levels - 1)

    def learn(self, x: Float32[np.ndarray, "rows dim"]) -> dict[str, np.ndarray]:
        import torch

        from itemic.nn.kmeans import kmeans

        self._check_room(len(x))
        config, vectors = self.config, torch.from_numpy(np.array(x, np.float32))
        rng, node, tree = torch.Generator().manual_seed(config.seed), np.zeros(len(x), np.int64), {}
        for level in range(config.levels - 1):
            centres = torch.full((config.size**level, config.size, x.shape[1]), torch.nan)
            code = np.empty(len(x), np.int64)
            for parent, rows in groups(node):
                n_clusters = min(config.size, len(rows))
                below = vectors[torch.from_numpy(rows)]
                made = kmeans(below, n_clusters, rng, steps=config.steps, cap=self._cap(level))
                centres[parent, :n_clusters], code[rows] = made.centres, made.code.numpy()
            node, tree[f"centres_{level}"] = node * config.size + code, centres.numpy()
        return tree

    def told_apart(
        self, vectors: Float32[np.ndarray, "items dim"], known: Int32[np.ndarray, "known levels"]
    ) -> Int32[np.ndarray, "items levels"]:
        import torch

        self._check_width(vectors)
        codes = np.full((len(vectors), self.config.levels), -1, np.int32)
        placed = [(start + there, x) for start, there, x in blocks(vectors)]
        rows, known = np.concatenate([rows for rows, _ in placed]), known[known[:, 0] >= 0]
        self._check_room(len(known) + len(rows))
        way = self._way_down(torch.cat([x for _, x in placed]), known)
        codes[rows] = suffix(way, known, self.config.size)
        return codes

    def coded(self, x: "Float[Tensor, 'rows dim']") -> "Int64[Tensor, 'rows coded']":
        import torch

        from itemic.nn.kmeans import distances

        node, codes = torch.zeros(len(x), dtype=torch.int64), []
        for centres in self._tree:
            code = torch.empty_like(node)
            for parent, rows in groups(node.numpy()):
                cost = distances(x[torch.from_numpy(rows)], centres[parent]).nan_to_num(nan=FAR)
                code[torch.from_numpy(rows)] = cost.argmin(1)
            node = node * self.config.size + code
            codes.append(code)
        return torch.stack(codes, 1)

    def meant(self, codes: "Int64[Tensor, 'rows some']") -> "Float[Tensor, 'rows dim']":
        import torch

        node, vector = torch.zeros(len(codes), dtype=torch.int64), torch.zeros(len(codes), self.shape["dim"])
        for centres, code in zip(self._tree, codes.T):
            centre = centres[node, code]
            vector = torch.where(centre.isnan(), vector, centre)
            node = node * self.config.size + code
        return vector

    def _way_down(
        self, x: "Float[Tensor, 'rows dim']", known: Int32[np.ndarray, "known levels"]
    ) -> Int32[np.ndarray, "rows coded"]:
        """The clusters that these vectors go to, which are the nearest with room beside the known items."""
        import torch

        from itemic.nn.kmeans import capped, distances

        size, codes = self.config.size, np.empty((len(x), self.config.levels - 1), np.int32)
        node, known_node = np.zeros(len(x), np.int64), np.zeros(len(known), np.int64)
        for level, centres in enumerate(self._tree):
            for parent, rows in groups(node):
                cost = distances(x[torch.from_numpy(rows)], centres[parent]).nan_to_num(nan=FAR)
                taken = np.bincount(known[known_node == parent, level], minlength=size)
                codes[rows, level] = capped(cost, torch.from_numpy(self._cap(level) - taken)).numpy()
            node, known_node = node * size + codes[:, level], known_node * size + known[:, level]
        return codes

    def _cap(self, level: int) -> int:
        """How many items there may be in a cluster of this level."""
        return self.config.size ** (self.config.levels - 1 - level)

    def _check_room(self, n: int) -> None:
        size, levels = self.config.size, self.config.levels
        if n > size**levels:
            fits = next(wider for wider in range(size, n + 1) if wider**levels >= n)
            raise DataError(
                f"hkmeans: {n:,} items do not fit into {levels} levels of {size:,} codes, which hold {size**levels:,}. "
                f"Set size={fits}."
            )

    @property
    def _tree(self) -> "list[Float[Tensor, 'nodes size dim']]":
        import torch

        return [torch.from_numpy(self.weights[f"centres_{level}"]) for level in range(self.config.levels - 1)]
