"""An assistant gets the answers of the service as tools, by the SDK's own client over stdin and stdout."""

import os
import sys

import anyio
import pytest

mcp = pytest.importorskip("mcp")


def command(url, **environment):
    """How an assistant starts the tools of a service."""
    run = ["-c", "from itemic.cli import main; main()", "mcp", "--url", url]
    return mcp.StdioServerParameters(command=sys.executable, args=run, env={**os.environ, **environment})


def told(result):
    assert not result.is_error, result.content
    return result.structured_content


def test_an_assistant_gets_what_the_service_answers(serving, caplog):
    async def ask(shop):
        async with mcp.Client(command(shop.url)) as client:
            tools = {tool.name: tool for tool in (await client.list_tools()).tools}
            assert set(tools) == {"recommend", "similar", "search", "complete", "rank", "explain"}
            for tool in tools.values():
                assert len(tool.description) > 60
                assert tool.annotations.read_only_hint
                described = tool.input_schema["properties"].values()
                assert all("description" in one for one in described), tool.name
            listed = told(await client.call_tool("recommend", {"user": "3", "k": 4, "where": '"group" = 2'}))
            assert [one["item"] for one in listed["items"]] == [
                one.item for one in shop.recommend("3", k=4, where='"group" = 2').items
            ]
            assert listed["items"][0]["title"].endswith("of group 2")
            for name, asked, expected in (
                ("similar", {"item": "4", "k": 3}, shop.similar("4", k=3)),
                ("search", {"text": "item 7", "k": 1}, shop.search("item 7", k=1)),
                ("complete", {"basket": ["1", "5"], "k": 3}, shop.complete(["1", "5"], k=3)),
                ("rank", {"candidates": ["1", "2", "3"], "history": ["5"]}, shop.rank(["1", "2", "3"], history=["5"])),
            ):
                answer = told(await client.call_tool(name, asked))
                assert [one["item"] for one in answer["items"]] == [one.item for one in expected.items], name
            why = told(await client.call_tool("explain", {"item": "10", "history": ["2", "6", "1"]}))
            assert why == shop.explain("10", history=["2", "6", "1"])
            wrong = await client.call_tool("similar", {"item": "zz"})
            assert wrong.is_error
            assert wrong.content[0].text == "Error executing tool similar: there is no item 'zz'."
            wrong = await client.call_tool("recommend", {"user": "3", "where": "colour = 1"})
            assert "colour" in wrong.content[0].text
            assert "\n" not in wrong.content[0].text
            wrong = await client.call_tool("recommend", {})
            assert wrong.content[0].text.endswith(": the body: give a user, or a history, which may be empty")

    with serving() as shop:
        anyio.run(ask, shop)
    assert "Failed to parse" not in caplog.text  # nothing else is said on stdout


def test_the_key_of_a_service_comes_from_the_environment(serving, monkeypatch):
    from itemic.serving.keys import new_key

    monkeypatch.setattr("itemic.serving.keys.FRESH", 0.0)

    async def ask(parameters):
        async with mcp.Client(parameters) as client:
            return await client.call_tool("search", {"text": "item 7", "k": 1})

    with serving() as shop:
        secret = new_key(shop.service.store, "assistant", "read")
        refused = anyio.run(ask, command(shop.url))
        assert refused.content[0].text.endswith(": a key is needed. Send it as Authorization: Bearer KEY.")
        assert told(anyio.run(ask, command(shop.url, ITEMIC_KEY=secret)))["items"][0]["item"] == "7"


def test_a_service_that_is_not_there_is_told(monkeypatch):
    from itemic.serving.client import Client
    from itemic.serving.tools import make_server

    async def ask():
        async with mcp.Client(make_server(Client("http://127.0.0.1:9"))) as client:
            return await client.call_tool("search", {"text": "cup"})

    said = anyio.run(ask)
    assert said.is_error
    assert "http://127.0.0.1:9 does not answer: " in said.content[0].text
