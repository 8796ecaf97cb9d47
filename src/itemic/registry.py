"""Models by name: each registers itself with a decorator, and a name finds its file without importing the others.

The registry reads folders and decorators, not modules, so listing fifty systems costs no import.
"""

import ast
import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from itemic.errors import ConfigError, did_you_mean

PACKAGE = Path(__file__).parent
KINDS = {"system": "systems", "encoder": "encoders", "tokenizer": "tokenizers"}
"""The decorators by which models register, and the folders that they are looked for in."""
CONTENT: dict[str, dict[str, Any]] = {
    "encoder": {"kind": "encoder", "family": "encoders", "needs": ("items",), "gives": ("vectors",)},
    "tokenizer": {"kind": "tokenizer", "family": "tokenizers", "needs": ("items",), "gives": ("codes",)},
}
"""What a registration says of models of content when it does not say otherwise."""
C = TypeVar("C", bound=type)


@dataclass(frozen=True)
class Entry:
    """What a registration says: who the model is, what it needs, which questions it answers."""

    name: str
    """The name in commands, files and results."""
    family: str = ""
    """The folder it lives in: baselines, collaborative, sequential, ..."""
    needs: tuple[str, ...] = ("interactions",)
    """Tables and columns of a Dataset without which it cannot be fitted."""
    answers: tuple[str, ...] = ()
    """The fields of a Query it answers: user, history, basket, content, dialogue."""
    gives: tuple[str, ...] = ("ranking",)
    """What comes out: ranking, text, code, image, regions, attributes."""
    cold_items: bool = False
    """Whether it can rank an item that was not there when it was fitted."""
    kind: str = "system"
    """What it is: system, encoder or tokenizer."""
    paper: str = ""
    """Where it was published, as arXiv:number or a DOI."""
    module: str = field(default="", compare=False)
    """The dotted module that holds it."""
    summary: str = field(default="", compare=False)
    """The first line of the module's docstring."""


_loaded: dict[str, type] = {}


def system(
    name: str,
    *,
    family: str,
    answers: Sequence[str],
    needs: Sequence[str] = ("interactions",),
    gives: Sequence[str] = ("ranking",),
    cold_items: bool = False,
    paper: str = "",
) -> Callable[[C], C]:
    """Registers a recommender under `name`. Every argument is a literal: the registry reads them from the source."""
    facts = (name, family, tuple(needs), tuple(answers), tuple(gives), cold_items, "system", paper)
    return lambda model: _register(model, Entry(*facts, module=model.__module__))


def encoder(name: str, *, needs: Sequence[str] = ("items",), paper: str = "") -> Callable[[C], C]:
    """Registers an encoder, which gives vectors, under `name`."""
    return _content_model("encoder", name, needs, paper)


def tokenizer(name: str, *, needs: Sequence[str] = ("items",), paper: str = "") -> Callable[[C], C]:
    """Registers a tokenizer, which gives codes, under `name`."""
    return _content_model("tokenizer", name, needs, paper)


def _content_model(kind: str, name: str, needs: Sequence[str], paper: str) -> Callable[[C], C]:
    facts = {**CONTENT[kind], "needs": tuple(needs), "paper": paper}
    return lambda model: _register(model, Entry(name, **facts, module=model.__module__))


def _register(model: C, entry: Entry) -> C:
    model.entry = entry
    _loaded[entry.name] = model
    return model


def entries(kind: str = "system") -> dict[str, Entry]:
    """Every registered model of a kind by name, read from the source files, in the order of families and names."""
    return {name: entry for name, entry in _scan().items() if entry.kind == kind}


def find(name: str, kind: str = "system") -> type:
    """The class registered under `name`; its file is imported now if it was not yet.

    Raises:
        ConfigError: no model has this name; those of the `kind` that was looked for are listed.
    """
    if name not in _loaded:
        known = _scan()
        if name not in known:
            hint, listed = did_you_mean(name, known), ", ".join(entries(kind))
            raise ConfigError(f"there is no {kind} '{name}'.{hint} {kind.capitalize()}s: {listed}.")
        importlib.import_module(known[name].module)
    return _loaded[name]


@cache
def _scan() -> dict[str, Entry]:
    found = {}
    for path in sorted(path for folder in KINDS.values() for path in (PACKAGE / folder).rglob("*.py")):
        tree = ast.parse(path.read_text())
        for node in tree.body:
            for call in node.decorator_list if isinstance(node, ast.ClassDef) else []:
                if isinstance(call, ast.Call) and getattr(call.func, "id", "") in KINDS:
                    entry = _entry(call, path, ast.get_docstring(tree) or "")
                    found[entry.name] = entry
    return dict(sorted(found.items(), key=lambda pair: (pair[1].family, pair[0])))


def _entry(call: ast.Call, path: Path, docstring: str) -> Entry:
    facts: dict[str, Any] = {word.arg: ast.literal_eval(word.value) for word in call.keywords if word.arg}
    facts = {key: tuple(value) if isinstance(value, list) else value for key, value in facts.items()}
    facts = CONTENT.get(getattr(call.func, "id", ""), {}) | facts
    module = ".".join(("itemic", *path.relative_to(PACKAGE).with_suffix("").parts))
    return Entry(ast.literal_eval(call.args[0]), **facts, module=module, summary=docstring.split("\n")[0])
