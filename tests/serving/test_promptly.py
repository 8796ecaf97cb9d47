"""How soon a new item can be recommended, whatever it takes to know it; a deleted one is gone, whoever asks."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from itemic.data.simulated import planted_groups
from itemic.registry import find
from itemic.serving.client import ServiceError

PROMPT = 2.0
"""Seconds from the request that gives an item to an answer that lists it."""
TINY = {"dim": 16, "layers": 1, "heads": 2, "head_dim": 8, "hidden": 32, "beam": 60}


def fitted(system):
    train, _ = planted_groups(n_users=40, n_items=40, n_groups=4, loyalty=0.9, seed=0)
    if system == "contentknn":
        return find(system)().fit(train)
    codes = find("rqkmeans", "tokenizer")(vectors="attributes", levels=2, size=16)
    return find("tiger")(codes=codes, **TINY, training={"epochs": 1, "batch_size": 64}).fit(train)


@pytest.mark.parametrize("system", ["contentknn", "tiger"])
def test_an_item_is_encoded_tokenised_and_recommended_within_two_seconds(system, serving, models, monkeypatch):
    monkeypatch.setitem(models, system, fitted(system))
    with serving(only=(system,)) as shop:
        for n, name in enumerate(("100", "101", "102")):
            begun = time.perf_counter()
            assert shop.put_items({name: {"title": f"item {name} of group 2", "group": 2}})["not_ranked_by"] == []
            listed = [one.item for one in shop.recommend(history=["2", "6", "10"], k=38).items]
            found = shop.search(f"item {name}", k=1).items[0].item
            seconds = time.perf_counter() - begun
            assert name in listed
            assert found == name
            assert n == 0 or seconds < PROMPT


def test_a_deleted_item_is_in_no_answer_of_any_kind(serving):
    asked = {
        "recommend": lambda shop: shop.recommend("5", k=38).items,
        "history": lambda shop: shop.recommend(history=["1", "2"], k=38, model="contentknn").items,
        "rank": lambda shop: shop.rank([str(n) for n in range(40)], history=["5"]).items,
        "similar": lambda shop: shop.similar("38", k=39).items,
        "search": lambda shop: shop.search("item", k=40).items,
        "complete": lambda shop: shop.complete(["38"], k=39).items,
    }
    with serving() as shop:
        gone, wrong, answers, stop = set(), [], [], threading.Event()

        def ask(kind):
            while not stop.is_set():
                before = set(gone)
                listed = {one.item for one in asked[kind](shop)}
                answers.append(kind)
                if before & listed:
                    wrong.append((kind, before & listed))

        with ThreadPoolExecutor(len(asked)) as pool:
            done = [pool.submit(ask, kind) for kind in asked]
            for item in range(0, 36, 3):
                shop.delete_items([str(item)])
                gone.add(str(item))
                time.sleep(0.01)
            stop.set()
            for one in done:
                one.result()
        assert wrong == []
        assert len(set(answers)) == len(asked)
        with pytest.raises(ServiceError, match="there is no item '3'"):
            shop.explain("3", history=["5"])
