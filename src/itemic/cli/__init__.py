"""The command line: parses, calls, prints. Results go to stdout, progress and notes to stderr."""

from itemic.cli import assistant, chat, data, index, measure, models, refresh, serve, tokens
from itemic.cli.shell import group

__all__ = ["main"]


@group()
def main() -> None:
    """Learn what every item of a catalogue is, and answer every question of the form: which items?

    \b
    Start here:
      itemic demo                                     a simulated shop, seven systems, a report
      itemic data import events.csv --out my-data     your own interactions
      itemic fit ease my-data --out runs/e            learn from them
      itemic rank runs/e --user 42 --k 10             ask
      itemic serve runs/e                             answer over HTTP
    """


main.add_command(measure.demo)
main.add_command(data.data)
for command in (models.systems, models.fit, models.adopt, models.export, models.rank, models.similar):
    main.add_command(command)
main.add_command(chat.chat)
main.add_command(tokens.tokenize)
main.add_command(index.index)
for command in (measure.compare, measure.tune, measure.reproduce):
    main.add_command(command)
main.add_command(serve.serve)
main.add_command(refresh.refresh)
main.add_command(assistant.mcp)
main.add_command(serve.report)
