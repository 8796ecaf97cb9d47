"""Dialogues: cases against a loop, what a train part may know, the folder and back, and what is refused."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from itemic.data import TEST, TRAIN, UNUSED, VALID, Dataset, Dialogues, Query
from itemic.data.filters import k_core
from itemic.data.importing import import_files
from itemic.data.splits import split
from itemic.errors import DataError

PARTS = ("train", "valid", "test")
ITEMS = {"id": [f"i{n}" for n in range(6)], "title": [f"Item {n}" for n in range(6)]}

mentions = st.tuples(st.integers(0, 5), st.sampled_from([None, 0, 1]))
turns = st.tuples(st.sampled_from(["user", "recommender"]), st.lists(mentions, max_size=3), st.sampled_from(PARTS))
talks = st.lists(st.lists(turns, min_size=1, max_size=6), min_size=1, max_size=5)


def frame(talk) -> dict[str, list]:
    """The table of turns of nested lists of (role, [(item, liked)], part), texts telling dialogue and turn."""
    rows = [(d, t, *turn) for d, dialogue in enumerate(talk) for t, turn in enumerate(dialogue)]
    return {
        "dialogue": [f"d{d}" for d, *_ in rows],
        "turn": [t for _, t, *_ in rows],
        "role": [role for _, _, role, *_ in rows],
        "text": [f"said {d}.{t}" for d, t, *_ in rows],
        "items": [[f"i{item}" for item, _ in named] for *_, named, _ in rows],
        "liked": [[liked for _, liked in named] for *_, named, _ in rows],
        "part": [part for *_, part in rows],
    }


def made(talk, **more) -> Dataset:
    """The dataset of a talk in which a recommender speaks, some item is named and some turn is held out."""
    turns = [turn for dialogue in talk for turn in dialogue]
    assume(any(role == "recommender" for role, *_ in turns) and any(named for _, named, _ in turns))
    assume(any(part != "train" for *_, part in turns))
    return Dataset.from_dialogues(frame(talk), items=ITEMS, **more)


def test_turns_are_read_as_they_were_written():
    data = Dataset.from_dialogues(
        {
            "dialogue_id": [8, 8, 3],
            "role": ["user", "recommender", "recommender"],
            "text": ["Is Héat good?", "Ronin is!", None],
            "items": [["heat"], ["ronin"], None],
            "starts": [[3], [0], []],
            "ends": [[7], [5], []],
            "liked": [[0], [None], []],
        },
        items={"item_id": ["ronin", "heat"], "title": ["Ronin", "Heat"]},
    )
    talk = data.dialogues
    assert talk.ids.to_pylist() == data.users.ids.array.to_pylist() == [3, 8]  # in the order of their users
    assert talk[0] == [("recommender", "", [])]
    assert talk[1] == [("user", "Is Héat good?", [0]), ("recommender", "Ronin is!", [1])]
    turns = talk.turns
    assert turns.text[1].as_py()[turns.start[0] : turns.end[0]] == "Héat"
    assert (turns.liked.tolist(), turns.recommended.tolist()) == ([0, -1], [False, True])
    assert data.interactions.histories().to_lists() == [[], [1]]  # not what was not liked
    assert data.interactions.kinds == ("mentioned", "recommended")
    assert data.interactions.kind.tolist() == [1]
    assert data.ordered
    assert data.repeats


def test_users_may_have_several_dialogues():
    data = Dataset.from_dialogues(
        {
            "dialogue": ["b", "c", "a"],
            "user": ["ann", "bob", "ann"],
            "role": ["recommender"] * 3,
            "text": ["x", "y", "z"],
            "items": [[1], [2], [3]],
            "recommended": [[True], [False], [None]],
        }
    )
    assert data.users.ids.array.to_pylist() == ["ann", "bob"]
    assert data.dialogues.ids.to_pylist() == ["b", "a", "c"]
    assert data.dialogues.user.tolist() == [0, 0, 1]
    assert data.interactions.histories().to_lists() == [[0, 2], [1]]
    assert data.dialogues.turns.recommended.tolist() == [True, False, False]


@given(talks, st.booleans(), st.sampled_from([None, TRAIN, VALID, TEST]))
def test_cases_are_what_a_loop_finds(talk, repeats, part):
    data = made(talk, repeats=repeats)
    cases = data.dialogues.cases(part, repeats)
    expected, skipped = [], 0
    for d, dialogue in enumerate(talk):
        said, history, kinds = [], [], []
        for t, (role, named, of) in enumerate(dialogue):
            items = list(dict.fromkeys(item for item, _ in named))
            if role == "recommender" and items and (part is None or PARTS.index(of) == part):
                sought = [item for item in items if repeats or item not in history]
                skipped += not sought
                if sought:
                    expected.append(("\n".join(said), list(history), list(kinds), sought, f"d{d}"))
            said.append(f"said {d}.{t}")
            history += [item for item, _ in named]
            kinds += [int(role == "recommender")] * len(named)
    query = cases.query
    kinds = [query.history_kind[a:b].tolist() for a, b in zip(query.history.offsets, query.history.offsets[1:])]
    texts, ids = query.dialogue.texts().to_pylist(), query.dialogue.ids.to_pylist()
    found = list(zip(texts, query.history.to_lists(), kinds, cases.relevant.to_lists(), ids))
    assert found == expected
    assert (cases.n_skipped, query.repeats) == (skipped, repeats)


@given(talks, st.booleans())
def test_a_train_part_knows_nothing_said_from_the_first_held_out_turn_on(talk, repeats):
    data = made(talk, repeats=repeats)
    train = data.train
    known = []
    for d, dialogue in enumerate(talk):
        for t, (*_, part) in enumerate(dialogue):
            if part != "train":
                break
            known.append(f"said {d}.{t}")
    assert train.dialogues.turns.text.to_pylist() == known
    log, turn = train.dialogues.interactions(data.n_users, data.n_items)
    if repeats:
        assert log.histories().to_lists() == train.interactions.histories().to_lists()
    assert len(turn) == len(log)
    assert train.fingerprint != data.fingerprint
    assert "dialogues" not in data.catalogue.extras


@given(talks)
def test_the_test_part_is_the_cases_of_its_turns(talk):
    data = made(talk)
    test = data.test
    expected = data.dialogues.cases(TEST)
    assert test.query.history.to_lists() == expected.query.history.to_lists()
    assert test.relevant.to_lists() == expected.relevant.to_lists()
    assert test.label == "dialogues"
    seen = set(data.train.interactions.item.tolist())
    assert test.unseen.tolist() == [item not in seen for item in range(data.n_items)]


@given(talks)
def test_a_saved_dataset_has_the_same_dialogues(tmp_path_factory, talk):
    data = made(talk)
    saved = data.save(tmp_path_factory.mktemp("talk") / "talk")
    assert saved.extras["dialogues"].equals(data.extras["dialogues"])
    assert saved.fingerprint == data.fingerprint
    assert saved.test.relevant.to_lists() == data.test.relevant.to_lists()
    assert [saved.dialogues[row] for row in range(len(talk))] == [data.dialogues[row] for row in range(len(talk))]


@given(talks, st.data())
def test_taking_and_cutting_a_batch_takes_all_that_is_said_about_each(talk, data):
    whole = made(talk).dialogues
    rows = data.draw(st.lists(st.integers(0, len(talk) - 1), max_size=4))
    start = data.draw(st.integers(0, len(talk)))
    for taken, numbers in (
        (whole.take(np.array(rows, np.int64)), rows),
        (whole.block(start, start + 2), range(len(talk))[start : start + 2]),
        (whole.take(np.array(rows, np.int64)).compact(), rows),
    ):
        assert [taken[row] for row in range(len(taken))] == [whole[n] for n in numbers]
        assert taken.mentions().to_lists() == [[item for turn in whole[n] for item in turn.items] for n in numbers]
        assert taken.texts(" / ").to_pylist() == [" / ".join(turn.text for turn in whole[n]) for n in numbers]
        assert taken.ids.to_pylist() == [f"d{n}" for n in numbers]
    query = Query(dialogue=whole)
    assert (len(query), query.fields) == (len(talk), ["dialogue"])
    assert query.take(np.array(rows, np.int64)).dialogue.ids.to_pylist() == [f"d{n}" for n in rows]
    assert query.block(start, start + 1).dialogue.ids.to_pylist() == [f"d{start}"][: len(talk) - start]


TALK = [
    [("user", [(n % 6, None)], "train"), ("recommender", [((n + 1) % 6, 1)], "train"), ("user", [], "train")]
    for n in range(20)
]


def test_dialogues_without_parts_are_drawn_whole_and_the_same_again(tmp_path):
    data = Dataset.from_dialogues(frame(TALK), items=ITEMS).save(tmp_path / "talk")
    assert data.split is None
    done = split(data, test=0.2, valid=0.1, seed=3)
    done.save_split()
    opened = Dataset.open(tmp_path / "talk")
    assert opened.split.label == "dialogues, test 20 %, valid 10 %, seed 3"
    tested, tried = (set(part.query.dialogue.ids.to_pylist()) for part in (opened.test, opened.valid))
    trained = set(opened.train.dialogues.ids.to_pylist())
    assert [len(ids) for ids in (tested, tried, trained)] == [4, 2, 14]
    assert len(tested | tried | trained) == 20
    assert opened.test.relevant.to_lists() == done.test.relevant.to_lists()
    again = split(opened.train, by="dialogues", test=0.5, valid=0)  # as a search of options does
    assert len(again.test) == 7


def test_the_rest_of_a_dialogue_after_a_held_out_turn_is_not_trained_on():
    parts = ["train", "train", "test", "test", "train", "train"]
    talk = [[(("user", "recommender")[t % 2], [(t, None)], part) for t, part in enumerate(parts)]]
    data = Dataset.from_dialogues(frame(talk), items=ITEMS)
    assert data.split.part.tolist() == [TRAIN, TRAIN, 4, TEST, UNUSED, UNUSED]
    assert data.train.interactions.item.tolist() == [0, 1]
    assert data.part(TRAIN, TEST).dialogues.turns.text.to_pylist() == [f"said 0.{t}" for t in range(6)]
    assert data.test.query.history.to_lists() == [[0, 1, 2]]


def test_a_split_by_anything_else_leaves_no_dialogues_to_a_part():
    data = Dataset.from_dialogues(frame(TALK), items=ITEMS, name="talk")
    with pytest.raises(DataError) as caught:
        _ = split(data, by="random", test=0.5).train.dialogues
    assert str(caught.value) == (
        "talk has no dialogues. Import some: itemic data import FOLDER. A part of a split has them if it was split by "
        "dialogues."
    )
    with pytest.raises(DataError, match="talk has no dialogues. Import some"):
        _ = k_core(data, 1, 1).dialogues
    with pytest.raises(DataError, match="data has no dialogues. Import some"):
        split(Dataset.from_frame({"user": [1], "item": [2]}), by="dialogues")


def test_a_split_by_dialogues_needs_the_interactions_that_are_in_them():
    data = Dataset.from_dialogues(frame(TALK), items=ITEMS, name="talk")
    fewer = replace(data, interactions=data.interactions.select(np.arange(5)))
    with pytest.raises(DataError) as caught:
        split(fewer, by="dialogues")
    assert str(caught.value) == (
        "split by dialogues needs the interactions that are in them; talk has others. Split by time, last or random."
    )


def test_several_sets_have_the_dialogues_of_all():
    talk = Dataset.from_dialogues(frame(TALK[:2]), items=ITEMS, name="talk")
    more = Dataset.from_dialogues(frame([[("recommender", [(5, 1)], "test")]]), items=ITEMS, name="more")
    shop = Dataset.from_frame({"user": ["u"], "item": ["a"]}, name="shop")
    whole = Dataset.together([shop, talk, more])
    found = whole.dialogues
    assert found.ids.to_pylist() == ["talk/d0", "talk/d1", "more/d0"]
    assert whole.users.ids.external(found.user).tolist() == found.ids.to_pylist()
    named = [whole.items.ids.external(row).tolist() for row in found.mentions()]
    assert named == [["talk/i0", "talk/i1"], ["talk/i1", "talk/i2"], ["more/i5"]]
    assert (found.turns.part == TRAIN).all()


def test_the_fingerprint_changes_with_what_was_said():
    data = Dataset.from_dialogues(frame(TALK), items=ITEMS)
    for column, value in (("text", "said 0,0"), ("role", "recommender"), ("liked", [1])):
        changed = frame(TALK)
        changed[column][0] = value
        assert Dataset.from_dialogues(changed, items=ITEMS).fingerprint != data.fingerprint
    assert Dataset.from_dialogues(frame(TALK), items=ITEMS, name="other").fingerprint == data.fingerprint


def one(**changed) -> dict[str, list]:
    """Three turns of two dialogues with some columns changed."""
    columns = {
        "dialogue": ["x", "x", "y"],
        "role": ["user", "recommender", "recommender"],
        "text": ["Heat?", "Ronin.", "Hello"],
        "items": [["i1"], ["i2"], []],
    }
    return {name: column for name, column in {**columns, **changed}.items() if column is not None}


BAD = {
    "no role": (
        {"role": None},
        "the table of turns has no column role; its columns are dialogue, text, items. A table of turns has dialogue, "
        "role, text and items.",
    ),
    "another role": (
        {"role": ["user", "bot", "user"]},
        "the table of turns row 2: the role 'bot' is neither user nor recommender. Rename it.",
    ),
    "nobody recommends": (
        {"role": ["user"] * 3},
        "the table of turns: none of the 3 turns is a recommender's. Check the column role.",
    ),
    "an unknown item": (
        {"items": [["i1"], ["i2", "zz"], []]},
        "the table of turns row 2: item 'zz' is not in the item table (1 unknown in all). Add what is missing there, "
        "or say --unknown drop or --unknown add.",
    ),
    "an unknown item that was not liked": (
        {"items": [["zz"], [], []], "liked": [[0], [], []]},
        "the table of turns row 1: item 'zz' is not in the item table (1 unknown in all). Add what is missing there, "
        "or say --unknown drop or --unknown add.",
    ),
    "a missing item": (
        {"items": [["i1", None], [], []]},
        "the table of turns row 1: the item id is missing. Fill it in.",
    ),
    "items that are no lists": (
        {"items": ["i1", "i2", ""]},
        "the table of turns row 1: items is of the type string. Give a list in each row.",
    ),
    "a dialogue in two places": (
        {"dialogue": ["x", "y", "x"]},
        "the table of turns row 3: dialogue 'x' goes on after another one began. Sort the rows by dialogue and turn.",
    ),
    "a turn out of order": (
        {"turn": [2, 1, 1]},
        "the table of turns row 2: turn 1 of dialogue 'x' comes after turn 2. Sort the rows by dialogue and turn.",
    ),
    "too few likes": (
        {"liked": [[1], [], []]},
        "the table of turns row 2 has 1 items but 0 values of liked. Mend the row.",
    ),
    "a strange like": (
        {"liked": [[1], [2], []]},
        "the table of turns row 2: liked is none of 1 (liked), 0 (not liked) and -1 (not said). Mend the row.",
    ),
    "a place outside": (
        {"starts": [[0], [0], []], "ends": [[4], [7], []]},
        "the table of turns row 2: a mention stands outside of the text. Mend the row.",
    ),
    "a place without an end": (
        {"starts": [[0], [-1], []]},
        "the table of turns row 1: a mention stands outside of the text. Mend the row.",
    ),
    "a user who recommends": (
        {"recommended": [[True], [True], []]},
        "the table of turns row 1: a user recommends an item. Mend the row.",
    ),
    "another part": (
        {"part": ["train", "dev", "test"]},
        "the table of turns row 2: the part 'dev' is none of train, valid, test. Rename it.",
    ),
    "places that are no numbers": (
        {"starts": [["x"], ["x"], []]},
        "the table of turns: the column starts cannot be read: Failed to parse string: 'x' as a scalar of type int32. "
        "Mend it.",
    ),
    "a part of another number": (
        {"part": [0, 2, 7]},
        "the table of turns row 3: the part 7 is none of train, valid, test. Rename it.",
    ),
    "two users in a dialogue": (
        {"user": ["ann", "bob", "bob"]},
        "the table of turns row 2: dialogue 'x' has the users 'ann' and 'bob'. Give each a dialogue of their own.",
    ),
    "a missing dialogue": (
        {"dialogue": ["x", None, "y"]},
        "the table of turns row 2: the dialogue id is missing. Fill it in.",
    ),
    "no turns": (
        {
            name: pa.array([], kind)
            for name, kind in {
                **dict.fromkeys(["dialogue", "role", "text"], pa.string()),
                "items": pa.list_(pa.string()),
            }.items()
        },
        "the table of turns is empty. It should hold at least one turn.",
    ),
}


@pytest.mark.parametrize(("changed", "message"), BAD.values(), ids=BAD)
def test_turns_that_cannot_be_are_refused(changed, message):
    with pytest.raises(DataError) as caught:
        Dataset.from_dialogues(one(**changed), items=ITEMS)
    assert str(caught.value) == message


def test_turns_that_name_no_item_are_refused():
    with pytest.raises(DataError) as caught:
        Dataset.from_dialogues(one(items=[[], [], []]))
    assert str(caught.value) == "the table of turns names no item. List in the column items what each turn names."


def swapped(column: str, values: list, kind: pa.DataType):
    return lambda table: table.set_column(table.column_names.index(column), column, pa.array(values, kind))


LISTS = pa.list_(pa.int32())
DAMAGED = {
    "dialogues.parquet lacks the column role": lambda table: table.drop_columns(["role"]),
    "dialogues.parquet lacks values of user": swapped("user", [0, None, 1], pa.int32()),
    "dialogues.parquet row 2: the role is neither user nor recommender": swapped(
        "role", ["user", "bot", "user"], pa.string()
    ),
    "dialogues.parquet row 3: the user is none of the 2": swapped("user", [0, 0, 2], pa.int32()),
    "dialogues.parquet row 2: a mention is none of the 6 items": swapped("items", [[1], [6], []], LISTS),
    "dialogues.parquet: the lists of ends lack values, or are not as long as those of items": swapped(
        "ends", [[1], [], []], LISTS
    ),
    "dialogues.parquet: the lists of items lack values, or are not as long as those of items": swapped(
        "items", [[1], [None], []], LISTS
    ),
    "dialogues.parquet row 1: a mention stands outside of the text": swapped("ends", [[9], [-1], []], LISTS),
    "dialogues.parquet row 3: the part is none of train, valid and test": swapped("part", [0, 0, 7], pa.uint8()),
}


@pytest.mark.parametrize(("reason", "damage"), DAMAGED.items(), ids=DAMAGED)
def test_damaged_dialogues_are_told_in_one_line(tmp_path, reason, damage):
    folder = tmp_path / "talk"
    table = Dataset.from_dialogues(one(), items=ITEMS).save(folder).extras["dialogues"]
    pq.write_table(damage(table), folder / "dialogues.parquet")
    with pytest.raises(DataError) as caught:
        Dataset.open(folder)
    assert str(caught.value) == f"{folder} is damaged: {reason}. Import the data again or restore the folder."


def test_a_cut_off_file_of_dialogues_is_told(tmp_path):
    folder = tmp_path / "talk"
    Dataset.from_dialogues(one(), items=ITEMS).save(folder)
    raw = (folder / "dialogues.parquet").read_bytes()
    (folder / "dialogues.parquet").write_bytes(raw[:-20])
    with pytest.raises(DataError, match="is damaged: .*Import the data again or restore the folder.$"):
        Dataset.open(folder)


@pytest.mark.parametrize("name", ["talk.parquet", "talk.jsonl"])
def test_a_table_of_turns_is_imported_from_a_file(tmp_path, name):
    table = pa.table(one(part=["train", "train", "test"], items=[["i1"], ["i2"], ["i1"]]))
    if name.endswith("parquet"):
        pq.write_table(table, tmp_path / name)
    else:
        import polars as pl

        pl.from_arrow(table).write_ndjson(tmp_path / name)
    data = import_files(tmp_path / name, form="dialogues")
    assert data.test.relevant.to_lists() == [[0]]
    assert data.train.dialogues.texts().to_pylist() == ["Heat?\nRonin."]


def test_what_a_file_of_turns_cannot_be_is_told(tmp_path):
    file = tmp_path / "talk.jsonl"
    file.write_text('{"dialogue": 1, "role": "recommender", "text": "Ronin.", "items": ["i2"]}\n')
    (tmp_path / "items.csv").write_text("id\ni1\n")
    for options, message in (
        ({"test": file}, "holds dialogues, whose parts stand beside their turns. Name them there: train, valid, test."),
        (
            {"columns": {"user": "x"}},
            "--columns cannot name the columns of turns. Call them dialogue, role, text, items.",
        ),
        ({"items": tmp_path / "items.csv"}, "row 1: item 'i2' is not in .*items.csv .1 unknown in all."),
    ):
        with pytest.raises(DataError, match=message):
            import_files(file, form="dialogues", **options)
    added = import_files(file, form="dialogues", items=tmp_path / "items.csv", unknown="add")
    assert added.dialogues.mentions().to_lists() == [[1]]
    dropped = import_files(file, form="dialogues", items=tmp_path / "items.csv", unknown="drop")
    assert dropped.dialogues.mentions().to_lists() == [[]]
    with pytest.raises(DataError, match="talk.csv cannot hold lists of items. Give turns as Parquet or JSON lines."):
        import_files(tmp_path / "talk.csv", form="dialogues")


def test_any_system_is_evaluated_on_cases():
    from itemic.evaluation import evaluate
    from itemic.systems.baselines.ease import EASE
    from itemic.systems.baselines.popularity import Popularity

    talk = [
        [("user", [(n % 3, None)], part), ("recommender", [(n % 3 + 3, 1)], part)]
        for part in ("train", "test")
        for n in range(12)
    ]
    data = Dataset.from_dialogues(frame(talk), items=ITEMS)
    popular, linked = (evaluate(kind().fit(data.train), data.test, "recall@1") for kind in (Popularity, EASE))
    assert linked["recall@1"] == 1  # each answer belongs to one question
    assert popular["recall@1"] < 0.5
    assert linked.split == "dialogues"
    assert isinstance(data.test.query.dialogue, Dialogues)
