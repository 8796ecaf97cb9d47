"""The command chat: a conversation in the terminal, or with lines that are piped in."""

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from itemic.cli.shell import Output, command, note
from itemic.errors import ConfigError

if TYPE_CHECKING:
    from itemic.systems.language.conversation import Conversation, Shown

EXAMPLES = [
    "itemic chat runs/ilm",
    "itemic chat runs/ilm --user 42 --k 3",
    "echo 'I liked Heat, but not Alien.' | itemic chat runs/ilm",
]


@command("chat", EXAMPLES)
@click.argument("model", type=click.Path())
@click.option("--user", metavar="ID", help="Talk as a known user, whose history counts.")
@click.option("--k", type=int, help="How many items are shown with an answer. Default: 5.")
def chat(model: str, user: str | None, k: int | None) -> Output:
    """Talk with MODEL, which recommends items of its catalogue; below each answer stands the list it drew from.

    Give a line a turn; an empty line, or the end of the input, ends it.
    """
    from itemic import registry
    from itemic.systems.base import Recommender
    from itemic.systems.language.conversation import Conversation

    loaded: Any = Recommender.load(model)
    if "text" not in loaded.entry.gives:
        able = ", ".join(entry.name for entry in registry.entries().values() if "text" in entry.gives)
        raise ConfigError(f"{model} is {loaded.entry.name}, which does not talk. Chat with {able}.")
    history = []
    if user is not None:
        query = loaded.ask(users=[user])
        history = query.history[0].tolist()
    talk = Conversation(loaded, history=history, k=min(5, loaded.catalogue.n_items) if k is None else k)
    silent = bool(click.get_current_context().params["as_json"])
    turns = [_answered(talk, line, silent) for line in _lines(silent)]
    return Output({"turns": turns}, [])


def _lines(silent: bool) -> Iterator[str]:
    """What the user says: typed in, or piped and then repeated, so that a transcript shows both."""
    typed = sys.stdin.isatty()
    while True:
        if typed:
            click.echo("you: ", nl=False)
        line = sys.stdin.readline()
        if not line or (typed and not line.strip()):
            return
        if line.strip():
            if not typed and not silent:
                click.echo(f"you: {line.strip()}")
            yield line.strip()


def _answered(talk: "Conversation", line: str, silent: bool) -> dict[str, Any]:
    """Prints the answer as it comes, and the list; both for --json."""
    said, shown = "", None
    if not silent:
        click.echo("itemic: ", nl=False)
    for piece in talk.say(line):
        if not isinstance(piece, str):
            shown = piece
            break
        said += piece
        if not silent:
            click.echo(" ".join(piece.split("\n")), nl=False)
    assert shown is not None
    if not silent:
        click.echo()
        _print_list(shown)
    ids = talk.model.catalogue.items.ids.external(shown.items).tolist()
    items = [{"item": i, "title": t, "reason": r} for i, t, r in zip(ids, shown.titles, shown.reasons)]
    return {"user": line, "recommender": said, "items": items, "notes": list(shown.notes)}


def _print_list(shown: "Shown") -> None:
    for n, (title, reason) in enumerate(zip(shown.titles, shown.reasons), start=1):
        click.echo(f"  {n}. {title}: {reason}")
    for reason in shown.notes:
        note(reason)
