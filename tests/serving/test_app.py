"""The service as a client meets it: what it answers, takes, refuses, and how fresh it is."""

import asyncio
import http.client
import json
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from itemic.errors import ConfigError
from itemic.serving.client import Client, Event, ServiceError
from itemic.serving.keys import new_key
from itemic.serving.stores import Event as Happened


def refused(call, *args, **told):
    with pytest.raises(ServiceError) as caught:
        call(*args, **told)
    return caught.value.status, str(caught.value)


def items(answer):
    return [one.item for one in answer.items]


def test_it_answers_as_its_models_do(serving, models):
    with serving() as shop:
        model = models["itemknn"]
        expected = model.rank(model.ask(users=[3]), 7)
        answer = shop.recommend("3", k=7)
        assert items(answer) == [str(code) for code in expected.items[0]]
        assert [one.score for one in answer.items] == pytest.approx(expected.scores[0].tolist())
        assert answer.items[0].title == model.catalogue.items.titles(expected.items[0])[0]
        assert (answer.model, answer.reasons, answer.items[0].source) == ("itemknn", [], "itemknn")
        by_history = model.rank(model.ask(histories=[[1, 5, 9]]), 4)
        assert items(shop.recommend(history=["1", "5", "9"], k=4)) == [str(code) for code in by_history.items[0]]
        words = models["contentknn"].rank(models["contentknn"].ask(histories=[[1, 5, 9]]), 4)
        assert items(shop.recommend(history=["1", "5", "9"], k=4, model="contentknn")) == [
            str(c) for c in words.items[0]
        ]
        ranked = shop.rank(["0", "1", "2", "nothing"], history=["5", "9", "13"])
        assert (items(ranked)[0], sorted(items(ranked))) == ("1", ["0", "1", "2"])
        assert shop.similar("4", k=3).items[0].item not in ("4",)
        basket = shop.complete(["1", "5"], k=3)
        assert not {"1", "5"} & set(items(basket))
        assert basket.reasons == ["itemknn read the basket as a history"]


def test_who_shows_nothing_gets_what_trends(serving):
    with serving() as shop:
        nothing = shop.recommend(history=[], k=3)
        assert {one.source for one in nothing.items} == {"trending"}
        assert nothing.reasons == ["trending spoke for others that had too little"]
        shop.add_events([Event(f"u{n}", "17", f"e{n}") for n in range(30)])
        assert items(shop.recommend("somebody new", k=1)) == ["17"]


def test_filters_hold(serving):
    with serving() as shop:
        answer = shop.recommend("3", k=40, where='"group" = 2', exclude=["2", "6"])
        assert {int(item) % 4 for item in items(answer)} == {2}
        assert not {"2", "6"} & set(items(answer))
        seen = set(shop.user("3")["history"])
        assert not seen & set(items(shop.recommend("3", k=40)))


def test_many_at_once_get_what_each_gets_alone(serving):
    with serving() as shop:
        users = [str(n) for n in range(60)] * 3
        alone = {user: items(shop.recommend(user, k=5)) for user in set(users)}
        sizes, answer = [], shop.service.gatherer._answer
        shop.service.gatherer._answer = lambda key, asked: (sizes.append(len(asked)), answer(key, asked))[1]
        with ThreadPoolExecutor(16) as pool:
            together = list(pool.map(lambda user: items(shop.recommend(user, k=5)), users))
        assert together == [alone[user] for user in users]
        assert sum(sizes) == len(users)
        assert max(sizes) > 1


def test_an_event_is_in_the_next_answer_and_survives(serving, models):
    with serving() as shop:
        before = items(shop.recommend("3", k=5))
        assert shop.add_event("3", before[0], id="e1", time=1) == {"accepted": 1, "repeated": 0, "unknown_items": 0}
        after = items(shop.recommend("3", k=5))
        assert before[0] not in after
        assert shop.add_event("3", before[1], id="e1") == {"accepted": 0, "repeated": 1, "unknown_items": 0}
        assert items(shop.recommend("3", k=5)) == after
        for item in ("2", "6", "10", "14"):
            shop.add_event("new", item)
        liked = items(shop.recommend("new", k=4))
        assert sum(int(item) % 4 == 2 for item in liked) >= 3
        assert shop.add_event("new", "not there")["unknown_items"] == 1
    with serving() as shop:
        assert items(shop.recommend("3", k=5)) == after
        assert items(shop.recommend("new", k=4)) == liked


def test_an_event_that_comes_late_stands_where_it_happened(serving):
    with serving() as shop:
        shop.add_events([Event("u", "1", "a", 30), Event("u", "2", "b", 10), Event("u", "3", "c", 20)])
        assert shop.user("u")["history"] == ["2", "3", "1"]
    with serving() as shop:
        assert shop.user("u")["history"] == ["2", "3", "1"]


def test_a_new_item_is_found_at_once_and_a_deleted_one_never_again(serving):
    with serving() as shop:
        taken = shop.put_items({"100": {"title": "item 100 of group 2", "group": 2, "colour": "red"}})
        assert taken == {"new": 1, "changed": 0, "not_ranked_by": ["itemknn"]}
        by_words = {"history": ["2", "6"], "k": 40, "model": "contentknn"}
        assert "100" in items(shop.recommend(**by_words, where='"group" = 2'))
        assert items(shop.search("item 100"))[0] == "100"
        assert shop.item("100") == {"title": "item 100 of group 2", "group": 2, "colour": "red"}
        assert shop.add_event("new", "100")["unknown_items"] == 0
        assert shop.put_items({"6": {"title": "other", "group": 9}})["changed"] == 1
        assert items(shop.recommend(history=["2"], k=40, where='"group" = 9')) == ["6"]
        assert shop.delete_items(["100", "4", "nothing"]) == {"deleted": 2}
    with serving() as shop:  # and after starting again
        everything = items(shop.recommend(**by_words)) + items(shop.recommend(history=["0", "8"], k=40))
        assert not {"100", "4"} & {*everything, *items(shop.similar("8", k=39)), *items(shop.search("item", k=40))}
        assert refused(shop.item, "100") == (404, "there is no item '100'.")
        assert shop.item("6") == {"title": "other", "group": 9}
        shop.put_items({"100": {"title": "item 100 of group 2", "group": 2}})
        assert "100" in items(shop.recommend(**by_words, where='"group" = 2'))


def test_a_deleted_item_is_in_no_answer_that_begins_after_it_is_deleted(serving):
    with serving() as shop:
        gone, wrong, stop = set(), [], threading.Event()

        def ask(user):
            while not stop.is_set():
                before = set(gone)
                wrong.extend(before & set(items(shop.recommend(user, k=20))))

        with ThreadPoolExecutor(6) as pool:
            for n in range(6):
                pool.submit(ask, str(n))
            for item in range(0, 40, 3):
                shop.delete_items([str(item)])
                gone.add(str(item))
            stop.set()
        assert wrong == []
        assert not gone & set(items(shop.recommend("7", k=40)))


def test_a_user_is_forgotten_at_once_and_for_good(serving):
    with serving() as shop:
        shop.add_event("3", "7", id="e1")
        shop.recommend("3")
        known = shop.user("3")
        assert (known["events"][0]["item"], len(known["impressions"]), len(known["history"]) > 1) == ("7", 1, True)
        assert shop.delete_user("3") == {"events": 1, "impressions": 1}
        assert refused(shop.user, "3") == (404, "nothing is known of a user '3'.")
        assert {one.source for one in shop.recommend("3", k=3).items} == {"trending"}
    with serving() as shop:
        assert {one.source for one in shop.recommend("3", k=3).items} == {"trending"}


def test_a_list_under_way_when_its_user_is_deleted_is_logged_for_nobody(serving):
    with serving() as shop:
        service, gate = shop.service, threading.Event()

        async def both():
            service.thread.submit(gate.wait)
            asking = asyncio.create_task(service.recommend(None, "3", service.asked("3", None, 2)))
            await asyncio.sleep(0.05)
            await service.delete_user("3")
            gate.set()
            return await asking

        answer = shop.within(both())
        service.store.flush().result()
        assert [(one.id, one.user) for one in service.store.impressions()] == [(answer["id"], None)]
        assert refused(shop.user, "3") == (404, "nothing is known of a user '3'.")


def test_events_and_the_deletion_of_their_user_count_in_the_order_in_which_they_were_stored(serving):
    async def told(*work):
        await asyncio.gather(*work)

    with serving() as shop:
        add, delete = shop.service.add_events, shop.service.delete_user
        shop.within(told(add([Happened("e1", "ann", "7", 1)]), delete("ann")))
        assert refused(shop.user, "ann") == (404, "nothing is known of a user 'ann'.")
        of_bob = [Happened(f"e{n}", "bob", str(5 + n), n) for n in (2, 3)]
        shop.within(told(add(of_bob[:1]), delete("bob"), add(of_bob[1:])))
        known = shop.user("bob")
        assert (known["history"], [event["id"] for event in known["events"]]) == (["8"], ["e3"])


def test_an_item_deleted_while_it_is_being_taken_in_is_gone(serving, monkeypatch):
    with serving(only=["contentknn"]) as shop:
        service, deleted = shop.service, []
        stored = service.store.put_items

        def and_deleted(given):
            done = stored(given)
            deleted.append(asyncio.get_running_loop().create_task(service.delete_items(list(given))))
            return done

        async def both():
            await service.put_items({"99": {"title": "item 99", "group": 3}})
            await deleted[-1]

        monkeypatch.setattr(service.store, "put_items", and_deleted)
        for _ in range(3):  # a new item, and then one that comes back
            shop.within(both())
            assert refused(shop.item, "99")[0] == 404
            assert "99" not in items(shop.search("item 99", k=40))
        monkeypatch.undo()
        shop.put_items({"99": {"title": "item 99", "group": 3}})
        assert items(shop.search("item 99", k=1)) == ["99"]


def test_what_took_too_long_to_be_answered_is_done_whole(serving):
    with serving(timeout=0.2) as shop:
        gate = threading.Event()
        shop.service.store._change(lambda run: gate.wait())
        said = "it took longer than 0.2 s. Send less, or try again later."
        assert refused(shop.add_event, "ann", "7", id="e1") == (503, said)
        assert refused(shop.put_items, {"99": {"title": "item 99", "group": 3}}) == (503, said)
        gate.set()
        assert shop.add_event("ann", "7", id="e1")["repeated"] == 1
        assert shop.user("ann")["history"] == ["7"]
        assert shop.put_items({"99": {"title": "item 99", "group": 3}}) == {
            "new": 0,
            "changed": 1,
            "not_ranked_by": ["itemknn"],
        }


def test_what_was_shown_is_logged_with_its_propensities(serving):
    pipelines = {"main": {"sources": {"itemknn": {"n": 20}}, "fallback": [], "temperature": 0.5, "seed": 1}}
    with serving(pipelines=pipelines) as shop:
        answer = shop.recommend("3", k=4)
        assert all(0 < one.propensity < 1 for one in answer.items)
        shop.add_event("3", answer.items[0].item, impression=answer.id)
        (shown,) = shop.user("3")["impressions"]
        assert (shown["id"], shown["items"], shown["model"]) == (answer.id, items(answer), "main")
        assert shown["propensities"] == pytest.approx([one.propensity for one in answer.items])
        assert shop.user("3")["events"][0]["impression"] == answer.id


def test_search_finds_words_and_follows_tastes(serving):
    with serving() as shop:
        assert items(shop.search("ITEM 7", k=1)) == ["7"]
        assert {int(item) % 4 for item in items(shop.search("group 3", k=10, where='"group" = 3'))} == {3}
        plain = items(shop.search("item", k=12))
        liked = items(shop.search("item", history=["2", "6", "10", "14"], k=12))
        assert sum(int(item) % 4 == 2 for item in liked) > sum(int(item) % 4 == 2 for item in plain)
        assert shop.search("zzz").items == []


def test_an_explanation_names_the_history_and_what_is_shared(serving):
    with serving() as shop:
        told = shop.explain("10", history=["2", "6", "1"])
        assert told["because"][0]["item"] in ("2", "6")
        assert sum(one["share"] for one in told["because"]) == pytest.approx(1, abs=0.01)
        assert told["shared"]["group"] == {"value": 2, "items": 2}


def test_mistakes_are_told_with_their_field_and_the_mend(serving):
    with serving() as shop:
        assert refused(shop.recommend, "3", k=41) == (422, "k is 41; the catalogue has 40 items. Ask for 1 to 40.")
        assert refused(shop.recommend, "3", k=5000)[1] == "k is 5,000; at most 1,000 are taken at once. Give fewer."
        assert refused(shop.recommend) == (422, "the body: give a user, or a history, which may be empty")
        said = "there is no model 'itemkn'. Did you mean 'itemknn'? Models: itemknn, contentknn."
        assert refused(shop.recommend, "3", model="itemkn") == (422, said)
        assert "cannot apply where 'grp = 1': unable to find column" in refused(shop.recommend, "3", where="grp = 1")[1]
        assert refused(shop.recommend, history=["zz"])[1].startswith("none of the items of the history, such as 'zz'")
        assert refused(shop.similar, "zz") == (404, "there is no item 'zz'.")
        assert refused(shop.put_items, {"a": {}}) == (
            422,
            "item ids are integers here, not text as 'a'. Give integers.",
        )
        said = "attribute 'group' holds int64; 'x' does not fit. Mend it."
        assert refused(shop.put_items, {"99": {"group": "x"}}) == (422, said)
        with pytest.raises(ServiceError) as caught:
            shop.call("POST", "/v1/recommend", {"usr": "3", "k": "x"})
        assert caught.value.errors == [
            {"field": "k", "detail": "Input should be a valid integer"},
            {"field": "usr", "detail": "there is no such field. Did you mean 'user'? Fields: user, history, model, k, "
             "where, exclude."},
        ]  # fmt: skip
        assert refused(shop.call, "GET", "/v1/nothing") == (404, "there is nothing at /v1/nothing. See /docs.")
        assert refused(shop.call, "GET", "/v1/recommend") == (405, "this path takes another method. See /docs.")


def raw(shop, body, path="/v1/recommend", **headers):
    connection = http.client.HTTPConnection(shop.url.removeprefix("http://"), timeout=10)
    connection.request("POST", path, body, {"Content-Type": "application/json", **headers})
    response = connection.getresponse()
    return response, response.read()


GOOD = {
    "recommend": {"user": "3", "history": ["1"], "k": 3, "where": "id > 3", "exclude": ["2"], "model": "itemknn"},
    "rank": {"user": "3", "candidates": ["1", "2"]},
    "similar": {"item": "3", "k": 2},
    "complete": {"basket": ["1", "2"], "k": 2},
    "search": {"text": "item", "user": "3", "k": 2, "where": "id > 3"},
    "explain": {"user": "3", "item": "1", "k": 2},
    "events": {"id": "e", "user": "3", "item": "1", "time": 5, "kind": "view", "weight": 1.5, "impression": "x"},
    "events/bulk": {"events": [{"id": "e", "user": "3", "item": "1"}]},
    "items": {"items": [{"id": "1", "attributes": {"title": "item 1", "group": 1}}]},
    "items/delete": {"items": ["999"]},
}
ODD = [
    None,
    True,
    -1,
    0,
    10**30,
    0.5,
    float("nan"),
    float("inf"),
    "",
    "x" * 300,
    "\x00",
    "\ud800",
    "' OR 1 = 1 --",
    "é",
    [],
    {},
]
ODD += [["1", None], [[]], {"a": {}}, [["1"] * 9], {"": 1}, "(" * 900, "id > ", "id", "1", "sum(id) > 2", [""] * 1001]


def spoiled(document, rng):
    """The document with one thing in it that does not belong there."""
    if isinstance(document, dict) and document and rng.random() < 0.8:
        name = rng.choice(list(document))
        change = rng.integers(4)
        if change == 0:
            return {key: value for key, value in document.items() if key != name}
        if change == 1:
            return {**document, str(rng.choice(["K", "usr", "__proto__", ""])): 1}
        return {**document, name: spoiled(document[name], rng)}
    if isinstance(document, list) and document and rng.random() < 0.5:
        return [*document, spoiled(document[0], rng)]
    return ODD[rng.integers(len(ODD))]


@pytest.mark.parametrize("n", [500, pytest.param(10_000, marks=pytest.mark.slow)])
def test_malformed_bodies_give_problems_and_no_failure(serving, n):
    rng = np.random.default_rng(0)
    with serving() as shop:
        connection = http.client.HTTPConnection(shop.url.removeprefix("http://"), timeout=10)
        wrong = 0
        for path in rng.choice(list(GOOD), n):
            body = json.dumps(spoiled(GOOD[path], rng)).encode()
            if rng.random() < 0.1:
                body = bytes(rng.permutation(np.frombuffer(body, np.uint8)))
            connection.request("POST", f"/v1/{path}", body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            said = response.read()
            assert response.status < 500, body
            if response.status >= 400:
                wrong += 1
                assert response.headers["content-type"] == "application/problem+json"
                assert b"Traceback" not in said
                assert json.loads(said)["status"] == response.status
        assert wrong > n / 2
        for path, body in GOOD.items():
            assert shop.call("POST", f"/v1/{path}", body), path


def test_bodies_and_lists_have_limits(serving):
    with serving(limits={"body": 2000, "bulk": 2, "history": 3}) as shop:
        response, said = raw(shop, b"x" * 3000)
        assert (response.status, json.loads(said)["detail"]) == (
            413,
            "the body has more than 2,000 bytes. Send less at once.",
        )
        response, said = raw(shop, iter([b"x" * 1500] * 2))  # in chunks, without a length
        assert response.status == 413
        assert refused(shop.recommend, history=["1"] * 4)[1] == "history is 4; at most 3 are taken at once. Give fewer."
        assert refused(shop.delete_items, ["1"] * 3)[1] == "items is 3; at most 2 are taken at once. Give fewer."
        assert refused(shop.recommend, "x" * 201)[1] == "user: String should have at most 200 characters"


def test_keys_are_asked_for_once_there_are_any(serving, monkeypatch):
    monkeypatch.setattr("itemic.serving.keys.FRESH", 0.0)
    with serving() as shop:
        assert shop.recommend("3").items
        secrets = {scope: new_key(shop.service.store, scope, scope) for scope in ("read", "write", "admin")}
        assert refused(shop.recommend, "3") == (401, "a key is needed. Send it as Authorization: Bearer KEY.")
        assert shop.call("GET", "/v1/health")["status"] == "ok"
        wrong = Client(shop.url, "itemic_wrong")
        assert refused(wrong.recommend, "3")[1] == "this key is not known. Send it as Authorization: Bearer KEY."
        reader, writer, admin = (Client(shop.url, secrets[scope]) for scope in ("read", "write", "admin"))
        assert reader.recommend("3").items
        assert refused(reader.add_event, "3", "1") == (403, "the key 'read' may read; this needs one that may write.")
        assert refused(reader.delete_items, ["1"])[0] == 403
        assert writer.add_event("3", "1")["accepted"] == 1
        assert refused(writer.user, "3") == (403, "the key 'write' may write; this needs one that may admin.")
        assert admin.user("3")["events"]
        assert not any(
            secret in shop.service.store.database.path.read_bytes().decode("latin-1") for secret in secrets.values()
        )


def test_a_key_may_ask_so_often_and_no_more(serving):
    with serving(limits={"rate": 2}) as shop:
        told = [raw(shop, b'{"user":"3"}')[0] for _ in range(8)]
        assert [response.status for response in told[:4]] == [200] * 4
        assert told[-1].status == 429
        assert told[-1].headers["retry-after"] == "1"
        assert shop.call("GET", "/v1/health")


def test_headers_are_safe_and_other_pages_may_not_ask(serving):
    with serving() as shop:
        response, _ = raw(shop, b'{"user":"3"}', Origin="https://elsewhere.example")
        assert response.headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in response.headers["content-security-policy"]
        assert response.headers["access-control-allow-origin"] is None
        assert response.headers["server"] in (None, "uvicorn")
    with serving(cors=["https://shop.example"]) as shop:
        response, _ = raw(shop, b'{"user":"3"}', Origin="https://shop.example")
        assert response.headers["access-control-allow-origin"] == "https://shop.example"


def test_a_failure_is_told_without_its_trace(serving, caplog):
    with serving() as shop:
        shop.service.recommend = None
        assert refused(shop.recommend, "3") == (500, "something went wrong here; the log of the service says what.")
        assert "TypeError" in caplog.text
    with serving(timeout=0.2) as shop:
        held = threading.Event()
        shop.service.thread.submit(held.wait)
        assert refused(shop.recommend, "3") == (503, "it took longer than 0.2 s. Send less, or try again later.")
        held.set()


def test_counts_are_told_to_prometheus(serving):
    with serving() as shop:
        shop.recommend("3")
        shop.add_event("3", "1")
        connection = http.client.HTTPConnection(shop.url.removeprefix("http://"))
        connection.request("PURGE", "/v1/health")
        connection.getresponse().read()
        connection.request("GET", "/v1/metrics")
        text = connection.getresponse().read().decode()
        assert 'itemic_requests_total{method="POST",route="/v1/recommend",status="200"} 1.0' in text
        assert 'itemic_requests_total{method="other",route="/v1/health",status="405"} 1.0' in text
        assert "itemic_events_total 1.0" in text
        assert "itemic_items 40.0" in text


def test_the_description_has_every_path_with_examples(serving):
    with serving() as shop:
        described = shop.call("GET", "/openapi.json")
        assert {path.removeprefix("/v1/") for path in described["paths"]} >= set(GOOD)
        assert described["components"]["schemas"]["Recommend"]["examples"]
        assert shop.ready()["models"] == ["itemknn", "contentknn"]


def test_a_client_says_when_nobody_is_there():
    status, said = refused(Client("http://127.0.0.1:9").recommend, "3")
    assert status == 0
    assert said.startswith("http://127.0.0.1:9 does not answer:")


def test_users_share_the_models_and_stay_with_theirs(serving):
    with serving(traffic={"itemknn": 50, "contentknn": 50}) as shop:
        first = {str(n): shop.recommend(str(n), k=1).model for n in range(60)}
        assert {shop.recommend(user, k=1).model == model for user, model in first.items()} == {True}
        assert 15 < list(first.values()).count("itemknn") < 45
        assert shop.recommend("3", k=1, model="contentknn").model == "contentknn"
    with pytest.raises(ConfigError, match="traffic names 'x', which is not served. Models: itemknn, contentknn."):
        serving(traffic={"x": 100}).__enter__()
    with pytest.raises(ConfigError, match="serve: the shares of traffic add up to 60, not to 100"):
        serving(traffic={"itemknn": 60}).__enter__()


def test_what_is_answered_directly_is_answered_alike_by_the_framework(serving):
    def told(shop, path, body, kind):
        connection = http.client.HTTPConnection(shop.url.removeprefix("http://"))
        connection.request("POST", path, json.dumps(body), {"Content-Type": kind})
        response = connection.getresponse()
        answer = json.loads(response.read())
        return response.status, response.headers["Content-Type"], {k: v for k, v in answer.items() if k != "id"}

    with serving() as shop:
        for path, body in (
            ("/v1/recommend", {"user": "3", "k": 5, "exclude": ["2"], "where": '"group" = 2'}),
            ("/v1/recommend", {"user": "3", "k": 5, "model": "nothing"}),
            ("/v1/recommend", {"user": "3", "k": 0}),
            ("/v1/recommend", {"user": 3}),
            ("/v1/recommend", {"user": "3", "kk": 5}),
            ("/v1/recommend", {"history": ["nothing"]}),
            ("/v1/events/bulk", {"events": [{"id": "e1", "user": "u", "item": "1", "weight": "much"}]}),
        ):
            assert told(shop, path, body, "application/json") == told(shop, path, body, "application/vnd.shop+json")
        event = {"id": "e9", "user": "u", "item": "1"}
        assert told(shop, "/v1/events", event, "application/json")[2]["accepted"] == 1
        assert told(shop, "/v1/events", event, "application/vnd.shop+json")[2]["repeated"] == 1
