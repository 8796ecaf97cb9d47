"""Commands on models: systems, fit, adopt, export, rank, similar."""

import csv
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from itemic.cli.shell import Output, command, note, table
from itemic.errors import ConfigError, DataError, QueryError, did_you_mean

if TYPE_CHECKING:
    import numpy as np

    from itemic.data import Dataset, Query, Ranking
    from itemic.systems.base import Recommender


@command(
    "systems",
    [
        "itemic systems",
        "itemic systems --answers history",
        "itemic systems --kind tokenizer",
        "itemic systems ease      (its options)",
    ],
)
@click.argument("name", required=False)
@click.option("--answers", metavar="FIELD", help="Only those that answer queries with this field: user, history, ...")
@click.option("--kind", type=click.Choice(["encoder", "tokenizer"]), help="List what systems are made of instead.")
def systems(name: str | None, answers: str | None, kind: str | None) -> Output:
    """List the systems, or the options of one."""
    from itemic import registry

    if name is not None:
        return _options(name)
    if kind is not None:
        made = list(registry.entries(kind).values())
        document = [{k: getattr(e, k) for k in ("name", "needs", "gives", "paper", "summary")} for e in made]
        return Output(document, table([[e.name, e.summary] for e in made], [kind, "what it does"], left=2))
    fields = {answer for e in registry.entries().values() for answer in e.answers} - {"anyone"}
    if answers is not None and answers not in fields:
        hint = did_you_mean(answers, fields)
        raise QueryError(f"no system answers queries with '{answers}'.{hint} Fields: {', '.join(sorted(fields))}.")
    listed = [
        e for e in registry.entries().values() if answers is None or answers in e.answers or "anyone" in e.answers
    ]
    rows = [
        [e.name, e.family, ", ".join(e.needs), ", ".join(e.answers), "yes" if e.cold_items else "no", e.paper]
        for e in listed
    ]
    document = [
        {k: getattr(e, k) for k in ("name", "family", "needs", "answers", "gives", "cold_items", "paper", "summary")}
        for e in listed
    ]
    return Output(document, table(rows, ["system", "family", "needs", "answers", "cold items", "paper"], left=6))


def _options(name: str) -> Output:
    from itemic import registry

    model: Any = registry.find(name)
    entry, fields = registry.entries(model.entry.kind)[name], model.Config.model_fields
    rows = [[option, str(f.default), (f.description or "").replace("\n", " ")] for option, f in fields.items()]
    schema, tune = model.Config.model_json_schema()["properties"], dict(model.Config.tune)
    document = {"name": name, "summary": entry.summary, "options": schema, "tune": tune}
    lines = [entry.summary, "", *table(rows, ["option", "default", "meaning"], left=3)]
    if tune:
        lines += ["", "itemic tune searches " + ", ".join(f"{option}={values}" for option, values in tune.items())]
    return Output(document, lines)


FIT_EXAMPLES = [
    "itemic fit ease my-data --out runs/e",
    "itemic fit ials my-data --set dim=256 --set epochs=10 --out runs/i",
    "itemic fit bpr my-data --set training.epochs=50 --out runs/b",
    "itemic fit bpr my-data --recipe runs/tune-bpr/best.yaml --out runs/b      (see itemic tune)",
    "itemic fit ilm my-data --lm Qwen/Qwen3-0.6B --out runs/t      (or a folder of transformers)",
    "itemic fit sasrec my-data --device cuda --out runs/g    (trained on a GPU)",
    "itemic fit lightgcn my-data --devices 2 --out runs/l  (two processes, the same weights)",
    "itemic fit popularity my-data --all --out runs/p      (no split: everything)",
]


@command("fit", FIT_EXAMPLES, progress=True)
@click.argument("system")
@click.argument("data")
@click.option(
    "--set", "settings", multiple=True, metavar="OPTION=VALUE", help="An option of the system; may be repeated."
)
@click.option("--lm", metavar="NAME|FOLDER", help="The language model of a system that talks, such as ilm.")
@click.option("--recipe", type=click.Path(), metavar="FILE", help="Take options from a recipe; --set changes them.")
@click.option("--all", "everything", is_flag=True, help="Fit on all interactions, the test part too.")
@click.option("--out", type=click.Path(), metavar="FOLDER", help="Where to save. Default: runs/SYSTEM.")
@click.option("--resume", is_flag=True, help="Go on from the newest checkpoint of a run that was cut off.")
@click.option("--devices", type=click.IntRange(1), default=1, metavar="N", help="Train in N processes. Default: 1.")
@click.option(
    "--device", metavar="NAME", help="Train on cuda, or another that torch finds. Default: ITEMIC_DEVICE or cpu."
)
def fit(
    system: str,
    data: str,
    settings: Sequence[str],
    lm: str | None,
    recipe: str | None,
    everything: bool,
    out: str | None,
    resume: bool,
    devices: int,
    device: str | None,
) -> Output:
    """Fit SYSTEM on the train part of DATA and save it.

    DATA is a dataset folder, a file of interactions, or the name of a known set. Training stops by the validation part
    where DATA has one. Its log, metrics.jsonl, and its checkpoints are in FOLDER.run; the checkpoints go when it ends.
    """
    from itemic import registry, threads
    from itemic.devices import checked, described
    from itemic.files import check_place

    given = settings_of(settings) if lm is None else _with_lm(system, settings_of(settings), lm)
    options = given if recipe is None else _cooked(system, Path(recipe), given)
    model = registry.find(system)(**options)
    trained = "training" in type(model.config).model_fields
    if trained:
        checked(device or model.device)  # before data are read, as it may not be there
        model.to(device or model.device)
    whole = open_data(data)
    train = whole if everything else whole.train
    part = "the train part" if whole.split is not None and not everything else "all"
    how = f" of the split ({whole.split.label})" if whole.split is not None and not everything else ""
    where = f"; {devices} processes" if devices > 1 else ""
    where += f"; {described(model.device)}" if trained and model.device != "cpu" else ""
    note(f"{system} on {whole.name}: {whole.n_users:,} users, {whole.n_items:,} items; fitting on {part}{how}: "
         f"{len(train.interactions):,} interactions; {threads.describe()}{where}")  # fmt: skip
    valid = whole.valid if trained and whole.split is not None and not everything and len(whole.valid) else None
    if trained and valid is None and not model.judges_itself:
        note(f"without a validation part: all {model.config.training.epochs:,} epochs are run and the last one counts")
    folder = Path(out or Path("runs") / system)
    check_place(folder)  # before hours of fitting, not after
    model.fit(train, valid, folder=f"{folder}.run", resume=resume, devices=devices)
    model.save(folder)
    if trained:
        end_run(Path(f"{folder}.run"))
    facts = model.fitted_on
    first = whole.users.ids.external([0])[0] if whole.n_users else "ID"
    next_ = {
        "encoder": f"itemic tokenize {data} --set vectors={folder}",
        "tokenizer": f"itemic tokenize {data} --with {folder}",
        "system": f"itemic rank {folder} --user {shlex.quote(str(first))} --k {min(10, whole.n_items)}",
    }[model.entry.kind]
    best = f"best: epoch {facts['best_epoch']} of {facts['epochs']}; " if facts.get("best_epoch") else ""
    document = {"system": system, "saved": str(folder), "config": model.config.model_dump(mode="json"), **facts}
    return Output(document, [f"saved {folder} ({best}{facts['seconds']:.2f} s)      next: {next_}"])


@command(
    "adopt",
    ["itemic adopt runs/recgpt my-data --out runs/here", "itemic compare runs/here my-data"],
    progress=True,
)
@click.argument("model", type=click.Path())
@click.argument("data")
@click.option("--all", "everything", is_flag=True, help="Let it know all interactions, the test part too.")
@click.option("--out", type=click.Path(), required=True, metavar="FOLDER", help="Where to save the model for DATA.")
def adopt(model: str, data: str, everything: bool, out: str) -> Output:
    """Put MODEL, fitted on other data, on the items of DATA without training (alpharec, recgpt)."""
    from itemic.files import check_place
    from itemic.model import load

    check_place(Path(out))
    whole, fitted = open_data(data), load(model)
    if fitted.entry.kind != "system":
        raise ConfigError(f"{model} is {fitted.entry.name}, no system. Adopt a system that it is a part of.")
    made = fitted.adopt(whole if everything else whole.train)
    made.save(out)
    document = {"system": made.entry.name, "saved": out, "from": model, **made.fitted_on}
    return Output(document, [f"saved {out}      next: itemic compare {out} {data}"])


@command("export", ["itemic export runs/ettin --out ettin      (ettin/encoder and ettin/decoder)"])
@click.argument("model", type=click.Path())
@click.option("--out", type=click.Path(), required=True, metavar="FOLDER", help="Where to write; a new folder.")
def export(model: str, out: str) -> Output:
    """Write MODEL, a language model, as transformers opens it (ettin)."""
    from itemic.model import LanguageModel, load

    loaded = load(model)
    if not isinstance(loaded, LanguageModel):
        raise ConfigError(
            f"{model} is {loaded.entry.name}, which no other library opens. Export a language model: ettin."
        )
    loaded.export(out)
    written = sorted(str(path.parent) for path in Path(out).rglob("config.json"))
    return Output(
        {"system": loaded.entry.name, "from": model, "folders": written}, [f"wrote {path}" for path in written]
    )


def end_run(folder: Path) -> None:
    """Removes the checkpoints of a run whose model is saved; the log stays."""
    from itemic.training.state import remove_checkpoints

    remove_checkpoints(folder)


def _cooked(system: str, path: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """The options of a recipe's first run, with the settings on top."""
    from itemic import registry
    from itemic.evaluation.recipes import merged, read_recipe

    recipe, known = read_recipe(path), registry.find(system)
    if recipe.system != system:
        raise ConfigError(f"{path} is a recipe of {recipe.system}, not of {system}. Fit {recipe.system} with it.")
    seed = {"seed": recipe.seeds[0]} if "seed" in known.Config.model_fields else {}
    return merged(recipe.config | seed, settings)


def _with_lm(system: str, settings: dict[str, Any], lm: str) -> dict[str, Any]:
    """The settings with the language model of the part `lm`, as `--set lm.model=` has it."""
    from itemic import registry

    known: Any = registry.find(system)
    if "lm" not in known.declared:
        able = ", ".join(entry.name for entry in registry.entries().values() if "text" in entry.gives)
        raise ConfigError(f"{system} has no language model as a part. Leave out --lm, or fit {able}.")
    part = settings.get("lm", {})
    if not isinstance(part, dict) or part.get("model", lm) != lm:
        raise ConfigError(f"--lm {lm} and --set lm name two language models. Leave one out.")
    return settings | {"lm": part | {"model": lm}}


def settings_of(settings: Sequence[str]) -> dict[str, Any]:
    """The options of --set, as nested as their paths."""
    import yaml

    found: dict[str, Any] = {}
    for setting in settings:
        option, equals, value = setting.partition("=")
        if not equals or not option:
            raise ConfigError(f"--set {setting!r} is not OPTION=VALUE. Write for example --set dim=128.")
        *outer, last = option.split(".")
        place = found
        for key in outer:
            place = place.setdefault(key, {})
            if not isinstance(place, dict):
                raise ConfigError(f"--set {setting!r}: {key} has a value already, so nothing goes under it.")
        try:
            place[last] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise ConfigError(f"--set {setting!r}: {value!r} is no value. Quote text with odd signs in it.") from None
    return found


def open_data(argument: str) -> "Dataset":
    """The dataset of a folder, of a file of interactions, or of a known set's name, split if it can be."""
    from itemic.data import Dataset
    from itemic.data.importing import import_files
    from itemic.data.readers.known import KNOWN, known_set
    from itemic.data.splits import split

    path = Path(argument)
    if (path / "manifest.json").exists():
        return Dataset.open(path)
    if not path.exists() and argument not in KNOWN:
        near = did_you_mean(argument, KNOWN) if path.name == argument else ""
        raise DataError(
            f"{argument} does not exist, and there is no known set of that name.{near} "
            f"Make a dataset: itemic data import FILE --out {argument}"
        )
    data = import_files(path) if path.exists() else known_set(argument)
    if data.split is None:
        try:
            return split(data)
        except DataError as error:
            note(f"without a split: {error}")
    return data


RANK_EXAMPLES = [
    "itemic rank runs/e --user 42 --k 10",
    "itemic rank runs/e --history a,b,c",
    "itemic rank runs/e --user 42 --where \"brand = 'X' and price < 20\"",
    "itemic rank runs/e --all-users --k 20 --out recs.parquet",
]


@command("rank", RANK_EXAMPLES, progress=True)
@click.argument("model")
@click.option("--user", "user", multiple=True, metavar="ID", help="A known user; may be repeated.")
@click.option("--users", metavar="A,B|FILE", help="Known users: ids with commas, or a file with one a line.")
@click.option("--all-users", is_flag=True, help="Every known user; needs --out.")
@click.option("--history", metavar="A,B,C", help="What somebody never seen has done, oldest first.")
@click.option("--k", type=int, help="How many items. Default: 10, or all where there are fewer.")
@click.option("--candidates", metavar="A,B|FILE", help="Rank only these items.")
@click.option("--exclude", metavar="A,B|FILE", help="Leave these items out.")
@click.option("--where", metavar="SQL", help="Rank only items for which this holds, such as \"brand = 'X'\".")
@click.option("--out", type=click.Path(), metavar="FILE", help="Write .parquet or .csv instead of printing.")
def rank(
    model: str,
    user: Sequence[str],
    users: str | None,
    all_users: bool,
    history: str | None,
    k: int | None,
    candidates: str | None,
    exclude: str | None,
    where: str | None,
    out: str | None,
) -> Output:
    """Rank items for users or for a history: the best first, what they had already left out."""
    from itemic.systems.export import rank_to_file

    loaded = _recommender(model)
    asked = [*user, *(_listed(users) if users else [])]
    if sum([bool(asked), all_users, history is not None]) != 1:
        raise click.UsageError("say for whom: --user, --users, --all-users or --history, one of them.")
    if all_users and out is None:
        raise click.UsageError("--all-users needs --out FILE.")
    k = _depth(loaded, k)
    limits = {"candidates": _maybe_listed(candidates), "exclude": _maybe_listed(exclude), "where": where}
    if out is not None and history is None:
        rows = rank_to_file(loaded, Path(out), k, None if all_users else asked, **limits)
        return Output({"written": out, "rows": rows}, [f"wrote {out}: {rows:,} rows"])
    query = loaded.ask(asked or None, None if history is None else [_listed(history)], **limits)
    ranking = loaded.rank(query, k)
    if out is not None:
        rows = rank_to_file(loaded, Path(out), k, ranking=ranking)
        return Output({"written": out, "rows": rows}, [f"wrote {out}: {rows:,} rows"])
    known = loaded.catalogue.users.ids.external(query.user).tolist() if query.user is not None else None
    return _answer(loaded, query, ranking, known)


@command("similar", ["itemic similar runs/e --item 17 --k 10"])
@click.argument("model")
@click.option("--item", "items", multiple=True, required=True, metavar="ID", help="An item; may be repeated.")
@click.option("--k", type=int, help="How many items. Default: 10, or all where there are fewer.")
def similar(model: str, items: Sequence[str], k: int | None) -> Output:
    """List the items most like an item."""
    loaded = _recommender(model)
    codes = loaded.catalogue.items.ids.known(list(items), "Use ids of the catalogue.")
    ranking = loaded.similar(codes, _depth(loaded, k))
    for name, title in zip(items, _titles(loaded, codes)):
        note(f"like {name}" + (f" ({title})" if title else "") + ":")
    return _answer(loaded, None, ranking, loaded.catalogue.items.ids.external(codes).tolist(), "item")


def _depth(model: "Recommender", k: int | None) -> int:
    """The length asked for, else 10 where the catalogue has as many."""
    return min(10, model.catalogue.n_items) if k is None else k


def _answer(
    model: "Recommender", query: "Query | None", ranking: "Ranking", asked: Sequence[Any] | None, what: str = "user"
) -> Output:
    items, documents, lines = model.catalogue.items, [], []
    for row in range(len(ranking)):
        real = ranking.items[row] >= 0
        codes, scores = ranking.items[row][real], ranking.scores[row][real]
        ids, titles = items.ids.external(codes).tolist(), _titles(model, codes)
        if asked is not None and len(asked) > 1:
            lines.append(f"{what} {asked[row]}")
        if query is not None and query.history is not None:
            who = f"user {asked[row]} " if asked is not None and len(asked) > 1 else ""
            note(who + _consumed(model, query, row))
        best = [
            {"rank": r, "item": i, "score": round(float(s), 6), **({"title": t} if t is not None else {})}
            for r, (i, s, t) in enumerate(zip(ids, scores, titles), start=1)
        ]
        documents.append({what: asked[row] if asked else None, "items": best})
        cells = [[b["rank"], b["item"], f"{round(b['score'], 4) + 0:.4f}", b.get("title")] for b in best]
        cells = cells if model.catalogue.items.roles.get("title") else [cell[:3] for cell in cells]
        lines += _with_titles(cells)
        blind = query is not None and query.history is not None and not len(query.history[row])
        if blind and len(best) > 1 and (scores == scores[0]).all() and "anyone" not in model.entry.answers:
            note(f"{model.entry.name} ranks by history and so has nothing to go by here; popularity ranks for anyone.")
        if not best:
            note("nothing is left to rank: every allowed item is in the history or excluded.")
    for reason in ranking.reasons:
        note(reason)
    said = {"notes": list(ranking.reasons)} if ranking.reasons else {}
    return Output({"answers": documents, **said}, lines)


def _with_titles(cells: list[list[Any]]) -> list[str]:
    header = ["rank", "item", "score", "title"][: len(cells[0])] if cells else ["rank", "item", "score"]
    titles = [f"  {row[3] or ''}" if len(row) > 3 else "" for row in cells]
    plain = table([row[:3] for row in cells], header[:3], left=0)
    return [
        line + title
        for line, title in zip(plain, [f"  {h}" for h in header[3:]] + titles if header[3:] else [""] * len(plain))
    ]


def _consumed(model: "Recommender", query: "Query", row: int) -> str:
    assert query.history is not None
    history = query.history[row]
    titles, ids = _titles(model, history[-5:]), model.catalogue.items.ids.external(history[-5:])
    latest = "; ".join(str(t) if t else str(i) for t, i in zip(titles, ids))
    return f"had {len(history):,} items, latest: {latest}" if len(history) else "had nothing yet"


def _titles(model: "Recommender", codes: "np.ndarray") -> list[str | None]:
    """The titles, each on one line."""
    return [None if title is None else " ".join(str(title).split()) for title in model.catalogue.items.titles(codes)]


def _recommender(folder: str) -> Any:
    from itemic.systems.base import Recommender

    return Recommender.load(folder)


def _maybe_listed(argument: str | None) -> list[str] | None:
    return None if argument is None else _listed(argument)


def _listed(argument: str) -> list[str]:
    """Ids given with commas (an id that holds one stands in double quotes), or one a line in a file."""
    path = Path(argument)
    if "," not in argument and path.suffix and path.is_file():
        try:
            found = [line.strip() for line in path.read_text().splitlines() if line.strip()]
        except UnicodeDecodeError as error:
            raise DataError(f"{path} is not a text file with one id a line: {error.reason}.") from None
    else:
        if "," not in argument and path.suffix in (".txt", ".csv") and not path.exists():
            raise QueryError(f"{path} does not exist. Give ids with commas, or a file with one a line.")
        found = [part.strip() for row in csv.reader([argument], skipinitialspace=True) for part in row if part.strip()]
    if not found:
        raise QueryError(f"{argument!r} names no id. Give ids with commas, or a file with one a line.")
    return found
