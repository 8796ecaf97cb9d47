"""The dialogues of $ITEMIC_DATA, put together from cases, give these cases; nothing that is tested is trained on."""

import gzip
import json
from collections import Counter
from functools import cache

import numpy as np
import pytest

from itemic.data import TEST, TRAIN, VALID
from itemic.data.readers.crs import rebuilt
from itemic.data.readers.known import known_set
from itemic.errors import DataError

PARTS = {"train": TRAIN, "valid": VALID, "test": TEST}
opened = cache(known_set)


def case(dialogue, turn, context, named, recommended, answer):
    return {
        "dialog_id": dialogue,
        "turn_id": turn,
        "context": context,
        "entity": named,
        "rec": recommended,
        "resp": answer,
    }


ITEMS = {"Heat": 1, "Ronin": 2, "Up": 3}


def test_a_dialogue_is_put_together_from_its_cases():
    said = ["", "Hi, Heat?", "No. Upon my word, up!", "Ronin. Or HEAT.", "Ronin was good. And?", "Heat again"]
    cases = {
        "test": [case(7, 4, said[:5], ["Heat", "Up", "Nemo", "Ronin", "Heat", "Ronin"], ["Heat"], said[5])],
        "train": [case(7, 2, said[:3], ["Heat", "Up", "Nemo"], ["Ronin", "Nemo"], said[3])],
    }
    turns = rebuilt(cases, ITEMS)
    assert [turn["text"] for turn in turns] == said[1:]
    assert [turn["role"][0] for turn in turns] == ["r", "u", "r", "u", "r"]
    assert [turn["part"] for turn in turns] == ["train"] * 3 + ["test"] * 2
    assert [turn["items"] for turn in turns] == [[1], [3], [2, 1], [2], [1]]  # Nemo is no item
    assert [turn["recommended"] for turn in turns] == [[False], [False], [True, False], [False], [True]]
    assert [turn["starts"] for turn in turns] == [[4], [18], [0, 10], [0], [0]]


def test_what_the_text_does_not_have_is_put_to_the_turn_of_what_was_named_before():
    cases = [case(1, 3, ["Up?", "No", "Then the one by Mann"], ["Up", "Heat"], ["Ronin"], "Ronin")]
    turns = rebuilt({"test": cases}, ITEMS)
    assert [turn["items"] for turn in turns] == [[3, 1], [], [], [2]]
    assert turns[0]["starts"] == [0, -1]


def test_cases_of_one_dialogue_that_begin_otherwise_are_refused():
    cases = [case(3, 1, ["Up?"], [], ["Heat"], "Heat"), case(3, 3, ["Ronin?", "Heat", "No"], [], ["Up"], "Up")]
    with pytest.raises(DataError) as caught:
        rebuilt({"test": cases}, ITEMS)
    assert str(caught.value) == "dialogue 3: its case 1 does not begin as the last one does."


def cases_of(folder, part):
    lines = gzip.decompress((folder / f"{part}.jsonl.gz").read_bytes()).decode().split("\n")
    return [json.loads(line) for line in lines if line]


REAL = [("crs-opendialkg", "train"), ("crs-opendialkg", "valid"), ("crs-opendialkg", "test"), ("crs-redial", "test")]


@pytest.mark.parametrize(("name", "part"), REAL)
def test_the_cases_of_a_real_set_are_those_of_its_file(real_data, name, part):
    folder = real_data(name)
    data = opened(folder)
    titles = data.items.titles(range(data.n_items))
    known = set(titles)
    found = data.dialogues.cases(PARTS[part])
    before, history = found.query.dialogue, found.query.history
    ours = {
        (before.ids[row].as_py(), len(before[row])): (
            [turn.text for turn in before[row]],
            Counter(titles[item] for item in history[row]),
            [titles[item] for item in found.relevant[row]],
        )
        for row in range(len(found))
    }
    theirs = {}
    for row in cases_of(folder, part):
        said = [text for text in row["context"] if text]
        named, recommended = ([name for name in row[key] if name in known] for key in ("entity", "rec"))
        if recommended:
            theirs[int(row["dialog_id"]), len(said)] = said, Counter(named), recommended
    assert ours == theirs


def test_the_roles_of_dialogues_put_together_are_those_of_the_whole_ones(real_data):
    names = {
        film["name"]: int(number) for number, film in _read_json(real_data("crs-redial") / "id2info.json.gz").items()
    }
    built: dict = {}
    for turn in rebuilt({"valid": cases_of(real_data("crs-redial"), "valid")}, names):
        built.setdefault(int(turn["dialogue"]), []).append((turn["role"], "".join(turn["text"].split())))
    talk, n_turns = opened(real_data("crs-redial-dialogues")).dialogues, 0
    for row, number in enumerate(talk.ids.to_pylist()):
        merged: list = []  # there, what one says in several messages is several turns
        for role, text, _ in talk[row]:
            if merged and merged[-1][0] == role:
                merged[-1] = role, merged[-1][1] + "".join(text.split())
            else:
                merged.append((role, "".join(text.split())))
        ours = built.get(number, [])
        n_turns += len(ours)
        assert [role for role, _ in ours] == [role for role, _ in merged[: len(ours)]]
    assert n_turns == 8983


def _read_json(path):
    return json.loads(gzip.decompress(path.read_bytes()))


def test_a_train_part_of_opendialkg_does_not_hold_the_answers_of_its_test(real_data):
    data = opened(real_data("crs-opendialkg"))
    turns = data.dialogues.turns
    answers = set(np.flatnonzero((turns.part == TEST) & turns.recommends).tolist())
    contexts = data.dialogues.cases(TRAIN).query.dialogue
    assert len(answers & {t for a, b in zip(contexts.first, contexts.stop) for t in range(a, b)}) == 310
    assert len(contexts) == 5547
    assert len(data.train.dialogues.cases()) == 4848  # those before the first held-out turn of their dialogue
    said = set(data.train.dialogues.turns.text.to_pylist())
    assert sum(turns.text[turn].as_py() in said for turn in answers) == 1  # in another dialogue, word for word


def test_redial_is_trained_on_other_dialogues_than_it_is_tested_on(real_data, tmp_path):
    data = opened(real_data("crs-redial"))
    assert len(data.train.dialogues.cases()) == 2903
    assert not set(data.train.dialogues.ids.to_pylist()) & set(data.test.query.dialogue.ids.to_pylist())
    alone = tmp_path / "crs-redial"
    alone.symlink_to(real_data("crs-redial"))
    with pytest.raises(DataError) as caught:
        known_set(alone)
    assert str(caught.value) == (
        f"{alone} holds no dialogues to train on. Put the folder crs-redial-dialogues beside it."
    )


def test_what_was_liked_in_redial_is_what_its_readme_counts(real_data):
    data = opened(real_data("crs-redial-dialogues"))
    assert len(data.dialogues.turns) == 12395
    assert len(data.dialogues.turns.liked) == 6327
    assert (data.dialogues.turns.role == 0).sum() == 6142
