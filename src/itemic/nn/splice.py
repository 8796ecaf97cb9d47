"""Vectors put between words: some places of a text hold the embedding of a word, others a vector from elsewhere."""

from jaxtyping import Bool, Float
from torch import Tensor


def splice(
    x: Float[Tensor, "*batch dim"], at: Bool[Tensor, "*batch"], vectors: Float[Tensor, "n dim"]
) -> Float[Tensor, "*batch dim"]:
    """x with these vectors, in their order, where `at` is true; a copy, through which gradients reach both.

    Raises:
        ValueError: there are more places than vectors, or fewer.

    >>> from torch import tensor
    >>> splice(tensor([[5.0], [6], [7]]), tensor([False, True, True]), tensor([[1.0], [2]])).tolist()
    [[5.0], [1.0], [2.0]]
    """
    if int(at.sum()) != len(vectors):
        raise ValueError(f"{len(vectors):,} vectors for {int(at.sum()):,} places")
    return x.masked_scatter(at[..., None], vectors.to(x.dtype))


def norm_ratio(vectors: Float[Tensor, "n dim"], table: Float[Tensor, "words dim"]) -> float:
    """What to multiply these vectors by so that their lengths are on average those of the table's rows.

    >>> from torch import tensor
    >>> norm_ratio(tensor([[3.0, 4.0]]), tensor([[2.0, 0.0], [0.0, 3.0]]))
    0.5
    """
    return (table.float().norm(dim=1).mean() / vectors.float().norm(dim=1).mean()).item()
