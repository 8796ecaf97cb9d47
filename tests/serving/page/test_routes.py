"""What the page asks of the service, and how its files are sent."""

import gzip
import http.client
import json
import re
import struct
import time
import zlib
from dataclasses import replace
from importlib.resources import files
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from itemic.data import Table
from itemic.registry import entries
from itemic.serving.client import Client, ServiceError
from itemic.serving.insight import live_told, models_told
from itemic.serving.keys import new_key
from itemic.serving.metrics import Seen
from itemic.serving.stores import Event, Impression, open_store

STATIC = {one.name: one.read_text() for one in files("itemic.serving").joinpath("static").iterdir()}


def fetched(shop, path, **headers):
    connection = http.client.HTTPConnection(shop.url.removeprefix("http://"), timeout=10)
    connection.request("GET", path, headers=headers)
    response = connection.getresponse()
    return response, response.read()


def png(colour=(0, 0, 0)):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    pixel = zlib.compress(b"\0" + bytes(colour))
    head = struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixel) + chunk(b"IEND", b"")


def with_pictures(models, pictures):
    """The items of the models with a column of pictures."""
    items = models["itemknn"].catalogue.items
    column = pa.array([*pictures, *[None] * (len(items) - len(pictures))])
    return Table(items.ids, items.frame.append_column("image", column), {**items.roles, "image": ["image"]})


def test_the_page_may_run_nothing_but_its_own_files(serving):
    with serving() as shop:
        response, body = fetched(shop, "/")
        policy = response.headers["content-security-policy"]
        assert response.headers.get_all("content-security-policy") == [policy]
        assert "default-src 'none'" in policy
        assert "script-src 'self'" in policy
        assert not re.search(r"unsafe|\*|https?:|data:", policy)
        assert (response.headers["x-frame-options"], response.headers["x-content-type-options"]) == ("DENY", "nosniff")
        assert body.decode() == STATIC["index.html"]
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\bstyle=|\bon\w+=|javascript:", STATIC["index.html"])
    for name, text in STATIC.items():
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", text), (
            name
        )
        assert not re.search(r"localStorage|indexedDB|document\.cookie", text), name


def test_the_page_is_small_and_sent_once(serving):
    assert sum(map(len, STATIC.values())) < 70_000
    with serving() as shop:
        sent = 0
        for name, text in STATIC.items():
            response, body = fetched(shop, f"/static/{name}", **{"accept-encoding": "gzip, br"})
            assert gzip.decompress(body).decode() == text
            sent += len(body)
            again, nothing = fetched(shop, f"/static/{name}", **{"if-none-match": response.headers["etag"]})
            assert (again.status, nothing) == (304, b"")
        assert sent < 25_000
        assert fetched(shop, "/static/main.js")[0].headers["content-type"].startswith("text/javascript")
        for wrong in ("nothing.js", "..%2Fapp.py", "%2e%2e/app.py"):
            response, said = fetched(shop, f"/static/{wrong}")
            assert (response.status, json.loads(said)["status"]) == (404, 404)


def test_pages_of_the_catalogue_hold_every_item_once_those_taken_most_first(serving, models):
    with serving() as shop:
        pages = [shop.call("GET", f"/v1/catalogue?offset={start}&limit=15") for start in (0, 15, 30, 45)]
        names = [one["item"] for page in pages for one in page["items"]]
        taken = np.bincount(models["itemknn"].histories.values, minlength=40)
        assert [page["total"] for page in pages] == [40] * 4
        assert sorted(names, key=int) == [str(n) for n in range(40)]
        assert [taken[int(name)] for name in names] == sorted(taken, reverse=True)
        first = pages[0]["items"][0]
        assert (first["title"], first["attributes"]["group"]) == (
            f"item {first['item']} of group {int(first['item']) % 4}",
            int(first["item"]) % 4,
        )
        told = shop.call("GET", "/v1/catalogue?where=%22group%22%20%3D%202")
        assert (told["total"], {one["attributes"]["group"] for one in told["items"]}) == (10, {2})
        shop.delete_items(["7"])
        named = shop.call("GET", "/v1/catalogue?item=9&item=7&item=zz&item=3")["items"]
        assert [one["item"] for one in named] == ["9", "3"]
        assert shop.call("GET", "/v1/catalogue")["total"] == 39
        with pytest.raises(ServiceError, match="cannot apply where 'grp = 1'"):
            shop.call("GET", "/v1/catalogue?where=grp%20%3D%201")
        with pytest.raises(ServiceError, match="limit"):
            shop.call("GET", "/v1/catalogue?limit=201")


def test_what_items_are_filtered_by_follows_their_columns(serving, models):
    items = models["itemknn"].catalogue.items
    frame = pa.table(
        {
            "title": items.frame["title"],
            "category": [f"{'AB'[n % 2]} > {n}" for n in range(40)],
            "code": [f"c{n}" for n in range(40)],
            "stocked": [n < 10 for n in range(40)],
            "price": [float("nan") if n == 3 else n / 2 for n in range(40)],
        }
    )
    with serving(items=Table(items.ids, frame, {"title": ["title"], "category": ["category"]})) as shop:
        told = shop.call("GET", "/v1/columns")
        kinds = {one["name"]: one["kind"] for one in told["columns"]}
        assert kinds == {"category": "beginning", "code": "choice", "stocked": "choice", "price": "number"}
        by_name = {one["name"]: one for one in told["columns"]}
        assert [one["value"] for one in by_name["category"]["values"]] == ["A", "B"]
        assert by_name["stocked"]["values"] == [{"value": False, "items": 30}, {"value": True, "items": 10}]
        assert (by_name["price"]["lowest"], by_name["price"]["highest"]) == (0.0, 19.5)
        assert "price" not in shop.call("GET", "/v1/catalogue?item=3")["items"][0]["attributes"]
        starts = "STARTS_WITH(%22category%22,%20%27A%27)"
        assert shop.call("GET", f"/v1/catalogue?where={starts}")["total"] == 20


def test_pictures_are_files_inside_the_dataset_and_nothing_else(serving, models, tmp_path):
    data = tmp_path / "data"
    (data / "pictures").mkdir(parents=True)
    for place in (data / "pictures" / "0.png", tmp_path / "outside.png"):
        place.write_bytes(png())
    (data / "secret.png").write_text("password")
    (data / "link.png").symlink_to(tmp_path / "outside.png")
    paths = [
        "pictures/0.png",
        "../outside.png",
        str(tmp_path / "outside.png"),
        "link.png",
        "secret.png",
        "no.png",
        "\0",
    ]
    with serving(items=with_pictures(models, paths), data=str(data)) as shop:
        response, body = fetched(shop, "/v1/pictures/0")
        assert (response.status, response.headers["content-type"], body) == (200, "image/png", png())
        assert response.headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
        for item in (1, 2, 3, 4, 5, 6, 7):
            response, said = fetched(shop, f"/v1/pictures/{item}")
            assert (response.status, json.loads(said)["detail"]) == (404, f"there is no picture of '{item}'.")
        assert fetched(shop, "/v1/pictures/zz")[0].status == 404
        has = {one["item"]: one["picture"] for one in shop.call("GET", "/v1/catalogue?item=0&item=7")["items"]}
        assert has == {"0": True, "7": False}
        assert "image" not in shop.call("GET", "/v1/catalogue?item=0")["items"][0]["attributes"]
    with serving(items=with_pictures(models, paths)) as shop:  # no folder: no path is read
        assert fetched(shop, "/v1/pictures/0")[0].status == 404


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.struct([("bytes", pa.binary())])])
def test_pictures_may_be_bytes_of_the_item_table(serving, models, kind):
    value = {"bytes": png()} if pa.types.is_struct(kind) else png()
    items = with_pictures(models, pa.array([value, None, value, None, value], kind).to_pylist())
    with serving(items=items) as shop:
        assert fetched(shop, "/v1/pictures/0")[1] == png()
        assert fetched(shop, "/v1/pictures/1")[0].status == 404
        assert "image" not in shop.explain("0", history=["4"])["shared"]
        assert shop.call("GET", "/v1/columns")["pictures"] is True


def test_models_are_told_with_how_they_were_made_and_measured(serving, tmp_path):
    (tmp_path / "runs").mkdir()
    names = {name: str(tmp_path / "runs" / name) for name in ("itemknn", "contentknn")}
    with serving(models=names) as shop:
        told = shop.call("GET", "/v1/models")
        assert told["comparison"] is None
        one = told["models"][0]
        assert (one["name"], one["sources"], one["chats"]) == ("itemknn", ["itemknn", "trending"], False)
        assert one["parts"][0]["options"]["similarity"] == "cosine"
        assert one["parts"][0]["fitted_on"]["interactions"] > 0
        (tmp_path / "runs" / "comparison.json").write_text('{"systems": [{"name": "a"}], "x": NaN}')
        assert shop.call("GET", "/v1/models")["comparison"] == {"systems": [{"name": "a"}], "x": None}
        for broken in ("[]", "{", '{"systems": 1}'):
            (tmp_path / "runs" / "comparison.json").write_text(broken)
            assert shop.call("GET", "/v1/models")["comparison"] is None


def test_codes_inside_a_model_are_told_by_level(serving, monkeypatch):
    with serving() as shop:
        codes = np.array([[0, 1], [0, 0], [1, 1], [1, 1]], np.int32)
        tokenizer = SimpleNamespace(entry=entries("tokenizer")["fsq"], codes=codes, sizes=(2, 4), parts={})
        monkeypatch.setattr(shop.service.models["itemknn"], "parts", {"codes": tokenizer})
        (told,) = models_told(shop.service, False)["models"][0]["parts"][0]["codes"]
        assert (told["tokenizer"], told["items"], told["sharing"]) == ("fsq", 4, 2)
        first = {"size": 2, "used": 2, "entropy": 1.0, "counts": [2, 2]}
        assert (told["category"], told["levels"][0]) == (None, first)
        pipeline = shop.service.pipelines["itemknn"]
        items = pipeline.catalogue.items
        pipeline.describe_items(replace(items, roles={**items.roles, "category": ["group"]}))
        (told,) = models_told(shop.service, False)["models"][0]["parts"][0]["codes"]
        assert told["category"] == "group"  # each of the four is in one of its own
        assert told["levels"][0] == first | {"purity": 0.5, "chance": 0.5}


def test_the_live_view_counts_the_last_minute_by_path(tmp_path):
    now = 1_000_000.0
    seen = [Seen(now - (n - 0.5) / 10, "/a", 200, n / 1000) for n in range(1, 101)]
    seen += [Seen(now - 61, "/a", 200, 9.0), Seen(now, "/b", 422, 0.5), Seen(now - 1, "/v1/live", 200, 0.5)]
    store = open_store(tmp_path / "e.db")
    told = live_told(seen, store, now)
    store.close()
    assert told["paths"][0] == {"path": "/a", "requests": 100, "failed": 0, "p50": 50.5, "p95": 95.05, "p99": 99.01}
    assert told["paths"][1] == {"path": "/b", "requests": 1, "failed": 1, "p50": 500, "p95": 500, "p99": 500}
    assert (len(told["by_second"]), sum(told["by_second"]), told["all"]["requests"]) == (60, 101, 101)
    assert told["by_second"][-11:] == [0, *[10] * 9, 11]


def test_the_live_view_tells_clicks_by_model_and_the_requests_just_made(serving):
    with serving() as shop:
        empty = shop.call("GET", "/v1/live")
        assert (empty["all"]["requests"], empty["all"]["p50"], empty["models"]) == (0, None, [])
        answers = [shop.recommend("3", k=3, model=model) for model in ("itemknn", "itemknn", "contentknn")]
        shop.add_event("3", answers[0].items[0].item, impression=answers[0].id)
        shop.service.store.flush().result()
        told = shop.call("GET", "/v1/live")
        assert {one["path"]: one["requests"] for one in told["paths"]} == {"/v1/recommend": 3, "/v1/events/bulk": 1}
        by_model = {one["model"]: (one["lists"], one["clicked"], one["rate"]) for one in told["models"]}
        assert by_model == {"itemknn": (2, 1, 0.5), "contentknn": (1, 0, 0.0)}


def test_of_the_lists_only_the_newest_are_counted(tmp_path):
    store = open_store(tmp_path / "e.db")
    for n in range(5):
        store.log(Impression(f"i{n}", "u", n, "a", ["x"]))
    store.add_events([Event(f"e{n}", "u", "x", n) for n in range(5)]).result()
    lists, events = store.newest(3)
    store.close()
    assert ([one.id for one in lists], [one.id for one in events]) == (["i2", "i3", "i4"], ["e2", "e3", "e4"])


def test_the_page_needs_no_key_and_what_it_asks_needs_one_that_reads(serving, monkeypatch):
    monkeypatch.setattr("itemic.serving.keys.FRESH", 0.0)
    with serving() as shop:
        reader = Client(shop.url, new_key(shop.service.store, "page", "read"))
        time.sleep(0.01)
        for path in ("/", "/static/main.js", "/v1/ready"):
            assert fetched(shop, path)[0].status == 200
        for path in ("/v1/catalogue", "/v1/columns", "/v1/pictures/1", "/v1/models", "/v1/live"):
            assert fetched(shop, path)[0].status == 401
        for path in ("/v1/catalogue", "/v1/columns", "/v1/models", "/v1/live"):
            assert reader.call("GET", path)
