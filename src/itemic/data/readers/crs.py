"""Sets for conversational recommendation as they stand in $ITEMIC_DATA: OpenDialKG, and ReDial whole and as cases.

A case is what was said before a recommendation, what was named in it, and the recommendation. The cases of a dialogue
repeat its beginning; here the dialogue is put together again, and each turn is of the part of the next case.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from itemic.data.matching import title_and_year
from itemic.data.readers.redial import SAID
from itemic.data.readers.source import Source
from itemic.data.readers.tables import readable
from itemic.data.readers.titles import clean, film_table, placed, with_titles
from itemic.errors import DataError

WHOLE, FORMS = "valid.parquet", "valid_item_forms.parquet"
TRAINING = "crs-redial-dialogues"
"""The folder of the dialogues that crs-redial is trained on, beside it."""
ROLES = {"seeker": "user", "recommender": "recommender"}


def read_opendialkg(folder: Path) -> Source:
    """Dialogues about films and books, in the parts of the files, which divide dialogues between their turns.

    Items are the candidates, with people, genres, languages and years; what else is recommended is left out.
    """
    described = {fact["name"]: fact for fact in _json(folder / "id2info.json.gz").values()}
    names = {code: name for name, code in _json(folder / "entity2id.json.gz").items()}
    codes = {names[code]: code for code in _json(folder / "item_ids.json.gz")}
    years = [described[title].get("year") for title in codes]
    columns: dict[str, Any] = {"id": list(codes.values()), "title": list(codes)}
    columns["year"] = pa.array([int(year) if year else None for year in years], pa.int32())
    for name in ("genre", "director", "actor", "writer", "language"):
        columns[name] = [list(dict.fromkeys(described[title].get(name, ()))) for title in codes]
    cases = {part: _cases(folder / f"{part}.jsonl.gz") for part in ("train", "valid", "test")}
    return _source(folder, columns, rebuilt(cases, codes), ["title", "genre", "director", "actor", "writer"])


def read_redial_cases(folder: Path) -> Source:
    """ReDial in two parts: for training the dialogues of the folder crs-redial-dialogues beside this one, and the test.

    The validation cases are left out: they are of the same dialogues as those for training. Items are the candidates,
    with genres, plots, people and IMDb ids; the few films of the training dialogues that are none of them are left out.

    Raises:
        DataError: the dialogues for training are not there.
    """
    if not (folder.parent / TRAINING).is_dir():
        raise DataError(f"{folder} holds no dialogues to train on. Put the folder {TRAINING} beside it.")
    films: dict[str, dict[str, Any]] = {}
    ids = {}
    for film, facts in _json(folder / "id2info.json.gz").items():
        ids[int(film)] = films.setdefault(facts["name"], {"id": int(film), **facts})["id"]  # 7 names are there twice
    columns: dict[str, Any] = {"id": [facts["id"] for facts in films.values()], "title": list(films)}
    columns["year"] = pa.array([title_and_year(title)[1] for title in films], pa.int32())
    for name in ("genre", "director", "star", "writer", "plot", "imdb_id"):
        columns[name] = [facts[name] or None for facts in films.values()]
    turns = [{**turn, "part": "train"} for turn in _whole(folder.parent / TRAINING, ids)]
    turns += rebuilt({"test": _cases(folder / "test.jsonl.gz")}, {name: facts["id"] for name, facts in films.items()})
    return _source(folder, columns, turns, ["title", "genre", "director", "star", "plot"])


def read_redial_dialogues(folder: Path) -> Source:
    """1,000 dialogues of ReDial with all their turns and what was liked, by the seeker's form or the recommender's."""
    titles = _titles(_rows(folder / WHOLE), _rows(folder / FORMS))
    return _source(folder, film_table(titles), _whole(folder, {film: film for film in titles}), ["title"])


def rebuilt(cases: Mapping[str, Iterable[Mapping[str, Any]]], items: Mapping[str, int]) -> list[dict[str, Any]]:
    """The turns of the dialogues whose cases these are, by part; `items` are the ids of what may be named.

    The answer of a case is a recommender's turn; turns between answers are taken to alternate, backwards from the later
    one. What was named since the last answer is put where the text has it, else to the turn of what was named before.

    Raises:
        DataError: two cases of a dialogue do not begin alike.
    """
    dialogues: dict[Any, list[dict[str, Any]]] = {}
    for part, listed in cases.items():
        for case in listed:
            said = [text for text in case["context"] if text]  # one of ReDial begins with "" if the recommender begins
            dialogues.setdefault(case["dialog_id"], []).append({**case, "context": said, "part": part})
    return [turn for number, found in dialogues.items() for turn in _rebuilt(number, found, items)]


def _rebuilt(number: Any, cases: list[dict[str, Any]], items: Mapping[str, int]) -> list[dict[str, Any]]:
    cases = sorted(cases, key=lambda case: len(case["context"]))
    texts = [*cases[-1]["context"], cases[-1]["resp"]]
    turns: list[dict[str, Any]] = [{"dialogue": str(number), "turn": n, "text": text} for n, text in enumerate(texts)]
    names: list[list[str]] = [[] for _ in texts]
    n_recommended, begin, known = [0] * len(texts), 0, 0
    for case in cases:
        answer = len(case["context"])
        if texts[: answer + 1] != [*case["context"], case["resp"]]:
            raise DataError(f"dialogue {number!r}: its case {case['turn_id']} does not begin as the last one does.")
        _put(names, texts, case["entity"][known:], range(max(begin - 1, 0), answer), items)
        names[answer] = [name for name in case["rec"] if name in items]
        n_recommended[answer] = len(names[answer])
        for turn in range(begin, answer + 1):
            turns[turn] |= {"role": "user" if (answer - turn) % 2 else "recommender", "part": case["part"]}
        begin, known = answer + 1, len(case["entity"])
    for turn, named, n in zip(turns, names, n_recommended):
        places = placed(turn["text"], named)
        turn |= {
            "items": [items[name] for name in named],
            "starts": [start for start, _ in places],
            "ends": [end for _, end in places],
            "liked": [None] * len(named),
            "recommended": [place < n for place in range(len(named))],
        }
    return turns


def _put(names: list[list[str]], texts: list[str], entities: list[str], turns: range, items: Mapping[str, int]) -> None:
    """Adds to `names` the items named in these turns, of which the first is the last answer."""
    turn, recommended = turns.start, list(names[turns.start])
    for name in entities:
        if name not in items:
            continue
        if turn == turns.start and name in recommended:
            recommended.remove(name)  # it is there already
            continue
        turn = next((t for t in range(turn, turns.stop) if placed(texts[t], [*names[t], name])[-1][0] >= 0), turn)
        names[turn].append(name)


def _whole(folder: Path, ids: Mapping[int, int]) -> list[dict[str, Any]]:
    """The turns of the whole dialogues; films have the ids that `ids` give them, others are not mentions."""
    rows, forms = _rows(folder / WHOLE), _rows(folder / FORMS)
    titles, liked = _titles(rows, forms), {}
    for form in forms:
        said = form["seeker_liked"] if form["seeker_liked"] is not None else form["recommender_liked"]
        liked[form["dialogue_id"], form["item_id"]] = SAID.get(said)
    turns = []
    for row in rows:
        said = with_titles(row["text"], {film: titles[film] for film in row["item_ids"]})
        named = [n for n, film in enumerate(said["items"]) if film in ids]
        turns.append(
            {
                "dialogue": str(row["dialogue_id"]),
                "turn": row["turn"],
                "role": ROLES[row["role"]],
                "text": said["text"],
                "items": [ids[said["items"][n]] for n in named],
                "starts": [said["starts"][n] for n in named],
                "ends": [said["ends"][n] for n in named],
                "liked": [liked.get((row["dialogue_id"], said["items"][n])) for n in named],
                "recommended": [row["role"] == "recommender"] * len(named),
            }
        )
    return turns


def _titles(rows: list[dict[str, Any]], forms: list[dict[str, Any]]) -> dict[int, str | None]:
    """The title of each film that is named, or asked about in a form."""
    named = [named for row in rows for named in zip(row["item_ids"], row["item_names"])]
    return {film: clean(title) for film, title in (*((f["item_id"], f["item_name"]) for f in forms), *named)}


def _source(folder: Path, items: dict[str, Any], turns: list[dict[str, Any]], text: list[str]) -> Source:
    roles = {"title": ["title"], "text": text}
    table = pa.Table.from_pylist(turns)
    return Source(pa.table({}), f"the turns of {folder}", items=pa.table(items), roles=roles, turns=table, repeats=True)


def _rows(file: Path) -> list[dict[str, Any]]:
    with readable(file):
        return pq.read_table(file).to_pylist()


def _cases(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in _text(file).split("\n") if line]


def _json(file: Path) -> Any:
    return json.loads(_text(file))


def _text(file: Path) -> str:
    with readable(file), pa.input_stream(str(file), compression="detect") as stream:
        return stream.read().decode()
