"""The answers of a service as tools of the Model Context Protocol, so that an assistant can ask: which items?"""

from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any

from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import ToolAnnotations
from pydantic import Field

from itemic.serving.client import Answer, Client, ServiceError
from itemic.version import VERSION

ABOUT = """Recommendations and search in one catalogue of items. Items and users have ids, which are text.
Begin with `search` when somebody describes what they want: it gives the ids that the other tools take. Show titles to
people, ids to tools. `reasons` of an answer say what to know about it, such as that little was known of the user."""

User = Annotated[str | None, Field(description="Id of a known user: what they did before is known.")]
History = Annotated[
    list[str] | None, Field(description="Ids of items that somebody took, oldest first, where no user id is known.")
]
K = Annotated[int, Field(ge=1, le=100, description="How many items.")]
Where = Annotated[
    str | None, Field(description="An SQL condition on the attributes of items, such as: price < 20 and brand = 'X'")
]


def make_server(shop: Client) -> MCPServer:
    """The tools, which ask by this client."""
    server = MCPServer("itemic", title="Itemic", instructions=ABOUT, version=VERSION, log_level="WARNING")

    def tool(function: Callable[..., Any]) -> None:
        @wraps(function)
        def asking(*args: Any, **told: Any) -> Any:
            try:
                return function(*args, **told)
            except ServiceError as error:  # in one line, for the assistant to read
                raise ToolError(str(error)) from None

        server.tool(annotations=ToolAnnotations(read_only_hint=True, open_world_hint=False))(asking)

    @tool
    def recommend(user: User = None, history: History = None, k: K = 10, where: Where = None) -> Answer:
        """The best items for a user, or for somebody of whom only a few items are known. Give `user` or `history`."""
        return shop.recommend(user, history=history, k=k, where=where)

    @tool
    def similar(item: Annotated[str, Field(description="Id of the item.")], k: K = 10) -> Answer:
        """The items most like one item: what else to look at beside it, or instead of it."""
        return shop.similar(item, k=k)

    @tool
    def search(
        text: Annotated[str, Field(description="Words of the titles or texts of items, not a question.")],
        user: User = None,
        k: K = 10,
        where: Where = None,
    ) -> Answer:
        """Items by words; with `user`, those to their taste come first. Gives the ids that the other tools take."""
        return shop.search(text, user, k=k, where=where)

    @tool
    def complete(
        basket: Annotated[list[str], Field(description="Ids of the items that are in it.")], k: K = 10
    ) -> Answer:
        """Items that go with those of a basket: what somebody who takes these may want too."""
        return shop.complete(basket, k=k)

    @tool
    def rank(
        candidates: Annotated[list[str], Field(description="Ids of the items to choose among.")],
        user: User = None,
        history: History = None,
    ) -> Answer:
        """Given items in the order in which somebody would like them. Give `user` or `history`."""
        return shop.rank(candidates, user, history=history)

    @tool
    def explain(
        item: Annotated[str, Field(description="Id of the recommended item.")],
        user: User = None,
        history: History = None,
    ) -> dict[str, Any]:
        """Why an item fits somebody: which items of their history it comes from (`because`, shares of 1), and which
        attributes it shares with them. Give `user` or `history`."""
        return shop.explain(item, user, history=history)

    return server
