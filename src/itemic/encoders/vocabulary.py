"""Vocabulary: what cuts text into pieces, by a Hugging Face tokenizer that is trained here or comes with a model."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
from jaxtyping import Bool, Int32

from itemic.data import Ragged
from itemic.errors import ConfigError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

MARKS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
"""The pieces that no text holds; those of BERT. Word pieces as in BERT are not learned: each time they are others."""


class Vocabulary:
    """Pieces of texts as numbers. `first` and `mask` are what begins a sequence and what stands for a hidden piece."""

    def __init__(self, description: str) -> None:
        """From the text of a `tokenizer.json`.

        Raises:
            ConfigError: there is no piece to begin a sequence, or the package `tokenizers` is missing.
        """
        self.description = description
        self._tokenizer = _tokenizers().Tokenizer.from_str(description)
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self.first, self.mask = self._mark("[CLS]", "<s>"), self._mark("[MASK]", "<mask>")

    @classmethod
    def trained(cls, texts: Sequence[str], size: int) -> Self:
        """At most `size` pieces, learned from these texts by byte-pair encoding of their words in lower case.

        >>> vocabulary = Vocabulary.trained(["red lipstick", "red nail polish"], 60)
        >>> pieces, begins = vocabulary.pieces(["Red nail"])
        >>> vocabulary.words(pieces[0]), begins.tolist()
        (['red', 'nail'], [True, True])
        """
        tokenizers = _tokenizers()
        tokenizer: Tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token="[UNK]"))
        tokenizer.normalizer = tokenizers.normalizers.BertNormalizer()
        tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
        trainer = tokenizers.trainers.BpeTrainer(vocab_size=size, special_tokens=MARKS, show_progress=False)
        tokenizer.train_from_iterator(texts, trainer)
        return cls(tokenizer.to_str())

    @classmethod
    def read(cls, path: Path) -> Self:
        """The vocabulary of a file that `write` wrote, or of a model's `tokenizer.json`."""
        return cls(path.read_text(encoding="utf-8"))

    def __len__(self) -> int:
        return self._tokenizer.get_vocab_size()

    def pieces(self, texts: Sequence[str]) -> tuple[Ragged, Bool[np.ndarray, " pieces"]]:
        """The pieces of each text, and which of them begin a word."""
        encoded = self._tokenizer.encode_batch(texts, add_special_tokens=False)
        found = Ragged.from_lists([text.ids for text in encoded])
        word = Ragged.from_lists([[-1 if n is None else n for n in text.word_ids] for text in encoded]).values
        begins = np.diff(word, prepend=-2) != 0
        begins[found.offsets[:-1][found.lengths > 0]] = True
        return found, begins

    def words(self, pieces: Int32[np.ndarray, " pieces"]) -> list[str]:
        """What pieces are written as."""
        return [self._tokenizer.id_to_token(piece) or "" for piece in pieces.tolist()]

    def _mark(self, *names: str) -> int:
        found = [n for n in map(self._tokenizer.token_to_id, names) if n is not None]
        if not found:
            raise ConfigError(f"the vocabulary has no {names[0]} or {names[1]}. Use that of a BERT-like model.")
        return found[0]


def _tokenizers():
    try:
        import tokenizers
    except ImportError:
        raise ConfigError("reading text needs the package tokenizers. Install it: pip install 'itemic[text]'") from None
    return tokenizers
