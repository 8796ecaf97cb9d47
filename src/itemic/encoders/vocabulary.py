"""Vocabulary: what cuts text into pieces, by a Hugging Face tokenizer that is trained here or comes with a model."""

from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
from jaxtyping import Bool, Int32

from itemic.data import Ragged
from itemic.errors import ConfigError, DataError

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
        self._tokenizer.encode_special_tokens = True  # "[MASK]" in a text is six letters: only a model places marks

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
    def readable(cls, texts: Sequence[str], size: int, marks: Sequence[str] = ()) -> Self:
        """`size` pieces, learned by byte-pair encoding of bytes: whatever a text is, `texts` gives it back as it was.

        `marks` are further pieces that no text holds.

        >>> vocabulary = Vocabulary.readable(["red lipstick", "red nail polish"], 264, ["[user]"])
        >>> vocabulary.texts(vocabulary.whole(["Red  nail ✓"], 100))
        ['Red  nail ✓']

        Raises:
            DataError: the texts do not say enough for so many pieces.
        """
        tokenizers = _tokenizers()
        tokenizer: Tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
        tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = tokenizers.decoders.ByteLevel()
        trainer = tokenizers.trainers.BpeTrainer(
            vocab_size=size,
            special_tokens=[*MARKS, *marks],
            initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        tokenizer.train_from_iterator(texts, trainer)
        found = tokenizer.get_vocab_size()
        if found != size:
            raise DataError(
                f"a vocabulary of {size:,} pieces is more than these texts give: {found:,}. "
                f"Set vocabulary={found // 8 * 8}."
            )
        ends = [(mark, tokenizer.token_to_id(mark)) for mark in ("[CLS]", "[SEP]")]
        tokenizer.post_processor = tokenizers.processors.TemplateProcessing("[CLS] $A [SEP]", special_tokens=ends)
        return cls(tokenizer.to_str())

    @classmethod
    def read(cls, path: Path) -> Self:
        """The vocabulary of a file that `write` wrote, or of a model's `tokenizer.json`.

        Raises:
            ConfigError: it is damaged, or the package `tokenizers` is missing.
        """
        try:
            return cls(path.read_text(encoding="utf-8"))
        except ConfigError:
            raise
        except Exception as error:  # the package raises no kind of its own
            raise ConfigError(f"{path} is damaged: {error}. Restore the folder of the model.") from None

    def __len__(self) -> int:
        return self._tokenizer.get_vocab_size()

    @property
    def first(self) -> int:
        """The piece that begins a sequence.

        Raises:
            ConfigError: there is none.
        """
        return self.mark_of("[CLS]", "<s>")

    @property
    def mask(self) -> int:
        """The piece that stands for a hidden one."""
        return self.mark_of("[MASK]", "<mask>")

    @property
    def end(self) -> int:
        """The piece that ends a sequence."""
        return self.mark_of("[SEP]", "</s>")

    def whole(self, texts: Sequence[str], longest: int) -> Ragged:
        """The pieces of each text between those that its model begins and ends a text with, `longest` at most in all.

        >>> vocabulary = Vocabulary.trained(["red lipstick", "red nail polish"], 60)
        >>> [vocabulary.words(row) for row in vocabulary.whole(["red nail polish", "red"], 2)]
        [['red', 'nail'], ['red']]
        """
        self._tokenizer.enable_truncation(longest)
        encoded = self._tokenizer.encode_batch_fast(texts)
        self._tokenizer.no_truncation()
        return _rows([text.ids for text in encoded])

    def cut(self, texts: Sequence[str]) -> Ragged:
        """The pieces of each text, without marks."""
        return _rows([text.ids for text in self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)])

    def pieces(self, texts: Sequence[str]) -> tuple[Ragged, Bool[np.ndarray, " pieces"]]:
        """The pieces of each text, and which of them begin a word."""
        encoded = self._tokenizer.encode_batch(texts, add_special_tokens=False)
        found = Ragged.from_lists([text.ids for text in encoded])
        word = Ragged.from_lists([[-1 if n is None else n for n in text.word_ids] for text in encoded]).values
        begins = np.diff(word, prepend=-2) != 0
        begins[found.offsets[:-1][found.lengths > 0]] = True
        return found, begins

    def texts(self, rows: Ragged) -> list[str]:
        """What rows of pieces say, without the marks among them."""
        return self._tokenizer.decode_batch(rows.to_lists())

    def words(self, pieces: Int32[np.ndarray, " pieces"]) -> list[str]:
        """What pieces are written as."""
        return [self._tokenizer.id_to_token(piece) or "" for piece in pieces.tolist()]

    def mark_of(self, *names: str) -> int:
        """The piece that stands for a mark of the first of these names that there is.

        Raises:
            ConfigError: there is none.
        """
        found = [n for n in map(self._tokenizer.token_to_id, names) if n is not None]
        if not found:
            raise ConfigError(f"the vocabulary has no {' or '.join(names)}. Use that of a BERT-like model.")
        return found[0]


def _rows(lists: list[list[int]]) -> Ragged:
    values = np.fromiter(chain.from_iterable(lists), np.int32)
    return Ragged.from_lengths(values, np.fromiter(map(len, lists), np.int64, len(lists)))


def _tokenizers():
    try:
        import tokenizers
    except ImportError:
        raise ConfigError("reading text needs the package tokenizers. Install it: pip install 'itemic[text]'") from None
    return tokenizers
