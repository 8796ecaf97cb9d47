"""What all commands share: one-line errors, --json, live progress, aligned tables."""

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import click

from itemic.errors import ItemicError
from itemic.progress import listening
from itemic.version import VERSION


@dataclass
class Output:
    """What a command has to say: a document for --json, lines for people."""

    document: Any
    lines: Sequence[str] = field(default_factory=list)


def group() -> Callable[[Callable[[], None]], click.Group]:
    """The top command, which knows the version and sorts its subcommands as they were added."""

    def wrap(function: Callable[[], None]) -> click.Group:
        made = InOrder(name="itemic", help=function.__doc__, context_settings={"help_option_names": ["-h", "--help"]})
        return click.version_option(VERSION, prog_name="itemic")(made)

    return wrap


class InOrder(click.Group):
    """A group that lists its commands in the order in which they were added."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, first added first."""
        return list(self.commands)


def command(
    name: str, examples: Sequence[str], progress: bool = False
) -> Callable[[Callable[..., Output]], click.Command]:
    """A subcommand that returns an Output; adds --json and the examples, and turns errors into one line and exit 1."""

    def wrap(function: Callable[..., Output]) -> click.Command:
        def run(as_json: bool, **options: Any) -> None:
            live = progress and not as_json and sys.stderr.isatty()
            try:
                with _live_progress() if live else nullcontext():
                    output = function(**options)
                if as_json or output.lines:
                    click.echo(json.dumps(output.document, indent=1) if as_json else "\n".join(output.lines))
            except ItemicError as error:
                click.echo(f"error: {error}", err=True)
                sys.exit(1)
            except MemoryError as error:
                click.echo(f"error: not enough memory: {error}. Take smaller options or less data.", err=True)
                sys.exit(1)
            except BrokenPipeError:  # the reader has seen enough, as in `itemic rank ... | head -3`
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                sys.exit(1)

        params = [*getattr(function, "__click_params__", [])]
        params.append(
            click.Option(["--json", "as_json"], is_flag=True, help="Print one JSON document and nothing else.")
        )
        shown = "\b\nExamples:\n" + "\n".join(f"  {line}" for line in examples)
        names = {"help_option_names": ["-h", "--help"]}
        return click.Command(
            name,
            callback=run,
            params=params[-2::-1] + params[-1:],
            help=function.__doc__,
            short_help=(function.__doc__ or "").partition("\n")[0],
            epilog=shown,
            context_settings=names,
        )

    return wrap


def note(text: str) -> None:
    """Says something beside the result, on stderr."""
    click.echo(text, err=True)


def table(rows: Sequence[Sequence[Any]], header: Sequence[str], left: int = 1) -> list[str]:
    """Rows under a header, the first `left` columns flush left, the rest flush right.

    >>> table([["ease", "0.12"], ["ials", "0.2"]], ["system", "ndcg@10"])
    ['system  ndcg@10', 'ease       0.12', 'ials        0.2']
    """
    text = [list(header)] + [["" if cell is None else str(cell) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in text) for column in range(len(header))]
    aligned = [[c.ljust(w) if i < left else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths))] for row in text]
    return ["  ".join(row).rstrip() for row in aligned]


@contextmanager
def _live_progress() -> Iterator[None]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

    columns = [TextColumn("{task.description}"), BarColumn(24), TextColumn("{task.fields[note]}"), TimeElapsedColumn()]
    tasks: dict[str, TaskID] = {}
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:

        def show(description: str, done: int, total: int | None, note: str) -> None:
            if description not in tasks:
                tasks[description] = bars.add_task(description, total=total, note=note)
            bars.update(tasks[description], completed=done, total=total, note=note)
            if total is not None and done >= total:
                bars.remove_task(tasks.pop(description))

        with listening(show):
            yield
