import numpy as np
import pytest

from itemic.encoders.vocabulary import Vocabulary
from itemic.errors import ConfigError

pytest.importorskip("tokenizers", reason="tokenizers is not installed (pip install 'itemic[text]')")
TEXTS = ["red lipstick", "nail polish, red", "blue nail file"]


def test_a_vocabulary_read_again_cuts_texts_as_before(tmp_path):
    vocabulary = Vocabulary.trained(TEXTS, 60)
    (tmp_path / "vocabulary.json").write_text(vocabulary.description)
    again = Vocabulary.read(tmp_path / "vocabulary.json")
    for (ours, begins), (theirs, begun) in [(v.pieces(["Reddish", "", "NAIL!"]) for v in (vocabulary, again))]:
        assert ours.to_lists() == theirs.to_lists()
        np.testing.assert_array_equal(begins, begun)
    assert len(again) == len(vocabulary) <= 60


def test_learning_twice_gives_the_same_pieces():
    assert Vocabulary.trained(TEXTS, 60).description == Vocabulary.trained(TEXTS, 60).description


def test_each_text_and_each_word_begins_anew_and_an_empty_text_has_no_piece():
    vocabulary = Vocabulary.trained(TEXTS, 60)
    pieces, begins = vocabulary.pieces(["redfile nail", "", "nail"])
    assert [vocabulary.words(row) for row in pieces] == [["red", "file", "nail"], [], ["nail"]]
    assert begins.tolist() == [True, False, True, True]


def test_one_that_has_no_piece_to_begin_a_sequence_is_refused():
    plain = Vocabulary.trained(TEXTS, 60).description.replace("[CLS]", "[BEGIN]")
    with pytest.raises(ConfigError, match=r"the vocabulary has no \[CLS\] or <s>. Use that of a BERT-like model."):
        _ = Vocabulary(plain).first
