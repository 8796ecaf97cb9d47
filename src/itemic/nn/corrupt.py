"""Texts with words hidden, to learn from by guessing them."""

import torch
from jaxtyping import Bool, Int
from torch import Tensor


def mask_words(
    token: Int[Tensor, " tokens"], word: Int[Tensor, " tokens"], mask: int, n_tokens: int, share: float = 0.15
) -> tuple[Int[Tensor, " tokens"], Bool[Tensor, " tokens"]]:
    """The tokens with a share of the words hidden, and which tokens are of those words; draws from torch's own seed.

    Words are hidden whole: `word` numbers the word of each token, -1 for what is never hidden. Of the hidden tokens
    80 % become `mask`, 10 % any of the `n_tokens` there are, and 10 % stay what they are, as in BERT.

    >>> token, hidden = mask_words(torch.arange(9), torch.tensor([-1, 0, 0, 1, 1, 1, 2, 2, 2]), 99, 100, share=1.0)
    >>> token[0].item(), hidden.tolist() == [False] + 8 * [True]
    (0, True)
    """
    drawn = torch.rand(int(word.max()) + 1 if len(word) else 0, device=token.device) < share
    hidden = (word >= 0) & drawn[word.clamp(min=0)] if len(drawn) else torch.zeros_like(token, dtype=torch.bool)
    fate = torch.rand(token.shape, device=token.device)
    other = torch.randint_like(token, n_tokens)
    made = torch.where(fate < 0.8, mask, torch.where(fate < 0.9, other, token))
    return torch.where(hidden, made, token), hidden
