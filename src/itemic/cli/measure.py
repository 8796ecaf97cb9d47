"""Commands that measure: compare, tune, reproduce, demo."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import click

from itemic.cli.shell import Output, command, note, table
from itemic.errors import ConfigError

COMPARE_EXAMPLES = [
    "itemic compare runs/e runs/i my-data",
    "itemic compare runs/* my-data --metrics ndcg@10,recall@20,mrr@10 --html report.html",
    "itemic compare runs/e theirs.csv my-data      (user,item,score made by another tool)",
]


@command("compare", COMPARE_EXAMPLES, progress=True)
@click.argument("models", nargs=-1, required=True)
@click.option("--metrics", default="ndcg@10,recall@20", show_default=True, metavar="NAMES", help="Names with commas.")
@click.option("--protocol", default="full", show_default=True, help="full, candidates, held-out, warm, cold, ...")
@click.option("--valid", is_flag=True, help="Compare on the validation part instead of the test part.")
@click.option("--html", type=click.Path(), metavar="FILE", help="Also write a report with plots.")
def compare(models: Sequence[str], metrics: str, protocol: str, valid: bool, html: str | None) -> Output:
    """Compare MODELS (folders, or files of recommendations) on the test part of DATA, the last argument."""
    from itemic.cli.models import open_data
    from itemic.evaluation import compare as compared

    *folders, data = models
    if not folders:
        raise click.UsageError("give one model or more and then the dataset: itemic compare runs/e my-data")
    wanted = [name.strip() for name in metrics.split(",") if name.strip()]
    found = compared(folders, open_data(data), wanted, protocol=protocol, part="valid" if valid else "test")
    for line in found.notes:
        note(line)
    if html is not None:
        found.to_html(Path(html))
        note(f"wrote {html}")
    return Output(found.to_dict(), found.to_text())


TUNE_EXAMPLES = [
    "itemic tune ease my-data --trials 20",
    "itemic tune bpr my-data --trials 30 --set training.epochs=50 --out runs/tune-bpr",
    "itemic tune directau my-data --trials 20 --over gamma=0.2..5:log --over dim=32,64,128",
]


@command("tune", TUNE_EXAMPLES, progress=True)
@click.argument("system")
@click.argument("data")
@click.option(
    "--trials", type=click.IntRange(1), default=20, show_default=True, help="How many settings to try in all."
)
@click.option(
    "--over",
    multiple=True,
    metavar="OPTION=RANGE|VALUES",
    help="What to search instead of the system's own choice: l2=1..1e4:log, dim=32,64; may be repeated.",
)
@click.option("--set", "settings", multiple=True, metavar="OPTION=VALUE", help="An option that all trials share.")
@click.option("--metric", default="ndcg@20", show_default=True, help="What trials are judged by.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Which settings are drawn.")
@click.option("--out", type=click.Path(), metavar="FOLDER", help="Where the study is kept. Default: runs/tune-SYSTEM.")
def tune(
    system: str,
    data: str,
    trials: int,
    over: Sequence[str],
    settings: Sequence[str],
    metric: str,
    seed: int,
    out: str | None,
) -> Output:
    """Search the options of SYSTEM on the validation part of DATA, and write the best ones as a recipe.

    The study is kept in FOLDER: a search that was cut off, or is to have more trials, goes on with the same command.
    Without a validation part, 10 % of each user's train interactions stand in for it. The test part is not looked at.
    """
    from itemic.cli.models import open_data, settings_of
    from itemic.evaluation import tune as tuned

    folder = Path(out or Path("runs") / f"tune-{system}")
    try:
        found = tuned(
            system,
            open_data(data),
            folder,
            trials,
            over=dict(_pair(one) for one in over) or None,
            settings=settings_of(settings),
            metric=metric,
            seed=seed,
            say=note,
        )
    except KeyboardInterrupt:
        note(f"stopped; the same command goes on from the trials in {folder}")
        raise
    order = sorted(enumerate(found.trials, 1), key=lambda pair: (pair[1].state != "complete", -(pair[1].value or 0)))
    options = list(found.trials[0].params)
    header = ["trial", *options, metric, "epoch", "seconds", "state"]
    rows = [
        [number, *trial.params.values(), _four(trial.value), trial.epoch, f"{trial.seconds:.2f}", trial.state]
        for number, trial in order
    ]
    next_ = f"itemic fit {system} {data} --recipe {found.recipe} --out {Path('runs') / system}"
    document = {"system": system, "metric": metric, "recipe": str(found.recipe), "best": order[0][0]}
    document["trials"] = [{"trial": number, **asdict(trial)} for number, trial in enumerate(found.trials, 1)]
    return Output(document, [*table(rows, header, left=0), f"wrote {found.recipe}      next: {next_}"])


def _pair(text: str) -> tuple[str, str]:
    option, equals, values = text.partition("=")
    if not (option and equals and values):
        raise ConfigError(f"--over {text!r} is not OPTION=RANGE or OPTION=VALUES. Write for example dim=32,64,128.")
    return option, values


REPRODUCE_EXAMPLES = ["itemic reproduce --list", "itemic reproduce ease lastfm-lightgcn"]


@command("reproduce", REPRODUCE_EXAMPLES, progress=True)
@click.argument("system", required=False)
@click.argument("dataset", required=False)
@click.option("--variant", help="Another recipe of the same system and data set.")
@click.option("--folder", type=click.Path(), help="Keep checkpoints here; the same command then goes on from them.")
@click.option("--list", "listing", is_flag=True, help="List all recipes with published, measured and ratio.")
def reproduce(
    system: str | None, dataset: str | None, variant: str | None, folder: str | None, listing: bool
) -> Output:
    """Run the published set-up of SYSTEM on DATASET and write what it measured to results/.

    With ITEMIC_DEVICE=cuda it is run on a GPU.
    """
    from itemic.evaluation import reproduce as run
    from itemic.evaluation import reproduce_list

    if listing:
        rows = reproduce_list()
        cells = [[row[key] for key in ("recipe", "metric", "published", "measured", "ratio")] for row in rows]
        return Output(rows, table(cells, ["recipe", "metric", "published", "measured", "ratio"], left=2))
    if system is None or dataset is None:
        raise click.UsageError("give a system and a data set, or --list.")
    path = run(system, dataset, variant, folder=folder)
    result = json.loads(path.read_text())
    cells = [[name, _four(m["published"]), _four(m["value"])] for name, m in result["metrics"].items()]
    return Output(result, [*table(cells, ["metric", "published", "measured"]), f"wrote {path}"])


def _four(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


@command("demo", ["itemic demo", "itemic demo events.csv", "itemic demo my-data --out runs/mine"], progress=True)
@click.argument("data", required=False)
@click.option(
    "--out", type=click.Path(), default="runs/demo", show_default=True, metavar="FOLDER", help="Where to write."
)
def demo(data: str | None, out: str) -> Output:
    """Fit seven systems on a simulated shop, or on DATA, compare them, and rank for one user."""
    from itemic.cli.models import open_data
    from itemic.evaluation.demo import run_demo

    shown = run_demo(open_data(data) if data is not None else None, Path(out), say=note)
    return Output(shown.document, shown.lines)
