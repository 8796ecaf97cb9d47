"""Vocabulary: what cuts text into pieces, by a Hugging Face tokenizer that is trained here or comes with a model."""

from collections.abc import Sequence
from itertools import chain
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
    """Pieces of texts as numbers."""

    def __init__(self, description: str) -> None:
        """From the text of a `tokenizer.json`.

        Raises:
            ConfigError: the package `tokenizers` is missing.
        """
        self.description = description
        self._tokenizer = _tokenizers().Tokenizer.from_str(description)
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()

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

    @property
    def first(self) -> int:
        """The piece that begins a sequence.

        Raises:
            ConfigError: there is none.
        """
        return self._mark("[CLS]", "<s>")

    @property
    def mask(self) -> int:
        """The piece that stands for a hidden one."""
        return self._mark("[MASK]", "<mask>")

    def whole(self, texts: Sequence[str], longest: int) -> Ragged:
        """The pieces of each text between those that its model begins and ends a text with, `longest` at most in all.

        >>> vocabulary = Vocabulary.trained(["red lipstick", "red nail polish"], 60)
        >>> [vocabulary.words(row) for row in vocabulary.whole(["red nail polish", "red"], 2)]
        [['red', 'nail'], ['red']]
        """
        self._tokenizer.enable_truncation(longest)
        encoded = [text.ids for text in self._tokenizer.encode_batch_fast(texts)]
        self._tokenizer.no_truncation()
        pieces = np.fromiter(chain.from_iterable(encoded), np.int32)
        return Ragged.from_lengths(pieces, np.fromiter(map(len, encoded), np.int64, len(encoded)))

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
