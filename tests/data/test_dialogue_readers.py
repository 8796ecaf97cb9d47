"""Dialogues in the layouts in which they are published: what is said, by whom, and what is named where."""

import gzip
import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from itemic.data import TEST, TRAIN, VALID
from itemic.data.importing import import_files
from itemic.data.readers.titles import placed, with_titles
from itemic.errors import DataError


def said(text, sender):
    return {"messageId": 1, "text": text, "timeOffset": 0, "senderWorkerId": sender}


ONE = {
    "conversationId": "391",
    "initiatorWorkerId": 5,
    "respondentWorkerId": 9,
    "messages": [said("I liked @111, not @222", 5), said("See @333!", 9), said("@111 again, by @home @777", 5)],
    "movieMentions": {"111": "Heat  (1995)", "222": "Why Him%3F (2016)", "333": "Ronin (1998)"},
    "initiatorQuestions": {
        "111": {"suggested": 0, "seen": 1, "liked": 1},
        "222": {"suggested": 0, "seen": 1, "liked": 0},
    },
    "respondentQuestions": {
        "222": {"suggested": 0, "seen": 1, "liked": 1},
        "333": {"suggested": 1, "seen": 0, "liked": 2},
    },
}
TWO = {
    "conversationId": "20001",
    "initiatorWorkerId": 5,
    "respondentWorkerId": 7,
    "messages": [said("Up?", 7), said("Seen it.", 5), said("Then @333 or @444", 7)],
    "movieMentions": {"333": "Ronin (1998)", "444": None},
    "initiatorQuestions": [],
    "respondentQuestions": [],
}


@pytest.fixture
def redial(tmp_path):
    """A folder of ReDial as published, one dialogue in each file."""
    (tmp_path / "train_data.jsonl").write_text(json.dumps(ONE) + "\n")
    (tmp_path / "test_data.jsonl").write_text("\n" + json.dumps(TWO) + "\n")
    return tmp_path


def test_redial_is_recognised_and_read_as_published(redial):
    data = import_files(redial)
    assert data.items.ids.array.to_pylist() == [111, 222, 333, 444]
    assert data.items.titles(range(4)) == ["Heat (1995)", "Why Him? (2016)", "Ronin (1998)", None]
    assert data.items.column("year").to_pylist() == [1995, 2016, 1998, None]
    talk = data.dialogues
    assert talk.ids.to_pylist() == [391, 20001]
    assert talk[0] == [
        ("user", "I liked Heat (1995), not Why Him? (2016)", [0, 1]),
        ("recommender", "See Ronin (1998)!", [2]),
        ("user", "Heat (1995) again, by @home @777", [0]),
    ]
    assert talk[1] == [
        ("recommender", "Up?", []),
        ("user", "Seen it.", []),
        ("recommender", "Then Ronin (1998) or @444", [2, 3]),
    ]
    turns = talk.turns
    named = [turns.text[t].as_py()[a:b] for t, a, b in zip(turns.mentions.row_of_value, turns.start, turns.end)]
    assert named == ["Heat (1995)", "Why Him? (2016)", "Ronin (1998)", "Heat (1995)", "Ronin (1998)", "@444"]
    assert turns.liked.tolist() == [1, 0, -1, 1, -1, -1]  # the seeker's form says that 222 was not liked
    assert turns.recommended.tolist() == [False, False, True, False, True, True]
    assert turns.part.tolist() == [TRAIN] * 3 + [TEST] * 3
    assert data.interactions.histories().to_lists() == [[0, 2, 0], [2, 3]]
    assert data.test.relevant.to_lists() == [[2, 3]]
    assert data.test.query.dialogue.texts().to_pylist() == ["Up?\nSeen it."]


def test_one_file_of_redial_is_for_training(redial):
    data = import_files(redial / "train_data.jsonl")
    assert data.split is None
    assert data.dialogues.ids.to_pylist() == [391]
    packed = redial / "packed" / "train_data.jsonl.gz"
    packed.parent.mkdir()
    packed.write_bytes(gzip.compress((redial / "train_data.jsonl").read_bytes()))
    assert import_files(packed.parent).fingerprint == data.fingerprint


REDIAL_BAD = {
    "not JSON": (
        "{",
        "row 2 is no JSON: Expecting property name enclosed in double quotes: line 1 column 2 (char 1). Mend the row.",
    ),
    "no messages": (
        json.dumps({"conversationId": 1}),
        "row 2 has no messages. A dialogue of ReDial has conversationId, messages, movieMentions, initiatorWorkerId, "
        "respondentWorkerId.",
    ),
    "a third worker": (
        json.dumps({**TWO, "messages": [said("Hi", 8)]}),
        "row 2: worker 8 is neither its initiator nor its respondent. Mend the row.",
    ),
    "a dialogue twice": (
        json.dumps({**TWO, "conversationId": "391"}),
        "row 2: dialogue 391 goes on after another one began. Sort the rows by dialogue and turn.",
    ),
}


@pytest.mark.parametrize(("line", "message"), REDIAL_BAD.values(), ids=REDIAL_BAD)
def test_lines_that_are_no_dialogue_of_redial_are_refused(redial, line, message):
    file = redial / "test_data.jsonl"
    file.write_text("\n" + line)
    if "twice" in message or "another one" in message:
        (redial / "train_data.jsonl").write_text(json.dumps(ONE) + "\n" + json.dumps(TWO) + "\n")
    with pytest.raises(DataError) as caught:
        import_files(redial)
    assert str(caught.value) == f"{file} {message}"


def test_a_folder_without_redial_is_refused(tmp_path):
    with pytest.raises(DataError) as caught:
        import_files(tmp_path, form="redial")
    assert str(caught.value) == (
        f"{tmp_path} has none of train_data.jsonl, valid_data.jsonl, test_data.jsonl. Name the folder of ReDial's "
        "files."
    )


HEADER = "dialog_id\tutt_id\tspeaker\tturn_id\ttext\ttext_with_placeholder\tmovies\tgenres\tmovie_id\n"


def utterance(dialogue, number, speaker, text, movies=""):
    return f"{dialogue}\t{number}\t{speaker}\t1\t{text}\t{text}\t{movies}\t\txyz\n"


@pytest.fixture
def inspired(tmp_path):
    """A folder of INSPIRED as published, with one dialogue in each file."""
    (tmp_path / "train.tsv").write_text(
        HEADER
        + utterance("a.pkl", 1, "RECOMMENDER", "Hello, QUOTATION_MARKfriendQUOTATION_MARK")
        + utterance("a.pkl", 2, "SEEKER", 'I "love" toy story and its jessie', "Toy Story (1995);  Jessie (2016)")
        + utterance("a.pkl", 3, "RECOMMENDER", "Then see the Pixar one with Nemo", "Finding Nemo (2003)")
    )
    (tmp_path / "dev.tsv").write_text(HEADER + utterance("b.pkl", 1, "RECOMMENDER", "Up is good. Up!", "Up (2009)"))
    (tmp_path / "test.tsv").write_text(HEADER + utterance("c.pkl", 1, "RECOMMENDER", "Toy Story", "Toy Story (1995)"))
    return tmp_path


def test_inspired_is_recognised_and_read_as_published(inspired):
    data = import_files(inspired)
    titles = ["Finding Nemo (2003)", "Jessie (2016)", "Toy Story (1995)", "Up (2009)"]
    assert data.items.ids.array.to_pylist() == data.items.titles(range(4)) == titles
    assert data.items.column("year").to_pylist() == [2003, 2016, 1995, 2009]
    talk, turns = data.dialogues, data.dialogues.turns
    assert talk[0] == [
        ("recommender", 'Hello, "friend"', []),
        ("user", 'I "love" toy story and its jessie', [2, 1]),
        ("recommender", "Then see the Pixar one with Nemo", [0]),
    ]
    assert list(zip(turns.start.tolist(), turns.end.tolist())) == [(9, 18), (27, 33), (-1, -1), (0, 2), (0, 9)]
    assert turns.part.tolist() == [TRAIN] * 3 + [VALID, TEST]
    assert turns.liked.tolist() == [-1] * 5
    assert data.test.relevant.to_lists() == [[2]]
    assert data.valid.relevant.to_lists() == [[3]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEADER + utterance("c", 1, "BOT", "x"), "row 1: the speaker 'BOT' is neither SEEKER nor RECOMMENDER. Mend it"),
        (
            HEADER + utterance("c", 2, "SEEKER", "x") + utterance("c", 1, "SEEKER", "x"),
            "row 2: turn 1 of dialogue 'c' comes after turn 2. Sort the rows by dialogue and turn.",
        ),
        (
            "dialog_id\ttext\nc\tx\n",
            "has no column utt_id; its columns are dialog_id, text. INSPIRED has dialog_id, utt_id, speaker, text, "
            "movies.",
        ),
    ],
)
def test_rows_that_are_not_of_inspired_are_refused(inspired, text, message):
    (inspired / "test.tsv").write_text(text)
    with pytest.raises(DataError, match=message.replace("Mend it", "Mend the row.")) as caught:
        import_files(inspired)
    assert str(inspired / "test.tsv") in str(caught.value)


@given(st.lists(st.sampled_from(["up", "heat", "a", " ", "."]), max_size=12), st.lists(st.sampled_from(["Up", "Heat"])))
def test_places_hold_the_names_as_words_and_never_overlap(pieces, names):
    text = "".join(pieces)
    places = placed(text, names)
    found = [place for place in places if place[0] >= 0]
    assert [text[a:b] for (a, b), name in zip(places, names) if a >= 0] == [
        n.lower() for (a, _), n in zip(places, names) if a >= 0
    ]
    assert all(not (text[a - 1 : a].isalnum() or text[b : b + 1].isalnum()) for a, b in found)
    assert len({n for a, b in found for n in range(a, b)}) == sum(b - a for a, b in found)
    words = Counter("".join(sign if sign.isalnum() else " " for sign in text).split())
    assert len(found) == sum(min(count, words[name.lower()]) for name, count in Counter(names).items())


@given(st.lists(st.one_of(st.sampled_from(["@1", "@2", "@31"]), st.text("ab @", max_size=3)), max_size=8))
def test_titles_stand_where_ids_stood(pieces):
    text = " ".join(pieces)
    said = with_titles(text, {1: "Heat", 2: None})
    assert [said["text"][a:b] for a, b in zip(said["starts"], said["ends"])] == [
        {1: "Heat", 2: "@2"}[i] for i in said["items"]
    ]
    assert said["text"].replace("Heat", "@1") == text
