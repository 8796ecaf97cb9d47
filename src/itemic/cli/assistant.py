"""The command by which an assistant asks a service."""

from importlib.util import find_spec

import click

from itemic.cli.shell import Output, command
from itemic.errors import ConfigError


@command(
    "mcp", ["itemic mcp --url http://127.0.0.1:8321", "ITEMIC_KEY=itemic_... itemic mcp --url https://shop.example"]
)
@click.option("--url", default="http://127.0.0.1:8321", show_default=True, help="Where the service answers.")
@click.option("--key", envvar="ITEMIC_KEY", metavar="KEY", help="Its key for reading; better given as ITEMIC_KEY.")
def mcp(url: str, key: str | None) -> Output:
    """Give an assistant the answers of a service as tools, over stdin and stdout (Model Context Protocol)."""
    if find_spec("mcp") is None:
        raise ConfigError("tools for assistants need mcp. Install it: pip install 'itemic[mcp]'")
    from itemic.serving.client import Client
    from itemic.serving.tools import make_server

    make_server(Client(url, key)).run("stdio")
    return Output({"served": True}, [])
