"""Services on one store know what the others take, in the order in which it was stored."""

import threading
import time

import numpy as np
import pytest

from itemic.serving import current
from itemic.serving.client import ServiceError


@pytest.fixture
def two(serving_at, place, monkeypatch):
    """Two services on one store, and a look at it twenty times a second."""
    monkeypatch.setattr(current, "LOOK", 0.05)
    with serving_at(place) as one, serving_at(place) as other:
        yield one, other


def until(holds):
    end = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


def known(shop, user):
    """The events and the history of a user, None where nothing is known."""
    try:
        found = shop.user(user)
    except ServiceError:
        return None
    return [event["item"] for event in found["events"]], found["history"]


def is_there(shop, item):
    try:
        shop.item(item)
    except ServiceError:
        return False
    return True


def listed(shop, **asked):
    return {one.item for one in shop.recommend(k=30, model="contentknn", **asked).items}


def test_what_one_service_takes_the_other_knows_a_moment_later(two):
    one, other = two
    assert len(known(other, "3")[1]) > 1
    one.add_event("ann", "7")
    until(lambda: known(other, "ann") == (["7"], ["7"]))
    one.put_items({"99": {"title": "item 99 of group 3", "group": 3}})
    until(lambda: "99" in listed(other, history=["3", "7"]))
    one.add_event("ann", "99")
    until(lambda: known(other, "ann") == (["7", "99"], ["7", "99"]))
    other.delete_items(["99", "11"])
    until(lambda: not {"99", "11"} & listed(one, history=["3", "7"]))
    other.delete_user("3")
    until(lambda: known(one, "3") is None)
    one.add_event("3", "1")
    until(lambda: known(other, "3") == (["1"], ["1"]))


def test_an_item_that_fits_nowhere_here_takes_no_others_with_it(two, caplog):
    store = two[0].service.store
    store.put_items({"97": {"title": "item 97", "group": 1}, "98": {"title": "item 98", "group": "red"}, "7": {}})
    store.delete_items(["11"]).result()
    for shop in two:
        shop.within(shop.service.keep_up())
        assert [is_there(shop, item) for item in ("97", "7", "98", "11")] == [True, True, False, False]
    said = "item 98 of another service is not taken in: attribute 'group' holds int64; 'red' does not fit"
    assert said in caplog.text


def test_both_are_where_the_store_is_whatever_they_take_at_once(two):
    users, wrong = ["ann", "bob", "3"], []

    def take(shop, seed):
        rng = np.random.default_rng(seed)
        try:
            for n in range(60):
                user, item = str(rng.choice(users)), str(rng.integers(40))
                if n % 6 == 5:
                    shop.delete_user(user)
                elif n % 6 == 4:
                    shop.put_items({str(50 + rng.integers(3)): {"title": f"item of {seed}", "group": n}})
                elif n % 6 == 3:
                    shop.delete_items([str(50 + rng.integers(3))])
                else:
                    shop.add_event(user, item, id=f"{seed}-{n}")
        except Exception as error:  # the test tells of it
            wrong.append(error)

    threads = [threading.Thread(target=take, args=(shop, 2 * n + m)) for n, shop in enumerate(two) for m in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    for shop in two:
        shop.within(shop.service.keep_up())
    store = two[0].service.store
    for user in users:
        events = [event.item for event in store.events(user=user)]
        for shop in two:
            found = known(shop, user) or ([], [])
            assert found[0] == events
            assert found[1][-len(events) :] == events if events else not found[1]
    for name, attributes in store.items():
        for shop in two:
            if attributes is None:
                with pytest.raises(ServiceError, match="there is no item"):
                    shop.item(name)
            else:
                assert shop.item(name) == attributes
