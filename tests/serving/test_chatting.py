"""A conversation over HTTP: what comes in which order, what is refused, and what is never named."""

import json
import time

import pytest
from fastapi.testclient import TestClient
from transformers import Qwen3Config, Qwen3ForCausalLM

from itemic.data import Dataset
from itemic.encoders.vocabulary import Vocabulary
from itemic.registry import find
from itemic.serving.app import make_app
from itemic.serving.config import read_config
from itemic.serving.keys import new_key
from itemic.serving.service import Service
from itemic.serving.stores import open_store

TITLES = [f"{colour} Lamp {n}" for n in range(6) for colour in ("Amber", "Birch")]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """One that talks, of lamps of two colours that people stay with, and one that does not."""
    words = tmp_path_factory.mktemp("words")
    cutter = Vocabulary.readable([*TITLES * 5, "somebody said so"], 280)
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "head_dim": 16}
    heads = {"num_attention_heads": 1, "num_key_value_heads": 1}
    network = Qwen3Config(vocab_size=len(cutter), bos_token_id=None, eos_token_id=cutter.end, **small, **heads)
    Qwen3ForCausalLM(network).save_pretrained(words)
    (words / "tokenizer.json").write_text(cutter.description)
    rows = [
        (user, item, time) for user in range(12) for time, item in enumerate(range(user % 2, 12, 2)) if time != user
    ]
    items = {"item": list(range(12)), "title": TITLES, "colour": [title.split()[0] for title in TITLES]}
    data = Dataset.from_frame(dict(zip(("user", "item", "time"), zip(*rows))), items=items, name="lamps")
    brief = {"epochs": 2, "batch_size": 20, "warmup": 1}
    options = {"dim": 32, "layers": 1, "heads": 2, "n_queries": 2, "vocabulary": 60, "fields": ["colour"]}
    talker = find("ilm")(lm={"model": str(words)}, behaviour={"dim": 4}, answer="geometry", phase1=brief, **options)
    return {"knn": find("itemknn")().fit(data), "lamps": talker.fit(data)}


@pytest.fixture
def chatting(models, tmp_path):
    """A function that gives a client of a service of these models."""
    services = []

    def run(*names, **options):
        store = open_store(tmp_path / "events.db")
        service = Service(read_config(None, {}, **options), {name: models[name] for name in names}, store)
        services.append((service, store))
        return TestClient(make_app(service))

    yield run
    for service, store in services:
        service.close()
        store.close()


def asked(client, *messages, **more):
    turns = [{"role": role, "text": text} for role, text in messages]
    answer = client.post("/v1/chat", json={"messages": turns, **more})
    if answer.status_code != 200:
        return answer.status_code, answer.json()["detail"]
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = [part.split("\n") for part in answer.text.split("\n\n") if part]
    return [(name.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for name, data in events]


def test_pieces_come_first_and_the_list_that_they_drew_from_last(chatting, models, monkeypatch):
    client = chatting("knn", "lamps")
    assert client.get("/v1/ready").json()["chat"] == ["lamps"]
    assert [one["chats"] for one in client.get("/v1/models").json()["models"]] == [False, True]
    *said, (last, shown) = asked(client, ("user", "I liked Amber Lamp 1."), k=3)
    assert (last, len(shown["items"])) == ("list", 3)
    first = shown["items"][0]
    assert first["title"] == TITLES[int(first["item"])]
    assert "".join(piece["text"] for _, piece in said) == f"You could try {first['title']}: {first['reason']}"
    assert "2" not in {one["item"] for one in shown["items"]}  # what was named does not come again

    monkeypatch.setattr(type(models["lamps"]), "speaks", True)
    monkeypatch.setattr(type(models["lamps"]), "reply", lambda *_: iter(["Take", " Birch La", "mp 5", ". Or ", "not."]))
    *said, (last, shown) = asked(client, ("user", "I liked Amber Lamp 1."), k=3)
    pieces = [piece["text"] for name, piece in said if name == "text"]
    assert pieces[0] == "Take"
    allowed = "Birch Lamp 5" in {one["title"] for one in shown["items"]}
    assert ("Birch Lamp 5" in "".join(pieces)) == allowed


def test_a_long_answer_may_take_its_time_from_piece_to_piece(chatting, models, monkeypatch):
    def slowly(pause):
        def reply(*_):
            for piece in ("Take ", "whatever ", "you ", "like, ", "or ", "not."):
                time.sleep(pause)
                yield piece

        return reply

    client = chatting("lamps", timeout=1)
    asked(client, ("user", "I liked Amber Lamp 1."))  # what is made at the first request
    monkeypatch.setattr(type(models["lamps"]), "speaks", True)
    monkeypatch.setattr(type(models["lamps"]), "reply", slowly(0.25))
    *_, (last, _) = asked(client, ("user", "I liked Amber Lamp 1."))
    assert last == "list"


def test_what_was_said_before_and_what_a_user_did_count(chatting):
    client = chatting("lamps")
    turns = [("user", "Hello"), ("assistant", "You could try Amber Lamp 0."), ("user", "Amber Lamp 2 was good.")]
    _, (_, shown) = asked(client, *turns, k=12)
    assert not {"0", "4"} & {one["item"] for one in shown["items"]}
    _, (_, known) = asked(client, ("user", "Hello"), k=12, user="3")
    assert not {"1", "3", "5", "9", "11"} & {one["item"] for one in known["items"]}
    client.post("/v1/items/delete", json={"items": ["6"]})
    _, (_, shown) = asked(client, *turns, k=12)
    assert "6" not in {one["item"] for one in shown["items"]}


def test_what_is_wrong_is_told_before_anything_is_said(chatting, tmp_path):
    client = chatting("knn", "lamps", limits={"history": 2})
    hello = ("user", "Hello")
    assert asked(client, ("recommender", "Hello")) == (
        422,
        "messages end with a turn of the recommender. End with one of the user.",
    )
    assert asked(client, hello, k=13) == (422, "k is 13; the catalogue has 12 items. Ask for 1 to 12.")
    assert asked(client, hello, hello, hello) == (422, "messages is 3; at most 2 are taken at once. Give fewer.")
    assert asked(client, hello, model="lamp") == (
        422,
        "'lamp' does not talk. Did you mean 'lamps'? Those that do: lamps.",
    )
    assert asked(client, ("system", "Obey"))[0] == 422
    status, told = asked(chatting("knn"), hello)
    assert (status, told.split(".")[0]) == (422, "no model that is served can hold a conversation")
    key = new_key(open_store(tmp_path / "events.db"), "reader", "read")
    guarded = chatting("lamps")
    assert asked(guarded, hello)[0] == 401
    guarded.headers["authorization"] = f"Bearer {key}"
    assert asked(guarded, hello)[-1][0] == "list"
